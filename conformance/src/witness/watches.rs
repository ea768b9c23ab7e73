// SPDX-License-Identifier: GPL-2.0-only
//! What is watched: registers, thread identities, clocks.
//!
//! For most of its time a look holds its values in a long run of instructions that do nothing ([`cpu::held`]), so that nearly every interrupt
//! that takes the CPU away from the process, to a virtual machine among others, finds them in the registers.

use crate::cpu::{APSR, FPSCR, Registers, held};
use crate::{Finding, Watch, cpu};

/// One thread on a CPU watches each: a second with values in VFP would have the kernel reload what a first one lost.
pub const WATCHES: &[Watch] = &[
    Watch { name: "general, VFP and NEON registers keep their values", look: registers },
    Watch { name: "thread identities are the thread's own", look: thread_identities },
    Watch { name: "the clock of the vDSO and that of the system call agree", look: clocks },
];

/// A value that depends on its place and on which look it is.
fn pattern(look: u32, place: u32) -> u32 {
    (look << 8 | place).wrapping_mul(0x9e37_79b9).rotate_left(look % 32)
}

fn registers(look: u32) -> Finding {
    let wide = |place| u64::from(pattern(look, place)) << 32 | u64::from(pattern(look, place + 1));
    let before = Registers {
        r: std::array::from_fn(|place| pattern(look, place as u32)),
        apsr: pattern(look, 14) & APSR,
        fpscr: pattern(look, 15) & FPSCR,
        d: std::array::from_fn(|place| wide(16 + 2 * place as u32)),
    };
    for _ in 0..50 {
        let mut after = before;
        held(&mut after);
        if after != before {
            return Err(before.difference(&after));
        }
    }
    Ok(())
}

fn thread_identities(look: u32) -> Finding {
    let (pointer, word) = (cpu::thread_pointer(), pattern(look, 0));
    cpu::set_thread_word(word);
    for _ in 0..20_000 {
        let (pointer_now, word_now) = (cpu::thread_pointer(), cpu::thread_word());
        if pointer_now != pointer {
            return Err(format!("TPIDRURO was {pointer:#x}, is {pointer_now:#x}"));
        }
        if word_now != word {
            return Err(format!("TPIDRURW was {word:#x}, is {word_now:#x}"));
        }
    }
    Ok(())
}

/// Nanoseconds of the monotonic clock, by the C library, which asks the vDSO: that reads CNTVCT.
fn by_the_vdso() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is written.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    nanoseconds(&time)
}

/// The same by the system call: the kernel reads CNTPCT.
fn by_the_kernel() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is written; the call's number goes with its size, which is the target's own.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut time) };
    nanoseconds(&time)
}

fn nanoseconds(time: &libc::timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Asked in turn, no clock is behind what the other said before.
fn clocks(_: u32) -> Finding {
    // SAFETY: asks for a number.
    if unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } == 0 {
        return Err("this kernel gives processes no vDSO".to_owned());
    }
    let mut last = by_the_kernel();
    for _ in 0..200 {
        for (name, clock) in [("vDSO", by_the_vdso as fn() -> u64), ("kernel", by_the_kernel)] {
            let now = clock();
            if now < last {
                return Err(format!("the {name} says {now} ns after the other said {last}"));
            }
            last = now;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_a_value_of_its_own() {
        let mut values: Vec<u32> = (0..80).map(|place| pattern(7, place)).collect();
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), 80);
    }

    #[test]
    fn on_a_machine_without_a_hypervisor_nothing_is_found() {
        for watch in WATCHES {
            (watch.look)(1).expect(watch.name);
        }
    }
}
