// SPDX-License-Identifier: GPL-2.0-only
//! Loads and stores that hardware does not describe.
//!
//! A data abort's syndrome names register and width only of simple instructions. For those with writeback, for pairs and
//! for register lists HSR.ISV is 0, and whoever emulates the access has to read the instruction. [`decode_arm`] and
//! [`decode_thumb`] turn its bits into a [`LoadStore`]: which registers move, how wide, from where relative to a base, and what
//! becomes of the base. [`LoadStore::place`] computes the addresses from the guest's registers.
//!
//! What reads as nothing here (`None`): what is no load or store of general registers (VFP, preloads, exclusives, table
//! branches, RFE and SRS), what moves PC or the User mode bank, and what the architecture calls UNPREDICTABLE. Conditions are
//! not looked at: an instruction whose condition fails does not abort.
//!
//! Source: ARM DDI 0406C.d, A5.3 (ARM: load/store word and byte), A5.2.8 (extra load/store), A5.5 (block transfer), A6.2.4 and
//! A6.2 (16-bit Thumb), A6.3.5 to A6.3.10 (32-bit Thumb).

mod arm;
mod thumb;

pub use arm::decode_arm;
pub use thumb::{decode_thumb, is_wide};

use crate::psr::Psr;
use crate::syndrome::{AccessSize, Rt};

/// The registers that an instruction moves, in the order of rising addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Registers {
    /// One.
    One(Rt),
    /// Two words (LDRD, STRD).
    Two(Rt, Rt),
    /// Words for all whose bits are set, lowest first (LDM, STM); never empty, never bit 15.
    List(u16),
}

/// The address that an instruction's offset is added to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// A register.
    Register(Rt),
    /// PC, word-aligned: a literal.
    Pc,
}

/// How an index register is shifted before it is added (A8.4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shift {
    /// Left by 0 to 31.
    Lsl(u8),
    /// Right by 1 to 32, zeros in.
    Lsr(u8),
    /// Right by 1 to 32, sign in.
    Asr(u8),
    /// Rotated right by 1 to 31.
    Ror(u8),
    /// Rotated right by one through the carry flag.
    Rrx,
}

impl Shift {
    /// The shift of an immediate shift's two fields (DecodeImmShift).
    const fn decode(kind: u32, amount: u32) -> Self {
        let amount = (amount & 0x1f) as u8;
        let right = if amount == 0 { 32 } else { amount };
        match kind & 0b11 {
            0b00 => Self::Lsl(amount),
            0b01 => Self::Lsr(right),
            0b10 => Self::Asr(right),
            _ if amount == 0 => Self::Rrx,
            _ => Self::Ror(amount),
        }
    }

    const fn apply(self, value: u32, carry: bool) -> u32 {
        match self {
            Self::Lsl(by) => value.wrapping_shl(by as u32),
            Self::Lsr(by) if by >= 32 => 0,
            Self::Lsr(by) => value.wrapping_shr(by as u32),
            // Shifting out all 32 bits leaves the sign, as shifting out 31 does.
            Self::Asr(by) => (value as i32).wrapping_shr(if by > 31 { 31 } else { by as u32 }) as u32,
            Self::Ror(by) => value.rotate_right(by as u32),
            Self::Rrx => value >> 1 | (carry as u32) << 31,
        }
    }
}

/// What is added to a base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offset {
    /// So many bytes.
    Immediate(i32),
    /// A shifted register, added or subtracted.
    Register {
        /// The register.
        rm: Rt,
        /// How it is shifted.
        shift: Shift,
        /// Subtracted, not added.
        subtract: bool,
    },
}

impl Offset {
    /// No offset.
    pub const ZERO: Self = Self::Immediate(0);

    fn add_to(self, base: u32, registers: impl Fn(Rt) -> u32, cpsr: Psr) -> u32 {
        match self {
            Self::Immediate(bytes) => base.wrapping_add_signed(bytes),
            Self::Register { rm, shift, subtract } => {
                let value = shift.apply(registers(rm), cpsr.contains(Psr::C));
                if subtract { base.wrapping_sub(value) } else { base.wrapping_add(value) }
            }
        }
    }
}

/// A load or store of general registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoadStore {
    /// Load, not store.
    pub load: bool,
    /// Width of each access.
    pub size: AccessSize,
    /// A load extends the sign to 32 bits.
    pub sign_extend: bool,
    /// What is loaded or stored.
    pub registers: Registers,
    /// Where addresses are counted from.
    pub base: Base,
    /// The first access is at the base plus this.
    pub offset: Offset,
    /// Afterwards the base register becomes its old value plus this. `None`: it stays. A base that is [`Base::Pc`], or that is
    /// itself loaded, is never written back.
    pub writeback: Option<Offset>,
    /// The access has User mode's rights (LDRT and its like).
    pub unprivileged: bool,
}

/// Where an instruction's accesses are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The virtual address of the first access.
    pub address: u32,
    /// The base register and its new value, to be written once all accesses are done.
    pub writeback: Option<(Rt, u32)>,
}

/// One access of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// The register loaded or stored.
    pub rt: Rt,
    /// Bytes from the first access.
    pub offset: u32,
}

impl LoadStore {
    /// The accesses in the order of rising addresses: at least one, at most fifteen.
    pub fn accesses(self) -> impl Iterator<Item = Access> {
        let (pair, mut list) = match self.registers {
            Registers::One(rt) => ([Some(rt), None], 0),
            Registers::Two(rt, rt2) => ([Some(rt), Some(rt2)], 0),
            Registers::List(list) => ([None, None], list),
        };
        let listed = core::iter::from_fn(move || {
            let lowest = Rt::new(list.trailing_zeros()).filter(|_| list != 0)?;
            list &= list - 1;
            Some(lowest)
        });
        let all = pair.into_iter().flatten().chain(listed);
        all.zip(0..).map(|(rt, index)| Access { rt, offset: index * 4 })
    }

    /// The addresses, from the guest's general registers, the instruction's address and the guest's CPSR.
    pub fn place(self, registers: impl Fn(Rt) -> u32, pc: u32, cpsr: Psr) -> Placed {
        let base = match self.base {
            Base::Register(rn) => registers(rn),
            Base::Pc => pc.wrapping_add(if cpsr.contains(Psr::T) { 4 } else { 8 }) & !0b11,
        };
        let writeback = match (self.base, self.writeback) {
            (Base::Register(rn), Some(offset)) => Some((rn, offset.add_to(base, &registers, cpsr))),
            _ => None,
        };
        Placed { address: self.offset.add_to(base, &registers, cpsr), writeback }
    }

    /// The instruction, unless its parts contradict each other in a way that makes it UNPREDICTABLE: a written-back base
    /// that is PC, is also loaded, or is stored after it changed; a pair that loads one register twice.
    fn checked(self) -> Option<Self> {
        if let (Registers::Two(rt, rt2), true) = (self.registers, self.load)
            && rt == rt2
        {
            return None;
        }
        if self.writeback.is_none() {
            return Some(self);
        }
        let Base::Register(rn) = self.base else {
            return None;
        };
        let clash = match self.registers {
            Registers::One(rt) => rt == rn,
            Registers::Two(rt, rt2) => rt == rn || rt2 == rn,
            // STM stores the old value if the base is the lowest register of the list, and an UNKNOWN one otherwise.
            Registers::List(list) => {
                list & 1 << rn.index() != 0 && (self.load || list.trailing_zeros() as usize != rn.index())
            }
        };
        if clash { None } else { Some(self) }
    }
}

/// LDM or STM: from the base upwards or downwards, the base's own word first (`after`) or not.
fn multiple(load: bool, rn: Rt, list: u16, up: bool, after: bool, write_back: bool) -> Option<LoadStore> {
    if list == 0 || list & 1 << 15 != 0 {
        return None;
    }
    let size = list.count_ones() as i32 * 4;
    let first = match (up, after) {
        (true, true) => 0,
        (true, false) => 4,
        (false, true) => 4 - size,
        (false, false) => -size,
    };
    LoadStore {
        load,
        size: AccessSize::Word,
        sign_extend: false,
        registers: Registers::List(list),
        base: Base::Register(rn),
        offset: Offset::Immediate(first),
        writeback: write_back.then_some(Offset::Immediate(if up { size } else { -size })),
        unprivileged: false,
    }
    .checked()
}

const fn signed(bytes: u32, add: bool) -> i32 {
    // At most 4095: the sign fits.
    if add { bytes as i32 } else { -(bytes as i32) }
}

#[cfg(test)]
mod tests;
