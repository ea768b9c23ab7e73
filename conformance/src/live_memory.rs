// SPDX-License-Identifier: GPL-2.0-only
//! Memory that the process changes, takes away or gives back under a running guest: the guest sees what the process has, always.
//!
//! The guest copies a word from one page to another for ever, without leaving by itself; whatever is done to the first must show in the
//! second. Where memory is taken away, it must show at once: a guest that used the old page until the host's next timer interrupt
//! made it leave would write to what is somebody else's by then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::mman::MmapAdvise;
use nix::sys::wait::{WaitStatus, waitpid};

use crate::Case;
use crate::code::Program;
use crate::huge_pages;
use crate::machine::{Machine, RAM, RAM_BYTES, Running, Vcpu, await_that, region};
use crate::memory_map::{BLOCK, Memory, PAGE, memory_file};
use crate::sys::process;
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("what the process writes, the guest reads", written),
    Case::of("discarded memory is zero (MADV_DONTNEED)", discarded),
    Case::of("memory that is replaced is the new one (mmap over it)", replaced),
    Case::of("memory that is moved there is the moved one (mremap)", moved),
    Case::of("memory that goes ends the run (munmap, EFAULT), and comes back", gone),
    Case::of("memory that becomes readonly still reads, and then writes", protected),
    Case::of("a file's memory follows the file (hole punched, truncated)", file),
    Case::of("after a fork the guest stays with its own process", forked),
    Case::of("paged out, memory comes back as it was", paged_out),
    Case::of("huge pages are split and joined under the guest", huge).within(120),
    Case::of("five hundred replacements, and the guest misses none", replaced_often).within(300),
    Case::of("a slot that is deleted is a device's, and memory again when it is back", slot_deleted),
    Case::of("a slot that moves takes its memory along", slot_moved),
];

/// What the guest reads.
const IN: usize = 4 * PAGE;
/// Where it writes what it read.
const OUT: usize = 8 * PAGE;
/// Where it counts its copies.
const COUNT: usize = OUT + 4;

/// A machine whose guest copies from `input` to [`OUT`].
struct Copier {
    machine: Machine,
    vcpu: Arc<Vcpu>,
    input: usize,
}

fn copying(input: usize) -> Program {
    let mut program = Program::new();
    program.set(1, RAM + input as u32).set(2, RAM + OUT as u32);
    let top = program.label();
    program.ldr(0, 1, 0).str(0, 2, 0).add(3, 1).str(3, 2, (COUNT - OUT) as u32).branch(top);
    program
}

impl Copier {
    fn new() -> Result<Self, Failure> {
        Self::over(Memory::new(RAM_BYTES).succeeds("mmap")?, IN)
    }

    fn over(memory: Memory, input: usize) -> Result<Self, Failure> {
        let machine = Machine::over(memory, &copying(input))?;
        let vcpu = machine.vcpu(0)?;
        Ok(Self { machine, vcpu, input })
    }

    fn ram(&self) -> &Memory {
        &self.machine.ram
    }

    /// The page that is read.
    fn page(&self) -> std::ops::Range<usize> {
        self.input..self.input + PAGE
    }

    /// The guest shows this now.
    fn shows(&self, value: u32, what: &str) -> Verdict {
        self.machine.await_word(OUT, value, what)
    }

    /// The next copy that the guest begins shows this.
    fn shows_at_once(&self, value: u32, what: &str) -> Verdict {
        let before = self.ram().read(COUNT);
        // No sleep: within it, the guest would have to leave for other reasons.
        let end = Instant::now() + Duration::from_secs(20);
        while self.ram().read(COUNT).wrapping_sub(before) < 2 {
            holds(Instant::now() < end, "the guest goes on")?;
        }
        equal(self.ram().read(OUT), value, what)
    }

    /// The process writes a value and the guest shows it.
    fn write(&self, value: u32, what: &str) -> Verdict {
        self.ram().write(self.input, value);
        self.shows(value, what)
    }

    /// Runs it, with `work` meanwhile.
    fn run(&self, work: impl FnOnce(&Self) -> Verdict) -> Verdict {
        let running = self.vcpu.start();
        work(self).and_then(|()| self.end(running))
    }

    fn end(&self, running: Running) -> Verdict {
        running.still("the guest runs")?.stop()
    }
}

fn written() -> Verdict {
    Copier::new()?.run(|guest| (1..100).try_for_each(|value| guest.write(value, "a word")))
}

fn discarded() -> Verdict {
    Copier::new()?.run(|guest| {
        for value in 1..50 {
            guest.write(value, "a word")?;
            guest.ram().advise(guest.page(), MmapAdvise::MADV_DONTNEED).succeeds("MADV_DONTNEED")?;
            guest.shows_at_once(0, "discarded memory")?;
        }
        Ok(())
    })
}

fn replaced() -> Verdict {
    Copier::new()?.run(|guest| {
        for value in 1..50 {
            guest.write(value, "a word")?;
            guest.ram().map_again(guest.page()).succeeds("mmap")?;
            guest.shows_at_once(0, "new memory")?;
        }
        Ok(())
    })
}

fn moved() -> Verdict {
    Copier::new()?.run(|guest| {
        for value in 1..50 {
            let other = Memory::new(PAGE).succeeds("mmap")?;
            other.write(0, value);
            guest.ram().take_over(guest.input, other).succeeds("mremap")?;
            guest.shows_at_once(value, "memory that was moved there")?;
            guest.write(value + 1000, "a word in it")?;
        }
        Ok(())
    })
}

fn gone() -> Verdict {
    let guest = Copier::new()?;
    for value in 1..10 {
        let running = guest.vcpu.start();
        guest.write(value, "a word")?;
        guest.ram().unmap(guest.page()).succeeds("munmap")?;
        let result = running.result_or_errno()?;
        result.fails(Errno::EFAULT, "KVM_RUN when memory is unmapped")?;
        guest.ram().map_again(guest.page()).succeeds("mmap")?;
    }
    guest.run(|guest| guest.write(77, "a word in memory that came back"))
}

fn protected() -> Verdict {
    Copier::new()?.run(|guest| {
        for value in 1..30 {
            guest.write(value, "a word")?;
            guest.ram().protect(guest.page(), false).succeeds("mprotect")?;
            guest.ram().write(OUT, 0);
            guest.shows(value, "memory that is readonly")?;
            guest.ram().protect(guest.page(), true).succeeds("mprotect")?;
        }
        Ok(())
    })
}

fn file() -> Verdict {
    let file = memory_file(RAM_BYTES).succeeds("memfd_create")?;
    let set_length = |bytes: usize| {
        let set = file.set_len(bytes as u64);
        set.map_err(|error| Failure::new(format!("ftruncate: {error}")))
    };
    let memory = Memory::of_file(&file, RAM_BYTES, true).succeeds("mmap")?;
    // The last page is read, so that it can be cut off.
    let guest = Copier::over(memory, RAM_BYTES - PAGE)?;
    guest.run(|guest| {
        use std::os::unix::fs::FileExt;
        for value in 1..20u32 {
            let written = file.write_at(&value.to_le_bytes(), guest.input as u64);
            holds(matches!(written, Ok(4)), "a write to the file")?;
            guest.shows(value, "what was written to the file")?;
            let hole =
                nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
            nix::fcntl::fallocate(&file, hole, guest.input as libc::off_t, PAGE as libc::off_t)
                .succeeds("fallocate")?;
            guest.shows(0, "a hole in the file")?;
        }
        Ok(())
    })?;
    let running = guest.vcpu.start();
    guest.shows(0, "the file's end")?;
    set_length(RAM_BYTES - PAGE)?;
    running.result_or_errno()?.fails(Errno::EFAULT, "KVM_RUN when the file is too short")?;
    set_length(RAM_BYTES)?;
    guest.run(|guest| guest.write(9, "a word when the file is long enough again"))
}

fn forked() -> Verdict {
    let guest = Copier::new()?;
    // Both processes see it.
    let told = Memory::of_file(&memory_file(PAGE).succeeds("memfd_create")?, PAGE, true).succeeds("mmap")?;
    // Only a process of one thread can fork here, so the guest runs before and after. What it has mapped stays mapped.
    for value in 1..10 {
        guest.run(|guest| guest.write(value, "a word"))?;
        let child = process(|| {
            // The child's memory is a copy: nobody sees this.
            guest.ram().write(IN, 0xbad);
            guest.ram().write(OUT, 0xbad);
            // Its end is a signal (SIGCHLD) to the parent, which may end a run.
            await_that(|| told.read(0) == value).is_err().into()
        })
        .succeeds("fork")?;
        // The parent's next write makes it a new page, which the guest must get.
        guest.ram().write(IN, value + 100);
        let ran = guest.run(|guest| guest.shows(value + 100, "the parent's memory after a fork"));
        told.write(0, value);
        equal(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)), "the child's end")?;
        ran?;
        guest.run(|guest| guest.shows(value + 100, "the parent's memory after the child's end"))?;
    }
    Ok(())
}

fn paged_out() -> Verdict {
    let file = memory_file(RAM_BYTES).succeeds("memfd_create")?;
    for memory in
        [Memory::new(RAM_BYTES), Memory::of_file(&file, RAM_BYTES, true), Memory::of_file(&file, RAM_BYTES, false)]
    {
        Copier::over(memory.succeeds("mmap")?, IN)?.run(|guest| {
            for value in 1..20 {
                guest.write(value, "a word")?;
                for advice in [MmapAdvise::MADV_COLD, MmapAdvise::MADV_PAGEOUT] {
                    guest.ram().advise(0..RAM_BYTES, advice).succeeds("madvise")?;
                    guest.ram().write(OUT, 0);
                    guest.shows(value, "memory that was paged out")?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn huge() -> Verdict {
    // Hosts without huge pages have nothing to split; all else holds there too.
    let memory = huge_pages::memory(3 * BLOCK)?;
    Copier::over(memory, BLOCK + 8 * PAGE)?.run(|guest| {
        let block = BLOCK..2 * BLOCK;
        for value in 1..15 {
            guest.write(value, "a word in a huge page")?;
            let neighbour = guest.input + PAGE;
            guest.ram().write(neighbour, value);
            guest.ram().advise(neighbour..neighbour + PAGE, MmapAdvise::MADV_DONTNEED).succeeds("MADV_DONTNEED")?;
            guest.write(value + 100, "a word beside a page that was discarded")?;
            guest.ram().protect(neighbour..neighbour + PAGE, false).succeeds("mprotect")?;
            guest.write(value + 200, "a word beside a page that is readonly")?;
            guest.ram().protect(neighbour..neighbour + PAGE, true).succeeds("mprotect")?;
            guest.ram().advise(guest.page(), MmapAdvise::MADV_DONTNEED).succeeds("MADV_DONTNEED")?;
            guest.shows(0, "a page that was discarded from a huge page")?;
            guest.ram().advise(block.clone(), MmapAdvise::MADV_DONTNEED).succeeds("MADV_DONTNEED")?;
            guest.shows(0, "a huge page that was discarded")?;
        }
        Ok(())
    })
}

fn replaced_often() -> Verdict {
    Copier::new()?.run(|guest| {
        for value in 1..=500 {
            guest.ram().map_again(guest.page()).succeeds("mmap")?;
            guest.shows_at_once(0, "new memory")?;
            guest.write(value, "a word in it")?;
        }
        Ok(())
    })
}

fn slot_deleted() -> Verdict {
    let mut program = Program::new();
    const SECOND: u32 = 0x9000_0000;
    program.set(1, SECOND);
    let top = program.label();
    program.ldr(0, 1, 0).set(2, RAM + OUT as u32).str(0, 2, 0).branch(top);
    let machine = Machine::new(&program)?;
    let other = Memory::new(PAGE).succeeds("mmap")?;
    let slot = region(1, SECOND.into(), PAGE as u64, other.address(0));
    let vcpu = machine.vcpu(0)?;
    for value in 1..20 {
        other.write(0, value);
        machine.vm.slot(&slot).succeeds("making the slot")?;
        let running = vcpu.start();
        machine.await_word(OUT, value, "a word of the slot")?;
        machine.vm.slot(&region(1, SECOND.into(), 0, other.address(0))).succeeds("deleting the slot")?;
        match running.result()? {
            uapi::Exit::Mmio(mmio) => {
                equal((mmio.phys_addr, mmio.is_write), (SECOND.into(), false), "the exit without the slot")?
            }
            exit => return Err(Failure::new(format!("the exit without the slot: {exit:?}"))),
        }
        vcpu.page.answer(0x5555u64.to_le_bytes());
    }
    Ok(())
}

fn slot_moved() -> Verdict {
    const SECOND: u32 = 0x9000_0000;
    let mut program = Program::new();
    program.set(1, SECOND).set(3, crate::machine::DEVICE);
    for offset in [0, PAGE as u32] {
        program.set(1, SECOND + offset).ldr(0, 1, 0).str(0, 3, 0);
    }
    program.power_off();
    let machine = Machine::new(&program)?;
    let other = Memory::new(PAGE).succeeds("mmap")?;
    other.write(0, 0x42);
    let vcpu = machine.vcpu(0)?;
    machine.vm.slot(&region(1, SECOND.into(), PAGE as u64, other.address(0))).succeeds("a slot")?;
    vcpu.expect_write(crate::machine::DEVICE, 4, 0x42)?;
    let moved = u64::from(SECOND) + PAGE as u64;
    machine.vm.slot(&region(1, moved, PAGE as u64, other.address(0))).succeeds("moving the slot")?;
    vcpu.expect_write(crate::machine::DEVICE, 4, 0x42)?;
    vcpu.expect_off()
}
