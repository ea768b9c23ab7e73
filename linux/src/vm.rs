// SPDX-License-Identifier: GPL-2.0-only
//! A VM's descriptor: its ioctls, and the notifier that watches its process's memory.
//!
//! A VM belongs to the process that made it: its memory is that process's, so every call from another one is refused (EIO). It
//! lives as long as its own descriptor or one of a vCPU or device of it.

use crate::errno::{Errno, Result};
use crate::ffi;
use crate::heap::Shared;
use crate::kernel::Kernel;
use crate::system::{self, to_kernel};
use crate::user::UserAddress;
use crate::{capability, device, dirty_log, eventfd, events, module, trace, vcpu};
use arch::addr::{HostVirt, PAGE_SIZE};
use arch::hyp_registers::Hcr;
use core::ffi::c_void;
use core::sync::atomic::{AtomicPtr, Ordering};
use kvm::memslots::{Region, SlotError};
use kvm::trace::{Event, Kind as EventKind, note};
use kvm::vgic::Invalid;
use kvm::vm::{IrqchipError, Vm};
use uapi::device::{CreateDevice, DeviceAddr, KVM_ARM_DEVICE_VGIC_V2};
use uapi::ioctl::*;
use uapi::irq::{IrqLevel, IrqLine, KVM_ARM_IRQ_CPU_FIQ, KVM_ARM_IRQ_CPU_IRQ};
use uapi::memory::UserspaceMemoryRegion;
use uapi::vcpu::VcpuInit;

/// A VM with what ties it to Linux.
pub struct VmObject {
    /// The VM.
    pub vm: Vm<Kernel>,
    /// The shim's `struct mm_watch`; null until it watches.
    watch: AtomicPtr<c_void>,
    /// What stands for it in debugfs; null until it has a descriptor.
    seen: AtomicPtr<c_void>,
}

impl VmObject {
    /// EIO unless the caller is the VM's process.
    pub fn check_caller(&self) -> Result<()> {
        let watch = self.watch.load(Ordering::Acquire);
        // SAFETY: a watch lives until this object is dropped.
        if watch.is_null() || unsafe { ffi::ws_mm_is_current(watch) } == 0 {
            return Err(Errno::EIO);
        }
        Ok(())
    }
}

impl Drop for VmObject {
    fn drop(&mut self) {
        let seen = *self.seen.get_mut();
        if !seen.is_null() {
            // SAFETY: made by ws_vm_fd for this VM; on return nobody looks at it or will.
            unsafe { ffi::ws_debugfs_remove(seen) };
        }
        let watch = *self.watch.get_mut();
        if !watch.is_null() {
            // SAFETY: made by ws_mm_watch for this VM; on return no callback runs or will run.
            unsafe { ffi::ws_mm_unwatch(watch) };
        }
    }
}

/// KVM_CREATE_VM: a descriptor.
pub fn create(kind: usize) -> Result<i32> {
    if kind != 0 {
        return Err(Errno::EINVAL);
    }
    let user_end = HostVirt::new(ffi::ws_user_limit() as u32);
    let vm = Vm::new(system::hypervisor()?, user_end)?;
    let none = || AtomicPtr::new(core::ptr::null_mut());
    let object = Shared::new(VmObject { vm, watch: none(), seen: none() })?;
    // SAFETY: the callbacks get the address of the VM, which outlives the watch (`Drop`).
    let watch = Errno::check_pointer(unsafe { ffi::ws_mm_watch((&raw const *object).cast_mut().cast()) })?;
    object.watch.store(watch, Ordering::Release);
    let place = object.seen.as_ptr();
    // SAFETY: the object is there until its descriptor, which exists after the place was written, and all other references are gone.
    owning(object, |raw| unsafe { ffi::ws_vm_fd(raw, place) })
}

/// A descriptor, which `make` makes and which owns the reference. If there is none to be had, the reference is dropped.
pub fn owning<T>(object: Shared<T>, make: impl FnOnce(*mut c_void) -> i32) -> Result<i32> {
    let raw = object.into_raw();
    Errno::check(make(raw)).inspect_err(|_| {
        // SAFETY: no descriptor took it.
        drop(unsafe { Shared::<T>::from_raw(raw) });
    })
}

impl From<SlotError> for Errno {
    fn from(error: SlotError) -> Self {
        match error {
            SlotError::Invalid => Self::EINVAL,
            SlotError::Exists => Self::EEXIST,
            SlotError::BeyondIpa => Self::EFAULT,
            SlotError::OutOfMemory => Self::ENOMEM,
        }
    }
}

impl From<IrqchipError> for Errno {
    fn from(error: IrqchipError) -> Self {
        match error {
            IrqchipError::Exists => Self::EEXIST,
            IrqchipError::Missing => Self::ENODEV,
            IrqchipError::Busy => Self::EBUSY,
            IrqchipError::Unaligned | IrqchipError::Invalid => Self::EINVAL,
            IrqchipError::OutOfRange => Self::E2BIG,
            IrqchipError::Incomplete => Self::ENXIO,
            IrqchipError::OutOfMemory => Self::ENOMEM,
        }
    }
}

impl From<Invalid> for Errno {
    fn from(_: Invalid) -> Self {
        Self::EINVAL
    }
}

fn set_memory_region(vm: &Vm<Kernel>, argument: UserAddress) -> Result<i32> {
    let region: UserspaceMemoryRegion = argument.read()?;
    vm.memory.set_region(&Region {
        slot: region.slot,
        flags: region.flags,
        guest_phys_addr: region.guest_phys_addr,
        memory_size: region.memory_size,
        userspace_addr: region.userspace_addr,
    })?;
    Ok(0)
}

/// KVM_IRQ_LINE: drives one of the GIC's lines, or, without a GIC, a vCPU's own. KVM_IRQ_LINE_STATUS: the same, and the structure
/// comes back, on Arm as it went.
fn irq_line(vm: &Vm<Kernel>, argument: UserAddress, comes_back: bool) -> Result<i32> {
    let request: IrqLevel = argument.read()?;
    let level = request.level != 0;
    let line = IrqLine::decode(request.irq).ok_or(Errno::EINVAL)?;
    trace::irq_line(line, level);
    match line {
        // A vCPU's own lines exist where the process emulates the interrupt controller (KVM_CAP_ARM_USER_IRQ).
        IrqLine::Cpu { .. } if vm.has_irqchip() => return Err(Errno::ENXIO),
        IrqLine::Cpu { vcpu, number } => {
            let vcpu = vm.vcpu(vcpu.into()).ok_or(Errno::EINVAL)?;
            let line = match number {
                KVM_ARM_IRQ_CPU_IRQ => Hcr::VI,
                KVM_ARM_IRQ_CPU_FIQ => Hcr::VF,
                _ => return Err(Errno::EINVAL),
            };
            if vcpu.set_line(line, level) {
                vcpu.kick();
            }
        }
        _ if !vm.has_irqchip() => return Err(Errno::ENXIO),
        IrqLine::Ppi { vcpu, number } => {
            let vcpu = usize::from(vcpu);
            if vm.vcpu(vcpu).is_none() || !(16..32).contains(&number) {
                return Err(Errno::EINVAL);
            }
            vm.initialise_irqchip(system::hypervisor()?)?;
            vm.set_line(vcpu, number.into(), level)?;
        }
        IrqLine::Spi { number } => {
            if number < 32 {
                return Err(Errno::EINVAL);
            }
            vm.initialise_irqchip(system::hypervisor()?)?;
            vm.set_line(0, number.into(), level)?;
        }
    }
    if comes_back {
        argument.write(&request)?;
    }
    Ok(0)
}

/// KVM_ARM_SET_DEVICE_ADDR: the legacy way to say where the GIC lies.
fn set_device_address(vm: &Vm<Kernel>, argument: UserAddress) -> Result<i32> {
    let request: DeviceAddr = argument.read()?;
    if request.device() != KVM_ARM_DEVICE_VGIC_V2 {
        return Err(Errno::ENODEV);
    }
    if module::gic().is_err() {
        return Err(Errno::ENXIO);
    }
    let region = device::region(request.addr_type()).ok_or(Errno::ENODEV)?;
    vm.set_irqchip_address(region, request.addr)?;
    Ok(0)
}

/// KVM_ARM_PREFERRED_TARGET: what a vCPU here can be: the host's own core, or the nearest that clients know.
fn preferred_target(argument: UserAddress) -> Result<i32> {
    let target = kvm::reset::target(system::hypervisor()?.hardware.id.midr);
    argument.write(&VcpuInit { target, features: [0; 7] })?;
    Ok(0)
}

fn create_device(object: &Shared<VmObject>, argument: UserAddress) -> Result<i32> {
    let mut request: CreateDevice = argument.read()?;
    if request.device_type != uapi::device::KVM_DEV_TYPE_ARM_VGIC_V2 || module::gic().is_err() {
        return Err(Errno::ENODEV);
    }
    if request.flags & uapi::device::KVM_CREATE_DEVICE_TEST != 0 {
        return Ok(0);
    }
    // A process that could not be told the descriptor gets no device.
    argument.write(&request)?;
    object.vm.create_irqchip()?;
    let fd = device::create(object).inspect_err(|_| object.vm.forget_irqchip())?;
    request.fd = fd as u32;
    argument.write(&request)?;
    Ok(0)
}

/// The VM's descriptor is gone, though others may keep the VM.
fn close(object: &VmObject) {
    object.vm.release_irqfds();
    eventfd::end_watches();
}

fn ioctl(object: &Shared<VmObject>, command: u32, argument: usize) -> Result<i32> {
    object.check_caller()?;
    let vm = &object.vm;
    let at = UserAddress::new(argument);
    match command {
        KVM_CREATE_VCPU => vcpu::create(object, argument),
        KVM_SET_USER_MEMORY_REGION => set_memory_region(vm, at),
        KVM_IRQ_LINE => irq_line(vm, at, false),
        KVM_IRQ_LINE_STATUS => irq_line(vm, at, true),
        KVM_IOEVENTFD => events::ioeventfd(vm, at),
        KVM_IRQFD => events::irqfd(object, at),
        KVM_SET_GSI_ROUTING => events::set_gsi_routing(vm, at),
        KVM_SIGNAL_MSI => events::signal_msi(vm, at),
        KVM_REGISTER_COALESCED_MMIO => events::register_zone(vm, at),
        KVM_UNREGISTER_COALESCED_MMIO => events::unregister_zones(vm, at),
        KVM_CREATE_IRQCHIP if module::gic().is_err() => Err(Errno::ENXIO),
        KVM_CREATE_IRQCHIP => vm.create_irqchip().map(|()| 0).map_err(Errno::from),
        KVM_CREATE_DEVICE => create_device(object, at),
        KVM_ARM_SET_DEVICE_ADDR => set_device_address(vm, at),
        KVM_ARM_PREFERRED_TARGET => preferred_target(at),
        KVM_CHECK_EXTENSION => Ok(system::check_extension(argument)),
        KVM_ENABLE_CAP => capability::enable(vm, at),
        KVM_GET_DIRTY_LOG => dirty_log::get(vm, at),
        KVM_CLEAR_DIRTY_LOG => dirty_log::clear(vm, at),
        _ => Err(Errno::EINVAL),
    }
}

/// An ioctl on a VM's descriptor.
///
/// # Safety
/// `object` is the descriptor's.
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_vm_ioctl(object: *mut c_void, command: u32, argument: usize) -> isize {
    // SAFETY: the descriptor holds a reference, and the kernel keeps the descriptor during the call.
    let object = unsafe { core::mem::ManuallyDrop::new(Shared::<VmObject>::from_raw(object)) };
    to_kernel(ioctl(&object, command, argument))
}

/// A descriptor is gone.
///
/// # Safety
/// `object` is what was passed to the shim's function that makes descriptors of this `kind`.
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_release(kind: u32, object: *mut c_void) {
    // SAFETY: the reference that the descriptor held, given back once.
    unsafe {
        match kind {
            0 => close(&Shared::<VmObject>::from_raw(object)),
            1 => Shared::<vcpu::VcpuObject>::from_raw(object).close(),
            _ => drop(Shared::<device::DeviceObject>::from_raw(object)),
        }
    }
}

/// The VM that a notifier's callback means.
///
/// # Safety
/// `vm` is what [`create`] passed to the shim.
unsafe fn watched<'a>(vm: *mut c_void) -> &'a Vm<Kernel> {
    // SAFETY: the object outlives its watch.
    unsafe { &(*vm.cast::<VmObject>()).vm }
}

/// The process's memory is about to change. Nothing here sleeps, so whether it may does not matter.
///
/// # Safety
/// As [`watched`].
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_mm_invalidate_begin(vm: *mut c_void, start: usize, end: usize, _may_block: u32) -> i32 {
    let range = HostVirt::new(start as u32)..HostVirt::new(end as u32);
    note(&Kernel, EventKind::UnmapRange, || Event::UnmapRange { start: start as u64, end: end as u64 });
    // SAFETY: promised by the caller.
    unsafe { watched(vm) }.memory.invalidate_begin(range);
    0
}

/// The process's memory has changed.
///
/// # Safety
/// As [`watched`].
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_mm_invalidate_end(vm: *mut c_void, _start: usize, _end: usize) {
    // SAFETY: promised by the caller.
    unsafe { watched(vm) }.memory.invalidate_end();
}

/// The host wants to know whether the guest used memory, and forgets it.
///
/// # Safety
/// As [`watched`].
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_mm_clear_young(vm: *mut c_void, start: usize, end: usize, flush: u32) -> u32 {
    let range = HostVirt::new(start as u32)..HostVirt::new(end as u32);
    note(&Kernel, EventKind::Age, || Event::Age { start: start as u64, end: end as u64 });
    // SAFETY: promised by the caller.
    unsafe { watched(vm) }.memory.clear_young(range, flush != 0).into()
}

/// The host wants to know whether the guest used a page.
///
/// # Safety
/// As [`watched`].
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_mm_test_young(vm: *mut c_void, address: usize) -> u32 {
    note(&Kernel, EventKind::TestAge, || Event::TestAge { hva: address as u64 });
    let start = HostVirt::new(address as u32).page();
    let Some(end) = start.checked_add(PAGE_SIZE as u32) else { return 0 };
    // SAFETY: promised by the caller.
    unsafe { watched(vm) }.memory.test_young(start..end).into()
}

/// The process dies.
///
/// # Safety
/// As [`watched`].
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_mm_release(vm: *mut c_void) {
    // SAFETY: promised by the caller.
    unsafe { watched(vm) }.memory.release();
}
