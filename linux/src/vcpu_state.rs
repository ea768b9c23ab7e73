// SPDX-License-Identifier: GPL-2.0-only
//! What a process reads and writes of a vCPU besides its registers: pending exceptions, and which PPIs its timers drive.

use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::user::UserAddress;
use kvm::timer_interrupts::Timer;
use kvm::vcpu::VcpuState;
use kvm::vcpu_events::{self, BadEvents};
use kvm::vm::Vm;
use uapi::device::*;
use uapi::run::{KVM_ARM_DEV_EL1_PTIMER, KVM_ARM_DEV_EL1_VTIMER};
use uapi::vcpu::VcpuEvents;

impl From<BadEvents> for Errno {
    fn from(_: BadEvents) -> Self {
        Self::EINVAL
    }
}

/// KVM_GET_VCPU_EVENTS.
pub fn get_events(state: &VcpuState<Kernel>, argument: UserAddress) -> Result<i32> {
    argument.write(&vcpu_events::get(state))?;
    Ok(0)
}

/// KVM_SET_VCPU_EVENTS.
pub fn set_events(state: &mut VcpuState<Kernel>, argument: UserAddress) -> Result<i32> {
    let events: VcpuEvents = argument.read()?;
    vcpu_events::set(state, &events)?;
    Ok(0)
}

/// The timer that an attribute of a vCPU is about. ENXIO: there is no such attribute.
fn timer(attribute: &DeviceAttr) -> Result<Timer> {
    match (attribute.group, attribute.attr) {
        (KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_TIMER_IRQ_VTIMER) => Ok(Timer::Virtual),
        (KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_TIMER_IRQ_PTIMER) => Ok(Timer::Physical),
        _ => Err(Errno::ENXIO),
    }
}

/// KVM_SET_DEVICE_ATTR on a vCPU: for all vCPUs of its VM.
pub fn set_attribute(vm: &Vm<Kernel>, argument: UserAddress) -> Result<i32> {
    let attribute: DeviceAttr = argument.read()?;
    let timer = timer(&attribute)?;
    let intid: u32 = UserAddress::from_field(attribute.addr).read()?;
    vm.set_timer_ppi(timer, intid)?;
    Ok(0)
}

/// KVM_GET_DEVICE_ATTR on a vCPU.
pub fn get_attribute(vm: &Vm<Kernel>, argument: UserAddress) -> Result<i32> {
    let attribute: DeviceAttr = argument.read()?;
    let intid = vm.timer_ppi(timer(&attribute)?);
    UserAddress::from_field(attribute.addr).write(&intid)?;
    Ok(0)
}

/// KVM_HAS_DEVICE_ATTR on a vCPU.
pub fn has_attribute(argument: UserAddress) -> Result<i32> {
    timer(&argument.read()?)?;
    Ok(0)
}

/// `device_irq_level` of `struct kvm_run`: the levels of the timers as the process was last told.
pub fn device_irq_level(state: &VcpuState<Kernel>) -> u64 {
    let [virtual_timer, physical_timer] = state.told_lines;
    let bit = |level: bool, bit: u64| if level { bit } else { 0 };
    bit(virtual_timer, KVM_ARM_DEV_EL1_VTIMER) | bit(physical_timer, KVM_ARM_DEV_EL1_PTIMER)
}
