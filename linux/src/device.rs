// SPDX-License-Identifier: GPL-2.0-only
//! The GICv2 as a device of KVM's: KVM_CREATE_DEVICE, attributes that say where it lies and how big it is, and its registers.

use crate::errno::{Errno, Result};
use crate::ffi;
use crate::heap::Shared;
use crate::system::{self, to_kernel};
use crate::user::UserAddress;
use crate::vm::{VmObject, owning};
use core::ffi::c_void;
use kvm::irqchip_state::{Half, Word};
use kvm::vm::Region;
use uapi::device::*;
use uapi::ioctl::*;

/// A VM's GIC as the process holds it.
pub struct DeviceObject {
    vm: Shared<VmObject>,
}

/// A descriptor for the GIC of `vm`, which the VM has.
pub fn create(vm: &Shared<VmObject>) -> Result<i32> {
    // SAFETY: the descriptor's release gives the reference back, once.
    owning(Shared::new(DeviceObject { vm: vm.clone() })?, |raw| unsafe { ffi::ws_gic_fd(raw) })
}

/// Which region of the GIC a process's number means.
pub fn region(number: u64) -> Option<Region> {
    match number {
        KVM_VGIC_V2_ADDR_TYPE_DIST => Some(Region::Distributor),
        KVM_VGIC_V2_ADDR_TYPE_CPU => Some(Region::CpuInterface),
        _ => None,
    }
}

/// The register that an attribute means, if it is of one of the groups of registers.
fn word(attribute: &DeviceAttr) -> Option<Word> {
    let half = match attribute.group {
        KVM_DEV_ARM_VGIC_GRP_DIST_REGS => Half::Distributor,
        KVM_DEV_ARM_VGIC_GRP_CPU_REGS => Half::CpuInterface,
        _ => return None,
    };
    // CPUID in [39:32], OFFSET in [31:0]; nobody looked at the others.
    Some(Word { half, vcpu: usize::from((attribute.attr >> 32) as u8), offset: attribute.attr as u32 })
}

impl DeviceObject {
    fn set(&self, attribute: &DeviceAttr) -> Result<()> {
        let vm = &self.vm.vm;
        match attribute.group {
            KVM_DEV_ARM_VGIC_GRP_ADDR => {
                let address: u64 = UserAddress::from_field(attribute.addr).read()?;
                let region = region(attribute.attr).ok_or(Errno::ENXIO)?;
                vm.set_irqchip_address(region, address)?;
            }
            KVM_DEV_ARM_VGIC_GRP_NR_IRQS => {
                let count: u32 = UserAddress::from_field(attribute.addr).read()?;
                vm.set_nr_irqs(count)?;
            }
            KVM_DEV_ARM_VGIC_GRP_CTRL if attribute.attr == KVM_DEV_ARM_VGIC_CTRL_INIT => {
                vm.initialise_irqchip(system::hypervisor()?)?;
            }
            _ => {
                let word = word(attribute).ok_or(Errno::ENXIO)?;
                let value: u32 = UserAddress::from_field(attribute.addr).read()?;
                vm.write_irqchip(system::hypervisor()?, word, value)?;
            }
        }
        Ok(())
    }

    fn get(&self, attribute: &DeviceAttr) -> Result<()> {
        let vm = &self.vm.vm;
        match attribute.group {
            KVM_DEV_ARM_VGIC_GRP_ADDR => {
                let region = region(attribute.attr).ok_or(Errno::ENXIO)?;
                // What was not said reads as all ones, as KVM's VGIC_ADDR_UNDEF.
                let address = vm.irqchip_address(region)?.map_or(u64::MAX, |address| address.get());
                UserAddress::from_field(attribute.addr).write(&address)
            }
            KVM_DEV_ARM_VGIC_GRP_NR_IRQS => {
                let count = vm.nr_irqs().unwrap_or(arch::gic::PRIVATE_IRQS) as u32;
                UserAddress::from_field(attribute.addr).write(&count)
            }
            _ => {
                let word = word(attribute).ok_or(Errno::ENXIO)?;
                let value = vm.read_irqchip(system::hypervisor()?, word)?;
                UserAddress::from_field(attribute.addr).write(&value)
            }
        }
    }

    fn has(&self, attribute: &DeviceAttr) -> Result<()> {
        match attribute.group {
            KVM_DEV_ARM_VGIC_GRP_ADDR if region(attribute.attr).is_some() => Ok(()),
            KVM_DEV_ARM_VGIC_GRP_NR_IRQS => Ok(()),
            KVM_DEV_ARM_VGIC_GRP_CTRL if attribute.attr == KVM_DEV_ARM_VGIC_CTRL_INIT => Ok(()),
            _ => {
                let word = word(attribute).ok_or(Errno::ENXIO)?;
                if self.vm.vm.has_irqchip_word(word)? { Ok(()) } else { Err(Errno::ENXIO) }
            }
        }
    }

    fn ioctl(&self, command: u32, argument: usize) -> Result<i32> {
        self.vm.check_caller()?;
        let attribute = || UserAddress::new(argument).read::<DeviceAttr>();
        match command {
            KVM_SET_DEVICE_ATTR => self.set(&attribute()?)?,
            KVM_GET_DEVICE_ATTR => self.get(&attribute()?)?,
            KVM_HAS_DEVICE_ATTR => self.has(&attribute()?)?,
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
}

/// An ioctl on a device's descriptor.
///
/// # Safety
/// `object` is the descriptor's.
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_device_ioctl(object: *mut c_void, command: u32, argument: usize) -> isize {
    // SAFETY: the descriptor holds a reference, and the kernel keeps the descriptor during the call.
    let object = unsafe { Shared::<DeviceObject>::borrow_raw(object) };
    to_kernel(object.ioctl(command, argument))
}
