// SPDX-License-Identifier: GPL-2.0-only
//! The process's eventfds: told by the hypervisor, or watched by it.
//!
//! A watch hangs in the eventfd's wait queue. The kernel calls it with the queue's lock held and interrupts off, for each event
//! ([`ws_rust_irqfd_event`]) and when the eventfd is closed; the latter is passed on to a thread ([`ws_rust_irqfd_closed`]).
//! A watch names its VM without keeping it: all watches of a VM end before its descriptor is released ([`end_watches`]), and none
//! can begin after.

use crate::errno::{Errno, Result};
use crate::ffi;
use crate::heap::Shared;
use crate::vm::VmObject;
use core::ffi::c_void;
use core::ptr;
use kvm::host::Watch;

/// A reference to the kernel's `struct eventfd_ctx`.
struct Reference(*mut c_void);

// SAFETY: the shim's functions on it may be called from any thread.
unsafe impl Send for Reference {}
// SAFETY: as above.
unsafe impl Sync for Reference {}

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: the reference is owned, and given back once.
        unsafe { ffi::ws_eventfd_put(self.0) };
    }
}

/// An eventfd.
#[derive(Clone)]
pub struct EventFd(Shared<Reference>);

impl EventFd {
    /// That of the calling process's descriptor. EBADF, EINVAL.
    pub fn of_descriptor(fd: u32) -> Result<Self> {
        Self::owning(ffi::ws_eventfd_get(fd))
    }

    /// From what the shim returned: a reference or an error.
    fn owning(pointer: *mut c_void) -> Result<Self> {
        let reference = Reference(Errno::check_pointer(pointer)?);
        Ok(Self(Shared::new(reference)?))
    }
}

impl PartialEq for EventFd {
    fn eq(&self, other: &Self) -> bool {
        // Each keeps its own, so what has the same address is the same.
        ptr::eq(self.0.0, other.0.0)
    }
}

impl kvm::host::EventFd for EventFd {
    fn signal(&self) {
        // SAFETY: the reference keeps it.
        unsafe { ffi::ws_eventfd_signal(self.0.0) };
    }
}

/// The shim's `struct irqfd`.
struct RawIrqfd(*mut c_void);

// SAFETY: the shim's functions on it may be called from any thread.
unsafe impl Send for RawIrqfd {}
// SAFETY: as above.
unsafe impl Sync for RawIrqfd {}

impl Drop for RawIrqfd {
    fn drop(&mut self) {
        // SAFETY: owned, and destroyed once. On return nothing is called for it any more.
        unsafe { ffi::ws_irqfd_destroy(self.0) };
    }
}

/// What an irqfd is for.
struct Target {
    vm: *const VmObject,
    gsi: u32,
    resamples: bool,
    event: EventFd,
}

// SAFETY: the VM may be shared, and outlives this (see the module's head).
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

struct Watched {
    /// Dropped before the target, which is called for it until then.
    raw: RawIrqfd,
    target: Target,
}

/// What watches an eventfd.
#[derive(Clone)]
pub struct IrqfdWatch(Shared<Watched>);

impl IrqfdWatch {
    /// Will watch the eventfd of the calling process's descriptor for a VM whose descriptor the caller holds. EBADF, EINVAL, ENOMEM.
    pub fn new(vm: &VmObject, fd: u32, gsi: u32, resamples: bool) -> Result<Self> {
        let raw = RawIrqfd(Errno::check_pointer(ffi::ws_irqfd_create(fd))?);
        // SAFETY: not watched yet.
        let event = EventFd::owning(unsafe { ffi::ws_irqfd_eventfd(raw.0) })?;
        let target = Target { vm: &raw const *vm, gsi, resamples, event };
        Ok(Self(Shared::new(Watched { raw, target })?))
    }

    /// The eventfd.
    pub fn event(&self) -> &EventFd {
        &self.0.target.event
    }
}

impl Watch for IrqfdWatch {
    fn start(&self) -> bool {
        let Watched { raw, target } = &*self.0;
        // SAFETY: kvm starts a watch once. The target has its place on the heap until `raw` is dropped.
        unsafe { ffi::ws_irqfd_watch(raw.0, (&raw const *target).cast_mut().cast()) != 0 }
    }
}

/// Sees to it that nothing runs for watches of a VM that have been dropped. May sleep.
pub fn end_watches() {
    // SAFETY: the module's work queue is there, since a descriptor is.
    unsafe { ffi::ws_irqfd_flush() };
}

/// An event has come.
///
/// # Safety
/// `target` is what [`IrqfdWatch::start`] passed to the shim.
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_irqfd_event(target: *mut c_void) {
    // SAFETY: the target is there while its irqfd is, and the VM while the target is.
    let (target, vm) = unsafe {
        let target = &*target.cast::<Target>();
        (target, &(*target.vm).vm)
    };
    vm.irqfd_event(target.gsi, target.resamples);
}

/// An eventfd was closed.
///
/// # Safety
/// As [`ws_rust_irqfd_event`], in a thread that [`end_watches`] waits for.
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_irqfd_closed(target: *mut c_void) {
    // SAFETY: as above. The target goes in what follows, but the VM not before `end_watches` returns, which waits for this.
    let (event, vm) = unsafe {
        let target = &*target.cast::<Target>();
        (target.event.clone(), &(*target.vm).vm)
    };
    vm.irqfd_closed(&event);
}
