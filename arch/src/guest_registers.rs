// SPDX-License-Identifier: GPL-2.0-only
//! Fields of PL1's own registers that a hypervisor looks at or sets: SCTLR, TTBCR, FPEXC.
//!
//! Source: ARM DDI 0406C.d, B4.1 (SCTLR, TTBCR), B6.1 (FPEXC).

use bitflags::bitflags;

bitflags! {
    /// SCTLR, System Control Register (B4.1).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Sctlr: u32 {
        /// The stage 1 MMU is on.
        const M = 1 << 0;
        /// Alignment is checked.
        const A = 1 << 1;
        /// Data and unified caches are on.
        const C = 1 << 2;
        /// The CP15 barrier operations work.
        const CP15BEN = 1 << 5;
        /// SWP and SWPB work.
        const SW = 1 << 10;
        /// Branch prediction is on.
        const Z = 1 << 11;
        /// The instruction cache is on.
        const I = 1 << 12;
        /// Vectors lie at 0xFFFF0000, whatever VBAR says.
        const V = 1 << 13;
        /// Predictable cache replacement.
        const RR = 1 << 14;
        /// Hardware sets the access flag.
        const HA = 1 << 17;
        /// What is writable is never executable.
        const WXN = 1 << 19;
        /// What PL0 may write PL1 may not execute.
        const UWXN = 1 << 20;
        /// Fast interrupts configuration.
        const FI = 1 << 21;
        /// Interrupt vectors are implementation defined.
        const VE = 1 << 24;
        /// CPSR.E on an exception, and the byte order of walks.
        const EE = 1 << 25;
        /// FIQs cannot be masked (read-only).
        const NMFI = 1 << 27;
        /// TEX remap is on.
        const TRE = 1 << 28;
        /// AP\[0\] is the access flag.
        const AFE = 1 << 29;
        /// Exceptions are taken in Thumb state.
        const TE = 1 << 30;

        const _ = !0;
    }
}

impl Sctlr {
    /// The bits that are RAO/SBOP, U among them.
    pub const RES1: Self = Self::from_bits_retain(0x00c5_0058);
    /// What a core leaves reset with: MMU, caches and branch prediction off, CP15 barriers on, little endian, Arm state.
    pub const RESET: Self = Self::from_bits_retain(Self::RES1.bits() | Self::CP15BEN.bits());
}

bitflags! {
    /// TTBCR, Translation Table Base Control Register (B4.1), with the fields of both formats.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Ttbcr: u32 {
        /// N (short format), or T0SZ (long): where TTBR0's part ends.
        const N = 0x7;
        /// Short format: no walks by TTBR0.
        const PD0 = 1 << 4;
        /// Short format: no walks by TTBR1.
        const PD1 = 1 << 5;
        /// Long format: no walks by TTBR0.
        const EPD0 = 1 << 7;
        /// Long format: size of TTBR1's part.
        const T1SZ = 0x7 << 16;
        /// Long format: TTBR1 holds the ASID.
        const A1 = 1 << 22;
        /// Long format: no walks by TTBR1.
        const EPD1 = 1 << 23;
        /// The long-descriptor format is in use.
        const EAE = 1 << 31;

        const _ = !0;
    }
}

impl Ttbcr {
    /// The bits that stop every walk, in the format that EAE selects.
    pub const fn walks_disabled(self) -> Self {
        let stop = if self.contains(Self::EAE) { Self::EPD0.union(Self::EPD1) } else { Self::PD0.union(Self::PD1) };
        self.union(stop)
    }
}

bitflags! {
    /// FPEXC, Floating-Point Exception Control register (B6.1).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Fpexc: u32 {
        /// Invalid operation, trapped.
        const IOF = 1 << 0;
        /// Division by zero, trapped.
        const DZF = 1 << 1;
        /// Overflow, trapped.
        const OFF = 1 << 2;
        /// Underflow, trapped.
        const UFF = 1 << 3;
        /// Inexact, trapped.
        const IXF = 1 << 4;
        /// Input denormal, trapped.
        const IDF = 1 << 7;
        /// VECITR: vector iterations left.
        const VECITR = 0x7 << 8;
        /// The trapped-exception bits are valid.
        const TFV = 1 << 26;
        /// VECITR is valid.
        const VV = 1 << 27;
        /// FPINST2 holds an instruction.
        const FP2V = 1 << 28;
        /// The instruction itself was not supported.
        const DEX = 1 << 29;
        /// VFP and NEON are on.
        const EN = 1 << 30;
        /// There is exception state to save: FPINST, and FPINST2 with FP2V.
        const EX = 1 << 31;

        const _ = !0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sctlr_reset_values() {
        let named = Sctlr::all().iter_names().fold(0, |bits, (_, flag)| bits | flag.bits());
        assert_eq!(named & Sctlr::RES1.bits(), 0);
        // Cortex-A15 TRM: 0x00c50878, where branch prediction cannot be switched off.
        assert_eq!((Sctlr::RESET | Sctlr::Z).bits(), 0x00c5_0878);
    }

    #[test]
    fn walks_are_stopped_in_the_format_in_use() {
        assert_eq!(Ttbcr::empty().walks_disabled().bits(), 0x30);
        assert_eq!(Ttbcr::EAE.walks_disabled().bits(), 0x8080_0080);
    }

    #[test]
    fn fpexc_bits() {
        assert_eq!((Fpexc::EX | Fpexc::EN | Fpexc::DEX | Fpexc::FP2V | Fpexc::VV | Fpexc::TFV).bits(), 0xfc00_0000);
    }
}
