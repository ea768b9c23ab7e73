// SPDX-License-Identifier: GPL-2.0-only
//! Calls from several threads at once, and under a running guest. (Random ones are `kvm-fuzz`'s.)

use std::sync::Arc;

use nix::errno::Errno;
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::machine::{GICC, GICD, Machine, RAM, Running, Vcpu, await_that, r, region};
use crate::memory_map::{Memory, PAGE};
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("of two that create the same vCPU one succeeds", creation_race).within(120),
    Case::of("slots that come and go under a running guest harm nobody", slot_race).within(120),
    Case::of(
        "a slot that is moved, deleted and made under vCPUs that read and write it is where it is and nowhere else",
        slot_moves,
    )
    .within(300),
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
        let lives = await_that(|| machine.ram.read(PAGE) != before);
        lives.succeeds(format_args!("waiting for the guest, round {round}"))?;
        machine.vm.slot(&region(1, SECOND.into(), 0, memory.address(0))).succeeds("deleting the slot")?;
    }
    vcpu.page.exit_immediately(true);
    let exits = runner.join().expect("no panic").map_err(|exit| Failure::new(format!("an exit: {exit}")))?;
    holds(exits > 0, "the guest met the slot's absence")
}

/// Two places for one slot.
const PLACES: [u32; 2] = [0x9000_0000, 0x9040_0000];
/// In the slot's page: what the guests read, and what vCPU `number` writes by way of a place.
const READ: usize = 0x100;
const fn written(vcpu: usize, place: usize) -> usize {
    0x200 + vcpu * 8 + place * 4
}
/// In the guests' memory, a page for each vCPU: what it read at each place, and how often it went round.
const REPORTS: usize = 8 * PAGE;
/// What the process answers where no slot is.
const NOWHERE: u32 = 0x0bad_0bad;

/// A guest that reads and writes at both places for ever; its report is where r2 says, its own words are r7 behind those of vCPU 0.
fn touching() -> Program {
    let mut program = Program::new();
    program.set(8, 0);
    let top = program.label();
    program.add(8, 1);
    for (index, place) in PLACES.into_iter().enumerate() {
        program.set(1, place + READ as u32).ldr(0, 1, 0).str(0, 2, index as u32 * 4);
        program.set(1, place + written(0, index) as u32).raw(0xe781_8007); // str r8, [r1, r7]
    }
    program.str(8, 2, 8).branch(top);
    program
}

/// Runs such a guest until a signal comes, as the process that it has. What else it leaves for is the error.
fn touch(vcpu: &Vcpu) -> Result<Exit, Errno> {
    loop {
        match vcpu.run()? {
            Exit::Mmio(mmio) if PLACES.contains(&(mmio.phys_addr as u32 & !0xfff)) => {
                if !mmio.is_write {
                    vcpu.page.answer(u64::from(NOWHERE).to_le_bytes());
                }
            }
            exit => return Ok(exit),
        }
    }
}

fn slot_moves() -> Verdict {
    let machine = Machine::new(&touching())?;
    let page = Memory::new(PAGE).succeeds("mmap")?;
    let mut running = Vec::new();
    for number in 0..2usize {
        let vcpu = machine.vcpu(number)?;
        let report = u64::from(RAM) + (REPORTS + number * PAGE) as u64;
        for (register, value) in [(2, report), (7, written(number, 0) as u64 - written(0, 0) as u64)] {
            vcpu.fd.set_register(r(register), value).succeeds("writing a register")?;
        }
        running.push(Running::of(std::thread::spawn(move || touch(&vcpu))));
    }
    let report = |vcpu: usize, word: usize| machine.ram.read(REPORTS + vcpu * PAGE + word * 4);
    let rounds = |count: u32, what: &str| {
        let before = [report(0, 2), report(1, 2)];
        let so = || (0..2).all(|vcpu| report(vcpu, 2).wrapping_sub(before[vcpu]) >= count);
        await_that(so).succeeds(format_args!("waiting for both guests after {what}"))
    };
    let slot = |place: usize, size: usize| {
        machine.vm.slot(&region(1, PLACES[place].into(), size as u64, page.address(0))).succeeds("the slot's change")
    };
    // Where the slot is after each step: made, moved, moved back, deleted; and the same from the other place.
    let steps = [Some(0), Some(1), Some(0), None, Some(1), Some(0), Some(1), None];
    for number in 0..160u32 {
        let at = steps[number as usize % steps.len()];
        page.write(READ, number);
        slot(at.unwrap_or(0), if at.is_some() { PAGE } else { 0 })?;
        let what = format!("step {number}, which puts the slot to {at:?}");
        // From here on nobody reads or writes it anywhere else: no access that comes later, of those that are on their way none.
        let before: [[u32; 2]; 2] =
            std::array::from_fn(|vcpu| std::array::from_fn(|place| page.read(written(vcpu, place))));
        rounds(2, &what)?;
        for (vcpu, place) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let here = at == Some(place);
            let who = format!("vCPU {vcpu} at place {place} after {what}");
            equal(report(vcpu, place), if here { number } else { NOWHERE }, format_args!("what is read by {who}"))?;
            let wrote = page.read(written(vcpu, place)) != before[vcpu][place];
            equal(wrote, here, format_args!("whether memory is written by {who}"))?;
        }
    }
    running.into_iter().try_for_each(Running::stop)
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
        let taken = await_that(|| machine.ram.read(PAGE) != before);
        taken.succeeds(format_args!("waiting for SPI {number}"))?;
        machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq, level: 0 }).succeeds("lowering it")?;
    }
    running.stop()
}
