// SPDX-License-Identifier: GPL-2.0-only
//! /dev/kvm itself: what the hypervisor can do, and new VMs.

use crate::errno::{Errno, Result};
use crate::gic::Gic;
use crate::kernel::Kernel;
use crate::resident::Resident;
use crate::{ffi, id_registers, kernel, module, vm};
use hyp_abi::image::FirmwareHardening;
use kvm::vm::{Hardware, Hypervisor, PhysicalGic, Vm};
use uapi::caps::*;
use uapi::ioctl::*;

static HYPERVISOR: Resident<Hypervisor<Kernel>> = Resident::new();

/// Sets the hypervisor up. Before /dev/kvm is there.
pub fn start(hardware: Hardware) -> Result<()> {
    HYPERVISOR.put(Hypervisor::new(Kernel, hardware))
}

/// Takes it down, if it is up. No descriptor is left.
pub fn stop() {
    HYPERVISOR.clear();
}

/// What all VMs share. There whenever a descriptor is.
pub fn hypervisor() -> Result<&'static Hypervisor<Kernel>> {
    HYPERVISOR.get()
}

/// Bytes that a vCPU's descriptor maps: `struct kvm_run` and the coalesced MMIO ring, a page each.
pub const VCPU_MMAP_SIZE: i32 = 2 * arch::addr::PAGE_SIZE as i32;

/// KVM_CHECK_EXTENSION: 0 is no. What is not built yet says no, whatever KVM/ARM said.
pub fn check_extension(capability: usize) -> i32 {
    let Ok(capability) = u32::try_from(capability) else { return 0 };
    match capability {
        KVM_CAP_IRQCHIP => module::gic().is_ok().into(),
        KVM_CAP_USER_MEMORY
        | KVM_CAP_MP_STATE
        | KVM_CAP_SYNC_MMU
        | KVM_CAP_DESTROY_MEMORY_REGION_WORKS
        | KVM_CAP_JOIN_MEMORY_REGIONS_WORKS
        | KVM_CAP_INTERNAL_ERROR_DATA
        | KVM_CAP_ONE_REG
        | KVM_CAP_READONLY_MEM
        | KVM_CAP_ARM_PSCI
        | KVM_CAP_ARM_SET_DEVICE_ADDR
        | KVM_CAP_DEVICE_CTRL
        | KVM_CAP_ARM_PSCI_0_2
        | KVM_CAP_ENABLE_CAP_VM
        | KVM_CAP_CHECK_EXTENSION_VM
        | KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
        | KVM_CAP_VCPU_EVENTS
        | KVM_CAP_ARM_USER_IRQ
        | KVM_CAP_ARM_IRQ_LINE_LAYOUT_2
        | KVM_CAP_ARM_NISV_TO_USER
        | KVM_CAP_ARM_INJECT_EXT_DABT
        | KVM_CAP_IMMEDIATE_EXIT
        | KVM_CAP_IRQFD
        | KVM_CAP_IRQFD_RESAMPLE
        | KVM_CAP_IOEVENTFD
        | KVM_CAP_IOEVENTFD_ANY_LENGTH
        | KVM_CAP_SIGNAL_MSI
        | KVM_CAP_COALESCED_PIO => 1,
        KVM_CAP_COALESCED_MMIO => uapi::memory::KVM_COALESCED_MMIO_PAGE_OFFSET as i32,
        KVM_CAP_IRQ_ROUTING => kvm::irq_routing::GSIS as i32,
        KVM_CAP_NR_VCPUS => ffi::ws_online_cpus() as i32,
        KVM_CAP_MAX_VCPUS => Vm::<Kernel>::MAX_VCPUS as i32,
        KVM_CAP_MAX_VCPU_ID => Vm::<Kernel>::MAX_VCPUS as i32,
        KVM_CAP_NR_MEMSLOTS => kvm::memslots::SLOTS as i32,
        _ => 0,
    }
}

fn ioctl(command: u32, argument: usize) -> Result<i32> {
    match command {
        KVM_GET_API_VERSION if argument == 0 => Ok(KVM_API_VERSION as i32),
        KVM_CREATE_VM => vm::create(argument),
        // Only a VM could say.
        KVM_CHECK_EXTENSION if argument == KVM_CAP_MSI_DEVID as usize => Err(Errno::EINVAL),
        KVM_CHECK_EXTENSION => Ok(check_extension(argument)),
        KVM_GET_VCPU_MMAP_SIZE if argument == 0 => Ok(VCPU_MMAP_SIZE),
        KVM_TRACE_ENABLE | KVM_TRACE_PAUSE | KVM_TRACE_DISABLE => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

/// An ioctl on /dev/kvm.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_system_ioctl(command: u32, argument: usize) -> isize {
    to_kernel(ioctl(command, argument))
}

/// What an ioctl's result is for the kernel.
pub fn to_kernel(result: Result<i32>) -> isize {
    match result {
        Ok(value) => value as isize,
        Err(error) => error.get() as isize,
    }
}

/// The hardware, as the hypervisor knows it.
pub fn hardware(found: &module::HostHardware, gic: Option<&Gic>) -> Hardware {
    Hardware {
        gic: gic.map(|gic| PhysicalGic { list_registers: gic.list_registers(), gicv: gic.gicv }),
        timer_interrupt: found.timer_forwarded.then_some(found.timer_hwirq),
        firmware_hardens: FirmwareHardening::from_raw(ffi::ws_firmware_hardening()) != FirmwareHardening::Absent,
        id: kernel::with_interrupts_off(id_registers::read),
    }
}
