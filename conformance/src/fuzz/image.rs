// SPDX-License-Identifier: GPL-2.0-only
//! What a wild guest finds in its memory: random instructions of both sets, and translation tables of both formats.
//!
//! The tables map what is there at its own address with random rights and attributes, by sections and pages, and some of their
//! entries are anything: they lead to tables in devices, in themselves, or where nothing is.
//!
//! Source: ARM DDI 0406C.d, B3.5.1 (short descriptors), B3.6.1 (long descriptors).

use fastrand::Rng;

use crate::instructions::words;
use crate::values::Values;

pub use crate::machine::{DEVICE, GICC, GICD, RAM};

/// Bytes of an image.
pub const BYTES: usize = 0x1_0000;
/// A slot that the guest may only read: the image's first pages, or a copy of them.
pub const READ_ONLY: u32 = 0x8100_0000;
/// Bytes of it.
pub const READ_ONLY_BYTES: usize = 0x4000;
/// Instructions of the Arm set.
pub const ARM: u32 = RAM;
/// Instructions of the Thumb set.
pub const THUMB: u32 = RAM + 0x3000;
/// A table of short descriptors for 4 GiB, and of its second level at [`SECOND_LEVEL`].
pub const SHORT_TABLE: u32 = RAM + 0x8000;
/// Tables of long descriptors: the first level, behind it four second levels' worth of one page each that is shared, and a third level.
pub const LONG_TABLE: u32 = RAM + 0xc000;
const SECOND_LEVEL: u32 = RAM + 0x6000;
const LONG_SECOND: u32 = RAM + 0xd000;
const LONG_THIRD: u32 = RAM + 0xe000;

/// Vectors that step over whatever instruction was to blame.
pub const VECTORS: [u32; 8] = [
    0xeaff_fffe, // reset: b .
    0xe1b0_f00e, // undefined instruction: movs pc, lr
    0xe1b0_f00e, // supervisor call: movs pc, lr
    0xe1b0_f00e, // prefetch abort: movs pc, lr
    0xe25e_f004, // data abort: subs pc, lr, #4
    0xeaff_fffe, // not used: b .
    0xe25e_f004, // IRQ: subs pc, lr, #4
    0xe25e_f004, // FIQ: subs pc, lr, #4
];

/// The image, word by word.
pub fn image(random: &mut Rng) -> Vec<u32> {
    let mut image = words(random, 0x3000 / 4, false);
    image.extend(words(random, 0x3000 / 4, true));
    image.resize(BYTES / 4, 0);
    let mut put = |at: u32, table: Vec<u32>| {
        let from = (at - RAM) as usize / 4;
        image[from..from + table.len()].copy_from_slice(&table);
    };
    put(SHORT_TABLE, (0..4096).map(|section| short(random, section)).collect());
    put(SECOND_LEVEL, (0..256).map(|page| small_page(random, page)).collect());
    put(LONG_TABLE, (0..4u32).flat_map(|gigabyte| long(random, LONG_SECOND, gigabyte << 30, true)).collect());
    put(LONG_SECOND, (0..512u32).flat_map(|block| long(random, LONG_THIRD, RAM + (block << 21), true)).collect());
    put(LONG_THIRD, (0..512u32).flat_map(|page| long(random, 0, RAM + (page << 12), false)).collect());
    // Each part ends where it began, so that whoever runs off it goes on.
    for (part, end) in [(ARM, 0x3000), (THUMB, SECOND_LEVEL - THUMB)] {
        let last = (part - RAM + end) as usize / 4 - 1;
        image[last] =
            if part == THUMB { 0xe400_e400 } else { 0xea00_0000 | (0x00ff_ffff & (0u32.wrapping_sub(end / 4 + 1))) };
    }
    image
}

/// Which of the first level's entries are anything: one in so many.
const WRONG: u32 = 64;

fn short(random: &mut Rng, section: u32) -> u32 {
    let base = section << 20;
    match random.u32(..16) {
        _ if random.one_in(WRONG) => random.word(),
        0..=3 if section == RAM >> 20 => SECOND_LEVEL | random.u32(..16) << 5 | 1,
        // A section, or a supersection, with any rights; mostly full ones.
        0..=2 => base | random.u32(..) & 0x000f_fffc | 2,
        _ => base | 0xc02 | random.of(&[0, 0x4, 0xc, 0x8, 0x100c, 0x1_0000, 0x10]),
    }
}

fn small_page(random: &mut Rng, page: u32) -> u32 {
    let base = RAM | page << 12;
    match random.u32(..8) {
        _ if random.one_in(WRONG) => random.word(),
        0 => base | random.u32(..0x1000) | 2,
        _ => base | 0x32 | random.of(&[0, 0xc, 0x8, 4]),
    }
}

/// A long descriptor: a table, a block or page, or anything.
fn long(random: &mut Rng, table: u32, base: u32, tables: bool) -> [u32; 2] {
    let any = random.u64(..);
    let word = match random.u32(..8) {
        _ if random.one_in(WRONG) => any,
        0 | 1 if tables => u64::from(table) | 3 | any & 0xf800_0000_0000_0000,
        0 => u64::from(base) | 3 | any & 0xfff0_0000_0000_0ffc,
        _ => u64::from(base) | 0x441 | u64::from(!tables) << 1 | any & 0xc,
    };
    [word as u32, (word >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::stream;

    #[test]
    fn an_image_fills_its_memory_and_repeats() {
        let one = image(&mut stream(3, 4));
        assert_eq!(one.len() * 4, BYTES);
        assert_eq!(one, image(&mut stream(3, 4)));
        assert_ne!(one, image(&mut stream(3, 5)));
        // The branch at the end of the Arm part: to its beginning.
        let last = 0x3000 / 4 - 1;
        assert_eq!(image(&mut stream(1, 1))[last], 0xea00_0000 | (-(last as i32 + 2) as u32 & 0x00ff_ffff));
    }
}
