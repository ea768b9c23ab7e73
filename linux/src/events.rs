// SPDX-License-Identifier: GPL-2.0-only
//! A VM's calls that have to do with events: eventfds as doorbells and as interrupts, the table of interrupts' numbers, and coalesced
//! MMIO.

use crate::errno::{Errno, Result};
use crate::eventfd::{self, EventFd, IrqfdWatch};
use crate::heap::Array;
use crate::kernel::Kernel;
use crate::user::UserAddress;
use crate::vm::VmObject;
use kvm::io_bus::{Bell, BusError};
use kvm::irq_routing::{GSIS, RoutingError};
use kvm::irqfd::IrqfdError;
use kvm::vm::Vm;
use uapi::irq::*;
use uapi::memory::CoalescedMmioZone;

impl From<BusError> for Errno {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Invalid => Self::EINVAL,
            BusError::Exists => Self::EEXIST,
            BusError::Missing => Self::ENOENT,
            BusError::Full => Self::ENOSPC,
            BusError::OutOfMemory => Self::ENOMEM,
        }
    }
}

impl From<IrqfdError> for Errno {
    fn from(error: IrqfdError) -> Self {
        match error {
            IrqfdError::Busy => Self::EBUSY,
            IrqfdError::OutOfMemory => Self::ENOMEM,
        }
    }
}

impl From<RoutingError> for Errno {
    fn from(error: RoutingError) -> Self {
        match error {
            RoutingError::Invalid => Self::EINVAL,
            RoutingError::OutOfMemory => Self::ENOMEM,
        }
    }
}

/// KVM_IOEVENTFD.
pub fn ioeventfd(vm: &Vm<Kernel>, argument: UserAddress) -> Result<i32> {
    let request: Ioeventfd = argument.read()?;
    let event = || EventFd::of_descriptor(request.fd as u32);
    if request.flags & KVM_IOEVENTFD_FLAG_DEASSIGN != 0 {
        vm.bus.remove_bell(&Bell::existing(&request), &event()?)?;
    } else {
        let bell = Bell::new(&request)?;
        vm.bus.add_bell(&Kernel, bell, event()?)?;
    }
    Ok(0)
}

/// KVM_IRQFD.
pub fn irqfd(object: &VmObject, argument: UserAddress) -> Result<i32> {
    let request: Irqfd = argument.read()?;
    let has = |flag| request.flags & flag != 0;
    if has(!(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE)) {
        return Err(Errno::EINVAL);
    }
    let (vm, gsi) = (&object.vm, request.gsi);
    if has(KVM_IRQFD_FLAG_DEASSIGN) {
        vm.deassign_irqfd(&EventFd::of_descriptor(request.fd)?, gsi);
        // Of one whose eventfd was closed just before, too, there is to come no interrupt any more.
        eventfd::end_watches();
        return Ok(0);
    }
    if !vm.has_initialised_irqchip() {
        return Err(Errno::EAGAIN);
    }
    let watch = IrqfdWatch::new(object, request.fd, gsi, has(KVM_IRQFD_FLAG_RESAMPLE))?;
    let resample = if has(KVM_IRQFD_FLAG_RESAMPLE) { Some(EventFd::of_descriptor(request.resamplefd)?) } else { None };
    let event = watch.event().clone();
    vm.assign_irqfd(&Kernel, kvm::irqfd::Irqfd { event, gsi, resample, watch })?;
    Ok(0)
}

/// KVM_SET_GSI_ROUTING.
pub fn set_gsi_routing(vm: &Vm<Kernel>, argument: UserAddress) -> Result<i32> {
    let head: IrqRouting = argument.read()?;
    let count = head.nr as usize;
    if count > GSIS || head.flags != 0 {
        return Err(Errno::EINVAL);
    }
    let mut error = None;
    let entries = Array::new(count, |index| {
        let at = argument.offset(size_of::<IrqRouting>() + index * size_of::<IrqRoutingEntry>());
        at.and_then(UserAddress::read).unwrap_or_else(|why| {
            error = Some(why);
            IrqRoutingEntry::default()
        })
    })?;
    if let Some(error) = error {
        return Err(error);
    }
    vm.set_gsi_routing(&Kernel, &entries)?;
    Ok(0)
}

/// KVM_SIGNAL_MSI: a GICv2 takes no messages.
pub fn signal_msi(vm: &Vm<Kernel>, argument: UserAddress) -> Result<i32> {
    let request: Msi = argument.read()?;
    if !vm.has_irqchip() || request.flags & !KVM_MSI_VALID_DEVID != 0 {
        return Err(Errno::EINVAL);
    }
    Err(Errno::ENODEV)
}

/// KVM_REGISTER_COALESCED_MMIO.
pub fn register_zone(vm: &Vm<Kernel>, argument: UserAddress) -> Result<i32> {
    let zone: CoalescedMmioZone = argument.read()?;
    vm.bus.add_zone(&Kernel, &zone)?;
    Ok(0)
}

/// KVM_UNREGISTER_COALESCED_MMIO.
pub fn unregister_zones(vm: &Vm<Kernel>, argument: UserAddress) -> Result<i32> {
    let zone: CoalescedMmioZone = argument.read()?;
    vm.bus.remove_zones(&zone)?;
    Ok(0)
}
