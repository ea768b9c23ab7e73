// SPDX-License-Identifier: GPL-2.0-only
//! What a vCPU has besides registers: pending exceptions, the timers' interrupts; and accesses that the process carries out.

use nix::errno::Errno;
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::machine::{DEVICE, GICC, GICD, Machine, PC, RAM, Vcpu, r};
use crate::memory_map::{Memory, PAGE};
use crate::sys::{Answer, Nowhere};
use crate::verdict::{Failure, Outcome, Verdict, equal};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("a new vCPU has no exception pending, and before KVM_ARM_VCPU_INIT none at all (ENOEXEC)", no_events),
    Case::of("events that mean nothing are EINVAL", wrong_events),
    Case::of("an asynchronous abort waits until the guest takes it", asynchronous_abort),
    Case::of("an access can be answered with an external abort", external_abort),
    Case::of("an access that nothing describes is the process's once it asked for it", undescribed),
    Case::of("capabilities that cannot be enabled are EINVAL", enable_cap),
    Case::of("the timers' interrupts are PPIs 27 and 30 unless the process chooses others", timer_attributes),
    Case::of("they are chosen before the first run (EBUSY), for a GIC (EINVAL)", late_timer_attributes),
    Case::of("timers that share an interrupt do not run (EINVAL)", shared_timer_interrupt),
    Case::of("a timer interrupts by the PPI that was chosen", chosen_timer_interrupts),
];

/// Where the vectors are, from the beginning of [`RAM`].
const VECTORS: usize = 0x2000;

fn off() -> Result<Machine, Failure> {
    Machine::new(Program::new().power_off())
}

fn events(vcpu: &Vcpu) -> Result<VcpuEvents, Failure> {
    let mut events = VcpuEvents { serror_pending: 9, serror_esr: 9, reserved: [9; 12], ..Default::default() };
    vcpu.fd.give(KVM_GET_VCPU_EVENTS, &mut events).succeeds("KVM_GET_VCPU_EVENTS")?;
    Ok(events)
}

fn set_events(vcpu: &Vcpu, events: VcpuEvents) -> Answer {
    vcpu.fd.give(KVM_SET_VCPU_EVENTS, &mut { events })
}

const SERROR: VcpuEvents = VcpuEvents {
    serror_pending: 1,
    serror_has_esr: 0,
    ext_dabt_pending: 0,
    pad: [0; 5],
    serror_esr: 0,
    reserved: [0; 12],
};
const DATA_ABORT: VcpuEvents = VcpuEvents { serror_pending: 0, ext_dabt_pending: 1, ..SERROR };

fn no_events() -> Verdict {
    let machine = off()?;
    let blank = machine.blank_vcpu(0)?;
    blank.fd.give(KVM_GET_VCPU_EVENTS, &mut VcpuEvents::default()).fails(Errno::ENOEXEC, "KVM_GET_VCPU_EVENTS")?;
    set_events(&blank, SERROR).fails(Errno::ENOEXEC, "KVM_SET_VCPU_EVENTS")?;
    equal(events(&machine.vcpu(1)?.clone())?, VcpuEvents::default(), "the events of a new vCPU")
}

fn wrong_events() -> Verdict {
    let vcpu = off()?.vcpu(0)?;
    let mut wrong = vec![VcpuEvents { serror_has_esr: 1, ..SERROR }];
    wrong.extend((0..5).map(|byte| VcpuEvents { pad: std::array::from_fn(|index| u8::from(index == byte)), ..SERROR }));
    wrong.extend(
        (0..12).map(|word| VcpuEvents { reserved: std::array::from_fn(|index| u32::from(index == word)), ..SERROR }),
    );
    for wrong in wrong {
        set_events(&vcpu, wrong).fails(Errno::EINVAL, format_args!("{wrong:?}"))?;
    }
    equal(events(&vcpu)?, VcpuEvents::default(), "the events after those")?;
    vcpu.expect_off()
}

/// A machine whose guest has vectors: a data abort tells DFSR, with r0 as it is, and ends the guest.
fn with_abort_handler(program: impl FnOnce(&mut Program)) -> Result<Machine, Failure> {
    let mut guest = Program::new();
    guest.set(1, RAM + VECTORS as u32).mcr(1, 12, 0, 0).isb().set(6, DEVICE);
    program(&mut guest);
    let machine = Machine::new(guest.power_off())?;
    let mut handler = Program::new();
    // MRC: DFSR.
    handler.raw(0xee15_1f10).str(1, 6, 8).str(0, 6, 12).power_off();
    machine.ram.put(VECTORS + 0x10, handler.words());
    Ok(machine)
}

fn asynchronous_abort() -> Verdict {
    let machine = with_abort_handler(|program| {
        // CPSIE a.
        program.set(0, 7).str(6, 6, 0).raw(0xf108_0100).isb().str(6, 6, 4);
    })?;
    let vcpu = machine.vcpu(0)?;
    vcpu.expect_write(DEVICE, 4, DEVICE)?;
    set_events(&vcpu, SERROR).succeeds("KVM_SET_VCPU_EVENTS")?;
    equal(events(&vcpu)?, SERROR, "the events before it runs")?;
    set_events(&vcpu, VcpuEvents::default()).succeeds("KVM_SET_VCPU_EVENTS with nothing")?;
    equal(events(&vcpu)?, SERROR, "the events when no other is asked for")?;
    // Asynchronous external abort, in the short format.
    vcpu.expect_write(DEVICE + 8, 4, 0x406)?;
    equal(events(&vcpu)?, VcpuEvents::default(), "the events once it was taken")?;
    vcpu.expect_write(DEVICE + 12, 4, 7)?;
    vcpu.expect_off()
}

fn external_abort() -> Verdict {
    let machine = with_abort_handler(|program| {
        program.set(0, 7).ldr(0, 6, 0).str(0, 6, 4);
    })?;
    let vcpu = machine.vcpu(0)?;
    vcpu.expect_read(DEVICE, 4, 0x1234)?;
    set_events(&vcpu, DATA_ABORT).succeeds("KVM_SET_VCPU_EVENTS")?;
    equal(events(&vcpu)?, VcpuEvents::default(), "the events: it was taken at once")?;
    // Synchronous external abort, in the short format. The load has not been carried out.
    vcpu.expect_write(DEVICE + 8, 4, 0x008)?;
    vcpu.expect_write(DEVICE + 12, 4, 7)?;
    vcpu.expect_off()
}

fn undescribed() -> Verdict {
    let guest = || {
        with_abort_handler(|program| {
            // LDREX r0, [r6].
            program.set(0, 7).raw(0xe196_0f9f).str(0, 6, 4);
        })
    };
    let machine = guest()?;
    machine.vcpu(0)?.run().fails(Errno::ENOSYS, "an access that nothing describes")?;

    let machine = guest()?;
    machine.vm.give(KVM_ENABLE_CAP, &mut EnableCap::new(KVM_CAP_ARM_NISV_TO_USER, 0)).succeeds("KVM_ENABLE_CAP")?;
    // Carried out by the process.
    let vcpu = machine.vcpu(0)?;
    let exit = vcpu.run().succeeds("KVM_RUN")?;
    let Exit::ArmNisv { esr_iss, fault_ipa } = exit else {
        return Err(Failure::new(format!("the exit of LDREX: {exit:x?}")));
    };
    equal(fault_ipa, DEVICE.into(), "its address")?;
    // A read, without anything but a translation fault at some level.
    equal(esr_iss & !3, 4, "its syndrome")?;
    let pc = vcpu.fd.register(PC).succeeds("reading PC")?;
    for (id, value) in [(r(0), 0x55), (PC, pc + 4)] {
        vcpu.fd.set_register(id, value).succeeds("KVM_SET_ONE_REG")?;
    }
    vcpu.expect_write(DEVICE + 4, 4, 0x55)?;
    vcpu.expect_off()?;
    // Or refused.
    let vcpu = machine.vcpu(1)?;
    vcpu.run().succeeds("KVM_RUN")?;
    set_events(&vcpu, DATA_ABORT).succeeds("KVM_SET_VCPU_EVENTS")?;
    vcpu.expect_write(DEVICE + 8, 4, 0x008)
}

fn enable_cap() -> Verdict {
    let machine = off()?;
    for cap in [KVM_CAP_USER_MEMORY, KVM_CAP_ARM_INJECT_EXT_DABT, 0x7fff_ffff] {
        machine
            .vm
            .give(KVM_ENABLE_CAP, &mut EnableCap::new(cap, 0))
            .fails(Errno::EINVAL, format_args!("capability {cap}"))?;
    }
    let mut flags = EnableCap { flags: 1, ..EnableCap::new(KVM_CAP_ARM_NISV_TO_USER, 0) };
    machine.vm.give(KVM_ENABLE_CAP, &mut flags).fails(Errno::EINVAL, "flags")?;
    machine.vm.nowhere(KVM_ENABLE_CAP, Nowhere::Kernel).fails(Errno::EFAULT, "a structure that is not there")
}

fn timer_ppi(vcpu: &Vcpu, attr: u64) -> Result<u64, Failure> {
    let mut value = 0;
    vcpu.fd
        .attribute(KVM_GET_DEVICE_ATTR, KVM_ARM_VCPU_TIMER_CTRL, attr, &mut value)
        .succeeds("KVM_GET_DEVICE_ATTR")?;
    Ok(value)
}

fn set_timer_ppi(vcpu: &Vcpu, attr: u64, intid: u32) -> Answer {
    vcpu.fd.attribute(KVM_SET_DEVICE_ATTR, KVM_ARM_VCPU_TIMER_CTRL, attr, &mut u64::from(intid))
}

const VTIMER: u64 = KVM_ARM_VCPU_TIMER_IRQ_VTIMER;
const PTIMER: u64 = KVM_ARM_VCPU_TIMER_IRQ_PTIMER;

fn timer_attributes() -> Verdict {
    let machine = off()?;
    let vcpus = [machine.blank_vcpu(0)?, machine.blank_vcpu(1)?];
    let _gic = machine.gic()?;
    let memory = Memory::page_at_the_end().succeeds("mmap")?;
    let has = |group: u32, attr: u64| vcpus[0].fd.attribute(KVM_HAS_DEVICE_ATTR, group, attr, &mut 0);
    for (attr, default) in [(VTIMER, 27), (PTIMER, 30)] {
        has(KVM_ARM_VCPU_TIMER_CTRL, attr).succeeds(format_args!("attribute {attr}"))?;
        equal(timer_ppi(&vcpus[0], attr)?, default, "the interrupt by default")?;
        for wrong in [0, 15, 32, 1019, u32::MAX] {
            set_timer_ppi(&vcpus[0], attr, wrong).fails(Errno::EINVAL, format_args!("interrupt {wrong}"))?;
        }
        for at in Nowhere::ALL {
            for ioctl in [KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR] {
                let answer = vcpus[0].fd.attribute_nowhere(ioctl, KVM_ARM_VCPU_TIMER_CTRL, attr, at);
                answer.fails(Errno::EFAULT, format_args!("a value at {at:?}"))?;
            }
        }
        for ioctl in [KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR] {
            let answer = vcpus[0].fd.attribute_at(ioctl, KVM_ARM_VCPU_TIMER_CTRL, attr, &memory, PAGE - 4);
            answer.succeeds(format_args!("ioctl {ioctl:#x}, its value at the end of memory"))?;
        }
    }
    for (attr, chosen) in [(VTIMER, 16), (PTIMER, 31)] {
        set_timer_ppi(&vcpus[1], attr, chosen).succeeds(format_args!("interrupt {chosen}"))?;
        equal(timer_ppi(&vcpus[0], attr)?, chosen.into(), "the interrupt on another vCPU")?;
    }
    for (group, attr) in [(KVM_ARM_VCPU_TIMER_CTRL, 2), (KVM_ARM_VCPU_PMU_V3_CTRL, 0), (2, 0), (99, 0)] {
        for ioctl in [KVM_HAS_DEVICE_ATTR, KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR] {
            let answer = vcpus[0].fd.attribute(ioctl, group, attr, &mut 20);
            answer.fails(Errno::ENXIO, format_args!("ioctl {ioctl:#x} of attribute {attr} of group {group}"))?;
        }
    }
    Ok(())
}

fn late_timer_attributes() -> Verdict {
    let machine = off()?;
    let vcpu = machine.vcpu(0)?;
    set_timer_ppi(&vcpu, VTIMER, 20).fails(Errno::EINVAL, "without a GIC")?;
    let _gic = machine.gic()?;
    set_timer_ppi(&vcpu, VTIMER, 20).succeeds("with one")?;
    vcpu.expect_off()?;
    for attr in [VTIMER, PTIMER] {
        set_timer_ppi(&vcpu, attr, 21).fails(Errno::EBUSY, "after the first run")?;
    }
    equal((timer_ppi(&vcpu, VTIMER)?, timer_ppi(&vcpu, PTIMER)?), (20, 30), "the interrupts after that")
}

fn shared_timer_interrupt() -> Verdict {
    let machine = off()?;
    let vcpu = machine.vcpu(0)?;
    let _gic = machine.gic()?;
    set_timer_ppi(&vcpu, VTIMER, 30).succeeds("the other timer's interrupt")?;
    vcpu.run().fails(Errno::EINVAL, "KVM_RUN with both timers on one interrupt")?;
    set_timer_ppi(&vcpu, PTIMER, 27).succeeds("an interrupt of its own")?;
    vcpu.expect_off()
}

fn chosen_timer_interrupts() -> Verdict {
    for (attr, crm) in [(VTIMER, 3), (PTIMER, 2)] {
        const CHOSEN: u32 = 22;
        let mut program = Program::new();
        program.set(4, GICD).set(5, GICC).set(6, DEVICE);
        program.set(1, u32::MAX).set(2, GICD + 0x100).str(1, 2, 0).set(1, 1).str(1, 4, 0); // GICD_ISENABLER0, CTLR
        program.set(2, 0xff).str(2, 5, 4).str(1, 5, 0); // GICC_PMR, GICC_CTLR
        program.set(1, 1 << 16).mcr(1, 14, crm, 0).set(1, 1).mcr(1, 14, crm, 1).isb();
        program.wfi().ldr(0, 5, 0xc).set(1, 0).mcr(1, 14, crm, 1).str(0, 5, 0x10).str(0, 6, 0).power_off();
        let machine = Machine::new(&program)?;
        let vcpu = machine.vcpu(0)?;
        let _gic = machine.gic()?;
        set_timer_ppi(&vcpu, attr, CHOSEN).succeeds("choosing an interrupt")?;
        vcpu.expect_write(DEVICE, 4, CHOSEN)?;
        vcpu.expect_off()?;
    }
    Ok(())
}
