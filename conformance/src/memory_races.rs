// SPDX-License-Identifier: GPL-2.0-only
//! Faults of vCPUs against changes that the process makes to the same memory at the same time.
//!
//! A page's content is a number that only grows. The process takes the page away, puts the next number into what comes in its place, and
//! only then says that number in a table. Guests read the table's word, the page, and the table again, as fast as they can: what the page
//! says must be no less than the first and at most what comes next after the second, or 0, which is what new memory says. Less would be a
//! page that was given back to the host; more, a page that belongs to somebody else.

use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::mman::MmapAdvise;

use crate::Case;
use crate::code::Program;
use crate::machine::{Machine, RAM, Vcpu, await_that, region};
use crate::memory_map::{Memory, PAGE};
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("discarded memory is never seen again (MADV_DONTNEED)", discarded).within(120),
    Case::of("memory that was unmapped is never seen again (munmap, mmap)", unmapped).within(120),
    Case::of("memory that was replaced is never seen again (mremap)", replaced).within(120),
];

/// Where the pages are that come and go.
const AT: u32 = 0x9000_0000;
const PAGES: usize = 4;
/// How often one is replaced.
const CHANGES: u32 = 200;
/// In the guest's memory: the table; from there on, a page for each vCPU: what it saw that may not be, the words before and after, and
/// how often it went round.
const TABLE: usize = 8 * PAGE;
const REPORTS: usize = 9 * PAGE;

/// A guest that reads the pages for ever; its report is where r2 says.
fn reading() -> Program {
    let mut program = Program::new();
    program.set(8, 0);
    let top = program.label();
    for page in 0..PAGES {
        program.set(1, AT + (page * PAGE) as u32).set(3, RAM + (TABLE + 4 * page) as u32);
        program.ldr(4, 3, 0).raw(0xf57f_f05f); // dmb
        program.ldr(5, 1, 0).raw(0xf57f_f05f);
        program.ldr(6, 3, 0).add(6, PAGES as u32);
        program.raw(0xe355_0000).raw(0x1155_0004); // cmp r5, #0; cmpne r5, r4
        let report = [0x0582_5000, 0x0582_4004, 0x0582_6008]; // str r5, [r2]; str r4, [r2, #4]; str r6, [r2, #8]
        let (lower, higher) = (3 << 28, 8 << 28);
        for word in report {
            program.raw(word | lower);
        }
        program.raw(0xe155_0006); // cmp r5, r6
        for word in report {
            program.raw(word | higher);
        }
    }
    program.add(8, 1).str(8, 2, 12).branch(top);
    program
}

struct Race {
    machine: Machine,
    pages: Memory,
    vcpus: Vec<Arc<Vcpu>>,
}

impl Race {
    fn new() -> Result<Self, Failure> {
        let machine = Machine::new(&reading())?;
        let pages = Memory::new(PAGES * PAGE).succeeds("mmap")?;
        machine.vm.slot(&region(1, AT.into(), pages.bytes() as u64, pages.address(0))).succeeds("a slot")?;
        let mut vcpus = Vec::new();
        for number in 0..2 {
            let vcpu = machine.vcpu(number)?;
            let report = u64::from(RAM) + (REPORTS + number * PAGE) as u64;
            vcpu.fd.set_register(crate::machine::r(2), report).succeeds("r2")?;
            vcpus.push(vcpu);
        }
        Ok(Self { machine, pages, vcpus })
    }

    fn report(&self, vcpu: usize, word: usize) -> u32 {
        self.machine.ram.read(REPORTS + vcpu * PAGE + word * 4)
    }

    /// Runs the guests while `change` puts numbers into pages. It answers when page and number are established.
    fn run(self, change: impl Fn(&Memory, usize, u32) -> Result<(), Errno>) -> Verdict {
        let threads: Vec<_> = (self.vcpus.iter().cloned())
            .map(|vcpu| {
                std::thread::spawn(move || {
                    loop {
                        match vcpu.run() {
                            // The page was not there.
                            Err(Errno::EFAULT) => {}
                            result => return result,
                        }
                    }
                })
            })
            .collect();
        let changed = (1..=CHANGES).try_for_each(|number| {
            let page = number as usize % PAGES;
            change(&self.pages, page, number).succeeds(format_args!("change {number}"))?;
            self.machine.ram.write(TABLE + 4 * page, number);
            // Some changes come on each other's heels, and some when the guests have found the last.
            if number % 8 != 0 {
                return Ok(());
            }
            let rounds = [self.report(0, 3), self.report(1, 3)];
            let so = || (0..2).all(|vcpu| self.report(vcpu, 3).wrapping_sub(rounds[vcpu]) >= 2);
            await_that(so).succeeds(format_args!("waiting for the guests to go round after change {number}"))
        });
        for thread in threads {
            equal(crate::machine::Running::of(thread).interrupt(), Err(Errno::EINTR), "the end of a vCPU")?;
        }
        for vcpu in 0..2 {
            let [saw, before, after] = [0, 1, 2].map(|word| self.report(vcpu, word));
            holds(
                saw == 0,
                format_args!("vCPU {vcpu} saw {saw} in a page that said from {before} to {after} at the time"),
            )?;
        }
        changed?;
        for page in 0..PAGES {
            let last = self.machine.ram.read(TABLE + 4 * page);
            equal(self.pages.read(page * PAGE), last, format_args!("page {page} in the end"))?;
        }
        Ok(())
    }
}

fn discarded() -> Verdict {
    Race::new()?.run(|pages, page, number| {
        let range = page * PAGE..(page + 1) * PAGE;
        pages.advise(range.clone(), MmapAdvise::MADV_DONTNEED)?;
        pages.write(range.start, number);
        Ok(())
    })
}

fn unmapped() -> Verdict {
    Race::new()?.run(|pages, page, number| {
        let range = page * PAGE..(page + 1) * PAGE;
        pages.unmap(range.clone())?;
        if number % 2 == 0 {
            std::thread::yield_now();
        }
        pages.map_again(range.clone())?;
        pages.write(range.start, number);
        Ok(())
    })
}

fn replaced() -> Verdict {
    Race::new()?.run(|pages, page, number| {
        let other = Memory::new(PAGE)?;
        other.write(0, number);
        pages.take_over(page * PAGE, other)
    })
}
