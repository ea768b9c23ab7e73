// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's error numbers, and the one place where the hypervisor's errors become them.

use core::num::NonZeroI32;
use kvm::host::OutOfMemory;
use kvm::hyp_map::HypMapError;

/// A negative error number, as kernel functions return it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(NonZeroI32);

macro_rules! errnos {
    ($($name:ident = $number:literal,)*) => {
        impl Errno {
            $(
                #[doc = concat!("-", stringify!($name), ".")]
                pub const $name: Self = Self(NonZeroI32::new(-$number).unwrap());
            )*
        }
    };
}

errnos! {
    ENOENT = 2,
    EINTR = 4,
    EIO = 5,
    ENXIO = 6,
    E2BIG = 7,
    EAGAIN = 11,
    ENOMEM = 12,
    EFAULT = 14,
    EBUSY = 16,
    EEXIST = 17,
    ENODEV = 19,
    EINVAL = 22,
    ENOTTY = 25,
    ENOSPC = 28,
    ENOEXEC = 8,
    ENOSYS = 38,
    EOPNOTSUPP = 95,
    EHWPOISON = 133,
    ERESTARTNOHAND = 514,
}

/// The result of what can fail as a system call fails.
pub type Result<T> = core::result::Result<T, Errno>;

impl Errno {
    /// What a kernel function returned: negative is an error.
    pub fn check(result: i32) -> Result<i32> {
        match NonZeroI32::new(result) {
            Some(error) if result < 0 => Err(Self(error)),
            _ => Ok(result),
        }
    }

    /// What a kernel function returned as a pointer: the last page of addresses is errors.
    pub fn check_pointer(pointer: *mut core::ffi::c_void) -> Result<*mut core::ffi::c_void> {
        let number = pointer as usize as i32;
        if pointer.is_null() {
            return Err(Self::ENOMEM);
        }
        if (-4095..0).contains(&number) {
            return Err(NonZeroI32::new(number).map_or(Self::EINVAL, Self));
        }
        Ok(pointer)
    }

    /// The negative number.
    pub fn get(self) -> i32 {
        self.0.get()
    }
}

impl From<OutOfMemory> for Errno {
    fn from(_: OutOfMemory) -> Self {
        Self::ENOMEM
    }
}

impl From<HypMapError> for Errno {
    fn from(error: HypMapError) -> Self {
        match error {
            HypMapError::Overlap => Self::EEXIST,
            HypMapError::Unmappable => Self::EINVAL,
            HypMapError::OutOfMemory => Self::ENOMEM,
        }
    }
}
