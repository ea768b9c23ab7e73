// SPDX-License-Identifier: GPL-2.0-only
//! Names of coprocessor registers, and the two encodings that they travel in.
//!
//! An MRC or MCR names a register by four numbers, an MRRC or MCRR by two. A trapped access carries them in HSR's ISS
//! (B3.13.6); a KVM client names the registers of CP15 by a 64-bit id (`KVM_REG_ARM | size | 0x000F << 16 | numbers`). CP14, the debug
//! and trace registers, uses the same numbers in a space of its own: `dbg` has those names.
//!
//! Source: ARM DDI 0406C.d, B3.17 (tables of CP15 registers), B8.1 (timers), C11 (debug registers), C12
//! (performance monitors); Cortex-A7 and Cortex-A15 TRMs for L2CTLR and L2ECTLR; ARM IHI 0069 for ICC_*.

/// A 32-bit coprocessor register, as an MRC names it: `MRC p15, opc1, Rt, c<crn>, c<crm>, opc2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cp15 {
    /// Primary register, 0 to 15.
    pub crn: u8,
    /// 0 to 7.
    pub opc1: u8,
    /// Secondary register, 0 to 15.
    pub crm: u8,
    /// 0 to 7.
    pub opc2: u8,
}

/// A 64-bit coprocessor register, as an MRRC names it: `MRRC p15, opc1, Rt, Rt2, c<crm>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cp15Wide {
    /// 0 to 15.
    pub opc1: u8,
    /// The register, 0 to 15.
    pub crm: u8,
}

impl Cp15 {
    /// The register in the order in which the manual's tables sort: CRn, opc1, CRm, opc2. Higher bits are cut off.
    pub const fn new(crn: u8, opc1: u8, crm: u8, opc2: u8) -> Self {
        Self { crn: crn & 0xf, opc1: opc1 & 0x7, crm: crm & 0xf, opc2: opc2 & 0x7 }
    }

    /// The register that the ISS of a trapped MRC or MCR names.
    pub const fn from_iss(iss: u32) -> Self {
        Self::new((iss >> 10) as u8, (iss >> 14) as u8, (iss >> 1) as u8, (iss >> 17) as u8)
    }

    /// The fields of an ISS that name the register: the opposite of [`Self::from_iss`].
    pub const fn to_iss(self) -> u32 {
        (self.opc2 as u32) << 17 | (self.opc1 as u32) << 14 | (self.crn as u32) << 10 | (self.crm as u32) << 1
    }

    /// The low 16 bits of a KVM register id: CRn \[14:11\], CRm \[10:7\], opc1 \[6:3\], opc2 \[2:0\].
    pub const fn to_one_reg(self) -> u16 {
        (self.crn as u16) << 11 | (self.crm as u16) << 7 | (self.opc1 as u16) << 3 | self.opc2 as u16
    }

    /// The register of the low 16 bits of a KVM register id. `None`: a bit is set that no register has.
    pub const fn from_one_reg(id: u16) -> Option<Self> {
        // opc1 has four bits of room there, as an MCRR's needs them; an MRC's has three.
        if id & (1 << 15 | 1 << 6) != 0 {
            return None;
        }
        Some(Self::new((id >> 11) as u8, (id >> 3) as u8, (id >> 7) as u8, id as u8))
    }
}

impl Cp15Wide {
    /// The register; higher bits are cut off.
    pub const fn new(opc1: u8, crm: u8) -> Self {
        Self { opc1: opc1 & 0xf, crm: crm & 0xf }
    }

    /// The register that the ISS of a trapped MRRC or MCRR names.
    pub const fn from_iss(iss: u32) -> Self {
        Self::new((iss >> 16) as u8, (iss >> 1) as u8)
    }

    /// The fields of an ISS that name the register: the opposite of [`Self::from_iss`].
    pub const fn to_iss(self) -> u32 {
        (self.opc1 as u32) << 16 | (self.crm as u32) << 1
    }

    /// The low 16 bits of a KVM register id: CRm \[10:7\], opc1 \[6:3\].
    pub const fn to_one_reg(self) -> u16 {
        (self.crm as u16) << 7 | (self.opc1 as u16) << 3
    }

    /// The register of the low 16 bits of a KVM register id. `None`: a bit is set that no register has.
    pub const fn from_one_reg(id: u16) -> Option<Self> {
        if id & !0x07f8 != 0 { None } else { Some(Self::new((id >> 3) as u8, (id >> 7) as u8)) }
    }
}

macro_rules! registers {
    ($($(#[$doc:meta])* $name:ident = $crn:literal, $opc1:literal, $crm:literal, $opc2:literal;)*) => {
        $($(#[$doc])* pub const $name: Cp15 = Cp15::new($crn, $opc1, $crm, $opc2);)*

        #[cfg(test)]
        pub(super) const ALL: &[(&str, Cp15)] = &[$((stringify!($name), $name)),*];
    };
}

/// CP15's 32-bit registers, as `CRn, opc1, CRm, opc2`.
pub mod reg {
    use super::Cp15;

    registers! {
        /// Main ID.
        MIDR = 0, 0, 0, 0;
        /// Cache type.
        CTR = 0, 0, 0, 1;
        /// TCM type.
        TCMTR = 0, 0, 0, 2;
        /// TLB type.
        TLBTR = 0, 0, 0, 3;
        /// Multiprocessor affinity.
        MPIDR = 0, 0, 0, 5;
        /// Revision ID.
        REVIDR = 0, 0, 0, 6;
        /// Processor feature 0.
        ID_PFR0 = 0, 0, 1, 0;
        /// Processor feature 1.
        ID_PFR1 = 0, 0, 1, 1;
        /// Debug feature 0.
        ID_DFR0 = 0, 0, 1, 2;
        /// Auxiliary feature 0.
        ID_AFR0 = 0, 0, 1, 3;
        /// Memory model feature 0.
        ID_MMFR0 = 0, 0, 1, 4;
        /// Memory model feature 1.
        ID_MMFR1 = 0, 0, 1, 5;
        /// Memory model feature 2.
        ID_MMFR2 = 0, 0, 1, 6;
        /// Memory model feature 3.
        ID_MMFR3 = 0, 0, 1, 7;
        /// Instruction set attribute 0.
        ID_ISAR0 = 0, 0, 2, 0;
        /// Instruction set attribute 1.
        ID_ISAR1 = 0, 0, 2, 1;
        /// Instruction set attribute 2.
        ID_ISAR2 = 0, 0, 2, 2;
        /// Instruction set attribute 3.
        ID_ISAR3 = 0, 0, 2, 3;
        /// Instruction set attribute 4.
        ID_ISAR4 = 0, 0, 2, 4;
        /// Instruction set attribute 5.
        ID_ISAR5 = 0, 0, 2, 5;
        /// Cache size ID of the cache that CSSELR selects.
        CCSIDR = 0, 1, 0, 0;
        /// Cache level ID.
        CLIDR = 0, 1, 0, 1;
        /// Auxiliary ID.
        AIDR = 0, 1, 0, 7;
        /// Cache size selection.
        CSSELR = 0, 2, 0, 0;
        /// What guests read as MIDR.
        VPIDR = 0, 4, 0, 0;
        /// What guests read as MPIDR.
        VMPIDR = 0, 4, 0, 5;

        /// System control.
        SCTLR = 1, 0, 0, 0;
        /// Auxiliary control.
        ACTLR = 1, 0, 0, 1;
        /// Coprocessor access control.
        CPACR = 1, 0, 0, 2;
        /// Secure configuration.
        SCR = 1, 0, 1, 0;
        /// Secure debug enable.
        SDER = 1, 0, 1, 1;
        /// Non-secure access control.
        NSACR = 1, 0, 1, 2;
        /// Hyp system control.
        HSCTLR = 1, 4, 0, 0;
        /// Hyp auxiliary control.
        HACTLR = 1, 4, 0, 1;
        /// Hyp configuration.
        HCR = 1, 4, 1, 0;
        /// Hyp debug configuration.
        HDCR = 1, 4, 1, 1;
        /// Hyp coprocessor trap.
        HCPTR = 1, 4, 1, 2;
        /// Hyp system trap.
        HSTR = 1, 4, 1, 3;

        /// Translation table base 0.
        TTBR0 = 2, 0, 0, 0;
        /// Translation table base 1.
        TTBR1 = 2, 0, 0, 1;
        /// Translation table base control.
        TTBCR = 2, 0, 0, 2;
        /// Hyp translation control.
        HTCR = 2, 4, 0, 2;
        /// Virtualization translation control.
        VTCR = 2, 4, 1, 2;
        /// Domain access control.
        DACR = 3, 0, 0, 0;

        /// Data fault status.
        DFSR = 5, 0, 0, 0;
        /// Instruction fault status.
        IFSR = 5, 0, 0, 1;
        /// Auxiliary data fault status.
        ADFSR = 5, 0, 1, 0;
        /// Auxiliary instruction fault status.
        AIFSR = 5, 0, 1, 1;
        /// Hyp syndrome.
        HSR = 5, 4, 2, 0;
        /// Data fault address.
        DFAR = 6, 0, 0, 0;
        /// Instruction fault address.
        IFAR = 6, 0, 0, 2;
        /// Hyp data fault address.
        HDFAR = 6, 4, 0, 0;
        /// Hyp instruction fault address.
        HIFAR = 6, 4, 0, 2;
        /// Hyp IPA fault address.
        HPFAR = 6, 4, 0, 4;

        /// Invalidate all instruction caches, Inner Shareable.
        ICIALLUIS = 7, 0, 1, 0;
        /// Invalidate branch predictors, Inner Shareable.
        BPIALLIS = 7, 0, 1, 6;
        /// Physical address of a translation (32-bit view).
        PAR = 7, 0, 4, 0;
        /// Invalidate all instruction caches.
        ICIALLU = 7, 0, 5, 0;
        /// Invalidate instruction cache by address to the point of unification.
        ICIMVAU = 7, 0, 5, 1;
        /// Invalidate branch predictors.
        BPIALL = 7, 0, 5, 6;
        /// Invalidate data cache by address to the point of coherency.
        DCIMVAC = 7, 0, 6, 1;
        /// Invalidate data cache by set/way.
        DCISW = 7, 0, 6, 2;
        /// Translate for PL1 reads, stage 1 only in Non-secure state.
        ATS1CPR = 7, 0, 8, 0;
        /// Translate for PL1 writes.
        ATS1CPW = 7, 0, 8, 1;
        /// Clean data cache by address to the point of coherency.
        DCCMVAC = 7, 0, 10, 1;
        /// Clean data cache by set/way.
        DCCSW = 7, 0, 10, 2;
        /// Clean data cache by address to the point of unification.
        DCCMVAU = 7, 0, 11, 1;
        /// Clean and invalidate data cache by address to the point of coherency.
        DCCIMVAC = 7, 0, 14, 1;
        /// Clean and invalidate data cache by set/way.
        DCCISW = 7, 0, 14, 2;

        /// Invalidate the whole TLB, Inner Shareable.
        TLBIALLIS = 8, 0, 3, 0;
        /// Invalidate the whole TLB.
        TLBIALL = 8, 0, 7, 0;
        /// Invalidate TLB entries by address.
        TLBIMVA = 8, 0, 7, 1;
        /// Invalidate Hyp mode's TLB entries by address, Inner Shareable.
        TLBIMVAHIS = 8, 4, 3, 1;
        /// Invalidate Hyp mode's whole TLB.
        TLBIALLH = 8, 4, 7, 0;
        /// Invalidate the Non-secure PL1 and PL0 TLB, all VMIDs, Inner Shareable.
        TLBIALLNSNHIS = 8, 4, 3, 4;

        /// Performance monitor control.
        PMCR = 9, 0, 12, 0;
        /// Counter enable set.
        PMCNTENSET = 9, 0, 12, 1;
        /// Counter enable clear.
        PMCNTENCLR = 9, 0, 12, 2;
        /// Overflow flag status.
        PMOVSR = 9, 0, 12, 3;
        /// Software increment.
        PMSWINC = 9, 0, 12, 4;
        /// Counter selection.
        PMSELR = 9, 0, 12, 5;
        /// Common event identification 0.
        PMCEID0 = 9, 0, 12, 6;
        /// Common event identification 1.
        PMCEID1 = 9, 0, 12, 7;
        /// Cycle count.
        PMCCNTR = 9, 0, 13, 0;
        /// Event type of the selected counter.
        PMXEVTYPER = 9, 0, 13, 1;
        /// Event count of the selected counter.
        PMXEVCNTR = 9, 0, 13, 2;
        /// User enable.
        PMUSERENR = 9, 0, 14, 0;
        /// Interrupt enable set.
        PMINTENSET = 9, 0, 14, 1;
        /// Interrupt enable clear.
        PMINTENCLR = 9, 0, 14, 2;
        /// Overflow flag status set.
        PMOVSSET = 9, 0, 14, 3;
        /// L2 control (Cortex-A7, A12, A15, A17): how many CPUs there are, in \[25:24\].
        L2CTLR = 9, 1, 0, 2;
        /// L2 extended control (the same cores).
        L2ECTLR = 9, 1, 0, 3;

        /// Primary region remap, or MAIR0.
        PRRR = 10, 0, 2, 0;
        /// Normal memory remap, or MAIR1.
        NMRR = 10, 0, 2, 1;
        /// Auxiliary memory attribute 0.
        AMAIR0 = 10, 0, 3, 0;
        /// Auxiliary memory attribute 1.
        AMAIR1 = 10, 0, 3, 1;
        /// Hyp memory attribute 0.
        HMAIR0 = 10, 4, 2, 0;
        /// Hyp memory attribute 1.
        HMAIR1 = 10, 4, 2, 1;

        /// Vector base.
        VBAR = 12, 0, 0, 0;
        /// Interrupt status.
        ISR = 12, 0, 1, 0;
        /// GICv3 CPU interface: system register enable.
        ICC_SRE = 12, 0, 12, 5;
        /// Hyp vector base.
        HVBAR = 12, 4, 0, 0;

        /// FCSE process ID.
        FCSEIDR = 13, 0, 0, 0;
        /// Context ID.
        CONTEXTIDR = 13, 0, 0, 1;
        /// User read-write thread ID.
        TPIDRURW = 13, 0, 0, 2;
        /// User read-only thread ID.
        TPIDRURO = 13, 0, 0, 3;
        /// PL1 only thread ID.
        TPIDRPRW = 13, 0, 0, 4;
        /// Hyp thread ID.
        HTPIDR = 13, 4, 0, 2;

        /// Counter frequency.
        CNTFRQ = 14, 0, 0, 0;
        /// Timer PL1 control.
        CNTKCTL = 14, 0, 1, 0;
        /// PL1 physical timer value.
        CNTP_TVAL = 14, 0, 2, 0;
        /// PL1 physical timer control.
        CNTP_CTL = 14, 0, 2, 1;
        /// Virtual timer value.
        CNTV_TVAL = 14, 0, 3, 0;
        /// Virtual timer control.
        CNTV_CTL = 14, 0, 3, 1;
        /// Timer PL2 control.
        CNTHCTL = 14, 4, 1, 0;
        /// PL2 physical timer value.
        CNTHP_TVAL = 14, 4, 2, 0;
        /// PL2 physical timer control.
        CNTHP_CTL = 14, 4, 2, 1;

        /// Configuration base: where the private peripherals lie (Cortex-A7 and A15).
        CBAR = 15, 4, 0, 0;
    }
}

macro_rules! wide_registers {
    ($($(#[$doc:meta])* $name:ident = $opc1:literal, $crm:literal;)*) => {
        $($(#[$doc])* pub const $name: Cp15Wide = Cp15Wide::new($opc1, $crm);)*

        #[cfg(test)]
        pub(super) const ALL: &[(&str, Cp15Wide)] = &[$((stringify!($name), $name)),*];
    };
}

/// CP15's 64-bit registers, as `opc1, CRm`.
pub mod wide {
    use super::Cp15Wide;

    wide_registers! {
        /// Translation table base 0.
        TTBR0 = 0, 2;
        /// Translation table base 1.
        TTBR1 = 1, 2;
        /// Hyp translation table base.
        HTTBR = 4, 2;
        /// Virtualization translation table base.
        VTTBR = 6, 2;
        /// Physical address of a translation.
        PAR = 0, 7;
        /// GICv3 CPU interface: SGI generation, group 1 of this security state.
        ICC_SGI1R = 0, 12;
        /// GICv3 CPU interface: SGI generation, group 1 of the other security state.
        ICC_ASGI1R = 1, 12;
        /// GICv3 CPU interface: SGI generation, group 0.
        ICC_SGI0R = 2, 12;
        /// Physical count.
        CNTPCT = 0, 14;
        /// Virtual count.
        CNTVCT = 1, 14;
        /// PL1 physical timer compare value.
        CNTP_CVAL = 2, 14;
        /// Virtual timer compare value.
        CNTV_CVAL = 3, 14;
        /// Virtual offset.
        CNTVOFF = 4, 14;
        /// PL2 physical timer compare value.
        CNTHP_CVAL = 6, 14;
    }
}

/// CP14's 32-bit debug registers (opc1 = 0), in the same numbers.
pub mod dbg {
    use super::Cp15;

    registers! {
        /// Debug ID.
        DBGDIDR = 0, 0, 0, 0;
        /// Debug status and control, internal view.
        DBGDSCRINT = 0, 0, 1, 0;
        /// Data transfer to and from a debugger, internal view.
        DBGDTRTXINT = 0, 0, 5, 0;
        /// Watchpoint fault address.
        DBGWFAR = 0, 0, 6, 0;
        /// Vector catch.
        DBGVCR = 0, 0, 7, 0;
        /// Data transfer from a debugger, external view.
        DBGDTRRXEXT = 0, 0, 0, 2;
        /// Debug status and control, external view.
        DBGDSCREXT = 0, 0, 2, 2;
        /// Data transfer to a debugger, external view.
        DBGDTRTXEXT = 0, 0, 3, 2;
        /// Debug ROM address.
        DBGDRAR = 1, 0, 0, 0;
        /// OS lock access.
        DBGOSLAR = 1, 0, 0, 4;
        /// OS lock status.
        DBGOSLSR = 1, 0, 1, 4;
        /// OS double lock.
        DBGOSDLR = 1, 0, 3, 4;
        /// Device powerdown and reset control.
        DBGPRCR = 1, 0, 4, 4;
        /// Debug self address.
        DBGDSAR = 2, 0, 0, 0;
        /// Claim tag set.
        DBGCLAIMSET = 7, 0, 8, 6;
        /// Claim tag clear.
        DBGCLAIMCLR = 7, 0, 9, 6;
        /// Authentication status.
        DBGAUTHSTATUS = 7, 0, 14, 6;
        /// Debug device ID 1.
        DBGDEVID1 = 7, 0, 1, 7;
        /// Debug device ID.
        DBGDEVID = 7, 0, 2, 7;
    }

    /// Breakpoint value `n`, 0 to 15.
    pub const fn dbgbvr(n: u8) -> Cp15 {
        Cp15::new(0, 0, n, 4)
    }

    /// Breakpoint control `n`, 0 to 15.
    pub const fn dbgbcr(n: u8) -> Cp15 {
        Cp15::new(0, 0, n, 5)
    }

    /// Watchpoint value `n`, 0 to 15.
    pub const fn dbgwvr(n: u8) -> Cp15 {
        Cp15::new(0, 0, n, 6)
    }

    /// Watchpoint control `n`, 0 to 15.
    pub const fn dbgwcr(n: u8) -> Cp15 {
        Cp15::new(0, 0, n, 7)
    }

    /// Breakpoint extended value `n`, 0 to 15.
    pub const fn dbgbxvr(n: u8) -> Cp15 {
        Cp15::new(1, 0, n, 1)
    }
}

/// The VFP system registers that VMRS names, in the ISS's CRn field (B6.1, trapped with EC 0x08).
pub mod vfp {
    /// System ID.
    pub const FPSID: u8 = 0;
    /// Media and VFP feature 1.
    pub const MVFR1: u8 = 6;
    /// Media and VFP feature 0.
    pub const MVFR0: u8 = 7;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn no_two_names_for_one<K: Ord + Copy>(all: &[(&'static str, K)]) {
        let mut seen = BTreeMap::new();
        for &(name, register) in all {
            assert_eq!(seen.insert(register, name), None, "{name}");
        }
    }

    #[test]
    fn every_name_is_another_register() {
        no_two_names_for_one(reg::ALL);
        no_two_names_for_one(wide::ALL);
        no_two_names_for_one(dbg::ALL);
    }

    #[test]
    fn one_reg_ids_of_known_registers() {
        // The ids that clients use: low 16 bits of 0x4020_0000_000f_XXXX (32 bits) and 0x4030_... (64 bits).
        assert_eq!(reg::MIDR.to_one_reg(), 0x0000);
        assert_eq!(reg::MPIDR.to_one_reg(), 0x0005);
        assert_eq!(reg::SCTLR.to_one_reg(), 0x0800);
        assert_eq!(reg::CNTV_CTL.to_one_reg(), 0x7181);
        assert_eq!(wide::CNTV_CVAL.to_one_reg(), 0x0718);
        assert_eq!(wide::CNTVCT.to_one_reg(), 0x0708);
        assert_eq!(wide::TTBR1.to_one_reg(), 0x0108);
    }

    #[test]
    fn iss_fields() {
        // MRC p15, 2, r5, c13, c9, 7: opc2 [19:17], opc1 [16:14], CRn [13:10], Rt [8:5], CRm [4:1].
        let iss = 7 << 17 | 2 << 14 | 13 << 10 | 5 << 5 | 9 << 1 | 1;
        assert_eq!(Cp15::from_iss(iss), Cp15::new(13, 2, 9, 7));
        // MRRC p15, 3, r5, r6, c14: opc1 [19:16], Rt2 [13:10], Rt [8:5], CRm [4:1].
        assert_eq!(Cp15Wide::from_iss(3 << 16 | 6 << 10 | 5 << 5 | 14 << 1), wide::CNTV_CVAL);
    }

    proptest! {
        #[test]
        fn one_reg_round_trip(crn in 0u8..16, opc1 in 0u8..8, crm in 0u8..16, opc2 in 0u8..8) {
            let register = Cp15::new(crn, opc1, crm, opc2);
            prop_assert_eq!(Cp15::from_one_reg(register.to_one_reg()), Some(register));
            let register = Cp15Wide::new(opc1 | crn & 8, crm);
            prop_assert_eq!(Cp15Wide::from_one_reg(register.to_one_reg()), Some(register));
        }

        #[test]
        fn one_reg_ids_have_one_register_or_none(id: u16) {
            if let Some(register) = Cp15::from_one_reg(id) {
                prop_assert_eq!(register.to_one_reg(), id);
            }
            if let Some(register) = Cp15Wide::from_one_reg(id) {
                prop_assert_eq!(register.to_one_reg(), id);
            }
        }

        #[test]
        fn iss_round_trip(crn in 0u8..16, opc1 in 0u8..8, crm in 0u8..16, opc2 in 0u8..8, rt in 0u32..16) {
            let iss = u32::from(opc2) << 17 | u32::from(opc1) << 14 | u32::from(crn) << 10 | rt << 5 | u32::from(crm) << 1;
            let register = Cp15::new(crn, opc1, crm, opc2);
            prop_assert_eq!(Cp15::from_iss(iss), register);
            prop_assert_eq!(register.to_iss() | rt << 5, iss);
            let wide = Cp15Wide::new(opc1, crm);
            prop_assert_eq!(Cp15Wide::from_iss(wide.to_iss() | rt << 5 | rt << 10), wide);
        }
    }
}
