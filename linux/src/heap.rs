// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's heap: slices and counted references whose allocation can fail and says so.

use crate::ffi;
use core::ffi::c_void;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering, fence};
use kvm::host::OutOfMemory;

/// What kvmalloc aligns to, at least.
const ALIGNMENT: usize = 8;

fn allocate<T>(count: usize) -> Result<NonNull<T>, OutOfMemory> {
    const { assert!(align_of::<T>() <= ALIGNMENT) };
    let bytes = size_of::<T>().checked_mul(count).filter(|&bytes| bytes <= isize::MAX as usize).ok_or(OutOfMemory)?;
    // SAFETY: any size will do; a zero size gets a byte, so that the pointer is one to free.
    NonNull::new(unsafe { ffi::ws_alloc(bytes.max(1)) }).map(NonNull::cast).ok_or(OutOfMemory)
}

/// An owned slice.
pub struct Array<T> {
    elements: NonNull<T>,
    len: usize,
}

// SAFETY: owns its elements.
unsafe impl<T: Send> Send for Array<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Array<T> {}

impl<T> Array<T> {
    /// `len` elements, each made by `element`.
    pub fn new(len: usize, mut element: impl FnMut(usize) -> T) -> Result<Self, OutOfMemory> {
        let elements = allocate::<T>(len)?;
        for index in 0..len {
            // SAFETY: within the allocation just made.
            unsafe { elements.add(index).write(element(index)) };
        }
        Ok(Self { elements, len })
    }
}

impl<T> Deref for Array<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised elements, owned by self.
        unsafe { core::slice::from_raw_parts(self.elements.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Array<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.elements.as_ptr(), self.len) }
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        // SAFETY: the elements are owned and dropped once; the memory came from ws_alloc.
        unsafe {
            ptr::drop_in_place(&raw mut **self);
            ffi::ws_free(self.elements.as_ptr().cast());
        }
    }
}

struct Counted<T> {
    count: AtomicU32,
    value: T,
}

/// A counted reference to a value on the heap.
pub struct Shared<T>(NonNull<Counted<T>>);

// SAFETY: as for any counted reference, if the value may be shared and dropped on another thread.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Moves a value to the heap.
    pub fn new(value: T) -> Result<Self, OutOfMemory> {
        let place = allocate::<Counted<T>>(1)?;
        // SAFETY: just allocated for this.
        unsafe { place.write(Counted { count: AtomicU32::new(1), value }) };
        Ok(Self(place))
    }

    /// The reference as a pointer for the kernel to keep; it counts until [`Self::from_raw`].
    pub fn into_raw(self) -> *mut c_void {
        let raw = self.0.as_ptr().cast();
        core::mem::forget(self);
        raw
    }

    /// The reference that [`Self::into_raw`] gave away.
    ///
    /// # Safety
    /// `raw` came from `into_raw` of this type and is taken back once.
    pub unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: never null when it came from into_raw.
        Self(unsafe { NonNull::new_unchecked(raw.cast()) })
    }

    /// The value behind a pointer that the kernel keeps.
    ///
    /// # Safety
    /// `raw` came from `into_raw` of this type and is not taken back while the borrow lasts.
    pub unsafe fn borrow_raw<'a>(raw: *mut c_void) -> &'a T {
        // SAFETY: promised by the caller.
        unsafe { &(*raw.cast::<Counted<T>>()).value }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // SAFETY: this reference keeps the value.
        let before = unsafe { self.0.as_ref() }.count.fetch_add(1, Ordering::Relaxed);
        if before > u32::MAX / 2 {
            // References are descriptors and vCPUs, of which a kernel cannot have that many.
            ffi::ws_bug();
        }
        Self(self.0)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this reference keeps the value.
        unsafe { &self.0.as_ref().value }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: this reference keeps the value until here; the last one drops it.
        unsafe {
            if self.0.as_ref().count.fetch_sub(1, Ordering::Release) == 1 {
                fence(Ordering::Acquire);
                ptr::drop_in_place(self.0.as_ptr());
                ffi::ws_free(self.0.as_ptr().cast());
            }
        }
    }
}
