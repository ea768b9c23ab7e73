// SPDX-License-Identifier: GPL-2.0-only
//! KVM's calls: on which descriptors, how often, with which arguments.
//!
//! An argument is one that a client would give ([`arguments`](crate::arguments)). One time in four one field of it is then replaced by
//! a value that numbers are often off by.

use fastrand::Rng;
use nix::errno::Errno::{self, *};
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
    /// Whether it is one that Arm refuses, whatever its argument.
    pub refused: bool,
    /// Errors of its own: one in some hundred calls answers each.
    pub errors: &'static [Errno],
    /// More of them, which are rare, or a matter of who is first.
    pub rare: &'static [Errno],
}

/// What any call answers: on a descriptor that is none, another's or another process's; with an argument that is not there; without memory.
pub const ANY: [Errno; 6] = [Errno::EBADF, Errno::ENOTTY, Errno::EINVAL, Errno::EIO, Errno::EFAULT, Errno::ENOMEM];

impl Call {
    const fn on(on: Kind, weight: u32, name: &'static str, number: u32, argument: fn(&mut Maker) -> Argument) -> Self {
        let (errors, rare): (&[Errno], &[Errno]) = (&[], &[]);
        Self { name, number, on, makes: None, weight, argument, capability: None, refused: false, errors, rare }
    }

    const fn making(mut self, kind: Kind) -> Self {
        self.makes = Some(kind);
        self
    }

    const fn with(mut self, capability: u32) -> Self {
        self.capability = Some(capability);
        self
    }

    const fn fails(mut self, errors: &'static [Errno]) -> Self {
        self.errors = errors;
        self
    }

    const fn seldom(mut self, rare: &'static [Errno]) -> Self {
        self.rare = rare;
        self
    }

    const fn refused(mut self, errors: &'static [Errno]) -> Self {
        self.refused = true;
        self.fails(errors)
    }

    /// Whether it can succeed on a host that has these capabilities.
    pub fn is_offered(&self, has: impl Fn(u32) -> bool) -> bool {
        !self.refused && self.capability.is_none_or(has)
    }

    /// Whether it answers this, or another call that has its number on another descriptor.
    pub fn may_answer(&self, error: Errno) -> bool {
        let mut same = CALLS.iter().filter(|call| call.number == self.number);
        ANY.contains(&error) || same.any(|call| call.errors.contains(&error) || call.rare.contains(&error))
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
    Call::on(System, 2, "GET_API_VERSION", KVM_GET_API_VERSION, nothing).fails(&[EINVAL]),
    Call::on(System, 2, "CREATE_VM", KVM_CREATE_VM, nothing).making(Vm).fails(&[EINVAL]).seldom(&[EMFILE, EINTR]),
    Call::on(System, 2, "CHECK_EXTENSION", KVM_CHECK_EXTENSION, capability),
    Call::on(System, 2, "GET_VCPU_MMAP_SIZE", KVM_GET_VCPU_MMAP_SIZE, nothing).fails(&[EINVAL]),
    Call::on(System, 2, "TRACE_ENABLE", KVM_TRACE_ENABLE, anything).refused(&[EOPNOTSUPP]),
    Call::on(System, 2, "TRACE_PAUSE", KVM_TRACE_PAUSE, nothing).refused(&[EOPNOTSUPP]),
    Call::on(System, 2, "TRACE_DISABLE", KVM_TRACE_DISABLE, nothing).refused(&[EOPNOTSUPP]),
    Call::on(Vm, 6, "CREATE_VCPU", KVM_CREATE_VCPU, small)
        .making(Vcpu)
        .fails(&[EINVAL, EEXIST, EBUSY])
        .seldom(&[EMFILE]),
    Call::on(Vm, 20, "GET_DIRTY_LOG", KVM_GET_DIRTY_LOG, dirty_log).fails(&[ENOENT, EINVAL, EFAULT]),
    Call::on(Vm, 40, "SET_USER_MEMORY_REGION", KVM_SET_USER_MEMORY_REGION, region).fails(&[EINVAL, EEXIST, EFAULT]),
    Call::on(Vm, 2, "CREATE_IRQCHIP", KVM_CREATE_IRQCHIP, nothing).fails(&[EEXIST, EBUSY]),
    Call::on(Vm, 40, "IRQ_LINE", KVM_IRQ_LINE, irq_level).fails(&[ENXIO, EINVAL, EFAULT]).seldom(&[ENODEV, EBUSY]),
    Call::on(Vm, 10, "IRQ_LINE_STATUS", KVM_IRQ_LINE_STATUS, irq_level)
        .fails(&[ENXIO, EINVAL, EFAULT])
        .seldom(&[ENODEV, EBUSY]),
    Call::on(Vm, 10, "REGISTER_COALESCED_MMIO", KVM_REGISTER_COALESCED_MMIO, zone)
        .with(KVM_CAP_COALESCED_MMIO)
        .fails(&[EINVAL, EFAULT])
        .seldom(&[ENOSPC]),
    Call::on(Vm, 8, "UNREGISTER_COALESCED_MMIO", KVM_UNREGISTER_COALESCED_MMIO, zone)
        .with(KVM_CAP_COALESCED_MMIO)
        .fails(&[EINVAL, EFAULT]),
    Call::on(Vm, 3, "SET_GSI_ROUTING", KVM_SET_GSI_ROUTING, routing).with(KVM_CAP_IRQ_ROUTING).fails(&[EINVAL, EFAULT]),
    Call::on(Vm, 20, "IRQFD", KVM_IRQFD, irqfd).with(KVM_CAP_IRQFD).fails(&[EAGAIN, EBUSY, EINVAL, EFAULT]),
    Call::on(Vm, 20, "IOEVENTFD", KVM_IOEVENTFD, ioeventfd)
        .with(KVM_CAP_IOEVENTFD)
        .fails(&[ENOENT, EEXIST, EINVAL, EFAULT])
        .seldom(&[ENOSPC]),
    Call::on(Vm, 6, "SIGNAL_MSI", KVM_SIGNAL_MSI, msi).refused(&[EINVAL, ENODEV, EFAULT]),
    Call::on(Vm, 6, "ENABLE_CAP", KVM_ENABLE_CAP, enable_cap).with(KVM_CAP_ENABLE_CAP_VM).fails(&[EINVAL, EFAULT]),
    Call::on(Vm, 6, "ARM_SET_DEVICE_ADDR", KVM_ARM_SET_DEVICE_ADDR, device_address)
        .fails(&[ENODEV, EEXIST, EINVAL, EFAULT])
        .seldom(&[E2BIG, EBUSY]),
    Call::on(Vm, 3, "ARM_PREFERRED_TARGET", KVM_ARM_PREFERRED_TARGET, blank::<32>).fails(&[EFAULT]),
    Call::on(Vm, 20, "CLEAR_DIRTY_LOG", KVM_CLEAR_DIRTY_LOG, clear_dirty_log)
        .with(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)
        .fails(&[ENOENT, EINVAL, EFAULT]),
    Call::on(Vm, 6, "CREATE_DEVICE", KVM_CREATE_DEVICE, create_device)
        .fails(&[ENODEV, EEXIST, EFAULT])
        .seldom(&[EBUSY, EMFILE]),
    Call::on(Vm, 2, "CHECK_EXTENSION of a VM", KVM_CHECK_EXTENSION, capability),
    Call::on(Device, 30, "SET_DEVICE_ATTR", KVM_SET_DEVICE_ATTR, attribute)
        .fails(&[ENXIO, EINVAL, EBUSY, EFAULT])
        .seldom(&[EEXIST, ENODEV, E2BIG]),
    Call::on(Device, 30, "GET_DEVICE_ATTR", KVM_GET_DEVICE_ATTR, attribute)
        .fails(&[ENXIO, EINVAL, EFAULT])
        .seldom(&[EBUSY]),
    Call::on(Device, 10, "HAS_DEVICE_ATTR", KVM_HAS_DEVICE_ATTR, attribute).fails(&[ENXIO, EFAULT]),
    Call::on(Vcpu, 10, "SET_DEVICE_ATTR of a vCPU", KVM_SET_DEVICE_ATTR, vcpu_attribute)
        .fails(&[ENXIO, EINVAL, EFAULT])
        .seldom(&[EBUSY]),
    Call::on(Vcpu, 10, "GET_DEVICE_ATTR of a vCPU", KVM_GET_DEVICE_ATTR, vcpu_attribute).fails(&[ENXIO, EFAULT]),
    Call::on(Vcpu, 5, "HAS_DEVICE_ATTR of a vCPU", KVM_HAS_DEVICE_ATTR, vcpu_attribute).fails(&[ENXIO, EFAULT]),
    Call::on(Vcpu, 8, "RUN", KVM_RUN, nothing)
        .fails(&[EINTR, ENOEXEC, EFAULT])
        .seldom(&[ENOSYS, ENXIO, EBUSY, EEXIST, EHWPOISON]),
    Call::on(Vcpu, 2, "GET_REGS", KVM_GET_REGS, anything).refused(&[EINVAL]),
    Call::on(Vcpu, 2, "SET_REGS", KVM_SET_REGS, anything).refused(&[EINVAL]),
    Call::on(Vcpu, 2, "GET_SREGS", KVM_GET_SREGS, anything).refused(&[EINVAL]),
    Call::on(Vcpu, 2, "SET_SREGS", KVM_SET_SREGS, anything).refused(&[EINVAL]),
    Call::on(Vcpu, 2, "TRANSLATE", KVM_TRANSLATE, anything).refused(&[EINVAL]),
    Call::on(Vcpu, 6, "SET_SIGNAL_MASK", KVM_SET_SIGNAL_MASK, signal_mask).fails(&[EINVAL, EFAULT]),
    Call::on(Vcpu, 2, "GET_FPU", KVM_GET_FPU, anything).refused(&[EINVAL]),
    Call::on(Vcpu, 2, "SET_FPU", KVM_SET_FPU, anything).refused(&[EINVAL]),
    Call::on(Vcpu, 10, "GET_MP_STATE", KVM_GET_MP_STATE, blank::<4>).fails(&[EFAULT]),
    Call::on(Vcpu, 10, "SET_MP_STATE", KVM_SET_MP_STATE, mp_state).fails(&[EINVAL, EFAULT]),
    Call::on(Vcpu, 2, "SET_GUEST_DEBUG", KVM_SET_GUEST_DEBUG, anything).refused(&[EINVAL]),
    Call::on(Vcpu, 10, "GET_VCPU_EVENTS", KVM_GET_VCPU_EVENTS, blank::<64>)
        .with(KVM_CAP_VCPU_EVENTS)
        .fails(&[ENOEXEC, EFAULT]),
    Call::on(Vcpu, 10, "SET_VCPU_EVENTS", KVM_SET_VCPU_EVENTS, events)
        .with(KVM_CAP_VCPU_EVENTS)
        .fails(&[ENOEXEC, EINVAL, EFAULT]),
    Call::on(Vcpu, 60, "GET_ONE_REG", KVM_GET_ONE_REG, get_register).fails(&[ENOENT, ENOEXEC, EFAULT]),
    Call::on(Vcpu, 80, "SET_ONE_REG", KVM_SET_ONE_REG, set_register).fails(&[ENOENT, ENOEXEC, EINVAL, EFAULT]),
    Call::on(Vcpu, 10, "ARM_VCPU_INIT", KVM_ARM_VCPU_INIT, init).fails(&[ENOENT, EINVAL, EFAULT]),
    Call::on(Vcpu, 6, "GET_REG_LIST", KVM_GET_REG_LIST, register_list).fails(&[E2BIG, ENOEXEC, EFAULT]),
    Call::on(Vcpu, 2, "ARM_VCPU_FINALIZE", KVM_ARM_VCPU_FINALIZE, anything).refused(&[ENOEXEC, EINVAL, EFAULT]),
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
    fn every_call_of_uapi_is_there() {
        let text = include_str!("../../../uapi/src/ioctl.rs");
        let numbers = text.lines().filter_map(|line| line.strip_prefix("pub const KVM_")?.split_once(": u32 = io"));
        let names: Vec<&str> = numbers.map(|(name, _)| name).collect();
        assert!(names.len() > 40, "{names:?}");
        for name in names {
            assert!(CALLS.iter().any(|call| call.name == name), "{name} is not among the calls");
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
