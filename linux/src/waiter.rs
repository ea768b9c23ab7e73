// SPDX-License-Identifier: GPL-2.0-only
//! Where a vCPU's thread sleeps, and its timer: the shim's `struct waiter`, shared by the two traits that use it.

use crate::errno::Errno;
use crate::ffi;
use crate::heap::Shared;
use crate::kernel;
use core::ffi::c_void;
use kvm::host::{OutOfMemory, Waiter, Wake, WakeTimer};

struct Raw(*mut c_void);

// SAFETY: the shim's functions on it may be called from any thread.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: made by ws_waiter_create; the last reference goes here, so no thread sleeps in it.
        unsafe { ffi::ws_waiter_destroy(self.0) };
    }
}

/// A place to sleep.
pub struct KernelWaiter(Shared<Raw>);

impl KernelWaiter {
    /// A new one.
    pub fn new() -> Result<Self, OutOfMemory> {
        let raw = Errno::check_pointer(ffi::ws_waiter_create()).map_err(|_| OutOfMemory)?;
        Shared::new(Raw(raw)).map(Self)
    }

    /// The timer that wakes whoever sleeps here.
    pub fn timer(&self) -> KernelTimer {
        KernelTimer(self.0.clone())
    }
}

unsafe extern "C" fn call<F: Fn() -> bool>(closure: *const c_void) -> u32 {
    // SAFETY: `wait` passes its own closure, which outlives the call.
    u32::from(unsafe { (*closure.cast::<F>())() })
}

impl Waiter for KernelWaiter {
    fn adopt(&self) {
        // SAFETY: alive while self is.
        unsafe { ffi::ws_waiter_adopt(self.0.0) };
    }

    fn wait(&self, ready: impl Fn() -> bool) -> Wake {
        fn sleep<F: Fn() -> bool>(waiter: *mut c_void, ready: &F) -> u32 {
            // SAFETY: the waiter is alive; `call::<F>` gets the closure that it expects, borrowed until the return.
            unsafe { ffi::ws_waiter_wait(waiter, call::<F>, (&raw const *ready).cast()) }
        }
        match sleep(self.0.0, &ready) {
            0 => Wake::Ready,
            _ => Wake::Signal,
        }
    }

    fn wake(&self) {
        // SAFETY: alive while self is.
        unsafe { ffi::ws_waiter_wake(self.0.0) };
    }

    fn kick(&self) {
        // SAFETY: alive while self is.
        unsafe { ffi::ws_waiter_kick(self.0.0) };
    }
}

/// A timer.
pub struct KernelTimer(Shared<Raw>);

impl WakeTimer for KernelTimer {
    fn arm(&self, count: u64) {
        let wait = kernel::nanoseconds(count.saturating_sub(kernel::counter()));
        // SAFETY: alive while self is.
        unsafe { ffi::ws_waiter_arm(self.0.0, wait) };
    }

    fn cancel(&self) {
        // SAFETY: alive while self is.
        unsafe { ffi::ws_waiter_disarm(self.0.0) };
    }
}
