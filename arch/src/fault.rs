// SPDX-License-Identifier: GPL-2.0-only
//! Fault status codes: what kind of fault an abort was.
//!
//! The same faults have two encodings. HSR always uses the long-descriptor one; a guest's DFSR and IFSR use the format that its
//! TTBCR.EAE selects. [`FaultStatus`] is the meaning, with a function for each direction that is needed.
//!
//! Source: ARM DDI 0406C.d, B3.13.3 (short format, table B3-23), B3.13.4 (long format, table B3-24), B3.13.6 (HSR).

use crate::long_descriptor::Level;

/// Why an access aborted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FaultStatus {
    /// An output address beyond what is implemented. Armv8 cores in AArch32 only; level 0 means the base register.
    AddressSize(Option<Level>),
    /// Nothing mapped.
    Translation(Level),
    /// The access flag is clear.
    AccessFlag(Level),
    /// Mapped, but not for this.
    Permission(Level),
    /// A domain fault, which the long format reports in PAR only.
    Domain(Level),
    /// Synchronous external abort of the access itself.
    SyncExternal,
    /// Synchronous external abort of a translation table walk.
    SyncExternalOnWalk(Level),
    /// Synchronous parity error of the access itself.
    SyncParity,
    /// Synchronous parity error of a translation table walk.
    SyncParityOnWalk(Level),
    /// Asynchronous external abort.
    AsyncExternal,
    /// Asynchronous parity error.
    AsyncParity,
    /// Misaligned access to memory that forbids it.
    Alignment,
    /// Debug event.
    Debug,
    /// Two TLB entries for one address: break before make was violated.
    TlbConflict,
    /// IMPLEMENTATION DEFINED: lockdown.
    Lockdown,
    /// IMPLEMENTATION DEFINED: coprocessor abort.
    Coprocessor,
    /// A code that the architecture reserves; its six bits.
    Reserved(u8),
}

impl FaultStatus {
    /// The meaning of a six-bit code in the long-descriptor encoding.
    pub const fn from_long(code: u32) -> Self {
        let code = code & 0x3f;
        let reserved = Self::Reserved(code as u8);
        match (code >> 2, Level::new(code & 0b11)) {
            (0b0000, level) => Self::AddressSize(level),
            (0b0001, Some(level)) => Self::Translation(level),
            (0b0010, Some(level)) => Self::AccessFlag(level),
            (0b0011, Some(level)) => Self::Permission(level),
            (0b0101, Some(level)) => Self::SyncExternalOnWalk(level),
            (0b0111, Some(level)) => Self::SyncParityOnWalk(level),
            (0b1111, Some(level)) if !matches!(level, Level::Three) => Self::Domain(level),
            _ => match code {
                0b01_0000 => Self::SyncExternal,
                0b01_1000 => Self::SyncParity,
                0b01_0001 => Self::AsyncExternal,
                0b01_1001 => Self::AsyncParity,
                0b10_0001 => Self::Alignment,
                0b10_0010 => Self::Debug,
                0b11_0000 => Self::TlbConflict,
                0b11_0100 => Self::Lockdown,
                0b11_1010 => Self::Coprocessor,
                _ => reserved,
            },
        }
    }

    /// The six-bit code in the long-descriptor encoding.
    pub const fn to_long(self) -> u32 {
        match self {
            Self::AddressSize(Some(level)) => level as u32,
            Self::AddressSize(None) => 0,
            Self::Translation(level) => 0b00_0100 | level as u32,
            Self::AccessFlag(level) => 0b00_1000 | level as u32,
            Self::Permission(level) => 0b00_1100 | level as u32,
            Self::SyncExternalOnWalk(level) => 0b01_0100 | level as u32,
            Self::SyncParityOnWalk(level) => 0b01_1100 | level as u32,
            Self::Domain(level) => 0b11_1100 | level as u32,
            Self::SyncExternal => 0b01_0000,
            Self::SyncParity => 0b01_1000,
            Self::AsyncExternal => 0b01_0001,
            Self::AsyncParity => 0b01_1001,
            Self::Alignment => 0b10_0001,
            Self::Debug => 0b10_0010,
            Self::TlbConflict => 0b11_0000,
            Self::Lockdown => 0b11_0100,
            Self::Coprocessor => 0b11_1010,
            Self::Reserved(code) => code as u32 & 0x3f,
        }
    }

    /// The five-bit code FS\[4:0\] in the short-descriptor encoding. `None`: the short format has no such fault (a third
    /// level, address size, reserved codes).
    pub const fn to_short(self) -> Option<u32> {
        Some(match self {
            Self::Alignment => 0b0_0001,
            Self::Debug => 0b0_0010,
            Self::AccessFlag(Level::One) => 0b0_0011,
            Self::AccessFlag(Level::Two) => 0b0_0110,
            Self::Translation(Level::One) => 0b0_0101,
            Self::Translation(Level::Two) => 0b0_0111,
            Self::SyncExternal => 0b0_1000,
            Self::Domain(Level::One) => 0b0_1001,
            Self::Domain(Level::Two) => 0b0_1011,
            Self::SyncExternalOnWalk(Level::One) => 0b0_1100,
            Self::SyncExternalOnWalk(Level::Two) => 0b0_1110,
            Self::Permission(Level::One) => 0b0_1101,
            Self::Permission(Level::Two) => 0b0_1111,
            Self::TlbConflict => 0b1_0000,
            Self::Lockdown => 0b1_0100,
            Self::AsyncExternal => 0b1_0110,
            Self::AsyncParity => 0b1_1000,
            Self::SyncParity => 0b1_1001,
            Self::Coprocessor => 0b1_1010,
            Self::SyncParityOnWalk(Level::One) => 0b1_1100,
            Self::SyncParityOnWalk(Level::Two) => 0b1_1110,
            _ => return None,
        })
    }

    /// Whether it is a fault of the translation tables that mapping, or granting a right, cures.
    pub const fn is_curable(self) -> bool {
        matches!(self, Self::Translation(_) | Self::AccessFlag(_) | Self::Permission(_))
    }

    /// The level at which translation failed, for faults that have one.
    pub const fn level(self) -> Option<Level> {
        match self {
            Self::AddressSize(level) => level,
            Self::Translation(level)
            | Self::AccessFlag(level)
            | Self::Permission(level)
            | Self::Domain(level)
            | Self::SyncExternalOnWalk(level)
            | Self::SyncParityOnWalk(level) => Some(level),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn long_codes_survive_the_round_trip() {
        for code in 0..64 {
            assert_eq!(FaultStatus::from_long(code).to_long(), code);
            assert_eq!(FaultStatus::from_long(code | 0xffff_ffc0), FaultStatus::from_long(code));
        }
    }

    #[test]
    fn long_codes_of_table_b3_24() {
        let table = [
            (0b00_0101, FaultStatus::Translation(Level::One)),
            (0b00_0110, FaultStatus::Translation(Level::Two)),
            (0b00_0111, FaultStatus::Translation(Level::Three)),
            (0b00_1001, FaultStatus::AccessFlag(Level::One)),
            (0b00_1011, FaultStatus::AccessFlag(Level::Three)),
            (0b00_1101, FaultStatus::Permission(Level::One)),
            (0b00_1111, FaultStatus::Permission(Level::Three)),
            (0b01_0000, FaultStatus::SyncExternal),
            (0b01_0001, FaultStatus::AsyncExternal),
            (0b01_0110, FaultStatus::SyncExternalOnWalk(Level::Two)),
            (0b01_1000, FaultStatus::SyncParity),
            (0b01_1001, FaultStatus::AsyncParity),
            (0b01_1101, FaultStatus::SyncParityOnWalk(Level::One)),
            (0b10_0001, FaultStatus::Alignment),
            (0b10_0010, FaultStatus::Debug),
            (0b11_0000, FaultStatus::TlbConflict),
            (0b11_0100, FaultStatus::Lockdown),
            (0b11_1010, FaultStatus::Coprocessor),
            (0b11_1101, FaultStatus::Domain(Level::One)),
            (0b11_1110, FaultStatus::Domain(Level::Two)),
        ];
        for (code, meaning) in table {
            assert_eq!(FaultStatus::from_long(code), meaning, "{code:#08b}");
        }
        for code in [0b00_0100, 0b00_1000, 0b00_1100, 0b01_0100, 0b01_1100, 0b11_1100, 0b11_1111, 0b10_0000] {
            assert_eq!(FaultStatus::from_long(code), FaultStatus::Reserved(code as u8));
        }
    }

    #[test]
    fn short_codes_are_distinct_and_those_of_table_b3_23() {
        let all: BTreeSet<u32> = (0..64).filter_map(|code| FaultStatus::from_long(code).to_short()).collect();
        // Table B3-23 without instruction cache maintenance (0b00100), which the long format does not have.
        let expected = [
            0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10, 0x14, 0x16, 0x18, 0x19,
            0x1a, 0x1c, 0x1e,
        ];
        assert_eq!(all, BTreeSet::from(expected));
        assert_eq!((0..64).filter(|&code| FaultStatus::from_long(code).to_short().is_some()).count(), all.len());
    }
}
