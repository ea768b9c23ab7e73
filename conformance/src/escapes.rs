// SPDX-License-Identifier: GPL-2.0-only
//! What a guest might leave in a CPU for the host to run on.

use nix::errno::Errno;

use crate::Case;
use crate::code::Program;
use crate::machine::{DEVICE, Machine};
use crate::memory_map::{Memory, PAGE};
use crate::sys::on_cpu;
use crate::verdict::{Failure, Outcome, Verdict, equal};

/// The table.
pub const CASES: &[Case] = &[Case::of("a guest's FCSEIDR does not move the host's low addresses", low_addresses)];

/// An address that FCSEIDR would move, below 32 MiB, and free.
const LOW: usize = 0x0180_0000;

fn low_addresses() -> Verdict {
    on_cpu(0).succeeds("sched_setaffinity")?;
    let low = match Memory::at(LOW, PAGE) {
        Err(Errno::EEXIST) => return Err(Failure::new("this program lies where the case wants to look")),
        other => other.succeeds("mmap")?,
    };
    low.write(0, 0x600d);
    let mut program = Program::new();
    program.set(0, 0x4200_0000).mcr(0, 13, 0, 0).set(1, DEVICE).str(1, 1, 0).power_off();
    let vcpu = Machine::new(&program)?.vcpu(0)?;
    vcpu.expect_write(DEVICE, 4, DEVICE)?;
    equal(low.read(0), 0x600d, "a word at a low address after the guest's exit")
}
