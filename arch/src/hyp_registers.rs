// SPDX-License-Identifier: GPL-2.0-only
//! Fields of the registers that Hyp mode owns: what traps, how stage 2 and Hyp mode's own memory are translated.
//!
//! Each register is a type of its own, so that a bit of HCR cannot be written to HCPTR. `bits()` gives the word for the MCR,
//! `from_bits_retain` takes what an MRC read, with bits that have no name here kept: several of these registers carry
//! IMPLEMENTATION DEFINED or reserved fields that must survive a read-modify-write.
//!
//! Source: ARM DDI 0406C.d, B4.1 (registers in alphabetical order), B1.14 (traps to the hypervisor), B8.1 (timers).

use crate::addr::HostPhys;
use bitflags::bitflags;

bitflags! {
    /// HCR, Hyp Configuration Register (B4.1): what a guest's actions turn into.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Hcr: u32 {
        /// Stage 2 translation is on.
        const VM = 1 << 0;
        /// Set/way invalidation by the guest cleans as well.
        const SWIO = 1 << 1;
        /// A stage 1 walk that stage 2 maps as Device or Strongly-ordered faults.
        const PTW = 1 << 2;
        /// Physical FIQs go to Hyp mode, and the guest's CPSR.F masks virtual FIQs.
        const FMO = 1 << 3;
        /// Physical IRQs go to Hyp mode, and the guest's CPSR.I masks virtual IRQs.
        const IMO = 1 << 4;
        /// Asynchronous aborts go to Hyp mode, and the guest's CPSR.A masks virtual ones.
        const AMO = 1 << 5;
        /// A virtual FIQ is pending.
        const VF = 1 << 6;
        /// A virtual IRQ is pending.
        const VI = 1 << 7;
        /// A virtual asynchronous abort is pending.
        const VA = 1 << 8;
        /// TLB and branch predictor maintenance by the guest is broadcast.
        const FB = 1 << 9;
        /// The guest's barriers reach at least the Inner Shareable domain (BSU = 0b01).
        const BSU_IS = 1 << 10;
        /// The guest's barriers reach at least the Outer Shareable domain (BSU = 0b10).
        const BSU_OS = 1 << 11;
        /// With the guest's MMU off, its accesses are Normal Write-Back.
        const DC = 1 << 12;
        /// Trap WFI.
        const TWI = 1 << 13;
        /// Trap WFE.
        const TWE = 1 << 14;
        /// Trap ID group 0: JIDR, FPSID.
        const TID0 = 1 << 15;
        /// Trap ID group 1: TCMTR, TLBTR, REVIDR, AIDR.
        const TID1 = 1 << 16;
        /// Trap ID group 2: CTR, CCSIDR, CLIDR, CSSELR.
        const TID2 = 1 << 17;
        /// Trap ID group 3: the ID_* and MVFR registers.
        const TID3 = 1 << 18;
        /// Trap SMC.
        const TSC = 1 << 19;
        /// Trap lockdown, DMA and TCM operations and other IMPLEMENTATION DEFINED CP15 registers.
        const TIDCP = 1 << 20;
        /// Trap ACTLR.
        const TAC = 1 << 21;
        /// Trap data cache maintenance by set/way.
        const TSW = 1 << 22;
        /// Trap data cache maintenance by address to the point of coherency.
        const TPC = 1 << 23;
        /// Trap cache maintenance to the point of unification.
        const TPU = 1 << 24;
        /// Trap TLB maintenance.
        const TTLB = 1 << 25;
        /// Trap writes to the registers that control virtual memory.
        const TVM = 1 << 26;
        /// Route what PL1 would take from PL0 to Hyp mode.
        const TGE = 1 << 27;

        const _ = !0;
    }
}

bitflags! {
    /// HSTR, Hyp System Trap Register (B4.1). Bit n traps CP15 accesses with primary register c`n`; T4 and T14 do not exist.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Hstr: u32 {
        /// Trap ThumbEE configuration accesses.
        const TTEE = 1 << 16;
        /// Trap Jazelle functionality: BXJ and the Jazelle registers.
        const TJDBX = 1 << 17;

        const _ = !0;
    }
}

impl Hstr {
    /// T`n`: trap accesses to CP15's primary register c`n`. Empty where no such bit exists (4, 14, above 15).
    pub const fn t(n: u32) -> Self {
        if n > 15 || n == 4 || n == 14 { Self::empty() } else { Self::from_bits_retain(1 << n) }
    }
}

bitflags! {
    /// HCPTR, Hyp Coprocessor Trap Register (B4.1).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Hcptr: u32 {
        /// Trap coprocessor 10, that is VFP and NEON; always the same as [`TCP11`](Self::TCP11).
        const TCP10 = 1 << 10;
        /// Trap coprocessor 11, that is VFP and NEON; always the same as [`TCP10`](Self::TCP10).
        const TCP11 = 1 << 11;
        /// Trap NEON instructions only.
        const TASE = 1 << 15;
        /// Trap accesses to the trace registers.
        const TTA = 1 << 20;
        /// Trap CPACR.
        const TCPAC = 1 << 31;

        const _ = !0;
    }
}

impl Hcptr {
    /// TCP`n`: trap coprocessor `n`. Empty above 13: CP14 and CP15 have traps of their own.
    pub const fn tcp(n: u32) -> Self {
        if n > 13 { Self::empty() } else { Self::from_bits_retain(1 << n) }
    }

    /// Both bits that trap VFP and NEON.
    pub const VFP: Self = Self::TCP10.union(Self::TCP11);
}

bitflags! {
    /// HDCR, Hyp Debug Configuration Register (B4.1).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Hdcr: u32 {
        /// HPMN: how many performance counters PL1 sees. Its reset value is all of them, so it is kept, never zeroed.
        const HPMN = 0x1f;
        /// Trap PMCR.
        const TPMCR = 1 << 5;
        /// Trap all performance monitor registers.
        const TPM = 1 << 6;
        /// Enable the counters that Hyp mode reserves.
        const HPME = 1 << 7;
        /// Route debug exceptions to Hyp mode; implies TDA, TDOSA and TDRA.
        const TDE = 1 << 8;
        /// Trap the other debug registers.
        const TDA = 1 << 9;
        /// Trap the OS lock and power-down debug registers.
        const TDOSA = 1 << 10;
        /// Trap the debug ROM address registers.
        const TDRA = 1 << 11;

        const _ = !0;
    }
}

bitflags! {
    /// HSCTLR, Hyp System Control Register (B4.1).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Hsctlr: u32 {
        /// Hyp mode's MMU is on.
        const M = 1 << 0;
        /// Alignment is checked.
        const A = 1 << 1;
        /// Data and unified caches are on.
        const C = 1 << 2;
        /// The CP15 barrier operations work.
        const CP15BEN = 1 << 5;
        /// The instruction cache is on.
        const I = 1 << 12;
        /// What is writable is never executable.
        const WXN = 1 << 19;
        /// Fast interrupts configuration (read-only).
        const FI = 1 << 21;
        /// CPSR.E on an exception to Hyp mode, and the byte order of Hyp mode's walks.
        const EE = 1 << 25;
        /// Exceptions to Hyp mode are taken in Thumb state.
        const TE = 1 << 30;

        const _ = !0;
    }
}

impl Hsctlr {
    /// The bits that are RAO/SBOP: to be written as one.
    pub const RES1: Self = Self::from_bits_retain(0x30c5_0818);
}

/// How the walks of a translation table are cached and shared: the IRGN0, ORGN0 and SH0 fields of HTCR and VTCR (bits
/// \[13:8\]) for Inner Shareable, Write-Back Write-Allocate memory in both caches.
const WALKS_INNER_SHAREABLE_WRITE_BACK: u32 = 0b01 << 8 | 0b01 << 10 | 0b11 << 12;

bitflags! {
    /// HTCR, Hyp Translation Control Register (B4.1).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Htcr: u32 {
        /// The space is 2^(32 - T0SZ) bytes; zero: all 4 GiB.
        const T0SZ = 0x7;
        /// Inner cacheability of walks.
        const IRGN0 = 0b11 << 8;
        /// Outer cacheability of walks.
        const ORGN0 = 0b11 << 10;
        /// Shareability of walks.
        const SH0 = 0b11 << 12;

        const _ = !0;
    }
}

impl Htcr {
    /// The bits that are UNK/SBOP: to be written as one.
    pub const RES1: Self = Self::from_bits_retain(1 << 31 | 1 << 23);
    /// A 4 GiB space whose tables are walked through the caches, Inner Shareable.
    pub const HYP: Self = Self::from_bits_retain(Self::RES1.bits() | WALKS_INNER_SHAREABLE_WRITE_BACK);
}

bitflags! {
    /// VTCR, Virtualization Translation Control Register (B4.1).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Vtcr: u32 {
        /// The IPA space is 2^(32 - T0SZ) bytes; a signed number of four bits, -8 to 7.
        const T0SZ = 0xf;
        /// The sign of T0SZ once more; with S different from T0SZ\[3\] stage 2 is UNPREDICTABLE.
        const S = 1 << 4;
        /// Walks start at level 1; without it, at level 2.
        const SL0_LEVEL1 = 0b01 << 6;
        /// Inner cacheability of walks.
        const IRGN0 = 0b11 << 8;
        /// Outer cacheability of walks.
        const ORGN0 = 0b11 << 10;
        /// Shareability of walks.
        const SH0 = 0b11 << 12;

        const _ = !0;
    }
}

impl Vtcr {
    /// The bit that is UNK/SBOP: to be written as one.
    pub const RES1: Self = Self::from_bits_retain(1 << 31);

    /// T0SZ and S for an input of `bits` address bits, 25 to 40.
    const fn input_bits(bits: u32) -> Self {
        let t0sz = 32u32.wrapping_sub(bits) & 0xf;
        Self::from_bits_retain(t0sz | (t0sz >> 3) << 4)
    }

    /// 40-bit IPAs, walked from level 1 (two concatenated tables), through the caches, Inner Shareable.
    pub const IPA40: Self = Self::from_bits_retain(
        Self::RES1.bits() | Self::input_bits(40).bits() | Self::SL0_LEVEL1.bits() | WALKS_INNER_SHAREABLE_WRITE_BACK,
    );
}

/// A VM identifier: tags the TLB entries of one VM. 0 is the host's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Vmid(u8);

impl Vmid {
    /// How many bits a VMID has.
    pub const BITS: u32 = 8;
    /// The host's own.
    pub const HOST: Self = Self(0);

    /// The VMID with this number.
    pub const fn new(raw: u8) -> Self {
        Self(raw)
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// VTTBR, Virtualization Translation Table Base Register (B4.1): where stage 2 begins, and the VMID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Vttbr(u64);

impl Vttbr {
    /// The alignment of the two concatenated first tables in bytes: with T0SZ = -8 and a walk from level 1, BADDR is
    /// VTTBR\[39:13\].
    pub const ALIGNMENT: u64 = 1 << 13;
    /// No table, VMID 0: what the register holds while the host runs.
    pub const HOST: Self = Self(0);

    const BADDR: u64 = ((1 << 40) - 1) & !(Self::ALIGNMENT - 1);

    /// The register for a stage 2 whose first tables lie at `base`. `None`: not 8 KiB aligned, or above 40 bits.
    pub const fn new(base: HostPhys, vmid: Vmid) -> Option<Self> {
        if base.get() & !Self::BADDR != 0 {
            return None;
        }
        Some(Self(base.get() | (vmid.get() as u64) << 48))
    }

    /// The register with these bits, as read from hardware or from a context.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The register's 64 bits: the low word is Rt, the high word Rt2 of the MCRR.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Where the first tables lie.
    pub const fn base(self) -> HostPhys {
        HostPhys::new(self.0 & Self::BADDR)
    }

    /// The VMID.
    pub const fn vmid(self) -> Vmid {
        Vmid::new((self.0 >> 48) as u8)
    }

    /// The same tables under another VMID.
    pub const fn with_vmid(self, vmid: Vmid) -> Self {
        Self(self.0 & !(0xff << 48) | (vmid.get() as u64) << 48)
    }
}

bitflags! {
    /// CNTHCTL, timer PL2 control (B8.1): what PL1 and PL0 may reach of the physical counter and timer.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Cnthctl: u32 {
        /// PL1 and PL0 may read CNTPCT.
        const PL1PCTEN = 1 << 0;
        /// PL1 and PL0 may use the physical timer (CNTP_*).
        const PL1PCEN = 1 << 1;
        /// The event stream from the physical counter is on.
        const EVNTEN = 1 << 2;
        /// The stream follows falling, not rising, edges.
        const EVNTDIR = 1 << 3;
        /// Which counter bit the stream follows.
        const EVNTI = 0xf << 4;

        const _ = !0;
    }
}

bitflags! {
    /// CNTKCTL, timer PL1 control (B8.1): what PL0 may reach.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Cntkctl: u32 {
        /// PL0 may read CNTPCT.
        const PL0PCTEN = 1 << 0;
        /// PL0 may read CNTVCT.
        const PL0VCTEN = 1 << 1;
        /// The event stream from the virtual counter is on.
        const EVNTEN = 1 << 2;
        /// The stream follows falling, not rising, edges.
        const EVNTDIR = 1 << 3;
        /// Which counter bit the stream follows.
        const EVNTI = 0xf << 4;
        /// PL0 may use the virtual timer.
        const PL0VTEN = 1 << 8;
        /// PL0 may use the physical timer.
        const PL0PTEN = 1 << 9;

        const _ = !0;
    }
}

bitflags! {
    /// CNTP_CTL, CNTV_CTL and CNTHP_CTL: one timer's control (B8.1).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct CntCtl: u32 {
        /// The timer counts.
        const ENABLE = 1 << 0;
        /// Its interrupt is masked.
        const IMASK = 1 << 1;
        /// Its condition is met (read-only).
        const ISTATUS = 1 << 2;

        const _ = !0;
    }
}

impl CntCtl {
    /// Whether the timer's interrupt line is high: enabled, met and not masked.
    pub const fn line(self) -> bool {
        self.bits() & 0b111 == Self::ENABLE.bits() | Self::ISTATUS.bits()
    }
}

/// HMAIR0: the memory attributes that Hyp mode's descriptors choose from by index ([`HypMemory`]). The encoding is MAIR's
/// (B4.1). HMAIR1 stays zero.
pub const HMAIR0: u32 = 0x04 << (8 * HypMemory::Device as u32)
    | 0xff << (8 * HypMemory::Normal as u32)
    | 0x44 << (8 * HypMemory::NonCacheable as u32);

/// HMAIR1: indices 4 to 7, not used.
pub const HMAIR1: u32 = 0;

/// Memory types of Hyp mode's own map; the number is the index into [`HMAIR0`] that a descriptor's AttrIndx carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum HypMemory {
    /// Device memory.
    Device = 0,
    /// Normal, Write-Back, Read-Allocate and Write-Allocate, in inner and outer caches.
    Normal = 1,
    /// Normal, Non-cacheable.
    NonCacheable = 2,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hcr_matches_the_manual() {
        // B4.1: bits 28 to 31 are reserved, the named ones leave no hole below.
        let named = Hcr::all().iter_names().fold(0, |bits, (_, flag)| bits | flag.bits());
        assert_eq!(named, 0x0fff_ffff);
        assert_eq!((Hcr::TSC | Hcr::TIDCP | Hcr::TAC | Hcr::TSW).bits(), 0x0078_0000);
    }

    #[test]
    fn hstr_has_no_t4_and_no_t14() {
        assert_eq!(Hstr::t(15).bits(), 0x8000);
        assert!(Hstr::t(4).is_empty() && Hstr::t(14).is_empty() && Hstr::t(16).is_empty() && Hstr::t(99).is_empty());
        assert_eq!((0..32).fold(Hstr::empty(), |sum, n| sum | Hstr::t(n)).bits(), 0xbfef);
    }

    #[test]
    fn hcptr_bits() {
        assert_eq!(Hcptr::VFP.bits(), 0xc00);
        assert_eq!(Hcptr::tcp(10) | Hcptr::tcp(11), Hcptr::VFP);
        assert!(Hcptr::tcp(14).is_empty() && Hcptr::tcp(15).is_empty());
    }

    #[test]
    fn hsctlr_res1_overlaps_no_field() {
        let named = Hsctlr::all().iter_names().fold(0, |bits, (_, flag)| bits | flag.bits());
        assert_eq!(named & Hsctlr::RES1.bits(), 0);
        // Cortex-A15 TRM: HSCTLR resets to 0x30c50838, with CP15BEN set.
        assert_eq!((Hsctlr::RES1 | Hsctlr::CP15BEN).bits(), 0x30c5_0838);
    }

    #[test]
    fn vtcr_for_40_bits() {
        assert_eq!(Vtcr::input_bits(40).bits(), 0b1_1000); // T0SZ = -8, S = 1
        assert_eq!(Vtcr::input_bits(32).bits(), 0);
        assert_eq!(Vtcr::input_bits(33).bits(), 0b1_1111); // -1
        assert_eq!(Vtcr::input_bits(25).bits(), 0b0_0111); // 7
        assert_eq!(Vtcr::IPA40.bits(), 0x8000_3558);
        assert_eq!(Htcr::HYP.bits(), 0x8080_3500);
    }

    #[test]
    fn vttbr_refuses_what_it_cannot_hold() {
        for base in [0x1000, 1 << 40, 0x4000_1000, 1] {
            assert_eq!(Vttbr::new(HostPhys::new(base), Vmid::HOST), None, "{base:#x}");
        }
        let vttbr = Vttbr::new(HostPhys::new(0x4000_2000), Vmid::new(0xa5)).unwrap();
        assert_eq!(vttbr.bits(), 0x00a5_0000_4000_2000);
    }

    #[test]
    fn timer_line() {
        for bits in 0..8 {
            let ctl = CntCtl::from_bits_retain(bits);
            let expected =
                ctl.contains(CntCtl::ENABLE) && ctl.contains(CntCtl::ISTATUS) && !ctl.contains(CntCtl::IMASK);
            assert_eq!(ctl.line(), expected);
        }
    }

    #[test]
    fn hmair_bytes_are_what_the_indices_say() {
        let attribute = |memory: HypMemory| HMAIR0.to_le_bytes()[memory as usize];
        assert_eq!(attribute(HypMemory::Device), 0x04);
        assert_eq!(attribute(HypMemory::Normal), 0xff);
        assert_eq!(attribute(HypMemory::NonCacheable), 0x44);
    }

    proptest! {
        #[test]
        fn vttbr_gives_back_what_it_was_made_of(base: u64, vmid: u8, other: u8) {
            match Vttbr::new(HostPhys::new(base), Vmid::new(vmid)) {
                Some(vttbr) => {
                    prop_assert!(base < 1 << 40 && base % 8192 == 0);
                    prop_assert_eq!(vttbr.base().get(), base);
                    prop_assert_eq!(vttbr.vmid().get(), vmid);
                    prop_assert_eq!(Some(vttbr.with_vmid(Vmid::new(other))), Vttbr::new(HostPhys::new(base), Vmid::new(other)));
                }
                None => prop_assert!(base >= 1 << 40 || base % 8192 != 0),
            }
        }

        #[test]
        fn vttbr_accepts_every_aligned_base(table in 0u64..1 << 27, vmid: u8) {
            let base = HostPhys::new(table << 13);
            let vttbr = Vttbr::new(base, Vmid::new(vmid)).unwrap();
            prop_assert_eq!((vttbr.base(), vttbr.vmid()), (base, Vmid::new(vmid)));
            prop_assert_eq!(Vttbr::from_bits(vttbr.bits()), vttbr);
        }
    }
}
