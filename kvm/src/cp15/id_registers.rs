// SPDX-License-Identifier: GPL-2.0-only
//! What the hardware says of itself.
//!
//! Guests read these registers without a trap and so see the host's own; a process reads them to learn what it virtualizes,
//! and may write nothing but what is there: a VM that moves to another machine must find the same core.
//!
//! Source: ARM DDI 0406C.d, B4.1 (each register); Documentation/virt/kvm/api.rst of Linux 5.6, section 4.68.

use super::Name;
use arch::caches::{CacheType, Clidr};
use arch::cp15::reg;

/// How many caches CSSELR can name: instruction, or data and unified, on seven levels.
pub const CACHES: usize = 14;

/// The identification registers of the host's cores, read once. Also the host's values of those from which a vCPU's are made.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct IdRegisters {
    /// MIDR.
    pub midr: u32,
    /// CTR.
    pub ctr: u32,
    /// TCMTR.
    pub tcmtr: u32,
    /// TLBTR.
    pub tlbtr: u32,
    /// REVIDR.
    pub revidr: u32,
    /// ID_PFR0 and ID_PFR1.
    pub id_pfr: [u32; 2],
    /// ID_DFR0.
    pub id_dfr0: u32,
    /// ID_AFR0.
    pub id_afr0: u32,
    /// ID_MMFR0 to ID_MMFR3.
    pub id_mmfr: [u32; 4],
    /// ID_ISAR0 to ID_ISAR5.
    pub id_isar: [u32; 6],
    /// CLIDR.
    pub clidr: u32,
    /// AIDR.
    pub aidr: u32,
    /// CCSIDR for each value of CSSELR; what [`Self::has_cache`] denies is never looked at.
    pub ccsidr: [u32; CACHES],
    /// VFP and NEON. `None`: the guest has none, because the core has none or the host does not use it.
    pub vfp: Option<VfpIds>,
    /// The MPIDR of any core: its upper two bits become every vCPU's.
    pub mpidr: u32,
    /// The host's ACTLR.
    pub actlr: u32,
    /// The host's L2CTLR; 0 on a core without one.
    pub l2ctlr: u32,
}

/// The identification registers of VFP and NEON.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct VfpIds {
    /// FPSID.
    pub fpsid: u32,
    /// MVFR0.
    pub mvfr0: u32,
    /// MVFR1.
    pub mvfr1: u32,
}

impl VfpIds {
    /// How many double-precision registers there are: 32, or 16 (MVFR0.A_SIMD_registers, B6.1.42).
    pub const fn doubles(&self) -> u8 {
        if self.mvfr0 & 0xf == 2 { 32 } else { 16 }
    }
}

/// An identification register: its name and where it stands.
type Row = (Name, fn(&IdRegisters) -> u32);

/// Those that a process sees, in the order in which it is told of them.
pub const TABLE: [Row; 21] = [
    (Name::Word(reg::MIDR), |id| id.midr),
    (Name::Word(reg::CTR), |id| id.ctr),
    (Name::Word(reg::TCMTR), |id| id.tcmtr),
    (Name::Word(reg::TLBTR), |id| id.tlbtr),
    (Name::Word(reg::REVIDR), |id| id.revidr),
    (Name::Word(reg::CLIDR), |id| id.clidr),
    (Name::Word(reg::AIDR), |id| id.aidr),
    (Name::Word(reg::ID_PFR0), |id| id.id_pfr[0]),
    (Name::Word(reg::ID_PFR1), |id| id.id_pfr[1]),
    (Name::Word(reg::ID_DFR0), |id| id.id_dfr0),
    (Name::Word(reg::ID_AFR0), |id| id.id_afr0),
    (Name::Word(reg::ID_MMFR0), |id| id.id_mmfr[0]),
    (Name::Word(reg::ID_MMFR1), |id| id.id_mmfr[1]),
    (Name::Word(reg::ID_MMFR2), |id| id.id_mmfr[2]),
    (Name::Word(reg::ID_MMFR3), |id| id.id_mmfr[3]),
    (Name::Word(reg::ID_ISAR0), |id| id.id_isar[0]),
    (Name::Word(reg::ID_ISAR1), |id| id.id_isar[1]),
    (Name::Word(reg::ID_ISAR2), |id| id.id_isar[2]),
    (Name::Word(reg::ID_ISAR3), |id| id.id_isar[3]),
    (Name::Word(reg::ID_ISAR4), |id| id.id_isar[4]),
    (Name::Word(reg::ID_ISAR5), |id| id.id_isar[5]),
];

impl IdRegisters {
    /// The value of an identification register. `None`: `name` is not one.
    pub fn get(&self, name: Name) -> Option<u32> {
        let (_, value) = TABLE.iter().find(|(known, _)| *known == name)?;
        Some(value(self))
    }

    /// Whether there is a cache that `csselr` names: bit 0 instruction, bits \[3:1\] the level from 0.
    pub fn has_cache(&self, csselr: u8) -> bool {
        if usize::from(csselr) >= CACHES {
            return false;
        }
        let clidr = Clidr::new(self.clidr);
        let (level, instruction) = (u32::from(csselr >> 1) + 1, csselr & 1 == 1);
        // The first level that has none ends the hierarchy, whatever those behind it say.
        if (1..level).any(|inner| clidr.cache_type(inner) == CacheType::None) {
            return false;
        }
        match clidr.cache_type(level) {
            CacheType::None => false,
            CacheType::Instruction => instruction,
            CacheType::Data | CacheType::Unified => !instruction,
            CacheType::Separate => true,
        }
    }

    /// CCSIDR of a cache. `None`: there is none of that name.
    pub fn cache_size(&self, csselr: u8) -> Option<u32> {
        self.ccsidr.get(usize::from(csselr)).copied().filter(|_| self.has_cache(csselr))
    }
}
