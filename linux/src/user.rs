// SPDX-License-Identifier: GPL-2.0-only
//! Values from and to the calling process.
//!
//! A [`Plain`] type has no padding and no value that is not valid, so its bytes may come from anywhere and may go anywhere.

use crate::errno::{Errno, Result};
use crate::ffi;
use core::mem::MaybeUninit;

/// A type that any bytes are a value of, without padding.
///
/// # Safety
/// As said.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),* $(,)?) => {$(
        // SAFETY: integers, and structs of them whose size is the sum of their fields' (asserted in `uapi`).
        unsafe impl Plain for $type {}
    )*};
}

plain!(u8, u16, u32, u64);
plain!(
    uapi::memory::UserspaceMemoryRegion,
    uapi::registers::OneReg,
    uapi::vcpu::VcpuInit,
    uapi::vcpu::MpState,
    uapi::device::CreateDevice,
    uapi::device::DeviceAttr,
    uapi::device::DeviceAddr,
    uapi::irq::IrqLevel,
    uapi::irq::Ioeventfd,
    uapi::irq::Irqfd,
    uapi::irq::IrqRouting,
    uapi::irq::IrqRoutingEntry,
    uapi::irq::Msi,
    uapi::memory::CoalescedMmioZone,
    uapi::vcpu::SignalMask,
    uapi::memory::DirtyLog,
    uapi::memory::ClearDirtyLog,
    uapi::vcpu::VcpuEvents,
    uapi::caps::EnableCap,
);
// SAFETY: an array of plain values.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// An address in the calling process, as it named it.
#[derive(Clone, Copy)]
pub struct UserAddress(usize);

impl UserAddress {
    /// From an ioctl's argument.
    pub fn new(argument: usize) -> Self {
        Self(argument)
    }

    /// From a 64-bit field, of which the low half counts: C extends a pointer that it makes such a number of by its sign.
    pub fn from_field(field: u64) -> Self {
        Self(field as usize)
    }

    /// The address `bytes` further on.
    pub fn offset(self, bytes: usize) -> Result<Self> {
        self.0.checked_add(bytes).map(Self).ok_or(Errno::EFAULT)
    }

    /// Reads a value. EFAULT.
    pub fn read<T: Plain>(self) -> Result<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: room for a T; the kernel checks the source.
        Errno::check(unsafe { ffi::ws_copy_from_user(value.as_mut_ptr().cast(), self.0, size_of::<T>()) })?;
        // SAFETY: all bytes are written, and any bytes are a T.
        Ok(unsafe { value.assume_init() })
    }

    /// Writes a value. EFAULT.
    pub fn write<T: Plain>(self, value: &T) -> Result<()> {
        // SAFETY: a T without padding; the kernel checks the destination.
        Errno::check(unsafe { ffi::ws_copy_to_user(self.0, (&raw const *value).cast(), size_of::<T>()) })?;
        Ok(())
    }

    /// Reads as many values as there is room for. EFAULT.
    pub fn read_all<T: Plain>(self, values: &mut [T]) -> Result<()> {
        // SAFETY: room for so many bytes, any of which are a T; the kernel checks the source.
        Errno::check(unsafe { ffi::ws_copy_from_user(values.as_mut_ptr().cast(), self.0, size_of_val(values)) })?;
        Ok(())
    }

    /// Writes values, one after the other. EFAULT.
    pub fn write_all<T: Plain>(self, values: &[T]) -> Result<()> {
        // SAFETY: values without padding; the kernel checks the destination.
        Errno::check(unsafe { ffi::ws_copy_to_user(self.0, values.as_ptr().cast(), size_of_val(values)) })?;
        Ok(())
    }
}
