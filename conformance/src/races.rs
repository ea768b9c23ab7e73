// SPDX-License-Identifier: GPL-2.0-only
//! Calls from several threads at once, and under a running guest. (Random ones are `kvm-fuzz`'s.)

use std::sync::Arc;

use nix::errno::Errno;
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::machine::{GICC, GICD, Machine, RAM, region};
use crate::memory_map::{Memory, PAGE};
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("of two that create the same vCPU one succeeds", creation_race).within(120),
    Case::of("slots that come and go under a running guest harm nobody", slot_race).within(120),
    Case::of("lines driven by several threads reach the guest", line_race).within(120),
];

fn creation_race() -> Verdict {
    for _ in 0..50 {
        let machine = Arc::new(Machine::new(&Program::new())?);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let machine = machine.clone();
                std::thread::spawn(move || machine.vm.create(KVM_CREATE_VCPU, 0))
            })
            .collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        equal(results.iter().filter(|result| result.is_ok()).count(), 1, "how many succeed")?;
        for result in results.into_iter().filter(Result::is_err) {
            result.fails(Errno::EEXIST, "the others")?;
        }
    }
    Ok(())
}

fn slot_race() -> Verdict {
    const SECOND: u32 = 0x9000_0000;
    let mut program = Program::new();
    program.set(1, SECOND).set(4, RAM + PAGE as u32);
    let top = program.label();
    program.ldr(2, 1, 0).str(2, 1, 4).add(3, 1).str(3, 4, 0).branch(top);
    let machine = Machine::new(&program)?;
    let vcpu = machine.vcpu(0)?;
    let memory = Memory::new(PAGE).succeeds("mmap")?;
    let runner = {
        let vcpu = vcpu.clone();
        // Ends with the flag, which it sees between two exits.
        std::thread::spawn(move || {
            let mut exits = 0u32;
            loop {
                match vcpu.run() {
                    Ok(Exit::Mmio(_)) => exits += 1,
                    Err(Errno::EINTR) => return Ok(exits),
                    other => return Err(format!("{other:x?}")),
                }
            }
        })
    };
    for round in 0..300 {
        let there = region(1, SECOND.into(), PAGE as u64, memory.address(0));
        machine.vm.slot(&there).succeeds("making the slot")?;
        let before = machine.ram.read(PAGE);
        let lives = crate::machine::await_that(|| machine.ram.read(PAGE) != before);
        lives.succeeds(format_args!("waiting for the guest, round {round}"))?;
        machine.vm.slot(&region(1, SECOND.into(), 0, memory.address(0))).succeeds("deleting the slot")?;
    }
    vcpu.page.exit_immediately(true);
    let exits = runner.join().expect("no panic").map_err(|exit| Failure::new(format!("an exit: {exit}")))?;
    holds(exits > 0, "the guest met the slot's absence")
}

fn line_race() -> Verdict {
    // The guest takes what comes, counts it and ends it.
    const FIRST: u32 = 40;
    let mut program = Program::new();
    program.set(4, GICD).set(5, GICC).set(6, RAM + PAGE as u32);
    program.set(1, 0xffff_ffff).set(2, GICD + 0x104).str(1, 2, 0); // ISENABLER1
    for spi in (FIRST..FIRST + 4).step_by(4) {
        program.set(1, 0x0101_0101).set(2, GICD + 0x800 + spi).str(1, 2, 0); // ITARGETSR
    }
    program.set(1, 1).str(1, 4, 0).set(2, 0xff).str(2, 5, 4).str(1, 5, 0);
    program.set(3, 0).set(8, 1);
    let top = program.label();
    program.str(8, 6, 4).wfi().ldr(0, 5, 0xc).str(0, 5, 0x10).add(3, 1).str(3, 6, 0).branch(top);
    let machine = Arc::new(Machine::new(&program)?);
    let vcpu = machine.vcpu(0)?;
    let _gic = machine.gic()?;
    let running = vcpu.start();
    machine.await_word(PAGE + 4, 1, "the guest's readiness")?;
    let threads: Vec<_> = (0..4u16)
        .map(|number| {
            let machine = machine.clone();
            std::thread::spawn(move || {
                let irq = IrqLine::Spi { number: FIRST as u16 + number }.encode();
                for round in 0..400 {
                    machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq, level: (round + 1) & 1 })?;
                }
                Ok::<(), Errno>(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic").succeeds("KVM_IRQ_LINE")?;
    }
    // All lines are down now; one that goes up still gets through.
    for number in 0..4u16 {
        let irq = IrqLine::Spi { number: FIRST as u16 + number }.encode();
        let before = machine.ram.read(PAGE);
        machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq, level: 1 }).succeeds("raising a line")?;
        let taken = crate::machine::await_that(|| machine.ram.read(PAGE) != before);
        taken.succeeds(format_args!("waiting for SPI {number}"))?;
        machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq, level: 0 }).succeeds("lowering it")?;
    }
    running.stop()
}
