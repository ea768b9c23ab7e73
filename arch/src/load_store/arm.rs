// SPDX-License-Identifier: GPL-2.0-only
//! The ARM instruction set's encodings.

use super::{Base, LoadStore, Offset, Registers, Shift, multiple, signed};
use crate::syndrome::{AccessSize, Rt};

const P: u32 = 1 << 24;
const U: u32 = 1 << 23;
const W: u32 = 1 << 21;
const L: u32 = 1 << 20;

/// Decodes an ARM instruction. `None`: see the module's head.
pub fn decode_arm(word: u32) -> Option<LoadStore> {
    if word >> 28 == 0xf {
        return None;
    }
    match word >> 25 & 0b111 {
        0b000 => extra(word),
        0b010 => single(word, Offset::Immediate(signed(word & 0xfff, word & U != 0))),
        // With bit 4 set these are media instructions.
        0b011 if word & 1 << 4 == 0 => {
            let shift = Shift::decode(word >> 5, word >> 7);
            single(word, Offset::Register { rm: Rt::new(word)?, shift, subtract: word & U == 0 })
        }
        // With bit 22 set: the User mode bank, or a return from an exception.
        0b100 if word & 1 << 22 == 0 => {
            let (up, after) = (word & U != 0, word & P == 0);
            multiple(word & L != 0, Rt::new(word >> 16)?, word as u16, up, after, word & W != 0)
        }
        _ => None,
    }
}

/// LDR, STR, LDRB, STRB and their unprivileged forms.
fn single(word: u32, offset: Offset) -> Option<LoadStore> {
    let byte = word & 1 << 22 != 0;
    let size = if byte { AccessSize::Byte } else { AccessSize::Word };
    let registers = Registers::One(Rt::new(word >> 12)?);
    indexed(word, offset, size, false, word & L != 0, registers)
}

/// Halfwords, signed bytes and pairs (A5.2.8 and A5.2.9).
fn extra(word: u32) -> Option<LoadStore> {
    let kind = word >> 5 & 0b11;
    if word & 1 << 7 == 0 || word & 1 << 4 == 0 || kind == 0 {
        return None; // data processing, multiplication, exclusives, swaps
    }
    let offset = if word & 1 << 22 != 0 {
        Offset::Immediate(signed(word >> 4 & 0xf0 | word & 0xf, word & U != 0))
    } else if word & 0xf00 == 0 {
        Offset::Register { rm: Rt::new(word)?, shift: Shift::Lsl(0), subtract: word & U == 0 }
    } else {
        return None;
    };
    let rt = Rt::new(word >> 12)?;
    let load = word & L != 0;
    match (load, kind) {
        (_, 0b01) => indexed(word, offset, AccessSize::Halfword, false, load, Registers::One(rt)),
        (true, 0b10) => indexed(word, offset, AccessSize::Byte, true, true, Registers::One(rt)),
        (true, _) => indexed(word, offset, AccessSize::Halfword, true, true, Registers::One(rt)),
        (false, _) => {
            let load = kind == 0b10;
            // The second of a pair follows the first, which is even; a pair has no unprivileged form.
            if rt.index() % 2 != 0 || word & (P | W) == W {
                return None;
            }
            let registers = Registers::Two(rt, Rt::new(rt.index() as u32 + 1)?);
            if let (true, Offset::Register { rm, .. }) = (load, offset)
                && (rm == rt || rm.index() == rt.index() + 1)
            {
                return None;
            }
            indexed(word, offset, AccessSize::Word, false, load, registers)
        }
    }
}

fn indexed(
    word: u32,
    offset: Offset,
    size: AccessSize,
    sign_extend: bool,
    load: bool,
    registers: Registers,
) -> Option<LoadStore> {
    let post = word & P == 0;
    let base = match Rt::new(word >> 16) {
        Some(rn) => Base::Register(rn),
        None => Base::Pc,
    };
    LoadStore {
        load,
        size,
        sign_extend,
        registers,
        base,
        offset: if post { Offset::ZERO } else { offset },
        writeback: (post || word & W != 0).then_some(offset),
        unprivileged: post && word & W != 0,
    }
    .checked()
}
