// SPDX-License-Identifier: GPL-2.0-only
//! The system calls beneath `kvm`: ioctls with their arguments, and the mapped page of a vCPU. With `guest_memory` and the signal
//! handlers of `terminal` and `vcpu`, all of wsvm's `unsafe`.
//!
//! An ioctl's number says how big its structure is, which is checked against the argument's type. What remains to be promised where
//! a call is made: that addresses *in* the structure are good for what the kernel does with them.

#![allow(
    clippy::useless_conversion,
    reason = "an ioctl's number and argument are as wide as a pointer: 32 bits where this runs, 64 where it is tested"
)]

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use uapi::{Exit, ExitWords, KVM_RUN, MMIO_DATA_OFFSET, OneReg, Run, UserspaceMemoryRegion, argument_size};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};

fn checked(result: libc::c_int) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Structures of `uapi` that a kernel can be given without touching anything else of this process.
///
/// # Safety
///
/// The type is made of integers, so that any bytes are one, and no field of it is an address.
pub unsafe trait NoAddress {}
// SAFETY: two numbers.
unsafe impl NoAddress for uapi::IrqLevel {}
// SAFETY: a number.
unsafe impl NoAddress for uapi::MpState {}
// SAFETY: numbers.
unsafe impl NoAddress for uapi::VcpuEvents {}
// SAFETY: numbers and a bitmap.
unsafe impl NoAddress for uapi::VcpuInit {}
// SAFETY: two numbers and a descriptor.
unsafe impl NoAddress for uapi::CreateDevice {}

/// One of KVM's file descriptors.
pub struct KvmFd(File);

impl KvmFd {
    /// `/dev/kvm` itself.
    pub fn open() -> io::Result<Self> {
        File::options().read(true).write(true).open("/dev/kvm").map(Self)
    }

    /// Takes over a descriptor that an ioctl has answered.
    ///
    /// # Safety
    ///
    /// `fd` is open, a KVM descriptor, and nobody else's.
    unsafe fn adopt(fd: RawFd) -> Self {
        // SAFETY: as the caller promises.
        Self(unsafe { OwnedFd::from_raw_fd(fd) }.into())
    }

    /// An ioctl whose argument is a number.
    pub fn value(&self, ioctl: u32, argument: u32) -> io::Result<i32> {
        assert_eq!(argument_size(ioctl), 0);
        // SAFETY: a number of KVM's without a structure gives the kernel no address.
        checked(unsafe { ioctl_with_val(&self.0, ioctl.into(), argument.into()) })
    }

    /// An ioctl whose argument is a number and whose answer a new descriptor.
    pub fn create(&self, ioctl: u32, argument: u32) -> io::Result<Self> {
        let fd = self.value(ioctl, argument)?;
        // SAFETY: KVM_CREATE_VM and KVM_CREATE_VCPU, the only such calls, answer a new descriptor.
        Ok(unsafe { Self::adopt(fd) })
    }

    /// An ioctl that the kernel reads a structure for.
    pub fn write<T: NoAddress>(&self, ioctl: u32, argument: &T) -> io::Result<()> {
        assert_eq!(argument_size(ioctl), size_of::<T>());
        // SAFETY: the kernel reads as many bytes as the number says, and `T` has as many; no address is among them.
        checked(unsafe { ioctl_with_ref(&self.0, ioctl.into(), argument) }).map(|_| ())
    }

    /// An ioctl that the kernel fills a structure for.
    pub fn read<T: NoAddress>(&self, ioctl: u32, argument: &mut T) -> io::Result<()> {
        assert_eq!(argument_size(ioctl), size_of::<T>());
        // SAFETY: the kernel reads and writes as many bytes as the number says, and `T` has as many; it is made of integers, so any
        // bytes are one.
        checked(unsafe { ioctl_with_mut_ref(&self.0, ioctl.into(), argument) }).map(|_| ())
    }

    /// Makes a device of the kernel's.
    pub fn create_device(&self, device_type: u32) -> io::Result<Self> {
        let mut device = uapi::CreateDevice { device_type, ..Default::default() };
        self.read(uapi::KVM_CREATE_DEVICE, &mut device)?;
        // SAFETY: the call succeeded without KVM_CREATE_DEVICE_TEST, so `fd` is a new descriptor.
        Ok(unsafe { Self::adopt(device.fd as RawFd) })
    }

    /// Sets an attribute of a device, of type `u32` or `u64`, or none at all.
    pub fn set_attribute<T: Copy + Into<u64>>(&self, group: u32, attr: u64, value: Option<&T>) -> io::Result<()> {
        let addr = value.map_or(0, |value| std::ptr::from_ref(value) as usize as u64);
        let attribute = uapi::DeviceAttr { flags: 0, group, attr, addr };
        // SAFETY: setting an attribute reads its value; the value outlives the call, and an attribute of another size than `T`
        // would read beyond it, at worst, what the kernel then refuses or takes for a number.
        checked(unsafe { ioctl_with_ref(&self.0, uapi::KVM_SET_DEVICE_ATTR.into(), &attribute) }).map(|_| ())
    }

    /// Reads an attribute of a device whose value has four bytes, or eight.
    pub fn attribute(&self, group: u32, attr: u64) -> io::Result<u64> {
        let mut value = 0u64;
        let attribute =
            uapi::DeviceAttr { flags: 0, group, attr, addr: std::ptr::from_mut(&mut value) as usize as u64 };
        // SAFETY: no attribute of the devices that are made here is larger than `value`.
        checked(unsafe { ioctl_with_ref(&self.0, uapi::KVM_GET_DEVICE_ATTR.into(), &attribute) })?;
        Ok(value)
    }

    /// Gives the machine a memory slot.
    ///
    /// # Safety
    ///
    /// The process's memory in the region is for the guest to change at any time, until the VM is closed.
    pub unsafe fn set_memory(&self, region: &UserspaceMemoryRegion) -> io::Result<()> {
        // SAFETY: as the caller promises.
        checked(unsafe { ioctl_with_ref(&self.0, uapi::KVM_SET_USER_MEMORY_REGION.into(), region) }).map(|_| ())
    }

    /// Writes a register of 32 bits.
    pub fn set_register(&self, id: u64, value: u32) -> io::Result<()> {
        assert_eq!(id & uapi::KVM_REG_SIZE_MASK, uapi::KVM_REG_SIZE_U32);
        let register = OneReg { id, addr: std::ptr::from_ref(&value) as usize as u64 };
        // SAFETY: the id says four bytes, and `value` has four.
        checked(unsafe { ioctl_with_ref(&self.0, uapi::KVM_SET_ONE_REG.into(), &register) }).map(|_| ())
    }

    /// Reads a register of 32 bits.
    pub fn register(&self, id: u64) -> io::Result<u32> {
        assert_eq!(id & uapi::KVM_REG_SIZE_MASK, uapi::KVM_REG_SIZE_U32);
        let mut value = 0u32;
        let register = OneReg { id, addr: std::ptr::from_mut(&mut value) as usize as u64 };
        // SAFETY: the id says four bytes, and `value` has four.
        checked(unsafe { ioctl_with_ref(&self.0, uapi::KVM_GET_ONE_REG.into(), &register) })?;
        Ok(value)
    }

    /// Writes a register of 32 or 64 bits.
    pub fn set_any_register(&self, id: u64, value: u64) -> io::Result<()> {
        assert!([uapi::KVM_REG_SIZE_U32, uapi::KVM_REG_SIZE_U64].contains(&(id & uapi::KVM_REG_SIZE_MASK)));
        let register = OneReg { id, addr: std::ptr::from_ref(&value) as usize as u64 };
        // SAFETY: the id says four bytes or eight, and `value` has eight.
        checked(unsafe { ioctl_with_ref(&self.0, uapi::KVM_SET_ONE_REG.into(), &register) }).map(|_| ())
    }

    /// Reads a register of 32 or 64 bits.
    pub fn any_register(&self, id: u64) -> io::Result<u64> {
        assert!([uapi::KVM_REG_SIZE_U32, uapi::KVM_REG_SIZE_U64].contains(&(id & uapi::KVM_REG_SIZE_MASK)));
        let mut value = 0u64;
        let register = OneReg { id, addr: std::ptr::from_mut(&mut value) as usize as u64 };
        // SAFETY: the id says four bytes or eight, and `value` has eight.
        checked(unsafe { ioctl_with_ref(&self.0, uapi::KVM_GET_ONE_REG.into(), &register) })?;
        Ok(value)
    }

    /// The ids of a vCPU's registers.
    pub fn registers(&self) -> io::Result<Vec<u64>> {
        const MOST: usize = 1024;
        let mut list = vec![0u64; MOST + 1];
        list[0] = MOST as u64;
        // SAFETY: the kernel writes as many ids as the first word says there is room for, at most, behind that word.
        checked(unsafe {
            vmm_sys_util::ioctl::ioctl_with_mut_ptr(&self.0, uapi::KVM_GET_REG_LIST.into(), list.as_mut_ptr())
        })?;
        let count = (list[0] as usize).min(MOST);
        list.truncate(count + 1);
        list.remove(0);
        Ok(list)
    }

    /// Runs the guest. An interruption by a signal is an error of kind `Interrupted`.
    pub fn run(&self) -> io::Result<()> {
        self.value(KVM_RUN, 0).map(|_| ())
    }
}

/// The page that kernel and process share about a vCPU; unmapped on drop.
///
/// The thread that runs the vCPU reads and writes it between runs; any thread may ask for an immediate exit.
pub struct RunPage {
    page: NonNull<Run>,
    size: usize,
}

// SAFETY: the mapping belongs to the process. Concurrent access is to `immediate_exit` only, by an atomic; everything else is reached
// through `kvm::Vcpu`, which one thread owns.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// Maps `size` bytes, as `KVM_GET_VCPU_MMAP_SIZE` answered, of a vCPU's descriptor.
    pub fn map(vcpu: &KvmFd, size: usize) -> io::Result<Self> {
        let too_small = || io::Error::other("the kernel's kvm_run is too small");
        let length = size.try_into().ok().filter(|_| size >= size_of::<Run>()).ok_or_else(too_small)?;
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let page = unsafe {
            mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, &vcpu.0, 0)
        };
        Ok(Self { page: page?.cast(), size })
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the page is mapped while `self` lives, an AtomicU8 is laid out as a u8, and the field is accessed in no other way.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.page.as_ptr()).immediate_exit) }
    }

    /// Makes the next run, or the present one as soon as a signal comes, return at once; and each after it.
    pub fn exit_immediately(&self) {
        self.immediate_exit().store(1, Ordering::SeqCst);
    }

    /// Takes [`Self::exit_immediately`] back.
    pub fn may_run(&self) {
        self.immediate_exit().store(0, Ordering::SeqCst);
    }

    /// Whether [`Self::exit_immediately`] was called.
    pub fn asked_to_exit(&self) -> bool {
        self.immediate_exit().load(Ordering::SeqCst) != 0
    }

    /// Why the last run returned.
    pub fn exit(&self) -> Exit {
        // SAFETY: the page is mapped while `self` lives, any bytes are integers, and the payload is longer than the words. Volatile,
        // since the kernel has changed it.
        let (reason, payload) = unsafe {
            let run = self.page.as_ptr();
            let payload = (&raw const (*run).exit).cast::<ExitWords>();
            ((&raw const (*run).exit_reason).read_volatile(), payload.read_volatile())
        };
        Exit::decode(reason, &payload)
    }

    /// Answers a device read: the next run puts these bytes into the guest's register.
    pub fn answer_mmio(&self, data: [u8; 8]) {
        // SAFETY: the eight bytes at this offset lie in the page, which is mapped while `self` lives, and belong to the thread that
        // runs the vCPU, which calls this between runs.
        unsafe { self.page.byte_add(MMIO_DATA_OFFSET).cast::<[u8; 8]>().write_volatile(data) };
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: `page` and `size` are those of a mapping that this value alone owns.
        let _ = unsafe { nix::sys::mman::munmap(self.page.cast(), self.size) };
    }
}
