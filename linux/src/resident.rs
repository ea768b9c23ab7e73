// SPDX-License-Identifier: GPL-2.0-only
//! A value that is there from load to unload.
//!
//! Loading puts it in place before anything that needs it can be called, and unloading takes it away when nothing of the module
//! can be called any more; in between anybody may look at it. That order is [`crate::module`]'s to keep, and it is what makes a
//! plain reference enough.

use crate::errno::{Errno, Result};
use crate::heap::Shared;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicPtr, Ordering};

/// The place for it, empty before and after.
pub struct Resident<T> {
    raw: AtomicPtr<core::ffi::c_void>,
    value: PhantomData<Shared<T>>,
}

impl<T: Send + Sync> Resident<T> {
    /// Empty.
    pub const fn new() -> Self {
        Self { raw: AtomicPtr::new(core::ptr::null_mut()), value: PhantomData }
    }

    /// Puts a value in place. ENOMEM.
    pub fn put(&self, value: T) -> Result<()> {
        self.raw.store(Shared::new(value)?.into_raw(), Ordering::Release);
        Ok(())
    }

    /// Takes it away, if it is there. Nobody looks at it any more.
    pub fn clear(&self) {
        let raw = self.raw.swap(core::ptr::null_mut(), Ordering::AcqRel);
        if !raw.is_null() {
            // SAFETY: from `put`, of this type, taken back once: the place is empty now.
            drop(unsafe { Shared::<T>::from_raw(raw) });
        }
    }

    /// The value. ENODEV where it is not there.
    pub fn get(&'static self) -> Result<&'static T> {
        // Relaxed is enough, for the value behind the pointer too. `put` comes before the module registers what leads here
        // (/dev/kvm, callbacks of CPUs, interrupt handlers); to register is to leave a lock of the kernel's that it takes before
        // it calls, and that orders the two. The module's parameters alone are there before, and until after `clear`: what they
        // lead to looks at the value only on a CPU that has taken Hyp mode, which it does after `put` and undoes before `clear`,
        // and keeps interrupts off meanwhile.
        let raw = self.raw.load(Ordering::Relaxed);
        if raw.is_null() {
            return Err(Errno::ENODEV);
        }
        // SAFETY: from `put`, of this type; `clear` comes when no code of the module runs but the unloading itself.
        Ok(unsafe { Shared::<T>::borrow_raw(raw) })
    }
}
