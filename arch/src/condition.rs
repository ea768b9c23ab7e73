// SPDX-License-Identifier: GPL-2.0-only
//! Conditions of trapped instructions, and stepping over them.
//!
//! A core may trap an instruction whose condition fails, and HSR then says under which condition it stood: as a field
//! (CV = 1), or, for a Thumb instruction only, by leaving it to ITSTATE in the guest's CPSR (CV = 0). An instruction that
//! fails its condition must be stepped over, not emulated. Stepping over one in an IT block also moves ITSTATE on, which
//! hardware does only for instructions that it completes itself.
//!
//! Source: ARM DDI 0406C.d, A8.3.1 (ConditionPassed), A2.5.2 (ITSTATE), B3.13.6 (CV and COND).

use crate::psr::Psr;

/// A condition field: `EQ` (0) to `AL` (14), and 15, which in Arm state marks unconditional instructions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct ConditionCode(u8);

impl ConditionCode {
    /// Always.
    pub const AL: Self = Self(0xe);

    /// The condition in the low four bits.
    pub const fn new(bits: u32) -> Self {
        Self((bits & 0xf) as u8)
    }

    /// The four bits.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Whether the condition holds for these flags.
    pub const fn holds(self, cpsr: Psr) -> bool {
        let n = cpsr.contains(Psr::N);
        let z = cpsr.contains(Psr::Z);
        let c = cpsr.contains(Psr::C);
        let v = cpsr.contains(Psr::V);
        let base = match self.0 >> 1 {
            0b000 => z,
            0b001 => c,
            0b010 => n,
            0b011 => v,
            0b100 => c && !z,
            0b101 => n == v,
            0b110 => n == v && !z,
            _ => return true,
        };
        // Odd conditions are the negations; 0b1111 does not get here.
        base != (self.0 & 1 != 0)
    }
}

/// Under which condition a trapped instruction stood, as HSR tells it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Condition {
    /// HSR names the condition (CV = 1). `AL` for classes that trap only instructions that passed.
    Code(ConditionCode),
    /// HSR does not (CV = 0): a Thumb instruction, whose condition ITSTATE tells.
    ItState,
}

impl Condition {
    /// The instruction was executed without a condition, or passed it before it trapped.
    pub const ALWAYS: Self = Self::Code(ConditionCode::AL);

    /// CV and COND, bits 24 and \[23:20\] of a syndrome that has them.
    pub const fn from_hsr(hsr: u32) -> Self {
        if hsr & 1 << 24 != 0 { Self::Code(ConditionCode::new(hsr >> 20)) } else { Self::ItState }
    }

    /// Whether the trapped instruction is to be carried out, given the guest's CPSR (SPSR_hyp).
    pub const fn holds(self, cpsr: Psr) -> bool {
        match self {
            Self::Code(code) => code.holds(cpsr),
            // Outside an IT block a Thumb instruction other than a branch has no condition.
            Self::ItState => match it_condition(cpsr) {
                Some(code) => code.holds(cpsr),
                None => true,
            },
        }
    }
}

/// The condition that ITSTATE puts on the current instruction. `None`: Arm state, or outside an IT block.
pub const fn it_condition(cpsr: Psr) -> Option<ConditionCode> {
    let it = cpsr.it_state();
    if !cpsr.contains(Psr::T) || it & 0xf == 0 { None } else { Some(ConditionCode::new(it as u32 >> 4)) }
}

/// The status after the current instruction: ITSTATE moved on by one (ITAdvance), all else kept.
pub const fn advance_it_state(cpsr: Psr) -> Psr {
    let it = cpsr.it_state();
    // The last instruction of a block leaves IT[2:0] zero; otherwise IT[4:0] shifts left below the condition base.
    let next = if it & 0b111 == 0 { 0 } else { it & 0b1110_0000 | (it << 1) & 0b0001_1111 };
    cpsr.with_it_state(next)
}

/// How long a trapped instruction is (HSR.IL).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InstructionLength {
    /// 16 bits, which only Thumb has.
    Halfword,
    /// 32 bits.
    Word,
}

impl InstructionLength {
    /// HSR.IL, bit 25.
    pub const fn from_hsr(hsr: u32) -> Self {
        if hsr & 1 << 25 != 0 { Self::Word } else { Self::Halfword }
    }

    /// The length in bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Halfword => 2,
            Self::Word => 4,
        }
    }
}

/// PC and CPSR after the instruction at `pc` was carried out or stepped over.
///
/// In Arm state the instruction is four bytes whatever `length` says: IL is not valid for every class of syndrome.
pub const fn skip_instruction(pc: u32, cpsr: Psr, length: InstructionLength) -> (u32, Psr) {
    if cpsr.contains(Psr::T) {
        (pc.wrapping_add(length.bytes()), advance_it_state(cpsr))
    } else {
        (pc.wrapping_add(4), cpsr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Table A8-1, written out as it stands there: one line per condition.
    fn table_a8_1(code: u8, n: bool, z: bool, c: bool, v: bool) -> bool {
        match code {
            0b0000 => z,
            0b0001 => !z,
            0b0010 => c,
            0b0011 => !c,
            0b0100 => n,
            0b0101 => !n,
            0b0110 => v,
            0b0111 => !v,
            0b1000 => c && !z,
            0b1001 => !c || z,
            0b1010 => n == v,
            0b1011 => n != v,
            0b1100 => !z && n == v,
            0b1101 => z || n != v,
            _ => true,
        }
    }

    #[test]
    fn all_conditions_for_all_flags() {
        for code in 0..16u8 {
            for flags in 0..16u32 {
                let cpsr = Psr::from_bits_retain(flags << 28);
                let expected = table_a8_1(code, flags & 8 != 0, flags & 4 != 0, flags & 2 != 0, flags & 1 != 0);
                assert_eq!(ConditionCode::new(code.into()).holds(cpsr), expected, "{code:#x} {flags:#x}");
            }
        }
    }

    #[test]
    fn it_blocks_run_as_written() {
        // ITETE EQ: firstcond 0000, mask 0b1011 in the instruction (A8.8.54), so EQ NE EQ NE.
        let mut cpsr = (Psr::T | Psr::Z).with_it_state(0b0000_1011);
        let mut ran = [false; 4];
        for each in &mut ran {
            *each = Condition::ItState.holds(cpsr);
            cpsr = advance_it_state(cpsr);
        }
        assert_eq!(ran, [true, false, true, false]);
        assert_eq!(cpsr.it_state(), 0);
        // IT NE: one instruction.
        let cpsr = (Psr::T | Psr::Z).with_it_state(0b0001_1000);
        assert!(!Condition::ItState.holds(cpsr));
        assert_eq!(advance_it_state(cpsr).it_state(), 0);
    }

    #[test]
    fn cv_clear_without_it_block_always_runs() {
        for flags in 0..16 {
            assert!(Condition::ItState.holds(Psr::from_bits_retain(flags << 28 | 1 << 5)));
            assert!(Condition::ItState.holds(Psr::from_bits_retain(flags << 28)));
        }
    }

    #[test]
    fn condition_from_a_syndrome() {
        assert_eq!(Condition::from_hsr(0x0fe0_0000), Condition::ALWAYS);
        assert_eq!(Condition::from_hsr(0x0f10_0000), Condition::Code(ConditionCode::new(1)));
        assert_eq!(Condition::from_hsr(0x0ef0_0000), Condition::ItState);
    }

    #[test]
    fn skipping() {
        use InstructionLength::{Halfword, Word};
        let thumb = Psr::T.with_it_state(0b0000_1011);
        assert_eq!(skip_instruction(0x8000, Psr::empty(), Word), (0x8004, Psr::empty()));
        assert_eq!(skip_instruction(0x8000, Psr::empty(), Halfword).0, 0x8004);
        assert_eq!(skip_instruction(0x8000, thumb, Halfword), (0x8002, Psr::T.with_it_state(0b0001_0110)));
        assert_eq!(skip_instruction(0x8000, thumb, Word).0, 0x8004);
        assert_eq!(skip_instruction(0xffff_fffe, Psr::T, Halfword).0, 0);
        assert_eq!(skip_instruction(0xffff_fffc, Psr::empty(), Word).0, 0);
        assert_eq!(InstructionLength::from_hsr(1 << 25), Word);
        assert_eq!(InstructionLength::from_hsr(!(1 << 25)), Halfword);
    }

    proptest! {
        #[test]
        fn it_state_ends_after_at_most_four(bits: u32) {
            let mut cpsr = Psr::from_bits_retain(bits | 1 << 5);
            for _ in 0..4 {
                cpsr = advance_it_state(cpsr);
            }
            prop_assert_eq!(cpsr.it_state() & 0xf, 0);
            prop_assert_eq!(cpsr.bits() & !Psr::IT.bits(), (bits | 1 << 5) & !Psr::IT.bits());
        }

        #[test]
        fn opposite_conditions_disagree(flags: u32, code in 0u32..7) {
            let cpsr = Psr::from_bits_retain(flags);
            prop_assert_ne!(ConditionCode::new(2 * code).holds(cpsr), ConditionCode::new(2 * code + 1).holds(cpsr));
        }
    }
}
