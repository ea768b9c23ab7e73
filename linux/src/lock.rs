// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's locks around Rust values.
//!
//! [`Spin`] is a `raw_spinlock_t` taken with interrupts off. [`Mutex`] is one word that waits on the kernel's hashed wait
//! queues. Both are open when their storage is zero, and may be moved while open; loading fails where that is not so
//! ([`check_layout`]).

use crate::errno::{Errno, Result};
use crate::ffi;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use kvm::host::Lock;

/// Room for a `raw_spinlock_t`.
type SpinStorage = [u32; 2];

/// Whether the kernel's spin lock is what this module takes it for.
pub fn check_layout() -> Result<()> {
    if ffi::ws_lock_bytes() as usize <= size_of::<SpinStorage>() {
        return Ok(());
    }
    crate::error!("this kernel was built with lock debugging, whose locks this module does not know");
    Err(Errno::ENOEXEC)
}

/// A spin lock; interrupts are off while it is held.
pub struct Spin<T> {
    raw: UnsafeCell<SpinStorage>,
    value: UnsafeCell<T>,
}

// SAFETY: the lock lets one CPU at a time at the value.
unsafe impl<T: Send> Sync for Spin<T> {}
// SAFETY: the storage is plain words.
unsafe impl<T: Send> Send for Spin<T> {}

impl<T> Spin<T> {
    /// An open lock, for statics.
    pub const fn open(value: T) -> Self {
        Self { raw: UnsafeCell::new([0; 2]), value: UnsafeCell::new(value) }
    }
}

/// Access to what a [`Spin`] protects.
pub struct SpinGuard<'a, T> {
    lock: &'a Spin<T>,
    flags: u32,
    /// Interrupts are to be restored on the CPU that turned them off.
    here: PhantomData<*const ()>,
}

impl<T> Lock<T> for Spin<T> {
    type Guard<'a>
        = SpinGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self::open(value)
    }

    fn lock(&self) -> SpinGuard<'_, T> {
        // SAFETY: the storage is an open or properly taken lock of sufficient size (`check_layout`), borrowed until the guard goes.
        let flags = unsafe { ffi::ws_spin_lock(self.raw.get().cast()) };
        SpinGuard { lock: self, flags, here: PhantomData }
    }
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, and the guard borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the lock is held by this guard; `flags` are those that taking it returned.
        unsafe { ffi::ws_spin_unlock(self.lock.raw.get().cast(), self.flags) };
    }
}

/// A lock that may be held over sleep.
pub struct Mutex<T> {
    raw: UnsafeCell<u32>,
    value: UnsafeCell<T>,
}

// SAFETY: the lock lets one thread at a time at the value.
unsafe impl<T: Send> Sync for Mutex<T> {}

/// Access to what a [`Mutex`] protects.
pub struct MutexGuard<'a, T> {
    lock: &'a Mutex<T>,
    here: PhantomData<*const ()>,
}

impl<T> Mutex<T> {
    /// Waits for the lock, unless the thread is killed.
    ///
    /// # Errors
    /// EINTR.
    pub fn lock_killable(&self) -> Result<MutexGuard<'_, T>> {
        // SAFETY: the word is only ever used by these functions, and borrowed until the guard goes.
        Errno::check(unsafe { ffi::ws_mutex_lock_killable(self.raw.get()) })?;
        Ok(MutexGuard { lock: self, here: PhantomData })
    }
}

impl<T> Lock<T> for Mutex<T> {
    type Guard<'a>
        = MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self { raw: UnsafeCell::new(0), value: UnsafeCell::new(value) }
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        // SAFETY: the word is only ever used by these functions, and borrowed until the guard goes.
        unsafe { ffi::ws_mutex_lock(self.raw.get()) };
        MutexGuard { lock: self, here: PhantomData }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, and the guard borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the lock is held by this guard.
        unsafe { ffi::ws_mutex_unlock(self.lock.raw.get()) };
    }
}
