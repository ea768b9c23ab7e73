// SPDX-License-Identifier: GPL-2.0-only
//! The Thumb instruction set's encodings.

use super::{Base, LoadStore, Offset, Registers, Shift, multiple, signed};
use crate::syndrome::{AccessSize, Rt};

/// Whether a Thumb instruction that begins with this halfword has a second one (A6.1).
pub const fn is_wide(first: u16) -> bool {
    first >> 11 >= 0b11101
}

/// Decodes a Thumb instruction; `second` is only looked at where [`is_wide`]. `None`: see the parent module's head.
pub fn decode_thumb(first: u16, second: u16) -> Option<LoadStore> {
    if is_wide(first) { wide(u32::from(first), u32::from(second)) } else { narrow(u32::from(first)) }
}

fn simple(load: bool, size: AccessSize, sign_extend: bool, rt: Rt, base: Base, offset: Offset) -> LoadStore {
    LoadStore {
        load,
        size,
        sign_extend,
        registers: Registers::One(rt),
        base,
        offset,
        writeback: None,
        unprivileged: false,
    }
}

/// A register that three bits name.
const fn low(bits: u32) -> Option<Rt> {
    Rt::new(bits & 0b111)
}

fn narrow(bits: u32) -> Option<LoadStore> {
    use AccessSize::{Byte, Halfword, Word};
    let sp = Rt::new(13)?;
    let list = (bits & 0xff) as u16;
    let load = bits & 1 << 11 != 0;
    let immediate = |size: AccessSize| {
        let offset = Offset::Immediate(((bits >> 6 & 0x1f) * size.bytes()) as i32);
        Some(simple(load, size, false, low(bits)?, Base::Register(low(bits >> 3)?), offset))
    };
    let words = Offset::Immediate((bits & 0xff) as i32 * 4);
    match bits >> 12 {
        0b0100 if load => Some(simple(true, Word, false, low(bits >> 8)?, Base::Pc, words)),
        0b0101 => {
            let (load, size, sign_extend) = match bits >> 9 & 0b111 {
                0b000 => (false, Word, false),
                0b001 => (false, Halfword, false),
                0b010 => (false, Byte, false),
                0b011 => (true, Byte, true),
                0b100 => (true, Word, false),
                0b101 => (true, Halfword, false),
                0b110 => (true, Byte, false),
                _ => (true, Halfword, true),
            };
            let offset = Offset::Register { rm: low(bits >> 6)?, shift: Shift::Lsl(0), subtract: false };
            let base = Base::Register(low(bits >> 3)?);
            Some(simple(load, size, sign_extend, low(bits)?, base, offset))
        }
        0b0110 => immediate(Word),
        0b0111 => immediate(Byte),
        0b1000 => immediate(Halfword),
        0b1001 => Some(simple(load, Word, false, low(bits >> 8)?, Base::Register(sp), words)),
        // PUSH and POP; bit 8 adds LR to the one and PC, which is refused, to the other.
        0b1011 if bits & 0x0e00 == 0x0400 => {
            multiple(false, sp, list | (bits as u16 & 1 << 8) << 6, false, false, true)
        }
        0b1011 if bits & 0x0e00 == 0x0c00 => multiple(true, sp, list | (bits as u16 & 1 << 8) << 7, true, true, true),
        0b1100 => {
            let rn = low(bits >> 8)?;
            let loads_base = load && list & 1 << rn.index() != 0;
            multiple(load, rn, list, true, true, !loads_base)
        }
        _ => None,
    }
}

fn wide(first: u32, second: u32) -> Option<LoadStore> {
    let load = first & 1 << 4 != 0;
    let write_back = first & 1 << 5 != 0;
    match first >> 9 {
        0b111_0100 if first & 1 << 6 != 0 => pair(first, second, load),
        0b111_0100 => {
            let (up, after) = match first >> 7 & 0b11 {
                0b01 => (true, true),
                0b10 => (false, false),
                _ => return None, // SRS, RFE
            };
            // Bit 13 is SP, which must not be in a list; one register alone is UNPREDICTABLE.
            if second & 1 << 13 != 0 || second.count_ones() < 2 {
                return None;
            }
            multiple(load, Rt::new(first)?, second as u16, up, after, write_back)
        }
        0b111_1100 => single(first, second, load),
        _ => None,
    }
}

/// LDRD and STRD (immediate, literal), among the exclusives and table branches, which have P and W clear.
fn pair(first: u32, second: u32, load: bool) -> Option<LoadStore> {
    let (pre, up, write_back) = (first & 1 << 8 != 0, first & 1 << 7 != 0, first & 1 << 5 != 0);
    if !pre && !write_back {
        return None;
    }
    let base = match Rt::new(first) {
        Some(rn) => Base::Register(rn),
        None if load => Base::Pc,
        None => return None,
    };
    let offset = Offset::Immediate(signed((second & 0xff) * 4, up));
    LoadStore {
        load,
        size: AccessSize::Word,
        sign_extend: false,
        registers: Registers::Two(general(second >> 12)?, general(second >> 8)?),
        base,
        offset: if pre { offset } else { Offset::ZERO },
        writeback: write_back.then_some(offset),
        unprivileged: false,
    }
    .checked()
}

/// A register that an instruction names where SP and PC are UNPREDICTABLE.
const fn general(bits: u32) -> Option<Rt> {
    match bits & 0xf {
        13 => None,
        number => Rt::new(number),
    }
}

/// Single words, halfwords and bytes (A6.3.7 to A6.3.10).
fn single(first: u32, second: u32, load: bool) -> Option<LoadStore> {
    let sign_extend = first & 1 << 8 != 0;
    let size = match first >> 5 & 0b11 {
        0b00 => AccessSize::Byte,
        0b01 => AccessSize::Halfword,
        0b10 if !sign_extend => AccessSize::Word,
        _ => return None,
    };
    if sign_extend && !load {
        return None; // element and structure load/store: NEON
    }
    // Loading PC is a branch, or for narrower widths a preload.
    let rt = match size {
        AccessSize::Word => Rt::new(second >> 12)?,
        AccessSize::Byte | AccessSize::Halfword => general(second >> 12)?,
    };
    let up = first & 1 << 7 != 0;
    let Some(rn) = Rt::new(first) else {
        let offset = Offset::Immediate(signed(second & 0xfff, up));
        return load.then_some(simple(true, size, sign_extend, rt, Base::Pc, offset));
    };
    let with = |offset| simple(load, size, sign_extend, rt, Base::Register(rn), offset);
    if up {
        return Some(with(Offset::Immediate(signed(second & 0xfff, true))));
    }
    if second & 0x800 == 0 {
        if second & 0x7c0 != 0 {
            return None;
        }
        let shift = Shift::Lsl((second >> 4 & 0b11) as u8);
        return Some(with(Offset::Register { rm: general(second)?, shift, subtract: false }));
    }
    let (pre, up, write_back) = (second & 1 << 10 != 0, second & 1 << 9 != 0, second & 1 << 8 != 0);
    let offset = Offset::Immediate(signed(second & 0xff, up));
    match (pre, write_back) {
        (false, false) => None,
        (true, false) => Some(LoadStore { unprivileged: up, ..with(offset) }),
        (true, true) => LoadStore { writeback: Some(offset), ..with(offset) }.checked(),
        (false, true) => LoadStore { writeback: Some(offset), ..with(Offset::ZERO) }.checked(),
    }
}
