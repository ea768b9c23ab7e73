// SPDX-License-Identifier: GPL-2.0-only
//! KVM_RUN: why it returns, what it says then, and what the guest finds when it goes on.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use uapi::*;

use crate::Case;
use crate::code::{Program, Width};
use crate::machine::{DEVICE, Machine, PC, RAM, place_gic, r, region};
use crate::memory_map::{Memory, PAGE};
use crate::sys::Nowhere;
use crate::verdict::{Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("stores to a device leave with address, length and bytes", stores),
    Case::of("loads from a device get the answer, with the right sign", loads),
    Case::of("a load is completed by the next run, even one that leaves at once", load_completed_at_once),
    Case::of("immediate_exit leaves without running the guest (EINTR)", immediate_exit),
    Case::of("a signal ends the run of a guest that never leaves (EINTR, KVM_EXIT_INTR)", signal_in_guest),
    Case::of("a signal ends the run of a guest in WFI", signal_in_wfi),
    Case::of("a signal that only KVM_SET_SIGNAL_MASK lets in ends the run before it begins", pending_signal),
    Case::of("a signal that KVM_SET_SIGNAL_MASK blocks does not end the run", signal_mask),
    Case::of("however a run ends, KVM_SET_SIGNAL_MASK's mask ends with it", signal_mask_ends),
    Case::of("a second KVM_RUN waits its turn", two_runs),
    Case::of("memory that is not there is EFAULT, and no more when it is", missing_memory),
    Case::of("a write to memory that the process cannot write is EFAULT", unwritable_memory),
    Case::of("a write to a readonly slot leaves as a device's", readonly),
    Case::of("SYSTEM_OFF and SYSTEM_RESET leave, and the vCPUs are off", system_events),
    Case::of("CPU_OFF puts the vCPU to sleep, off", cpu_off),
    Case::of("a vCPU that CPU_ON started and that has not run has the registers that it starts with", started_but_idle),
    Case::of("CPU_ON starts another vCPU where it says", cpu_on),
    Case::of("PSCI has the version that was chosen, and no unknown functions", psci_version),
    Case::of("a guest without memory at its PC can be interrupted", lost),
    Case::of("registers that the process sets are the guest's, and back", registers),
];

fn stores() -> Verdict {
    let mut program = Program::new();
    program.set(1, DEVICE).set(2, 0x8765_4321);
    program.store(Width::Byte, 2, 1, 1).store(Width::Half, 2, 1, 2).store(Width::Word, 2, 1, 8).power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    vcpu.expect_write(DEVICE + 1, 1, 0x21)?;
    vcpu.expect_write(DEVICE + 2, 2, 0x4321)?;
    vcpu.expect_write(DEVICE + 8, 4, 0x8765_4321)?;
    vcpu.expect_off()
}

fn loads() -> Verdict {
    const ANSWER: u32 = 0x8765_c3e1;
    let widths = [
        (Width::Byte, 1, 0xe1),
        (Width::Half, 2, 0xc3e1),
        (Width::Word, 4, ANSWER),
        (Width::SignedByte, 1, 0xffff_ffe1),
        (Width::SignedHalf, 2, 0xffff_c3e1),
    ];
    let mut program = Program::new();
    program.set(1, DEVICE);
    for (width, ..) in widths {
        program.set(2, 0x5555_5555).load(width, 2, 1, 16).str(2, 1, 4);
    }
    program.power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    for (_, len, value) in widths {
        vcpu.expect_read(DEVICE + 16, len, ANSWER)?;
        vcpu.expect_write(DEVICE + 4, 4, value)?;
    }
    vcpu.expect_off()
}

fn load_completed_at_once() -> Verdict {
    let mut program = Program::new();
    program.set(1, DEVICE).ldr(2, 1, 0).power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    vcpu.expect_read(DEVICE, 4, 0xcafe_f00d)?;
    vcpu.page.exit_immediately(true);
    vcpu.run().fails(Errno::EINTR, "KVM_RUN with immediate_exit")?;
    equal(vcpu.fd.register(r(2)), Ok(0xcafe_f00d), "the loaded register")?;
    equal(vcpu.fd.register(PC), Ok(u64::from(RAM) + 12), "PC, behind the load")?;
    vcpu.page.exit_immediately(false);
    vcpu.expect_off()
}

fn immediate_exit() -> Verdict {
    let mut program = Program::new();
    program.power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    vcpu.page.exit_immediately(true);
    vcpu.page.forget_exit();
    for _ in 0..3 {
        vcpu.run().fails(Errno::EINTR, "KVM_RUN with immediate_exit")?;
        equal(vcpu.fd.register(PC), Ok(RAM.into()), "PC")?;
        equal(vcpu.page.exit().reason(), u32::MAX, "the reason in the shared page, which is no news")?;
    }
    vcpu.page.exit_immediately(false);
    vcpu.expect_off()
}

/// Where a counting guest looks whether it is to end.
const STOP: usize = PAGE + 4;

/// A guest that counts in the word at [`PAGE`] until the word at [`STOP`] is not 0.
fn counting() -> Program {
    let mut program = Program::new();
    program.set(1, RAM + PAGE as u32).set(2, 0);
    let top = program.label();
    program.add(2, 1).str(2, 1, 0).ldr(3, 1, 4).raw(0xe353_0000); // cmp r3, #0
    program.branch_if_equal(top).power_off();
    program
}

fn await_counting(machine: &Machine) -> Verdict {
    let before = machine.ram.read(PAGE);
    crate::machine::await_that(|| machine.ram.read(PAGE) != before).succeeds("waiting for the guest to count")
}

fn signal_in_guest() -> Verdict {
    let machine = Machine::new(&counting())?;
    let vcpu = machine.vcpu(0)?;
    for _ in 0..3 {
        vcpu.page.forget_exit();
        let running = vcpu.start();
        await_counting(&machine)?;
        running.stop()?;
        equal(vcpu.page.exit(), Exit::Interrupted, "the reason in the shared page")?;
    }
    Ok(())
}

fn signal_in_wfi() -> Verdict {
    let mut program = Program::new();
    let top = program.label();
    program.wfi().branch(top);
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let _gic = machine.gic()?;
    for _ in 0..3 {
        vcpu.page.forget_exit();
        let running = vcpu.start();
        std::thread::sleep(Duration::from_millis(30));
        let running = running.still("WFI does not leave to the process")?;
        running.stop()?;
        equal(vcpu.page.exit(), Exit::Interrupted, "the reason in the shared page")?;
    }
    Ok(())
}

fn pending_signal() -> Verdict {
    let mut program = Program::new();
    program.power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    block_signal(true)?;
    pthread_kill(pthread_self(), Signal::SIGUSR1).succeeds("pthread_kill")?;
    // Blocked in the thread, it counts only where KVM_SET_SIGNAL_MASK says otherwise.
    vcpu.fd.set_signal_mask(&[], 8).succeeds("KVM_SET_SIGNAL_MASK")?;
    for _ in 0..3 {
        vcpu.run().fails(Errno::EINTR, "KVM_RUN with a signal that is blocked outside only")?;
        equal(vcpu.fd.register(PC), Ok(RAM.into()), "PC")?;
        let blocked = SigSet::thread_get_mask().succeeds("pthread_sigmask")?;
        // And so it stays pending.
        holds(blocked.contains(Signal::SIGUSR1), "the signal is blocked again afterwards")?;
    }
    vcpu.fd.nowhere(KVM_SET_SIGNAL_MASK, Nowhere::Null).succeeds("no mask")?;
    vcpu.expect_off()
}

fn block_signal(so: bool) -> Verdict {
    let mut set = SigSet::empty();
    set.add(Signal::SIGUSR1);
    let how = if so { SigmaskHow::SIG_BLOCK } else { SigmaskHow::SIG_UNBLOCK };
    sigprocmask(how, Some(&set), None).succeeds("sigprocmask")
}

fn signal_mask() -> Verdict {
    let machine = Machine::new(&counting())?;
    let vcpu = machine.vcpu(0)?;
    vcpu.fd.set_signal_mask(&[Signal::SIGUSR1], 8).succeeds("KVM_SET_SIGNAL_MASK")?;
    let running = vcpu.start();
    await_counting(&machine)?;
    for _ in 0..3 {
        running.signal();
        await_counting(&machine)?;
    }
    std::thread::sleep(Duration::from_millis(20));
    let running = running.still("a signal that is blocked during the run does not end it")?;
    machine.ram.write(STOP, 1);
    let exit = running.result()?;
    equal(exit, Exit::SystemEvent { event: KVM_SYSTEM_EVENT_SHUTDOWN, flags: 0 }, "the exit")
}

fn signal_mask_ends() -> Verdict {
    const HOLE: usize = 4 * PAGE;
    let mut program = Program::new();
    program.set(1, DEVICE).set(2, 7).str(2, 1, 0);
    program.set(1, RAM + HOLE as u32).ldr(2, 1, 0).power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    machine.ram.unmap(HOLE..HOLE + PAGE).succeeds("munmap")?;
    vcpu.fd.set_signal_mask(&[Signal::SIGUSR1], 8).succeeds("KVM_SET_SIGNAL_MASK")?;
    let is_over = |run: &str| {
        let blocked = SigSet::thread_get_mask().succeeds("pthread_sigmask")?;
        holds(!blocked.contains(Signal::SIGUSR1), format_args!("the signal is not blocked after {run}"))
    };
    let gic = machine.vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V2).succeeds("KVM_CREATE_DEVICE")?;
    vcpu.run().fails(Errno::ENXIO, "KVM_RUN with a GIC that is nowhere")?;
    is_over("a run that did not begin")?;
    place_gic(&gic)?;
    vcpu.expect_write(DEVICE, 4, 7)?;
    is_over("an exit")?;
    vcpu.run().fails(Errno::EFAULT, "KVM_RUN of a guest whose memory is not there")?;
    is_over("EFAULT")?;
    vcpu.page.exit_immediately(true);
    vcpu.run().fails(Errno::EINTR, "KVM_RUN with immediate_exit")?;
    is_over("EINTR")
}

fn two_runs() -> Verdict {
    let machine = Machine::new(&counting())?;
    let vcpu = machine.vcpu(0)?;
    let first = vcpu.start();
    await_counting(&machine)?;
    let second = vcpu.start();
    std::thread::sleep(Duration::from_millis(50));
    let (first, second) =
        (first.still("the first KVM_RUN runs")?, second.still("the second KVM_RUN waits while the first runs")?);
    first.stop()?;
    await_counting(&machine)?;
    let second = second.still("the second runs now")?;
    second.stop()?;
    // Registers can be had again.
    vcpu.fd.register(PC).succeeds("KVM_GET_ONE_REG").map(|_| ())
}

fn missing_memory() -> Verdict {
    const HOLE: usize = 4 * PAGE;
    for write in [false, true] {
        let mut program = Program::new();
        program.set(1, RAM + HOLE as u32).set(3, DEVICE);
        if write {
            program.str(3, 1, 0);
        }
        program.ldr(2, 1, 0).str(2, 3, 0).power_off();
        let machine = Machine::new(&program)?;
        let vcpu = machine.vcpu(0)?;
        machine.ram.unmap(HOLE..HOLE + PAGE).succeeds("munmap")?;
        for _ in 0..3 {
            vcpu.page.forget_exit();
            vcpu.run().fails(Errno::EFAULT, "KVM_RUN of a guest whose memory is not there")?;
            let exit = vcpu.page.exit();
            holds(
                matches!(exit, Exit::Unknown { .. }),
                format_args!("the exit before is none of a run that fails: {exit:?}"),
            )?;
        }
        equal(vcpu.fd.register(PC), Ok(u64::from(RAM) + 16), "PC, at the access")?;
        machine.ram.map_again(HOLE..HOLE + PAGE).succeeds("mmap")?;
        machine.ram.write(HOLE, 0x77);
        vcpu.expect_write(DEVICE, 4, if write { DEVICE } else { 0x77 })?;
        vcpu.expect_off()?;
    }
    // The program itself.
    let mut program = Program::new();
    program.power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    machine.ram.unmap(0..PAGE).succeeds("munmap")?;
    vcpu.run().fails(Errno::EFAULT, "KVM_RUN of a guest whose program is not there")?;
    machine.ram.map_again(0..PAGE).succeeds("mmap")?;
    machine.ram.put(0, program.words());
    vcpu.expect_off()
}

fn unwritable_memory() -> Verdict {
    let mut program = Program::new();
    program.set(1, RAM + PAGE as u32).set(3, DEVICE).ldr(2, 1, 0).str(2, 3, 0).str(3, 1, 0).power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    machine.ram.write(PAGE, 5);
    machine.ram.protect(PAGE..2 * PAGE, false).succeeds("mprotect")?;
    vcpu.expect_write(DEVICE, 4, 5)?;
    vcpu.run().fails(Errno::EFAULT, "KVM_RUN of a write")?;
    equal(machine.ram.read(PAGE), 5, "the memory")?;
    machine.ram.protect(PAGE..2 * PAGE, true).succeeds("mprotect")?;
    vcpu.expect_off()?;
    equal(machine.ram.read(PAGE), DEVICE, "the memory when it can be written")
}

fn readonly() -> Verdict {
    const ROM: u32 = 0x4000_0000;
    let mut program = Program::new();
    program.set(1, ROM).set(2, 0x99).set(3, DEVICE);
    program.ldr(4, 1, 8).str(4, 3, 0).str(2, 1, 8).store(Width::Byte, 2, 1, 5).ldr(4, 1, 8).str(4, 3, 0).power_off();
    let machine = Machine::new(&program)?;
    let rom = Memory::new(PAGE).succeeds("mmap")?;
    rom.write(8, 0x1357_9bdf);
    let slot = UserspaceMemoryRegion { flags: KVM_MEM_READONLY, ..region(1, ROM.into(), PAGE as u64, rom.address(0)) };
    machine.vm.slot(&slot).succeeds("a readonly slot")?;
    let vcpu = machine.vcpu(0)?;
    vcpu.expect_write(DEVICE, 4, 0x1357_9bdf)?;
    vcpu.expect_write(ROM + 8, 4, 0x99)?;
    vcpu.expect_write(ROM + 5, 1, 0x99)?;
    vcpu.expect_write(DEVICE, 4, 0x1357_9bdf)?;
    vcpu.expect_off()?;
    equal((rom.read(4), rom.read(8)), (0, 0x1357_9bdf), "the memory")
}

fn system_events() -> Verdict {
    for (function, event) in
        [(psci::SYSTEM_OFF, KVM_SYSTEM_EVENT_SHUTDOWN), (psci::SYSTEM_RESET, KVM_SYSTEM_EVENT_RESET)]
    {
        let mut program = Program::new();
        program.call(function).stay();
        let machine = Machine::new(&program)?;
        let (vcpu, other) = (machine.vcpu(0)?, machine.vcpu(1)?);
        for _ in 0..2 {
            equal(vcpu.run().succeeds("KVM_RUN")?, Exit::SystemEvent { event, flags: 0 }, "the exit")?;
            equal(
                (vcpu.mp_state()?, other.mp_state()?),
                (KVM_MP_STATE_STOPPED, KVM_MP_STATE_STOPPED),
                "the states afterwards",
            )?;
            // Nothing runs until it is initialised again.
            let running = vcpu.start();
            std::thread::sleep(Duration::from_millis(30));
            let running = running.still("KVM_RUN of a vCPU that is off sleeps")?;
            running.stop()?;
            vcpu.init(&machine.target()?).succeeds("KVM_ARM_VCPU_INIT")?;
            equal(vcpu.mp_state()?, KVM_MP_STATE_RUNNABLE, "the state when it is initialised again")?;
            vcpu.fd.set_register(PC, RAM.into()).succeeds("writing PC")?;
        }
    }
    Ok(())
}

fn cpu_off() -> Verdict {
    let mut program = Program::new();
    program.call(psci::CPU_OFF).set(1, DEVICE).str(0, 1, 0).power_off();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let running = vcpu.start();
    std::thread::sleep(Duration::from_millis(50));
    let running = running.still("CPU_OFF does not leave to the process")?;
    running.stop()?;
    equal(vcpu.mp_state()?, KVM_MP_STATE_STOPPED, "the state")?;
    // Turned on by the process it goes on behind the call, which has not succeeded then.
    vcpu.fd.give(KVM_SET_MP_STATE, &mut MpState { mp_state: KVM_MP_STATE_RUNNABLE }).succeeds("KVM_SET_MP_STATE")?;
    vcpu.run().succeeds("KVM_RUN").map(|_| ())
}

fn cpu_on() -> Verdict {
    const SECOND: usize = PAGE;
    let mut program = Program::new();
    // r1 who, r2 where, r3 what it finds in r0.
    program.set(1, 1).set(2, RAM + SECOND as u32).set(3, 0x1357).call(psci::CPU_ON);
    program.set(4, DEVICE).str(0, 4, 0).set(1, 1).set(2, RAM).set(3, 0).call(psci::CPU_ON).str(0, 4, 0);
    program.set(1, 5).call(psci::CPU_ON).str(0, 4, 0).stay();
    let mut second = Program::new();
    second.set(4, DEVICE).str(0, 4, 8).power_off();
    let machine = Machine::new(&program)?;
    machine.ram.put(SECOND, second.words());
    let vcpu = machine.vcpu(0)?;
    let other = machine.blank_vcpu(1)?;
    let mut init = machine.target()?;
    init.set(KVM_ARM_VCPU_POWER_OFF);
    other.init(&init).succeeds("KVM_ARM_VCPU_INIT")?;
    let running = other.start();
    std::thread::sleep(Duration::from_millis(30));
    let running = running.still("a vCPU that is off sleeps")?;
    vcpu.expect_write(DEVICE, 4, psci::SUCCESS as u32)?;
    let told = Mmio { phys_addr: u64::from(DEVICE) + 8, data: 0x1357u64.to_le_bytes(), len: 4, is_write: true };
    equal(running.result()?, Exit::Mmio(told), "what the other vCPU does")?;
    equal(other.mp_state()?, KVM_MP_STATE_RUNNABLE, "its state")?;
    vcpu.expect_write(DEVICE, 4, psci::ALREADY_ON as u32)?;
    vcpu.expect_write(DEVICE, 4, psci::INVALID_PARAMETERS as u32)?;
    other.expect_off()
}

fn started_but_idle() -> Verdict {
    let mut program = Program::new();
    program.set(1, 1).set(2, RAM + 0x100).set(3, 0x1357).call(psci::CPU_ON).set(4, DEVICE).str(0, 4, 0).stay();
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let other = machine.blank_vcpu(1)?;
    let mut init = machine.target()?;
    init.set(KVM_ARM_VCPU_POWER_OFF);
    other.init(&init).succeeds("KVM_ARM_VCPU_INIT")?;
    other.fd.set_register(r(5), 7).succeeds("KVM_SET_ONE_REG")?;
    vcpu.expect_write(DEVICE, 4, psci::SUCCESS as u32)?;
    for (id, value) in [(PC, u64::from(RAM) + 0x100), (r(0), 0x1357), (r(5), 0)] {
        equal(other.fd.register(id), Ok(value), format_args!("register {id:#x} of the vCPU that was started"))?;
    }
    // And they stay what the process makes of them.
    other.fd.set_register(r(0), 0x2468).succeeds("KVM_SET_ONE_REG")?;
    machine.ram.put(0x100, Program::new().set(4, DEVICE).str(0, 4, 8).words());
    other.expect_write(DEVICE + 8, 4, 0x2468)
}

fn psci_version() -> Verdict {
    let mut program = Program::new();
    program.set(4, DEVICE);
    for function in [psci::PSCI_VERSION, 0x8400_00ff, 0, psci::KVM_PSCI_FN_CPU_OFF, psci::MIGRATE_INFO_TYPE] {
        program.call(function).str(0, 4, 0);
    }
    program.power_off();
    for version in [psci::VERSION_1_0, psci::VERSION_0_2] {
        let machine = Machine::new(&program)?;
        let vcpu = machine.vcpu(0)?;
        vcpu.fd.set_register(KVM_REG_ARM_PSCI_VERSION, version.into()).succeeds("choosing the version")?;
        vcpu.expect_write(DEVICE, 4, version)?;
        for _ in 0..3 {
            vcpu.expect_write(DEVICE, 4, psci::NOT_SUPPORTED as u32)?;
        }
        vcpu.expect_write(DEVICE, 4, psci::MIGRATE_NOT_REQUIRED)?;
        vcpu.expect_off()?;
    }
    Ok(())
}

fn lost() -> Verdict {
    let machine = Machine::new(&Program::new())?;
    let vcpu = machine.vcpu(0)?;
    // Its vectors, at 0, have no memory either.
    vcpu.fd.set_register(PC, 0x2000_0000).succeeds("writing PC")?;
    let running = vcpu.start();
    std::thread::sleep(Duration::from_millis(50));
    let running = running.still("a fetch from nowhere is the guest's own affair")?;
    running.stop()
}

fn registers() -> Verdict {
    let mut program = Program::new();
    program.raw(0xe080_0001).set(2, DEVICE).str(0, 2, 0).power_off(); // add r0, r0, r1
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    for (number, value) in [(0, 0x1000_0001), (1, 0x2000_0002), (12, 0xcc)] {
        vcpu.fd.set_register(r(number), value).succeeds("KVM_SET_ONE_REG")?;
    }
    vcpu.expect_write(DEVICE, 4, 0x3000_0003)?;
    equal(vcpu.fd.register(r(0)), Ok(0x3000_0003), "r0")?;
    equal(vcpu.fd.register(r(12)), Ok(0xcc), "r12")?;
    vcpu.expect_off()
}
