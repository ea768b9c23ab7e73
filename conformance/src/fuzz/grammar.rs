// SPDX-License-Identifier: GPL-2.0-only
//! KVM's calls: on which descriptors, how often, with which arguments.
//!
//! An argument is one that a client would give ([`arguments`](crate::arguments)). One time in four one field of it is then replaced by
//! a value that numbers are often off by.

use fastrand::Rng;
use uapi::*;

use crate::arguments::*;
use crate::descriptors::Kind;
use crate::values::Values;

/// A call.
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub number: u32,
    /// On which descriptors.
    pub on: Kind,
    /// What a descriptor that it answers is.
    pub makes: Option<Kind>,
    /// How often it is made.
    pub weight: u32,
    /// Its argument.
    argument: fn(&mut Maker) -> Argument,
    /// The capability that says that a host has it; none: every host.
    pub capability: Option<u32>,
    /// Whether some must succeed, or else something is wrong with this program.
    pub must_succeed: bool,
}

impl Call {
    const fn on(on: Kind, weight: u32, name: &'static str, number: u32, argument: fn(&mut Maker) -> Argument) -> Self {
        Self { name, number, on, makes: None, weight, argument, capability: None, must_succeed: true }
    }

    const fn making(mut self, kind: Kind) -> Self {
        self.makes = Some(kind);
        self
    }

    const fn with(mut self, capability: u32) -> Self {
        self.capability = Some(capability);
        self
    }

    /// It is one that Arm refuses, or that some hosts have and do not say so.
    const fn perhaps(mut self) -> Self {
        self.must_succeed = false;
        self
    }

    /// Builds its argument, and perhaps spoils it.
    pub fn argument(&self, maker: &mut Maker) -> Argument {
        match (self.argument)(maker) {
            Argument::Structure => {
                if maker.random.one_in(4) {
                    maker.spoil();
                }
                if self.number == KVM_SET_USER_MEMORY_REGION {
                    maker.tame_region();
                }
                Argument::Structure
            }
            Argument::Value(value) if maker.random.one_in(16) => Argument::Value(value ^ maker.random.word() as usize),
            value => value,
        }
    }
}

use Kind::{Device, System, Vcpu, Vm};

/// All calls.
pub const CALLS: &[Call] = &[
    Call::on(System, 1, "GET_API_VERSION", KVM_GET_API_VERSION, nothing),
    Call::on(System, 1, "CREATE_VM", KVM_CREATE_VM, nothing).making(Vm),
    Call::on(System, 1, "CHECK_EXTENSION", KVM_CHECK_EXTENSION, capability),
    Call::on(System, 1, "GET_VCPU_MMAP_SIZE", KVM_GET_VCPU_MMAP_SIZE, nothing),
    Call::on(System, 1, "TRACE_ENABLE", KVM_TRACE_ENABLE, anything).perhaps(),
    Call::on(Vm, 6, "CREATE_VCPU", KVM_CREATE_VCPU, small).making(Vcpu),
    Call::on(Vm, 20, "GET_DIRTY_LOG", KVM_GET_DIRTY_LOG, dirty_log),
    Call::on(Vm, 40, "SET_USER_MEMORY_REGION", KVM_SET_USER_MEMORY_REGION, region),
    Call::on(Vm, 2, "CREATE_IRQCHIP", KVM_CREATE_IRQCHIP, nothing),
    Call::on(Vm, 40, "IRQ_LINE", KVM_IRQ_LINE, irq_level),
    Call::on(Vm, 10, "IRQ_LINE_STATUS", KVM_IRQ_LINE_STATUS, irq_level).perhaps(),
    Call::on(Vm, 10, "REGISTER_COALESCED_MMIO", KVM_REGISTER_COALESCED_MMIO, zone).with(KVM_CAP_COALESCED_MMIO),
    Call::on(Vm, 8, "UNREGISTER_COALESCED_MMIO", KVM_UNREGISTER_COALESCED_MMIO, zone).with(KVM_CAP_COALESCED_MMIO),
    Call::on(Vm, 10, "SET_GSI_ROUTING", KVM_SET_GSI_ROUTING, routing).with(KVM_CAP_IRQ_ROUTING),
    Call::on(Vm, 20, "IRQFD", KVM_IRQFD, irqfd).with(KVM_CAP_IRQFD),
    Call::on(Vm, 20, "IOEVENTFD", KVM_IOEVENTFD, ioeventfd).with(KVM_CAP_IOEVENTFD),
    Call::on(Vm, 6, "SIGNAL_MSI", KVM_SIGNAL_MSI, msi).perhaps(),
    Call::on(Vm, 6, "ENABLE_CAP", KVM_ENABLE_CAP, enable_cap).with(KVM_CAP_ENABLE_CAP_VM),
    Call::on(Vm, 6, "ARM_SET_DEVICE_ADDR", KVM_ARM_SET_DEVICE_ADDR, device_address),
    Call::on(Vm, 3, "ARM_PREFERRED_TARGET", KVM_ARM_PREFERRED_TARGET, blank::<32>),
    Call::on(Vm, 20, "CLEAR_DIRTY_LOG", KVM_CLEAR_DIRTY_LOG, clear_dirty_log).with(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2),
    Call::on(Vm, 6, "CREATE_DEVICE", KVM_CREATE_DEVICE, create_device),
    Call::on(Vm, 2, "CHECK_EXTENSION of a VM", KVM_CHECK_EXTENSION, capability),
    Call::on(Device, 30, "SET_DEVICE_ATTR", KVM_SET_DEVICE_ATTR, attribute),
    Call::on(Device, 30, "GET_DEVICE_ATTR", KVM_GET_DEVICE_ATTR, attribute),
    Call::on(Device, 10, "HAS_DEVICE_ATTR", KVM_HAS_DEVICE_ATTR, attribute),
    Call::on(Vcpu, 10, "SET_DEVICE_ATTR of a vCPU", KVM_SET_DEVICE_ATTR, vcpu_attribute),
    Call::on(Vcpu, 10, "GET_DEVICE_ATTR of a vCPU", KVM_GET_DEVICE_ATTR, vcpu_attribute),
    Call::on(Vcpu, 5, "HAS_DEVICE_ATTR of a vCPU", KVM_HAS_DEVICE_ATTR, vcpu_attribute),
    Call::on(Vcpu, 12, "RUN", KVM_RUN, nothing),
    Call::on(Vcpu, 1, "GET_REGS", KVM_GET_REGS, anything).perhaps(),
    Call::on(Vcpu, 1, "SET_REGS", KVM_SET_REGS, anything).perhaps(),
    Call::on(Vcpu, 1, "GET_SREGS", KVM_GET_SREGS, anything).perhaps(),
    Call::on(Vcpu, 1, "SET_SREGS", KVM_SET_SREGS, anything).perhaps(),
    Call::on(Vcpu, 1, "TRANSLATE", KVM_TRANSLATE, anything).perhaps(),
    Call::on(Vcpu, 6, "SET_SIGNAL_MASK", KVM_SET_SIGNAL_MASK, signal_mask),
    Call::on(Vcpu, 1, "GET_FPU", KVM_GET_FPU, anything).perhaps(),
    Call::on(Vcpu, 1, "SET_FPU", KVM_SET_FPU, anything).perhaps(),
    Call::on(Vcpu, 10, "GET_MP_STATE", KVM_GET_MP_STATE, blank::<4>),
    Call::on(Vcpu, 10, "SET_MP_STATE", KVM_SET_MP_STATE, mp_state),
    Call::on(Vcpu, 1, "SET_GUEST_DEBUG", KVM_SET_GUEST_DEBUG, anything).perhaps(),
    Call::on(Vcpu, 10, "GET_VCPU_EVENTS", KVM_GET_VCPU_EVENTS, blank::<64>).with(KVM_CAP_VCPU_EVENTS),
    Call::on(Vcpu, 10, "SET_VCPU_EVENTS", KVM_SET_VCPU_EVENTS, events).with(KVM_CAP_VCPU_EVENTS),
    Call::on(Vcpu, 60, "GET_ONE_REG", KVM_GET_ONE_REG, get_register),
    Call::on(Vcpu, 80, "SET_ONE_REG", KVM_SET_ONE_REG, set_register),
    Call::on(Vcpu, 10, "ARM_VCPU_INIT", KVM_ARM_VCPU_INIT, init),
    Call::on(Vcpu, 6, "GET_REG_LIST", KVM_GET_REG_LIST, register_list),
    Call::on(Vcpu, 1, "ARM_VCPU_FINALIZE", KVM_ARM_VCPU_FINALIZE, anything).perhaps(),
];

/// One of them, as often as their weights say.
pub fn any_call(random: &mut Rng) -> usize {
    let total: u32 = CALLS.iter().map(|call| call.weight).sum();
    let mut left = random.u32(..total);
    CALLS
        .iter()
        .position(|call| {
            left.checked_sub(call.weight).is_none_or(|rest| {
                left = rest;
                false
            })
        })
        .unwrap_or(0)
}

/// A number that is no call's.
pub fn strange_number(random: &mut Rng) -> u32 {
    let number = match random.u32(..4) {
        0 => io(random.u32(..256)),
        1 => random.of(&[1, 2, 3]) << 30 | random.u32(..0x4000) << 16 | KVMIO << 8 | random.u32(..256),
        2 => CALLS[any_call(random)].number ^ 1 << random.u32(..32),
        _ => random.word(),
    };
    // With an argument that was made for another it might have the kernel write anywhere.
    if CALLS.iter().any(|call| call.number == number) { io(0xff) } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::stream;

    #[test]
    fn every_call_comes_and_no_number_is_there_twice() {
        let mut random = stream(1, 1);
        let mut seen = vec![0; CALLS.len()];
        (0..100_000).for_each(|_| seen[any_call(&mut random)] += 1);
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
        for (index, call) in CALLS.iter().enumerate() {
            assert!(
                CALLS[..index].iter().all(|other| (other.number, other.on) != (call.number, call.on)),
                "{}",
                call.name
            );
            assert!(argument_size(call.number) <= DESK);
        }
    }

    #[test]
    fn a_strange_number_is_nobodys() {
        let mut random = stream(1, 2);
        for _ in 0..10_000 {
            let number = strange_number(&mut random);
            assert!(CALLS.iter().all(|call| call.number != number));
        }
    }
}
