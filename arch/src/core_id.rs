// SPDX-License-Identifier: GPL-2.0-only
//! Which core this is, and which of its errata the hypervisor must work around.
//!
//! MIDR names implementer, part and revision (`r<variant>p<revision>`); REVIDR marks errata that a given piece of silicon has
//! fixed without a new revision. Each predicate here answers for one erratum by the number under which Arm published it.
//!
//! Source: ARM DDI 0406C.d, B4.1 (MIDR); Arm's Software Developers Errata Notices of Cortex-A15 and Cortex-A7;
//! Arm's advice on CVE-2017-5715 for the branch predictors.

/// MIDR, the Main ID Register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct Midr(u32);

/// A core that the hypervisor may find itself on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Core {
    /// Cortex-A7.
    CortexA7,
    /// Cortex-A12.
    CortexA12,
    /// Cortex-A15.
    CortexA15,
    /// Cortex-A17.
    CortexA17,
    /// Broadcom Brahma-B15, a relative of Cortex-A15.
    BrahmaB15,
    /// Cortex-A32.
    CortexA32,
    /// Cortex-A35.
    CortexA35,
    /// Cortex-A53.
    CortexA53,
    /// Cortex-A55.
    CortexA55,
    /// Cortex-A57.
    CortexA57,
    /// Cortex-A72.
    CortexA72,
    /// Cortex-A73.
    CortexA73,
    /// Cortex-A75.
    CortexA75,
    /// Any other.
    Other,
}

/// A revision `r<variant>p<patch>`; ordered as they came out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Revision {
    /// The major revision, 0 to 15.
    pub variant: u8,
    /// The minor revision, 0 to 15.
    pub patch: u8,
}

impl Revision {
    /// `r<variant>p<patch>`.
    pub const fn new(variant: u8, patch: u8) -> Self {
        Self { variant, patch }
    }

    const fn before(self, variant: u8, patch: u8) -> bool {
        self.variant < variant || self.variant == variant && self.patch < patch
    }
}

/// What Cortex-A15 erratum 798181 asks for after a broadcast TLB invalidation, of VMIDs too: on affected silicon another CPU may
/// still be using the old translation when the DSB that follows ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Erratum798181 {
    /// Nothing.
    Absent,
    /// One more broadcast invalidation of any address, with its own DSB.
    DummyInvalidation,
    /// The same, and an interrupt to every other CPU that may use the translation, which there executes a DMB.
    DummyInvalidationAndInterrupt,
}

/// How a core forgets its branch history, so that a guest cannot steer what runs after it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BranchPredictor {
    /// The core does not speculate that far: nothing to do.
    NotVulnerable,
    /// BPIALL.
    Bpiall,
    /// ICIALLU, as BPIALL is a NOP there. On Cortex-A15 only with ACTLR\[0\] (enable invalidates of BTB) set by firmware.
    Iciallu,
    /// Only firmware can (SMCCC_ARCH_WORKAROUND_1).
    Firmware,
    /// Not known.
    Unknown,
}

impl Midr {
    /// The register with this value.
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    /// The value.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Who made it: 0x41 is Arm.
    pub const fn implementer(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// Which part of that maker's, 12 bits.
    pub const fn part(self) -> u16 {
        (self.0 >> 4) as u16 & 0xfff
    }

    /// Its revision.
    pub const fn revision(self) -> Revision {
        Revision::new((self.0 >> 20) as u8 & 0xf, self.0 as u8 & 0xf)
    }

    /// The core.
    pub const fn core(self) -> Core {
        match (self.implementer(), self.part()) {
            (0x41, 0xc07) => Core::CortexA7,
            (0x41, 0xc0d) => Core::CortexA12,
            (0x41, 0xc0e) => Core::CortexA17,
            (0x41, 0xc0f) => Core::CortexA15,
            (0x41, 0xd01) => Core::CortexA32,
            (0x41, 0xd03) => Core::CortexA53,
            (0x41, 0xd04) => Core::CortexA35,
            (0x41, 0xd05) => Core::CortexA55,
            (0x41, 0xd07) => Core::CortexA57,
            (0x41, 0xd08) => Core::CortexA72,
            (0x41, 0xd09) => Core::CortexA73,
            (0x41, 0xd0a) => Core::CortexA75,
            (0x42, 0x00f) => Core::BrahmaB15,
            _ => Core::Other,
        }
    }

    /// Cortex-A15 erratum 798181 (r0p0 to r3p3, Brahma-B15 r0p0 to r0p2), given the core's REVIDR.
    pub const fn erratum_798181(self, revidr: u32) -> Erratum798181 {
        use Erratum798181::{Absent, DummyInvalidation, DummyInvalidationAndInterrupt};
        let revision = self.revision();
        // REVIDR[4] marks the first fix, which left the interrupt unnecessary; REVIDR[9] its successor, which is complete.
        let (first, complete) = (revidr & 1 << 4 != 0, revidr & 1 << 9 != 0);
        match self.core() {
            Core::BrahmaB15 if revision.before(0, 3) => DummyInvalidationAndInterrupt,
            Core::CortexA15 if revision.before(2, 2) => DummyInvalidationAndInterrupt,
            Core::CortexA15 if revision.before(2, 4) && first => DummyInvalidation,
            Core::CortexA15 if revision.before(2, 4) => DummyInvalidationAndInterrupt,
            Core::CortexA15 if revision.before(4, 0) && complete => Absent,
            // r3p3 has the first fix built in, and REVIDR[4] is reserved.
            Core::CortexA15 if revision.before(3, 3) && !first => DummyInvalidationAndInterrupt,
            Core::CortexA15 if revision.before(4, 0) => DummyInvalidation,
            _ => Absent,
        }
    }

    /// Cortex-A15 erratum 766422 (r0p4): HSR.SRT of a Thumb store's data abort may name the wrong register, so that
    /// the instruction itself has to be read.
    pub const fn erratum_766422(self) -> bool {
        matches!(self.core(), Core::CortexA15) && matches!(self.revision(), Revision { variant: 0, patch: 4 })
    }

    /// Cortex-A7 erratum 814220 (r0p2 to r0p5): a set/way operation on level 2 may overtake those on level 1, so that a DSB
    /// belongs between the levels.
    pub const fn erratum_814220(self) -> bool {
        let revision = self.revision();
        matches!(self.core(), Core::CortexA7) && !revision.before(0, 2) && revision.before(0, 6)
    }

    /// How its branch predictor is to be emptied between a guest and whoever runs next.
    pub const fn branch_predictor(self) -> BranchPredictor {
        match self.core() {
            Core::CortexA7 | Core::CortexA32 | Core::CortexA35 | Core::CortexA53 | Core::CortexA55 => {
                BranchPredictor::NotVulnerable
            }
            Core::CortexA12 | Core::CortexA17 | Core::CortexA73 | Core::CortexA75 => BranchPredictor::Bpiall,
            Core::CortexA15 | Core::BrahmaB15 => BranchPredictor::Iciallu,
            Core::CortexA57 | Core::CortexA72 => BranchPredictor::Firmware,
            Core::Other => BranchPredictor::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const A15: u32 = 0x410f_c0f0;

    fn a15(variant: u32, patch: u32) -> Midr {
        Midr::new(A15 | variant << 20 | patch)
    }

    #[test]
    fn cores() {
        let known = [
            (0x410f_c075, Core::CortexA7, (0, 5)),
            (0x410f_c0d1, Core::CortexA12, (0, 1)),
            (0x412f_c0f1, Core::CortexA15, (2, 1)),
            (0x414f_c0f0, Core::CortexA15, (4, 0)),
            (0x411f_c0e1, Core::CortexA17, (1, 1)),
            (0x420f_00f3, Core::BrahmaB15, (0, 3)),
            (0x410f_d034, Core::CortexA53, (0, 4)),
            (0x411f_d070, Core::CortexA57, (1, 0)), // what QEMU's `max` reads as
            (0x413f_c090, Core::Other, (3, 0)),     // Cortex-A9: no Virtualization Extensions
        ];
        for (bits, core, (variant, patch)) in known {
            let midr = Midr::new(bits);
            assert_eq!((midr.core(), midr.revision()), (core, Revision::new(variant, patch)));
        }
    }

    #[test]
    fn revisions_are_ordered() {
        let all: Vec<Revision> = (0..16).flat_map(|v| (0..16).map(move |p| Revision::new(v, p))).collect();
        assert!(all.is_sorted());
        for (index, each) in all.iter().enumerate() {
            for (other_index, other) in all.iter().enumerate() {
                assert_eq!(each.before(other.variant, other.patch), index < other_index);
            }
        }
    }

    #[test]
    fn erratum_798181_by_revision_and_fix() {
        use Erratum798181::{Absent as No, DummyInvalidation as Part, DummyInvalidationAndInterrupt as Full};
        // Columns: no fix, REVIDR[4], REVIDR[9], both.
        let rows = [
            ((0, 0), [Full, Full, Full, Full]),
            ((2, 1), [Full, Full, Full, Full]),
            ((2, 2), [Full, Part, Full, Part]),
            ((2, 3), [Full, Part, Full, Part]),
            ((2, 4), [Full, Part, No, No]),
            ((3, 0), [Full, Part, No, No]),
            ((3, 2), [Full, Part, No, No]),
            ((3, 3), [Part, Part, No, No]),
            ((4, 0), [No, No, No, No]),
        ];
        for ((variant, patch), expected) in rows {
            for (revidr, expected) in [0, 1 << 4, 1 << 9, 1 << 9 | 1 << 4].into_iter().zip(expected) {
                let found = a15(variant, patch).erratum_798181(revidr);
                assert_eq!(found, expected, "r{variant}p{patch} {revidr:#x}");
            }
        }
        assert_eq!(Midr::new(0x420f_00f2).erratum_798181(0), Full);
        assert_eq!(Midr::new(0x420f_00f3).erratum_798181(0), No);
        assert_eq!(Midr::new(0x410f_c075).erratum_798181(0), No);
    }

    #[test]
    fn errata_of_one_revision_or_few() {
        let affected: Vec<u32> =
            (0..256).map(|n| A15 | (n >> 4) << 20 | n & 0xf).filter(|&midr| Midr::new(midr).erratum_766422()).collect();
        assert_eq!(affected, [0x410f_c0f4]);
        let affected: Vec<u32> = (0..16).filter(|patch| Midr::new(0x410f_c070 | patch).erratum_814220()).collect();
        assert_eq!(affected, [2, 3, 4, 5]);
        assert!(!Midr::new(0x411f_c072).erratum_814220());
        assert!(!a15(0, 4).erratum_814220() && !Midr::new(0x410f_c074).erratum_766422());
    }

    #[test]
    fn branch_predictors() {
        assert_eq!(Midr::new(0x412f_c0f1).branch_predictor(), BranchPredictor::Iciallu);
        assert_eq!(Midr::new(0x410f_c0d1).branch_predictor(), BranchPredictor::Bpiall);
        assert_eq!(Midr::new(0x411f_c0e1).branch_predictor(), BranchPredictor::Bpiall);
        assert_eq!(Midr::new(0x410f_c075).branch_predictor(), BranchPredictor::NotVulnerable);
        assert_eq!(Midr::new(0x411f_d070).branch_predictor(), BranchPredictor::Firmware);
        assert_eq!(Midr::new(0).branch_predictor(), BranchPredictor::Unknown);
    }
}
