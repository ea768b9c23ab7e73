// SPDX-License-Identifier: GPL-2.0-only
//! The tables of Hyp vectors, as they stand in the image: where each entry leads, and what comes before its first branch.
//!
//! QEMU has no branch predictor that a guest could train, so nothing that runs there misses an instruction that empties it. But the
//! entries are a few instructions of a few kinds, and [`enter`] follows them from each of a table's eight places: the additions to
//! SP, by which the tables that empty the predictor tell their entries apart, the tests of SP, the branches.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, ObjectSymbol};

/// `MCR p15, 0, r0, c7, c5, 6`: BPIALL.
const BPIALL: u32 = 0xee07_0fd5;
/// `MCR p15, 0, r0, c7, c5, 0`: ICIALLU.
const ICIALLU: u32 = 0xee07_0f15;
const ISB: u32 = 0xf57f_f06f;
const NOP: u32 = 0xe320_f000;

/// `SMC #0`.
const SMC: u32 = 0xe160_0070;
/// `PUSH {r0-r3}`, `MOVW r0, #0x8000`, `MOVT r0, #0x8000` (SMCCC_ARCH_WORKAROUND_1), [`SMC`], `POP {r0-r3}`.
const FIRMWARE: [u32; 5] = [0xe92d_000f, 0xe308_0000, 0xe348_0000, SMC, 0xe8bd_000f];

/// `PUSH {r0, r1}`, `MRS r0, SPSR`, `AND r0, r0, #0x1f`, `CMP r0, #0x1a`, `POP {r0, r1}`: whether Hyp mode took the exception itself.
const FROM_HYP: [u32; 5] = [0xe92d_0003, 0xe14f_0000, 0xe200_001f, 0xe350_001a, 0xe8bd_0003];

/// The tables: symbol, how the branch predictor is emptied, who handles traps and who interrupts.
const TABLES: [(&str, Option<u32>, [&str; 2]); 5] = [
    ("hyp_host_vectors", None, ["call", "interrupt_in_hyp"]),
    ("hyp_vectors", None, ["trap", "interrupt"]),
    ("hyp_vectors_bpiall", Some(BPIALL), ["trap", "interrupt"]),
    ("hyp_vectors_iciallu", Some(ICIALLU), ["trap", "interrupt"]),
    ("hyp_vectors_firmware", Some(SMC), ["trap", "interrupt"]),
];

/// Where an entry led.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    /// What was emptied, and made to count by an ISB, before the first branch.
    emptied: Option<u32>,
    /// The address after the last branch, which left the code that [`enter`] knows.
    to: u32,
    /// By how much SP had changed there.
    sp: u32,
}

/// Reviews the tables in the image's ELF file.
pub fn review(elf: &Path) -> Result<()> {
    let data = std::fs::read(elf).with_context(|| format!("{}: cannot be read", elf.display()))?;
    let file = object::File::parse(&*data)?;
    let word = |address: u32| {
        let mut sections = file.sections();
        let bytes = sections.find_map(|section| section.data_range(address.into(), 4).ok().flatten())?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let symbol = |wanted: &str| {
        let mut symbols = file.symbols();
        symbols.find(|symbol| symbol.name() == Ok(wanted)).map(|symbol| symbol.address() as u32)
    };
    let name = |address: u32| {
        let names = file.symbols().filter(|symbol| symbol.address() as u32 == address);
        let mut names = names.filter_map(|symbol| Some(format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?))));
        names.find(|name| name.contains("::vectors::")).unwrap_or_else(|| format!("{address:#x}"))
    };
    for (table, emptied, [trap, interrupt]) in TABLES {
        let base = symbol(table).with_context(|| format!("the image has no {table}"))?;
        ensure!(base & 0x1f == 0, "{table} is at {base:#x}, which is no place for VBAR");
        let [undefined, hvc] = ["undefined_in_hyp", "hvc_in_hyp"];
        let [prefetch, data] = ["prefetch_abort_in_hyp", "data_abort_in_hyp"];
        let handlers = [undefined, undefined, hvc, prefetch, data, trap, interrupt, interrupt];
        for (number, handler) in (0..).zip(handlers) {
            let way = enter(word, base + 4 * number).with_context(|| format!("{table}, entry {number}"))?;
            let to = name(way.to);
            ensure!(to.ends_with(&format!("::{handler}")), "{table}, entry {number}: leads to {to}, not to {handler}");
            ensure!(way.sp == 0, "{table}, entry {number}: SP arrives off by {}", way.sp);
            // What Hyp mode takes itself comes from nobody who could have trained anything.
            let from_guest = number >= 5 || table != "hyp_vectors_firmware";
            let (what, wanted) = (way.emptied, emptied.filter(|_| from_guest));
            ensure!(
                what == wanted,
                "{table}, entry {number}: {what:x?} comes before its first branch, not {wanted:x?}"
            );
        }
    }
    Ok(())
}

/// Follows the instructions from `address`, SP being aligned to eight, until a branch leads to one of another kind.
fn enter(word: impl Fn(u32) -> Option<u32>, address: u32) -> Result<Way> {
    let (mut at, mut sp, mut equal) = (address, 0, false);
    let (mut unsynchronised, mut emptied) = (None, None);
    let mut branched = false;
    let stands = |wanted: &[u32], at: u32| {
        (0u32..).step_by(4).zip(wanted).all(|(further, wanted)| word(at.wrapping_add(further)) == Some(*wanted))
    };
    for _ in 0..40 {
        let instruction = word(at).with_context(|| format!("{at:#x} is not in the image"))?;
        let immediate = instruction & 0xff;
        match instruction {
            BPIALL | ICIALLU if !branched => unsynchronised = Some(instruction),
            ISB if !branched => emptied = unsynchronised,
            NOP => {}
            first if first == FIRMWARE[0] && !branched => {
                ensure!(stands(&FIRMWARE, at), "{at:#x}: no call to firmware");
                emptied = Some(SMC);
                at += 4 * FIRMWARE.len() as u32;
                continue;
            }
            first if first == FROM_HYP[0] && branched && stands(&FROM_HYP, at) => {
                equal = false; // it comes from below
                at += 4 * FROM_HYP.len() as u32;
                continue;
            }
            _ => match instruction & 0xffff_ff00 {
                0xe28d_d000 => sp = u32::wrapping_add(sp, immediate), // ADD sp, sp, #
                0xe24d_d000 => sp = u32::wrapping_sub(sp, immediate), // SUB sp, sp, #
                0xe3cd_d000 => sp &= !immediate,                      // BIC sp, sp, #
                0xe31d_0000 => equal = sp & immediate == 0,           // TST sp, #
                _ if instruction & 0x0f00_0000 == 0x0a00_0000 => {
                    let taken = match instruction >> 28 {
                        0xe => true,
                        0x0 => equal,
                        0x1 => !equal,
                        other => bail!("{at:#x}: a branch under condition {other:#x}"),
                    };
                    branched = true;
                    if taken {
                        let offset = (instruction << 8) as i32 >> 6;
                        at = at.wrapping_add_signed(offset).wrapping_add(8);
                        continue;
                    }
                }
                _ if branched => return Ok(Way { emptied, to: at, sp }),
                _ => bail!("{at:#x}: {instruction:#010x} comes before the first branch"),
            },
        }
        at += 4;
    }
    bail!("it does not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(words: &[u32], entry: u32) -> Result<Way> {
        enter(|address| words.get(address as usize / 4).copied(), entry * 4)
    }

    /// `B` under a condition, from one index to another.
    fn branch(condition: u32, from: usize, to: usize) -> u32 {
        condition << 28 | 0x0a00_0000 | (to as i32 - from as i32 - 2) as u32 & 0x00ff_ffff
    }

    const PUSH: u32 = 0xe92d_0003;
    const UNDEFINED: u32 = 0xe7f0_00f0;

    #[test]
    fn entries_are_told_apart_by_how_far_they_fall() {
        let emptied = Some(BPIALL);
        // Two entries: ADD, NOP; BPIALL, ISB; TST, BIC, BEQ 8, B 9.
        let words =
            [0xe28d_d001, NOP, BPIALL, ISB, 0xe31d_0001, 0xe3cd_d001, branch(0x0, 6, 8), branch(0xe, 7, 9), PUSH, PUSH];
        assert_eq!(way(&words, 0).expect("a way"), Way { emptied, to: 36, sp: 0 });
        assert_eq!(way(&words, 1).expect("a way"), Way { emptied, to: 32, sp: 0 });
    }

    #[test]
    fn a_call_to_firmware_counts_if_it_is_whole_and_before_a_branch() {
        let [keep, low, high, smc, put_back] = FIRMWARE;
        // A trap, an interrupt; TST, BEQ 17, ADD; SPSR's mode, BNE 18.
        let words = |low| {
            let entered = [0xe24d_d004, NOP, keep, low, high, smc, put_back];
            let told_apart = [0xe31d_0004, branch(0x0, 8, 17), 0xe28d_d004];
            [&entered[..], &told_apart, &FROM_HYP, &[branch(0x1, 15, 18), UNDEFINED, PUSH, PUSH]].concat()
        };
        assert_eq!(way(&words(low), 0).expect("a way"), Way { emptied: Some(SMC), to: 72, sp: 0 });
        assert_eq!(way(&words(low), 1).expect("a way"), Way { emptied: Some(SMC), to: 68, sp: 0 });
        assert!(way(&words(low + 1), 0).is_err());
        assert_eq!(way(&[&[branch(0xe, 0, 1)], &FIRMWARE[..]].concat(), 0).expect("a way").emptied, None);
    }

    #[test]
    fn what_comes_after_a_branch_or_is_not_synchronised_does_not_count() {
        let late = [branch(0xe, 0, 1), BPIALL, ISB, PUSH];
        assert_eq!(way(&late, 0).expect("a way").emptied, None);
        let unsynchronised = [BPIALL, branch(0xe, 1, 2), PUSH];
        assert_eq!(way(&unsynchronised, 0).expect("a way").emptied, None);
        assert!(way(&[PUSH], 0).is_err() && way(&[NOP], 0).is_err() && way(&[branch(0xe, 0, 0)], 0).is_err());
    }
}
