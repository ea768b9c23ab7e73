// SPDX-License-Identifier: GPL-2.0-only
//! The guest's own translation tables lie in memory that the guest never touches itself: only its walks do, and they fault at stage 2.
//!
//! The process writes the tables and keeps taking the pages of them away, one level's at a time. What comes in a page's place maps the
//! guest's data elsewhere. The guest reads its data, tells the process by a device, and drops its TLB: the next walk must find the
//! table that is there now.

use nix::sys::mman::MmapAdvise;
use uapi::KVM_MEM_READONLY;

use crate::Case;
use crate::aborts::{CODE, DEVICE_SEEN, FIRST_TABLE, PAGE_0, ROM, SECOND_TABLE, SVC, TTBR0, World};
use crate::code::Program;
use crate::machine::{CPSR, DEVICE, Machine, PC, RAM, region};
use crate::memory_map::{Memory, PAGE};
use crate::verdict::{Failure, Outcome, Verdict};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("the guest's walks find its tables, whatever becomes of their pages, short descriptors", short),
    Case::of("the same with long descriptors", long),
    Case::of("the guest's walks find tables in a readonly slot", readonly),
];

/// The guest's virtual address of its data.
const DATA: u32 = 0x7000_0000;
/// Tables of the last level, either of which maps [`DATA`]: to [`HERE`] and to [`THERE`].
const TO_HERE: usize = 0xb000;
const TO_THERE: usize = 0xd000;
/// Pages of data, and what they hold.
const HERE: usize = 0xe000;
const THERE: usize = 0xf000;
const VALUES: [(usize, u32); 2] = [(HERE, 0x0101_4321), (THERE, 0x0202_8765)];

/// An entry of a table: where it is, and what it is for [`HERE`] and for [`THERE`].
struct Entry {
    at: usize,
    here: u32,
    there: u32,
}

/// One that the guest's walk for [`DATA`] goes through, for each level that has a page of its own.
fn entries(world: World) -> [Entry; 2] {
    let at = |offset: usize| RAM + offset as u32;
    let (next, table) = match world {
        World::Long => (0b11, SECOND_TABLE + ((DATA - CODE) >> 21) as usize * 8),
        _ => (0b01, FIRST_TABLE + (DATA >> 20) as usize * 4),
    };
    [
        Entry { at: table, here: at(TO_HERE) | next, there: at(TO_THERE) | next },
        Entry { at: TO_HERE, here: world.page(HERE), there: world.page(THERE) },
    ]
}

/// Has another page with `value` in it take the place of a table's: by moving one there, by discarding what is there and writing it
/// anew, or while the guest has no memory at all.
fn exchange(machine: &Machine, way: usize, at: usize, value: u32) -> Verdict {
    let (ram, page) = (&machine.ram, at / PAGE * PAGE);
    let mut words: Vec<u32> = (0..PAGE / 4).map(|index| ram.read(page + index * 4)).collect();
    words[at % PAGE / 4] = value;
    match way {
        0 => {
            let other = Memory::new(PAGE).succeeds("mmap")?;
            other.put(0, &words);
            ram.take_over(page, other).succeeds("mremap")
        }
        1 => {
            ram.advise(page..page + PAGE, MmapAdvise::MADV_DONTNEED).succeeds("MADV_DONTNEED")?;
            ram.put(page, &words);
            Ok(())
        }
        _ => {
            let slot = |bytes| region(0, RAM.into(), bytes, ram.address(0));
            machine.vm.slot(&slot(0)).succeeds("deleting the slot")?;
            ram.put(page, &words);
            machine.vm.slot(&slot(ram.bytes() as u64)).succeeds("the slot again").map(|_| ())
        }
    }
}

/// A machine whose guest tells the process what it reads at [`DATA`], drops its TLB, and does it again.
fn machine(world: World) -> Result<(Machine, std::sync::Arc<crate::machine::Vcpu>), Failure> {
    let machine = Machine::new(&Program::new())?;
    let vcpu = machine.vcpu(0)?;
    world.enter(&machine, &vcpu)?;
    let [first, last] = entries(world);
    for (at, value) in [(first.at, first.here), (last.at, last.here), (TO_THERE, last.there)].into_iter().chain(VALUES)
    {
        machine.ram.write(at, value);
    }
    let mut program = Program::new();
    program.set(1, DATA).set(2, DEVICE_SEEN);
    let top = program.label();
    program.ldr(0, 1, 0).str(0, 2, 0).mcr(0, 8, 7, 0).isb().branch(top); // TLBIALL
    machine.ram.put(PAGE_0, program.words());
    vcpu.fd.set_register(PC, CODE.into()).succeeds("PC")?;
    vcpu.fd.set_register(CPSR, SVC.into()).succeeds("CPSR")?;
    Ok((machine, vcpu))
}

fn walked(world: World) -> Verdict {
    let (machine, vcpu) = machine(world)?;
    let [(_, here), (_, there)] = VALUES;
    vcpu.expect_write(DEVICE, 4, here)?;
    for entry in entries(world) {
        for way in 0..3 {
            exchange(&machine, way, entry.at, entry.there)?;
            vcpu.expect_write(DEVICE, 4, there)?;
            exchange(&machine, way, entry.at, entry.here)?;
            vcpu.expect_write(DEVICE, 4, here)?;
        }
    }
    Ok(())
}

fn short() -> Verdict {
    walked(World::Short)
}

fn long() -> Verdict {
    walked(World::Long)
}

fn readonly() -> Verdict {
    for world in [World::Short, World::Long] {
        let (machine, vcpu) = machine(world)?;
        // A first level that only reads, in a slot of its own; that in memory leads nowhere.
        let rom = Memory::new(SECOND_TABLE - FIRST_TABLE).succeeds("mmap")?;
        for offset in (0..rom.bytes()).step_by(4) {
            rom.write(offset, machine.ram.read(FIRST_TABLE + offset));
            machine.ram.write(FIRST_TABLE + offset, 0);
        }
        let mut slot = region(1, ROM.into(), rom.bytes() as u64, rom.address(0));
        slot.flags = KVM_MEM_READONLY;
        machine.vm.slot(&slot).succeeds("a readonly slot")?;
        vcpu.fd.set_register(TTBR0, ROM.into()).succeeds("TTBR0")?;
        for _ in 0..2 {
            vcpu.expect_write(DEVICE, 4, VALUES[0].1)?;
        }
    }
    Ok(())
}
