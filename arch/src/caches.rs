// SPDX-License-Identifier: GPL-2.0-only
//! The shape of the caches, for walks by set and way.
//!
//! CLIDR says which levels exist and where coherency begins; CCSIDR, for the cache that CSSELR selects, how many sets and ways it
//! has. DCISW, DCCSW and DCCISW take set, way and level in one word, whose layout depends on that shape.
//!
//! Source: ARM DDI 0406C.d, B4.1 (CLIDR, CCSIDR, CSSELR), B4.2 (set/way operand).

/// CLIDR, Cache Level ID Register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct Clidr(u32);

/// What caches a level has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CacheType {
    /// None: no level above has any either.
    None,
    /// Instructions only.
    Instruction,
    /// Data only.
    Data,
    /// One for instructions, one for data.
    Separate,
    /// One for both.
    Unified,
}

impl CacheType {
    /// Whether the level holds data, so that a set/way operation has something to do.
    pub const fn has_data(self) -> bool {
        matches!(self, Self::Data | Self::Separate | Self::Unified)
    }
}

/// Levels that CLIDR can describe: 1 to 7.
pub const MAX_LEVELS: u32 = 7;

impl Clidr {
    /// The register with this value.
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    /// What level 1 to 7 has. `None` for any other number, and for reserved encodings.
    pub const fn cache_type(self, level: u32) -> CacheType {
        if level == 0 || level > MAX_LEVELS {
            return CacheType::None;
        }
        match self.0 >> (3 * (level - 1)) & 0b111 {
            0b001 => CacheType::Instruction,
            0b010 => CacheType::Data,
            0b011 => CacheType::Separate,
            0b100 => CacheType::Unified,
            _ => CacheType::None,
        }
    }

    /// Level of unification, Inner Shareable (LoUIS).
    pub const fn louis(self) -> u32 {
        self.0 >> 21 & 0b111
    }

    /// Level of coherency (LoC): caches up to and with this level must be cleaned for memory to hold the data.
    pub const fn loc(self) -> u32 {
        self.0 >> 24 & 0b111
    }

    /// Level of unification, uniprocessor (LoUU).
    pub const fn louu(self) -> u32 {
        self.0 >> 27 & 0b111
    }
}

/// CSSELR for the data or unified cache of `level` (1 to 7).
pub const fn csselr_data(level: u32) -> u32 {
    (level.wrapping_sub(1) & 0b111) << 1
}

/// CSSELR for the instruction cache of `level` (1 to 7).
pub const fn csselr_instruction(level: u32) -> u32 {
    csselr_data(level) | 1
}

/// CCSIDR, Cache Size ID Register: the shape of one cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct Ccsidr(u32);

impl Ccsidr {
    /// The register with this value.
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    const fn line_shift(self) -> u32 {
        (self.0 & 0b111) + 4
    }

    /// Bytes in a line.
    pub const fn line_bytes(self) -> u32 {
        1 << self.line_shift()
    }

    /// Ways, 1 to 1024.
    pub const fn ways(self) -> u32 {
        (self.0 >> 3 & 0x3ff) + 1
    }

    /// Sets, 1 to 32768.
    pub const fn sets(self) -> u32 {
        (self.0 >> 13 & 0x7fff) + 1
    }

    /// The operand of DCISW, DCCSW and DCCISW for a set and way of the cache at `level` (1 to 7).
    pub const fn set_way(self, level: u32, set: u32, way: u32) -> u32 {
        // The way stands at the top, in as many bits as the number of ways needs; with one way, in none.
        let way_shift = (self.ways() - 1).leading_zeros();
        let way = if way_shift >= 32 { 0 } else { way << way_shift };
        way | set << self.line_shift() | csselr_data(level)
    }

    /// The operands for every line of the cache at `level`.
    pub fn set_ways(self, level: u32) -> impl Iterator<Item = u32> {
        (0..self.ways()).flat_map(move |way| (0..self.sets()).map(move |set| self.set_way(level, set, way)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn clidr_of_cortex_a15() {
        // Level 1 separate, level 2 unified; LoUIS 1, LoC 2, LoUU 1.
        let clidr = Clidr::new(0x0a20_0023);
        assert_eq!(clidr.cache_type(1), CacheType::Separate);
        assert_eq!(clidr.cache_type(2), CacheType::Unified);
        assert_eq!(clidr.cache_type(3), CacheType::None);
        assert_eq!(clidr.cache_type(0), CacheType::None);
        assert_eq!(clidr.cache_type(8), CacheType::None);
        assert_eq!((clidr.louis(), clidr.loc(), clidr.louu()), (1, 2, 1));
    }

    #[test]
    fn ccsidr_of_cortex_a15() {
        // 32 KiB level 1 data cache: 64-byte lines, 2 ways, 256 sets. 2 MiB level 2: 16 ways, 2048 sets.
        let level1 = Ccsidr::new(0x701f_e00a);
        assert_eq!((level1.line_bytes(), level1.ways(), level1.sets()), (64, 2, 256));
        assert_eq!(level1.set_way(1, 0, 0), 0);
        assert_eq!(level1.set_way(1, 255, 1), 0x8000_3fc0);
        let level2 = Ccsidr::new(0x70ff_e07a);
        assert_eq!((level2.line_bytes(), level2.ways(), level2.sets()), (64, 16, 2048));
        assert_eq!(level2.set_way(2, 2047, 15), 0xf001_ffc2);
        assert_eq!(level2.set_ways(2).count(), 16 * 2048);
    }

    #[test]
    fn direct_mapped() {
        let cache = Ccsidr::new(0x0000_6002); // 1 way, 4 sets, 64-byte lines
        assert!(cache.set_ways(1).eq([0, 0x40, 0x80, 0xc0]));
    }

    #[test]
    fn selections() {
        assert_eq!(csselr_data(1), 0);
        assert_eq!(csselr_instruction(1), 1);
        assert_eq!(csselr_data(2), 2);
        assert_eq!(csselr_data(7), 12);
    }

    proptest! {
        #[test]
        fn every_line_has_an_operand_of_its_own(line in 0u32..4, ways in 0u32..32, sets in 0u32..128, level in 1u32..8) {
            let cache = Ccsidr::new(sets << 13 | ways << 3 | line);
            let all: BTreeSet<u32> = cache.set_ways(level).collect();
            prop_assert_eq!(all.len() as u32, cache.ways() * cache.sets());
            prop_assert!(all.iter().all(|operand| operand >> 1 & 7 == level - 1 && operand & 1 == 0));
        }

        #[test]
        fn any_shape_is_harmless(ccsidr: u32, level: u32, set: u32, way: u32, clidr: u32) {
            let _ = Ccsidr::new(ccsidr).set_way(level, set, way);
            let _ = Clidr::new(clidr).cache_type(level);
        }
    }
}
