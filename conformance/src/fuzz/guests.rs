// SPDX-License-Identifier: GPL-2.0-only
//! Wild guests: machines whose vCPUs execute anything, begin in any mode with anything in their registers, and share their memory.
//!
//! Their process behaves, so that it can be said what is wrong: KVM_RUN returns for the reasons that a guest can give, all registers can be
//! read at any time, no vCPU is ever in a mode that a guest cannot be in, and no guest writes where it may not ([`Witnesses`]).

use std::ops::Range;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::errno::Errno;
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use uapi::*;

use crate::image::{self, ARM, BYTES, READ_ONLY, READ_ONLY_BYTES, THUMB, VECTORS};
use crate::instructions::words;
use crate::machine::{CPSR, Machine, PC, Vcpu, region};
use crate::memory_map::{Memory, PAGE};
use crate::sys;
use crate::tally::Tally;
use crate::values::{Values, stream};
use crate::verdict::{Failure, Outcome, Verdict, holds};

/// Modes that a guest can be in: User, FIQ, IRQ, Supervisor, Abort, Undefined, System.
const MODES: [u32; 7] = [0x10, 0x11, 0x12, 0x13, 0x17, 0x1b, 0x1f];
/// Machines that one process has, one after the other.
const MACHINES: u32 = 12;

/// What stands in memory that no guest should write to.
const UNTOUCHED: u32 = 0x5e1f_c0de;

/// Has a few guests run wild, for some milliseconds each.
pub fn live(seed: u64, number: u64, tally: &Tally) -> Verdict {
    sys::interruptible()?;
    let mut random = stream(seed, number);
    let image = image::image(&mut random);
    (0..MACHINES).try_for_each(|_| one(&image, &mut random.fork(), tally))
}

/// Memory of the process that its guest must not write to.
struct Witnesses {
    /// A page before the guest's memory and one behind it.
    around: Memory,
    /// What a guest may read and not write: the beginning of its image.
    read_only: Memory,
}

impl Witnesses {
    /// With the guest's memory.
    fn with_ram(image: &[u32]) -> Result<(Self, Memory), Failure> {
        let around = Memory::new(BYTES + 2 * PAGE).succeeds("mmap")?;
        around.unmap(PAGE..PAGE + BYTES).succeeds("munmap")?;
        let ram = Memory::at(around.address(PAGE) as usize, BYTES).succeeds("mmap")?;
        ram.put(0, image);
        let all = Self { around, read_only: Memory::new(READ_ONLY_BYTES).succeeds("mmap")? };
        all.read_only.put(0, &image[..READ_ONLY_BYTES / 4]);
        for offset in [0, PAGE + BYTES] {
            all.around.put(offset, &[UNTOUCHED; PAGE / 4]);
        }
        Ok((all, ram))
    }

    /// Nobody wrote to them.
    fn are_untouched(&self, image: &[u32]) -> Verdict {
        let touched =
            |words: Range<usize>| words.map(|word| word * 4).find(|offset| self.around.read(*offset) != UNTOUCHED);
        let behind = (PAGE + BYTES) / 4;
        let read_only = (0..READ_ONLY_BYTES / 4).find(|word| self.read_only.read(word * 4) != image[*word]);
        for (what, written) in [
            ("before its own", touched(0..PAGE / 4)),
            ("behind its own", touched(behind..behind + PAGE / 4)),
            ("that it may only read", read_only.map(|word| word * 4)),
        ] {
            let at = written.unwrap_or_default();
            holds(written.is_none(), format_args!("no guest writes to memory {what}, at {at:#x}"))?;
        }
        Ok(())
    }
}

fn one(image: &[u32], random: &mut Rng, tally: &Tally) -> Verdict {
    let (witnesses, ram) = Witnesses::with_ram(image)?;
    let machine = Machine::over(ram, &crate::code::Program::new())?;
    let vectors = Memory::new(PAGE).succeeds("mmap")?;
    vectors.put(0, &VECTORS);
    vectors.put(0x20, &words(random, 64, false));
    for (slot, at) in [(1, 0), (2, 0xffff_0000)] {
        machine.vm.slot(&region(slot, at, PAGE as u64, vectors.address(0))).succeeds("a slot for vectors")?;
    }
    // What may not be written at one address may be at another, or nowhere.
    let backing = if random.one_in(2) { &machine.ram } else { &witnesses.read_only };
    let read_only = UserspaceMemoryRegion {
        flags: KVM_MEM_READONLY,
        ..region(3, READ_ONLY.into(), READ_ONLY_BYTES as u64, backing.address(0))
    };
    machine.vm.slot(&read_only).succeeds("a read-only slot")?;
    let count = random.of(&[1, 1, 2, 4]);
    let vcpus = (0..count).map(|id| machine.vcpu(id)).collect::<Result<Vec<_>, _>>()?;
    let _gic = if random.one_in(5) { None } else { Some(machine.gic()?) };
    for vcpu in &vcpus {
        begin_anywhere(vcpu, random)?;
    }
    let over = Arc::new(AtomicBool::new(false));
    let runners: Vec<_> = vcpus
        .iter()
        .map(|vcpu| {
            let (vcpu, over, mut random) = (vcpu.clone(), over.clone(), Rng::with_seed(random.u64(..)));
            std::thread::spawn(move || keep_running(&vcpu, &over, &mut random))
        })
        .collect();
    (0..8).for_each(|_| disturb(&machine, random));
    let end = Instant::now() + Duration::from_millis(random.u64(5..30));
    while runners.iter().any(|runner| !runner.is_finished()) {
        std::thread::sleep(Duration::from_millis(1));
        over.fetch_or(Instant::now() > end, Ordering::Relaxed);
        disturb(&machine, random);
        for runner in &runners {
            let _ = pthread_kill(runner.as_pthread_t(), Signal::SIGUSR1);
        }
    }
    for runner in runners {
        let exits = runner.join().map_err(|_| Failure::new("a thread panicked"))??;
        tally.exits.fetch_add(exits, Ordering::Relaxed);
    }
    witnesses.are_untouched(image)?;
    vcpus.iter().try_for_each(|vcpu| still_whole(vcpu))
}

/// New instructions, and an interrupt.
fn disturb(machine: &Machine, random: &mut Rng) {
    let (at, thumb) = random.of(&[(ARM, false), (THUMB, true)]);
    let offset = (at - image::RAM) as usize + random.usize(..0x300) * 4;
    machine.ram.put(offset, &words(random, 32, thumb));
    let irq = IrqLine::Spi { number: random.u16(32..96) }.encode();
    let _ = machine.vm.give(KVM_IRQ_LINE, &mut IrqLevel { irq, level: random.u32(..2) });
}

/// Fills registers, and begins in some mode of some instruction set.
fn begin_anywhere(vcpu: &Vcpu, random: &mut Rng) -> Verdict {
    let (count, _, _) = vcpu.fd.register_list(0);
    let (_, list, _) = vcpu.fd.register_list(count);
    holds(!list.is_empty(), "there are registers")?;
    for _ in 0..random.of(&[0, 20, 200]) {
        let id = random.of(&list);
        match vcpu.fd.set_register(id, random.value()) {
            Ok(_) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(Failure::new(format!("writing register {id:#x}: {error:?}"))),
        }
    }
    let thumb = random.one_in(3);
    let (part, bit) = if thumb { (THUMB, 0x20) } else { (ARM, 0) };
    let pc = part + random.u32(..0x400) * 4;
    let cpsr = random.of(&MODES) | bit | random.of(&[0, 0, 0x1c0, 0x200]);
    vcpu.fd.set_register(PC, pc.into()).succeeds("writing PC")?;
    vcpu.fd.set_register(CPSR, cpsr.into()).succeeds("writing CPSR").map(|_| ())
}

/// Runs it until told otherwise, answering what it asks. How often KVM_RUN returned.
fn keep_running(vcpu: &Vcpu, over: &AtomicBool, random: &mut Rng) -> Result<u32, Failure> {
    let mut exits = 0;
    while !over.load(Ordering::Relaxed) {
        exits += 1;
        match vcpu.run() {
            Ok(Exit::Mmio(mmio)) => {
                holds(matches!(mmio.len, 1 | 2 | 4 | 8), format_args!("an access of {} bytes", mmio.len))?;
                vcpu.page.answer(random.value().to_le_bytes());
            }
            Ok(Exit::SystemEvent { .. }) => over.store(true, Ordering::Relaxed),
            Ok(exit) => return Err(Failure::new(format!("the exit {exit:x?}"))),
            Err(Errno::EINTR) => {}
            // An access that cannot be emulated: the process steps over it. Code that does not lie in memory: it begins again.
            Err(error @ (Errno::ENOSYS | Errno::EFAULT)) => {
                let pc = vcpu.fd.register(PC).succeeds("reading PC")?;
                let next = if error == Errno::ENOSYS { pc as u32 & !3 } else { ARM };
                vcpu.fd.set_register(PC, next.wrapping_add(4).into()).succeeds("writing PC")?;
            }
            Err(error) => return Err(Failure::new(format!("KVM_RUN: {error:?}"))),
        }
    }
    Ok(exits)
}

/// All that a process can ask of a vCPU is answered, and the vCPU is somewhere where a guest can be.
fn still_whole(vcpu: &Vcpu) -> Verdict {
    let cpsr = vcpu.fd.register(CPSR).succeeds("reading CPSR")? as u32;
    holds(MODES.contains(&(cpsr & 0x1f)), format_args!("the mode in CPSR {cpsr:#x} is one of a guest's"))?;
    let (count, _, _) = vcpu.fd.register_list(0);
    let (_, list, _) = vcpu.fd.register_list(count);
    list.into_iter().try_for_each(|id| vcpu.fd.register(id).succeeds(format_args!("reading {id:#x}")).map(|_| ()))
}
