// SPDX-License-Identifier: GPL-2.0-only
//! The log of written pages: what it says after which writes, by both ways of clearing it, and what is refused.
//!
//! Guests write to the first word of pages of a second slot, beside the memory that they run in. That no write is ever lost is tried as a
//! monitor would find out that moves a guest to another host: whatever page is in the log is copied, again and again, and when the guest
//! stands still the copy has to be what the guest has.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use uapi::*;

use crate::Case;
use crate::code::Program;
use crate::huge_pages;
use crate::machine::{DEVICE, Machine, r, region};
use crate::memory_map::{BLOCK, Memory, PAGE};
use crate::sys::{Fd, Nowhere};
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("pages that the guest writes are in it once, and those that it reads are not", written),
    Case::of("with manual clearing it stays until it is cleared, page by page", manual),
    Case::of("it has a bit for each page, in words of 32, and nothing is read or written behind them", sizes),
    Case::of("it can be had of slots that log (ENOENT) and with numbers of slots (EINVAL) only", slots),
    Case::of("what is cleared begins at a multiple of 64, and so it ends, or with the slot (EINVAL)", borders),
    Case::of("a bitmap that is not there is EFAULT, and no bit is lost", nowhere),
    Case::of("manual clearing alone can be enabled, with 0 or 1 and without flags (EINVAL)", enabling),
    Case::of("it begins when the slot logs and is gone when it does no longer", switched),
    Case::of("it moves with its slot, and goes with it", moved),
    Case::of("a readonly slot may log; writes leave as before and are no news", readonly),
    Case::of("of a huge page it names the 4 KiB pages that were written", huge),
    Case::of("no write of a running guest is lost", never_lost).within(120),
    Case::of("no write of a running guest is lost with manual clearing", never_lost_manually).within(120),
    Case::of("no write is lost while logging is switched off and on", never_lost_when_switched).within(120),
];

/// The slot that logs, and where it lies.
const SLOT: u32 = 1;
const AT: u32 = 0x9000_0000;

fn logging(memory: &Memory, flags: u32) -> UserspaceMemoryRegion {
    UserspaceMemoryRegion { flags, ..region(SLOT, AT.into(), memory.bytes() as u64, memory.address(0)) }
}

/// A machine whose guest runs `program`, with a second slot over `memory`.
fn machine(program: &Program, memory: &Memory, flags: u32) -> Result<Machine, Failure> {
    let machine = Machine::new(program)?;
    machine.vm.slot(&logging(memory, flags)).succeeds("a slot that logs")?;
    Ok(machine)
}

/// A guest that, each time it is let, writes to those of `writes` and reads those of `reads`, and then says so to a device.
fn visiting(writes: &[usize], reads: &[usize]) -> Program {
    let mut program = Program::new();
    let top = program.label();
    for page in writes {
        program.set(1, AT + (page * PAGE) as u32).ldr(0, 1, 0).add(0, 1).str(0, 1, 0);
    }
    for page in reads {
        program.set(1, AT + (page * PAGE) as u32).ldr(0, 1, 0);
    }
    program.set(1, DEVICE).set(2, 7).str(2, 1, 0).branch(top);
    program
}

fn set_manual(vm: &Fd, so: bool) -> Verdict {
    let argument = if so { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE } else { 0 };
    let mut cap = EnableCap::new(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, argument);
    vm.give(KVM_ENABLE_CAP, &mut cap).succeeds("KVM_ENABLE_CAP").map(|_| ())
}

fn written() -> Verdict {
    let memory = Memory::new(70 * PAGE).succeeds("mmap")?;
    let machine = machine(&visiting(&[0, 31, 32, 69], &[1, 5]), &memory, KVM_MEM_LOG_DIRTY_PAGES)?;
    let vcpu = machine.vcpu(0)?;
    equal(machine.vm.dirty_log(SLOT, 70), Ok(vec![]), "the log before the guest ran")?;
    for _ in 0..3 {
        vcpu.expect_write(DEVICE, 4, 7)?;
        equal(machine.vm.dirty_log(SLOT, 70), Ok(vec![0, 31, 32, 69]), "the log")?;
        equal(machine.vm.dirty_log(SLOT, 70), Ok(vec![]), "the log, read again")?;
    }
    equal([0, 31, 32, 69].map(|page| memory.read(page * PAGE)), [3; 4], "what the guest wrote")
}

fn manual() -> Verdict {
    let memory = Memory::new(200 * PAGE).succeeds("mmap")?;
    let machine = machine(&visiting(&[3, 64, 130], &[]), &memory, KVM_MEM_LOG_DIRTY_PAGES)?;
    set_manual(&machine.vm, true)?;
    let vcpu = machine.vcpu(0)?;
    let log = || machine.vm.dirty_log(SLOT, 200).succeeds("KVM_GET_DIRTY_LOG");
    let clear = |first, pages, named: &[usize]| {
        machine.vm.clear_dirty_log(SLOT, first, pages, named).succeeds("KVM_CLEAR_DIRTY_LOG").map(|_| ())
    };
    vcpu.expect_write(DEVICE, 4, 7)?;
    for _ in 0..2 {
        equal(log()?, vec![3, 64, 130], "the log, which reading leaves")?;
    }
    clear(0, 64, &[3, 64])?;
    equal(log()?, vec![64, 130], "the log without a page of the first 64")?;
    clear(0, 200, &[5, 130, 199])?;
    equal(log()?, vec![64], "the log without a page of all")?;
    clear(128, 72, &[130])?;
    vcpu.expect_write(DEVICE, 4, 7)?;
    equal(log()?, vec![3, 64, 130], "the log after the guest wrote again")?;
    clear(64, 128, &[64, 130])?;
    equal(log()?, vec![3], "the log without pages from 64 on")?;
    set_manual(&machine.vm, false)?;
    equal(log()?, vec![3], "the log, which reading clears again")?;
    equal(log()?, vec![], "the log, read once more")
}

fn sizes() -> Verdict {
    for pages in [1, 31, 32, 33, 64, 65, 4096, 4097, 5000] {
        let memory = Memory::new(pages * PAGE).succeeds("mmap")?;
        let machine = machine(&visiting(&[pages - 1], &[]), &memory, KVM_MEM_LOG_DIRTY_PAGES)?;
        machine.vcpu(0)?.expect_write(DEVICE, 4, 7)?;
        let log = machine.vm.dirty_log(SLOT, pages);
        equal(log, Ok(vec![pages - 1]), format_args!("the log of {pages} pages"))?;
        let bitmap = Memory::page_at_the_end().succeeds("mmap")?;
        let at = PAGE - pages.div_ceil(32) * 4;
        for (call, answer) in
            ["reading", "clearing"].iter().zip(machine.vm.dirty_log_at(SLOT, pages as u32, &bitmap, at))
        {
            answer.succeeds(format_args!("{call} {pages} pages with a bitmap at the end of memory"))?;
        }
    }
    Ok(())
}

fn slots() -> Verdict {
    let memory = Memory::new(64 * PAGE).succeeds("mmap")?;
    let machine = machine(&visiting(&[], &[]), &memory, KVM_MEM_LOG_DIRTY_PAGES)?;
    let vm = &machine.vm;
    // Slot 0 is there and does not log; slot 2 is not there.
    for (slot, error) in [
        (0, Errno::ENOENT),
        (2, Errno::ENOENT),
        (31, Errno::ENOENT),
        (0x7fff, Errno::EINVAL),
        (0xffff, Errno::EINVAL),
        (1 << 16 | SLOT, Errno::EINVAL),
        (u32::MAX, Errno::EINVAL),
    ] {
        vm.dirty_log(slot, 64).fails(error, format_args!("the log of slot {slot:#x}"))?;
        vm.clear_dirty_log(slot, 0, 64, &[]).fails(error, format_args!("clearing the log of slot {slot:#x}"))?;
    }
    equal(vm.dirty_log(SLOT, 64), Ok(vec![]), "the log of the slot that logs")?;
    equal(vm.clear_dirty_log(SLOT, 0, 64, &[]), Ok(0), "clearing it")
}

fn borders() -> Verdict {
    let memory = Memory::new(200 * PAGE).succeeds("mmap")?;
    let machine = machine(&visiting(&[3], &[]), &memory, KVM_MEM_LOG_DIRTY_PAGES)?;
    let clear = |first, pages| machine.vm.clear_dirty_log(SLOT, first, pages, &[]);
    for (first, pages) in [(0, 200), (0, 64), (0, 192), (64, 136), (192, 8), (0, 0), (64, 0)] {
        equal(clear(first, pages), Ok(0), format_args!("{pages} pages from {first}"))?;
    }
    let wrong = [
        (1, 64),
        (32, 64),
        (199, 1),
        (0, 1),
        (0, 63),
        (0, 199),
        (0, 201),
        (0, 256),
        (192, 64),
        (192, 7),
        (256, 0),
        (256, 64),
        (1 << 32, 64),
        (1 << 63, 0),
        (0, u32::MAX),
    ];
    for (first, pages) in wrong {
        clear(first, pages).fails(Errno::EINVAL, format_args!("{pages} pages from {first}"))?;
    }
    Ok(())
}

fn nowhere() -> Verdict {
    let memory = Memory::new(64 * PAGE).succeeds("mmap")?;
    let machine = machine(&visiting(&[3, 40], &[]), &memory, KVM_MEM_LOG_DIRTY_PAGES)?;
    machine.vcpu(0)?.expect_write(DEVICE, 4, 7)?;
    for at in Nowhere::ALL {
        for (call, answer) in ["reading", "clearing"].iter().zip(machine.vm.dirty_log_nowhere(SLOT, 64, at)) {
            answer.fails(Errno::EFAULT, format_args!("{call} with a bitmap at {at:?}"))?;
        }
    }
    // Better than KVM, which lost them.
    equal(machine.vm.dirty_log(SLOT, 64), Ok(vec![3, 40]), "the log afterwards")
}

fn enabling() -> Verdict {
    let (_, vm) = Machine::empty()?;
    let enable = |cap: EnableCap| vm.give(KVM_ENABLE_CAP, &mut { cap });
    let manual = EnableCap::new(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1);
    for argument in [1, 0, 1] {
        let cap = EnableCap::new(manual.cap, argument);
        equal(enable(cap), Ok(0), format_args!("manual clearing with {argument}"))?;
    }
    for argument in [2, 3, 1 << 32, u64::MAX] {
        let cap = EnableCap::new(manual.cap, argument);
        enable(cap).fails(Errno::EINVAL, format_args!("manual clearing with {argument:#x}"))?;
    }
    enable(EnableCap { flags: 1, ..manual }).fails(Errno::EINVAL, "manual clearing with flags")?;
    for cap in [KVM_CAP_IRQCHIP, KVM_CAP_USER_MEMORY, KVM_CAP_READONLY_MEM, 166, 0x7fff_ffff, u32::MAX] {
        enable(EnableCap::new(cap, 1)).fails(Errno::EINVAL, format_args!("capability {cap}"))?;
    }
    Ok(())
}

fn switched() -> Verdict {
    let memory = Memory::new(64 * PAGE).succeeds("mmap")?;
    let machine = machine(&visiting(&[3, 40], &[]), &memory, 0)?;
    let vcpu = machine.vcpu(0)?;
    for _ in 0..3 {
        vcpu.expect_write(DEVICE, 4, 7)?;
        machine.vm.dirty_log(SLOT, 64).fails(Errno::ENOENT, "the log of a slot that does not log")?;
        machine.vm.slot(&logging(&memory, KVM_MEM_LOG_DIRTY_PAGES)).succeeds("logging")?;
        equal(machine.vm.dirty_log(SLOT, 64), Ok(vec![]), "the log in the beginning")?;
        vcpu.expect_write(DEVICE, 4, 7)?;
        machine.vm.slot(&logging(&memory, KVM_MEM_LOG_DIRTY_PAGES)).succeeds("logging, as it is")?;
        equal(machine.vm.dirty_log(SLOT, 64), Ok(vec![3, 40]), "the log")?;
        vcpu.expect_write(DEVICE, 4, 7)?;
        machine.vm.slot(&logging(&memory, 0)).succeeds("no longer logging")?;
    }
    equal(memory.read(40 * PAGE), 9, "how often the guest wrote")
}

fn moved() -> Verdict {
    let memory = Memory::new(64 * PAGE).succeeds("mmap")?;
    let machine = machine(&visiting(&[3, 40], &[]), &memory, KVM_MEM_LOG_DIRTY_PAGES)?;
    let vcpu = machine.vcpu(0)?;
    vcpu.expect_write(DEVICE, 4, 7)?;
    let here = logging(&memory, KVM_MEM_LOG_DIRTY_PAGES);
    let elsewhere = UserspaceMemoryRegion { guest_phys_addr: (AT + 0x10_0000).into(), ..here };
    machine.vm.slot(&elsewhere).succeeds("moving the slot")?;
    machine.vm.slot(&here).succeeds("moving it back")?;
    equal(machine.vm.dirty_log(SLOT, 64), Ok(vec![3, 40]), "the log of a slot that was moved")?;
    vcpu.expect_write(DEVICE, 4, 7)?;
    machine.vm.slot(&UserspaceMemoryRegion { memory_size: 0, ..here }).succeeds("deleting the slot")?;
    machine.vm.dirty_log(SLOT, 64).fails(Errno::ENOENT, "the log of a slot that was deleted")?;
    machine.vm.slot(&here).succeeds("making it anew")?;
    equal(machine.vm.dirty_log(SLOT, 64), Ok(vec![]), "the log of a new slot")
}

fn readonly() -> Verdict {
    let memory = Memory::new(64 * PAGE).succeeds("mmap")?;
    let flags = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY;
    let machine = machine(&visiting(&[3], &[]), &memory, flags)?;
    let vcpu = machine.vcpu(0)?;
    memory.write(3 * PAGE, 41);
    vcpu.expect_write(AT + 3 * PAGE as u32, 4, 42)?;
    equal(machine.vm.dirty_log(SLOT, 64), Ok(vec![]), "the log of a readonly slot")?;
    equal(memory.read(3 * PAGE), 41, "memory that is readonly for the guest")
}

fn huge() -> Verdict {
    let pages = 3 * BLOCK / PAGE;
    // Hosts without huge pages have nothing to split; all else holds there too.
    let memory = huge_pages::memory(pages * PAGE)?;
    let machine = machine(&visiting(&[0, 513, 600, 1535], &[700]), &memory, 0)?;
    let vcpu = machine.vcpu(0)?;
    for _ in 0..3 {
        // Mapped by blocks, if there are any.
        vcpu.expect_write(DEVICE, 4, 7)?;
        machine.vm.slot(&logging(&memory, KVM_MEM_LOG_DIRTY_PAGES)).succeeds("logging")?;
        for _ in 0..2 {
            vcpu.expect_write(DEVICE, 4, 7)?;
            equal(machine.vm.dirty_log(SLOT, pages), Ok(vec![0, 513, 600, 1535]), "the log")?;
        }
        machine.vm.slot(&logging(&memory, 0)).succeeds("no longer logging")?;
    }
    equal(memory.read(1535 * PAGE), 9, "how often the guest wrote")
}

/// Pages of the guest that writes all the time.
const BUSY: usize = 3 * 64 + 8;

/// A guest that adds one to the first word of every other page, for ever, from address r5 on until r4.
fn writing() -> Program {
    let mut program = Program::new();
    let again = program.label();
    program.raw(0xe1a0_1005); // mov r1, r5
    let top = program.label();
    program.ldr(0, 1, 0).add(0, 1).str(0, 1, 0);
    program.raw(0xe281_1a02).raw(0xe151_0004); // add r1, r1, #0x2000; cmp r1, r4
    program.branch_if_equal(again).branch(top);
    program
}

/// How a round of reading and clearing the log goes; it answers the pages that are to be copied.
type Round = fn(&Fd) -> Result<Vec<usize>, Errno>;

/// Two vCPUs write all the time to every other page each; `round` says again and again what they wrote, and what it says is copied.
fn copied(manual: bool, round: Round, between: impl Fn(&Machine, &Memory) -> Verdict) -> Verdict {
    let memory = Memory::new(BUSY * PAGE).succeeds("mmap")?;
    let machine = machine(&writing(), &memory, KVM_MEM_LOG_DIRTY_PAGES)?;
    if manual {
        set_manual(&machine.vm, true)?;
    }
    let mut vcpus = Vec::new();
    for number in 0..2 {
        let vcpu = machine.vcpu(number)?;
        let first = u64::from(AT) + (number * PAGE) as u64;
        vcpu.fd.set_register(r(5), first).succeeds("r5")?;
        vcpu.fd.set_register(r(4), first + (BUSY * PAGE) as u64).succeeds("r4")?;
        vcpus.push(vcpu);
    }
    // Page by page: the first word, which is all that changes.
    let mut copy = [0; BUSY];
    let mut names = 0;
    for stop in 0..6 {
        let running: Vec<_> = vcpus.iter().map(|vcpu| vcpu.start()).collect();
        let (enough, end) = (names + BUSY, Instant::now() + Duration::from_secs(20));
        while names < enough {
            holds(Instant::now() < end, format_args!("the guest writes while it is watched ({names} pages so far)"))?;
            for page in round(&machine.vm).succeeds("the log")? {
                copy[page] = memory.read(page * PAGE);
                names += 1;
            }
        }
        for running in running {
            running.stop()?;
        }
        for page in round(&machine.vm).succeeds("the log at the end")? {
            copy[page] = memory.read(page * PAGE);
        }
        let now: [u32; BUSY] = std::array::from_fn(|page| memory.read(page * PAGE));
        let lost = (0..BUSY).find(|page| copy[*page] != now[*page]);
        if let Some(page) = lost {
            let (had, has) = (copy[page], now[page]);
            return Err(Failure::new(format!("stop {stop}: page {page} was {had} when last named, and is {has}")));
        }
        holds(round(&machine.vm) == Ok(vec![]), "a guest that stands still writes nothing")?;
        between(&machine, &memory)?;
    }
    Ok(())
}

fn never_lost() -> Verdict {
    copied(false, |vm| vm.dirty_log(SLOT, BUSY), |_, _| Ok(()))
}

fn never_lost_manually() -> Verdict {
    let round: Round = |vm| {
        let named = vm.dirty_log(SLOT, BUSY)?;
        vm.clear_dirty_log(SLOT, 0, 128, &named)?;
        vm.clear_dirty_log(SLOT, 128, BUSY as u32 - 128, &named)?;
        Ok(named)
    };
    copied(true, round, |_, _| Ok(()))
}

fn never_lost_when_switched() -> Verdict {
    copied(
        false,
        |vm| vm.dirty_log(SLOT, BUSY),
        |machine, memory| {
            machine.vm.slot(&logging(memory, 0)).succeeds("no longer logging")?;
            machine.vm.slot(&logging(memory, KVM_MEM_LOG_DIRTY_PAGES)).succeeds("logging again").map(|_| ())
        },
    )
}
