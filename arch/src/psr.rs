// SPDX-License-Identifier: GPL-2.0-only
//! The program status registers: CPSR and its saved copies.
//!
//! Source: ARM DDI 0406C.d, B1.3.1 (modes), B1.3.3 (PSR format), A2.5.2 (ITSTATE).

use bitflags::bitflags;

bitflags! {
    /// Bits of CPSR and SPSR; the mode field is [`Mode`], ITSTATE has [`it_state`](Self::it_state).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Psr: u32 {
        /// The mode field.
        const M = 0x1f;
        /// Thumb state (with J clear).
        const T = 1 << 5;
        /// FIQs are masked.
        const F = 1 << 6;
        /// IRQs are masked.
        const I = 1 << 7;
        /// Asynchronous aborts are masked.
        const A = 1 << 8;
        /// Data accesses are big-endian.
        const E = 1 << 9;
        /// Greater than or equal flags.
        const GE = 0xf << 16;
        /// Jazelle state, or with T ThumbEE state.
        const J = 1 << 24;
        /// Cumulative saturation.
        const Q = 1 << 27;
        /// Overflow.
        const V = 1 << 28;
        /// Carry.
        const C = 1 << 29;
        /// Zero.
        const Z = 1 << 30;
        /// Negative.
        const N = 1 << 31;

        const _ = !0;
    }
}

impl Psr {
    /// Where ITSTATE's two pieces stand: IT\[1:0\] in \[26:25\], IT\[7:2\] in \[15:10\].
    pub const IT: Self = Self::from_bits_retain(0b11 << 25 | 0x3f << 10);
    /// A, I and F: everything that can be masked is.
    pub const MASKED: Self = Self::A.union(Self::I).union(Self::F);

    /// A status word with nothing but this mode.
    pub const fn in_mode(mode: Mode) -> Self {
        Self::from_bits_retain(mode as u32)
    }

    /// The same status in another mode.
    pub const fn with_mode(self, mode: Mode) -> Self {
        Self::from_bits_retain(self.bits() & !Self::M.bits() | mode as u32)
    }

    /// ITSTATE: the condition base in \[7:5\], the mask in \[4:0\]; zero outside an IT block.
    pub const fn it_state(self) -> u8 {
        ((self.bits() >> 8) as u8 & 0xfc) | ((self.bits() >> 25) as u8 & 0x3)
    }

    /// The same status with another ITSTATE.
    pub const fn with_it_state(self, it: u8) -> Self {
        let it = it as u32;
        Self::from_bits_retain(self.bits() & !Self::IT.bits() | (it & 0xfc) << 8 | (it & 0x3) << 25)
    }
}

/// A processor mode; the number is the mode field's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Mode {
    /// User, PL0.
    User = 0x10,
    /// FIQ.
    Fiq = 0x11,
    /// IRQ.
    Irq = 0x12,
    /// Supervisor.
    Svc = 0x13,
    /// Monitor, Secure state only.
    Mon = 0x16,
    /// Abort.
    Abt = 0x17,
    /// Hyp, PL2.
    Hyp = 0x1a,
    /// Undefined.
    Und = 0x1b,
    /// System: PL1 with User mode's registers.
    Sys = 0x1f,
}

impl Mode {
    /// All nine.
    pub const ALL: [Self; 9] =
        [Self::User, Self::Fiq, Self::Irq, Self::Svc, Self::Mon, Self::Abt, Self::Hyp, Self::Und, Self::Sys];

    /// The mode that a status word names. `None`: a reserved encoding.
    pub const fn from_psr(psr: u32) -> Option<Self> {
        Some(match psr & Psr::M.bits() {
            0x10 => Self::User,
            0x11 => Self::Fiq,
            0x12 => Self::Irq,
            0x13 => Self::Svc,
            0x16 => Self::Mon,
            0x17 => Self::Abt,
            0x1a => Self::Hyp,
            0x1b => Self::Und,
            0x1f => Self::Sys,
            _ => return None,
        })
    }

    /// Whether a guest can be in it: Non-secure PL1 or PL0. An ERET from Hyp mode to any other is UNPREDICTABLE.
    pub const fn is_guest(self) -> bool {
        !matches!(self, Self::Mon | Self::Hyp)
    }

    /// Whether it runs at PL0.
    pub const fn is_user(self) -> bool {
        matches!(self, Self::User)
    }

    /// Whether the mode has an SPSR and a banked LR of its own (Hyp's is ELR_hyp).
    pub const fn has_spsr(self) -> bool {
        !matches!(self, Self::User | Self::Sys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn modes_are_found_by_their_number_and_no_other() {
        let found = (0..0x20).filter_map(Mode::from_psr).count();
        assert_eq!(found, Mode::ALL.len());
        for mode in Mode::ALL {
            assert_eq!(Mode::from_psr(mode as u32), Some(mode));
            assert_eq!(Mode::from_psr(0xffff_ffe0 | mode as u32), Some(mode));
        }
        assert_eq!(Mode::from_psr(0), None); // a 26-bit mode of old
    }

    #[test]
    fn it_state_pieces() {
        assert_eq!(Psr::empty().with_it_state(0b0000_0011).bits(), 0x0600_0000);
        assert_eq!(Psr::empty().with_it_state(0b1111_1100).bits(), 0x0000_fc00);
    }

    proptest! {
        #[test]
        fn it_state_is_kept_and_touches_nothing_else(bits: u32, it: u8) {
            let old = Psr::from_bits_retain(bits);
            let new = old.with_it_state(it);
            prop_assert_eq!(new.it_state(), it);
            prop_assert_eq!(new.bits() & !Psr::IT.bits(), bits & !Psr::IT.bits());
            prop_assert_eq!(new.with_it_state(old.it_state()), old);
        }

        #[test]
        fn mode_is_kept_and_touches_nothing_else(bits: u32, index in 0usize..9) {
            let new = Psr::from_bits_retain(bits).with_mode(Mode::ALL[index]);
            prop_assert_eq!(Mode::from_psr(new.bits()), Some(Mode::ALL[index]));
            prop_assert_eq!(new.bits() & !0x1f, bits & !0x1f);
        }
    }
}
