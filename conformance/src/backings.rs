// SPDX-License-Identifier: GPL-2.0-only
//! What a process may have behind a slot besides memory that is its own and stays: registers of a device, huge pages, pages that the host
//! swaps out, shares with others or copies for a child, and files.
//!
//! Where it is memory, the guest sweeps over it without leaving by itself: it looks at a word of each page, which is the page's guest
//! address, and adds one to the next. Whatever the host does meanwhile, no first word may ever be another, and no addition may be lost.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::mman::MmapAdvise;
use nix::sys::wait::{WaitStatus, waitpid};
use uapi::{KVM_MEM_LOG_DIRTY_PAGES, UserspaceMemoryRegion};

use crate::Case;
use crate::code::Program;
use crate::machine::{DEVICE, Machine, RAM, Vcpu, await_longer, await_that, region};
use crate::memory_map::{BLOCK, Memory, PAGE, memory_file};
use crate::sys::process;
use crate::verdict::{Failure, Outcome, Verdict, equal, holds};

/// The table.
pub const CASES: &[Case] = &[
    Case::of("a device's registers are the device's (mmap of /dev/mem)", device),
    Case::of("a device's registers go with their mapping, under the running guest", device_goes),
    Case::of("memory that is swapped out comes back as the guest left it, if the host has swap", swapped).within(600),
    Case::of("pages shared with equal ones are the guest's own when it writes (KSM)", merged),
    Case::of("pages of hugetlbfs, whole and split by logging", hugetlb),
    Case::of("after a fork the child's copy is its own, whatever the guest writes", forked),
    Case::of("a private file mapping is the guest's, the file is not (EFAULT when it is truncated)", private_file),
];

/// Where a second slot lies.
const AT: u32 = 0x9000_0000;

/// The GIC's virtual CPU interface: a device that every host has, whose registers no driver of the kernel's claims, and where reads change
/// nothing.
fn gicv() -> Result<u64, Failure> {
    let tree = std::fs::read_dir("/proc/device-tree");
    let nodes = tree.map_err(|error| Failure::new(format!("/proc/device-tree: {error}")))?;
    // Distributor, CPU interface, virtual interface's control, virtual CPU interface: address and size, 64 bits each.
    let regions = nodes
        .filter_map(|node| std::fs::read(node.ok()?.path().join("reg")).ok().filter(|reg| reg.len() == 64))
        .next()
        .ok_or_else(|| Failure::new("the device tree has no GICv2 with 64-bit addresses"))?;
    Ok(u64::from_be_bytes(regions[48..56].try_into().expect("eight bytes")))
}

/// GICV_IIDR and GICV_PMR.
const IIDR: u32 = 0xfc;
const PMR: u32 = 4;

fn device() -> Verdict {
    let gicv = Memory::of_device(gicv()?).succeeds("mmap of /dev/mem")?;
    let iidr = gicv.read(IIDR as usize);
    holds(iidr != 0, "the device has an identification register")?;
    let mut program = Program::new();
    program.set(1, AT).set(3, DEVICE);
    program.ldr(0, 1, IIDR).str(0, 3, 0);
    // A priority, of which the hardware keeps five bits or more.
    program.set(0, 0xa0).str(0, 1, PMR).ldr(0, 1, PMR).str(0, 3, 0).power_off();
    let machine = Machine::new(&program)?;
    machine.vm.slot(&region(1, AT.into(), PAGE as u64, gicv.address(0))).succeeds("a slot over a device")?;
    let vcpu = machine.vcpu(0)?;
    vcpu.expect_write(DEVICE, 4, iidr)?;
    vcpu.expect_write(DEVICE, 4, 0xa0)?;
    vcpu.expect_off()
}

fn device_goes() -> Verdict {
    const OUT: usize = 8 * PAGE;
    let mut program = Program::new();
    program.set(1, AT).set(2, RAM + OUT as u32);
    let top = program.label();
    program.ldr(0, 1, IIDR).str(0, 2, 0).branch(top);
    let machine = Machine::new(&program)?;
    let gicv = Memory::of_device(gicv()?).succeeds("mmap of /dev/mem")?;
    let iidr = gicv.read(IIDR as usize);
    machine.vm.slot(&region(1, AT.into(), PAGE as u64, gicv.address(0))).succeeds("a slot over a device")?;
    let vcpu = machine.vcpu(0)?;
    let running = vcpu.start();
    machine.await_word(OUT, iidr, "the device's register")?;
    gicv.protect(0..PAGE, false).succeeds("mprotect")?;
    machine.ram.write(OUT, 0);
    machine.await_word(OUT, iidr, "the register when its mapping is readonly")?;
    gicv.unmap(0..PAGE).succeeds("munmap")?;
    running.result_or_errno()?.fails(Errno::EFAULT, "KVM_RUN when the device's mapping goes")?;
    gicv.map_again(0..PAGE).succeeds("mmap")?;
    gicv.write(IIDR as usize, 0x5a5a);
    let running = vcpu.start();
    machine.await_word(OUT, 0x5a5a, "memory that took the device's place")?;
    running.stop()?;
    equal(gicv.read(IIDR as usize), 0x5a5a, "that memory afterwards")
}

/// A guest that sweeps over a slot at [`AT`].
struct Sweeper {
    machine: Machine,
    memory: Memory,
    vcpu: Arc<Vcpu>,
}

/// Where the guest says what it found wrong (0: nothing), and how many sweeps it began.
const WRONG: usize = 8 * PAGE;
const SWEEPS: usize = WRONG + 4;

impl Sweeper {
    /// All of `memory` is the guest's.
    fn over(memory: Memory) -> Result<Self, Failure> {
        let mut program = Program::new();
        program.set(2, RAM + WRONG as u32).set(4, AT + memory.bytes() as u32).set(5, AT).set(6, 0).set(7, 0);
        let end = program.label();
        program.str(7, 2, 0).add(6, 1).str(6, 2, 4);
        program.raw(0xe1a0_1005); // mov r1, r5
        let top = program.label();
        program.ldr(0, 1, 0).raw(0xe020_0001).raw(0xe187_7000); // eor r0, r0, r1; orr r7, r7, r0
        program.ldr(0, 1, 4).add(0, 1).str(0, 1, 4);
        program.raw(0xe281_1a01).raw(0xe151_0004); // add r1, r1, #0x1000; cmp r1, r4
        program.branch_if_equal(end).branch(top);
        let machine = Machine::new(&program)?;
        for page in (0..memory.bytes()).step_by(PAGE) {
            memory.write(page, AT + page as u32);
        }
        let vcpu = machine.vcpu(0)?;
        let sweeper = Self { machine, memory, vcpu };
        sweeper.slot(0)?;
        Ok(sweeper)
    }

    fn slot(&self, flags: u32) -> Verdict {
        let slot = region(1, AT.into(), self.memory.bytes() as u64, self.memory.address(0));
        self.machine.vm.slot(&UserspaceMemoryRegion { flags, ..slot }).succeeds("a slot").map(|_| ())
    }

    /// Waits for a whole sweep, in which each page may have to come from a disk.
    fn sweep(&self) -> Verdict {
        let before = self.machine.ram.read(SWEEPS);
        let so = || self.machine.ram.read(SWEEPS).wrapping_sub(before) >= 2;
        await_longer(120, so).succeeds("waiting for the guest to sweep over its memory")
    }

    /// Runs the guest, with `work` meanwhile, and looks at what it did.
    fn run(&self, work: impl FnOnce(&Self) -> Verdict) -> Verdict {
        let running = self.vcpu.start();
        let done = self.sweep().and_then(|()| work(self)).and_then(|()| self.sweep());
        if done.is_err() {
            running.still("the guest runs")?;
            return done;
        }
        running.stop()?;
        equal(self.machine.ram.read(WRONG), 0, "what was wrong with first words, all together")?;
        let count = |page: usize| self.memory.read(page + 4);
        let first = count(0);
        // One sweep is under way: pages that it has not come to yet are one behind.
        let pages = || (0..self.memory.bytes()).step_by(PAGE);
        let behind = pages().find(|page| count(*page) != first).unwrap_or(self.memory.bytes());
        for page in pages() {
            let expected = if page < behind { first } else { first - 1 };
            equal(count(page), expected, format_args!("the additions to page {:#x} of {behind:#x}", page / PAGE))?;
        }
        Ok(())
    }
}

/// A number of a file of the kernel's.
fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn tell(path: &str, text: &str) -> Verdict {
    fs::write(path, text).map_err(|error| Failure::new(format!("writing {text} to {path}: {error}")))
}

/// How much of this process is swapped out, in KiB.
fn swapped_out() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSwap:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn swapped() -> Verdict {
    let there_is_swap = fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1);
    let guest = Sweeper::over(Memory::new(512 * PAGE).succeeds("mmap")?)?;
    let mut most = 0;
    guest.run(|guest| {
        for _ in 0..4 {
            // What the guest touched since it was last asked stays, so the second time it goes where the guest has not been again.
            for _ in 0..2 {
                guest.memory.advise(0..guest.memory.bytes(), MmapAdvise::MADV_PAGEOUT).succeeds("MADV_PAGEOUT")?;
                most = most.max(swapped_out());
            }
            guest.sweep()?;
        }
        Ok(())
    })?;
    holds(most > 0 || !there_is_swap, format_args!("something was swapped out (at most {most} KiB were)"))
}

fn merged() -> Verdict {
    const KSM: &str = "/sys/kernel/mm/ksm";
    const PAGES: usize = 64;
    let sharing = || number(&format!("{KSM}/pages_sharing"));
    // Hosts without it share nothing.
    if sharing().is_none() {
        return Ok(());
    }
    // Pages that are all alike: what the guest writes must not be seen in those of `other`, which are the process's alone.
    let memory = Memory::new(PAGES * PAGE).succeeds("mmap")?;
    let other = Memory::new(PAGES * PAGE).succeeds("mmap")?;
    const WORD: u32 = 0x1357_9bdf;
    let mut program = Program::new();
    for round in 0..2u32 {
        // First the same word to each, so that each can be written to, then its number.
        for page in 0..PAGES as u32 {
            program.set(1, AT + page * PAGE as u32).set(0, if round == 0 { WORD } else { page + 1 });
            program.str(0, 1, round * 4);
        }
        program.set(1, DEVICE).set(0, round).str(0, 1, 0);
    }
    let machine = Machine::new(&program)?;
    machine.vm.slot(&region(1, AT.into(), memory.bytes() as u64, memory.address(0))).succeeds("a slot")?;
    let vcpu = machine.vcpu(0)?;
    vcpu.expect_write(DEVICE, 4, 0)?;
    for page in 0..PAGES {
        other.write(page * PAGE, WORD);
    }
    for area in [&memory, &other] {
        area.advise(0..area.bytes(), MmapAdvise::MADV_MERGEABLE).succeeds("MADV_MERGEABLE")?;
    }
    tell(&format!("{KSM}/sleep_millisecs"), "1")?;
    tell(&format!("{KSM}/pages_to_scan"), "1000")?;
    tell(&format!("{KSM}/run"), "1")?;
    let shared = await_that(|| sharing() >= Some(2 * PAGES as u64 - 1));
    let found = sharing();
    tell(&format!("{KSM}/run"), "0")?;
    shared.succeeds(format_args!("waiting for pages to be shared ({found:?} are)"))?;
    vcpu.expect_write(DEVICE, 4, 1)?;
    for page in 0..PAGES {
        let has = [memory.read(page * PAGE), memory.read(page * PAGE + 4)];
        equal(has, [WORD, page as u32 + 1], format_args!("page {page} of the guest"))?;
        let has = [other.read(page * PAGE), other.read(page * PAGE + 4)];
        equal(has, [WORD, 0], format_args!("page {page} of the process, which was shared with the guest's"))?;
    }
    Ok(())
}

fn hugetlb() -> Verdict {
    const POOL: &str = "/proc/sys/vm/nr_hugepages";
    // Hosts without LPAE have none.
    let Some(before) = number(POOL) else { return Ok(()) };
    tell(POOL, &(before + 3).to_string())?;
    let pool = number(POOL).unwrap_or(0);
    let memory = Memory::huge(3 * BLOCK);
    let outcome = memory.succeeds("mmap of huge pages").and_then(|memory| {
        let guest = Sweeper::over(memory)?;
        guest.run(|guest| {
            for _ in 0..3 {
                guest.slot(KVM_MEM_LOG_DIRTY_PAGES)?;
                guest.sweep()?;
                guest.slot(0)?;
                guest.sweep()?;
            }
            Ok(())
        })
    });
    tell(POOL, &before.to_string())?;
    outcome.map_err(|failure| Failure::new(format!("with a pool of {pool} pages, {before} before: {failure}")))
}

fn forked() -> Verdict {
    let guest = Sweeper::over(Memory::new(32 * PAGE).succeeds("mmap")?)?;
    let flag = Memory::of_file(&memory_file(PAGE).succeeds("memfd_create")?, PAGE, true).succeeds("mmap")?;
    guest.run(|_| Ok(()))?;
    for round in 1..6 {
        let before: Vec<u32> = (0..32).map(|page| guest.memory.read(page * PAGE + 4)).collect();
        let child = process(|| {
            // The guest writes to all of the parent's pages first.
            if await_that(|| flag.read(0) == round).is_err() {
                return 99;
            }
            let changed = (0..32).position(|page| guest.memory.read(page * PAGE + 4) != before[page]);
            changed.map_or(0, |page| page as u8 + 1)
        })
        .succeeds("fork")?;
        let ran = guest.run(|_| Ok(()));
        flag.write(0, round);
        match waitpid(child, None).succeeds("waitpid")? {
            WaitStatus::Exited(_, 0) => {}
            WaitStatus::Exited(_, 99) => return Err(Failure::new("the child waited in vain")),
            WaitStatus::Exited(_, page) => {
                return Err(Failure::new(format!("page {} of the child changed", page - 1)));
            }
            other => return Err(Failure::new(format!("the child: {other:?}"))),
        }
        ran?;
    }
    Ok(())
}

fn private_file() -> Verdict {
    const BYTES: usize = 16 * PAGE;
    let file = memory_file(BYTES).succeeds("memfd_create")?;
    let set_length =
        |bytes: usize| file.set_len(bytes as u64).map_err(|error| Failure::new(format!("ftruncate: {error}")));
    let guest = Sweeper::over(Memory::of_file(&file, BYTES, false).succeeds("mmap")?)?;
    guest.run(|_| Ok(()))?;
    let mut word = [0xff; 4];
    let read = file.read_at(&mut word, 4);
    holds(matches!(read, Ok(4)), "a read of the file")?;
    equal(word, [0; 4], "the file, of whose mapping the guest has copies")?;
    let running = guest.vcpu.start();
    guest.sweep()?;
    set_length(BYTES - PAGE)?;
    running.result_or_errno()?.fails(Errno::EFAULT, "KVM_RUN when the file is too short")?;
    set_length(BYTES)
}
