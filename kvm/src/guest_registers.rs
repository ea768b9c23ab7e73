// SPDX-License-Identifier: GPL-2.0-only
//! The guest's general registers as the trapped instruction sees them, and the step past that instruction.
//!
//! A syndrome names a register by the number in the instruction; which register that is depends on the mode that the guest
//! was in. The world switch keeps User mode's r0 to r12 and LR (which is Hyp mode's LR) together and every banked register
//! apart, so a number and a mode select one word of the [`VcpuContext`]. System mode has User mode's registers.
//!
//! An instruction that was carried out here is stepped over: PC moves by its length and ITSTATE advances, or the next
//! instruction of an IT block would run under the wrong condition. The same step passes an instruction that trapped although
//! its condition fails, which the architecture allows (B1.14.1).
//!
//! Source: ARM DDI 0406C.d, B1.3.2 (banked registers), A2.5.2 (ITSTATE).

use arch::condition::{self, Condition, InstructionLength};
use arch::psr::{Mode, Psr};
use arch::syndrome::Rt;
use hyp_abi::context::{Bank, Banks, LR_USR, VcpuContext};

/// The guest's mode. An encoding that no guest can be in counts as Supervisor: it cannot come from hardware, and
/// `one_reg` refuses it.
pub fn mode(context: &VcpuContext) -> Mode {
    match Mode::from_psr(context.cpsr) {
        Some(mode) if mode.is_guest() => mode,
        _ => Mode::Svc,
    }
}

/// The guest's CPSR.
pub fn cpsr(context: &VcpuContext) -> Psr {
    Psr::from_bits_retain(context.cpsr)
}

/// Whether the guest's data accesses are big-endian now.
pub fn is_big_endian(context: &VcpuContext) -> bool {
    cpsr(context).contains(Psr::E)
}

/// The SP, LR and SPSR of a mode. `None`: User and System mode, which have no bank of their own.
fn bank(banks: &mut Banks, mode: Mode) -> Option<&mut Bank> {
    Some(match mode {
        Mode::Svc => &mut banks.svc,
        Mode::Abt => &mut banks.abt,
        Mode::Und => &mut banks.und,
        Mode::Irq => &mut banks.irq,
        Mode::Fiq => &mut banks.fiq,
        Mode::User | Mode::Sys | Mode::Mon | Mode::Hyp => return None,
    })
}

/// The word that holds register `rt` in the guest's mode.
#[inline(always)]
fn word(context: &mut VcpuContext, rt: Rt) -> Option<&mut u32> {
    if rt.index() < 8 { context.r.get_mut(rt.index()) } else { banked_word(context, rt) }
}

/// The same for those of which some mode has its own.
#[inline(never)]
fn banked_word(context: &mut VcpuContext, rt: Rt) -> Option<&mut u32> {
    let mode = mode(context);
    let VcpuContext { r, banks, .. } = context;
    match rt.index() {
        number @ 8..=12 if mode == Mode::Fiq => banks.fiq_r.get_mut(number - 8),
        number @ 0..=12 => r.get_mut(number),
        13 => Some(match mode {
            Mode::Svc | Mode::Abt | Mode::Und | Mode::Irq | Mode::Fiq => &mut bank(banks, mode)?.sp,
            Mode::User | Mode::Sys | Mode::Mon | Mode::Hyp => &mut banks.sp_usr,
        }),
        _ => match bank(banks, mode) {
            Some(bank) => Some(&mut bank.lr),
            None => r.get_mut(LR_USR),
        },
    }
}

/// A register of a guest that is in Supervisor mode: r0 to r12 are User mode's, SP and LR its own.
#[inline]
pub fn supervisor(context: &mut VcpuContext, rt: Rt) -> &mut u32 {
    match (rt.index(), context.r.get_mut(rt.index())) {
        (0..=12, Some(register)) => register,
        (13, _) => &mut context.banks.svc.sp,
        _ => &mut context.banks.svc.lr,
    }
}

/// A register of the guest's current mode.
pub fn read(context: &mut VcpuContext, rt: Rt) -> u32 {
    word(context, rt).map_or(0, |word| *word)
}

/// Writes a register of the guest's current mode.
#[inline]
pub fn write(context: &mut VcpuContext, rt: Rt, value: u32) {
    if let Some(word) = word(context, rt) {
        *word = value;
    }
}

/// The bank of the mode that an exception is taken to. `None`: a mode that takes no exceptions.
pub fn exception_bank(context: &mut VcpuContext, mode: Mode) -> Option<&mut Bank> {
    bank(&mut context.banks, mode)
}

/// Steps over the instruction at PC.
#[inline]
pub fn skip_instruction(context: &mut VcpuContext, length: InstructionLength) {
    let (pc, psr) = condition::skip_instruction(context.pc, cpsr(context), length);
    (context.pc, context.cpsr) = (pc, psr.bits());
}

/// Whether a trapped instruction is to be carried out. Where its condition fails it is stepped over, and that is all.
pub fn passes_condition(context: &mut VcpuContext, condition: Condition, length: InstructionLength) -> bool {
    let passes = condition.holds(cpsr(context));
    if !passes {
        skip_instruction(context, length);
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::condition::InstructionLength::{Halfword, Word};
    use proptest::prelude::*;
    use std::collections::HashSet;

    const MODES: [Mode; 7] = [Mode::User, Mode::Fiq, Mode::Irq, Mode::Svc, Mode::Abt, Mode::Und, Mode::Sys];

    /// A context whose every register has a value of its own, and the list of (mode, number, value) as B1.3.2's figure has it.
    fn numbered() -> (VcpuContext, std::vec::Vec<(Mode, u8, u32)>) {
        let mut context = VcpuContext::default();
        for (index, word) in context.r.iter_mut().enumerate() {
            *word = 0x100 + index as u32;
        }
        context.banks.sp_usr = 0x10d;
        context.r[LR_USR] = 0x10e;
        for (index, word) in context.banks.fiq_r.iter_mut().enumerate() {
            *word = 0x208 + index as u32;
        }
        for (base, mode) in
            [(0x300, Mode::Svc), (0x400, Mode::Abt), (0x500, Mode::Und), (0x600, Mode::Irq), (0x200, Mode::Fiq)]
        {
            *bank(&mut context.banks, mode).unwrap() = Bank { sp: base + 13, lr: base + 14, spsr: base };
        }
        let mut expected = std::vec::Vec::new();
        for mode in MODES {
            for number in 0..15u8 {
                let base = match (mode, number) {
                    (Mode::Fiq, 8..) => 0x200,
                    (Mode::Svc, 13..) => 0x300,
                    (Mode::Abt, 13..) => 0x400,
                    (Mode::Und, 13..) => 0x500,
                    (Mode::Irq, 13..) => 0x600,
                    _ => 0x100,
                };
                expected.push((mode, number, base + u32::from(number)));
            }
        }
        (context, expected)
    }

    fn rt(number: u8) -> Rt {
        Rt::new(number.into()).unwrap()
    }

    #[test]
    fn every_mode_reads_its_own_bank() {
        let (mut context, expected) = numbered();
        for (mode, number, value) in expected {
            context.cpsr = mode as u32;
            assert_eq!(read(&mut context, rt(number)), value, "r{number} of {mode:?}");
        }
    }

    #[test]
    fn a_write_is_seen_by_the_modes_that_share_the_register_and_no_other() {
        let (_, expected) = numbered();
        for &(mode, number, value) in &expected {
            let (mut context, _) = numbered();
            context.cpsr = mode as u32;
            write(&mut context, rt(number), 0xfeed);
            for &(other_mode, other, other_value) in &expected {
                context.cpsr = other_mode as u32;
                let now = if other_value == value { 0xfeed } else { other_value };
                assert_eq!(
                    read(&mut context, rt(other)),
                    now,
                    "r{other} of {other_mode:?} after r{number} of {mode:?}"
                );
            }
        }
        assert_eq!(expected.iter().map(|e| e.2).collect::<HashSet<_>>().len(), 13 + 2 + 7 + 4 * 2);
    }

    #[test]
    fn an_it_block_goes_on_behind_a_skipped_instruction() {
        // ITTE EQ: T, T, E under conditions EQ, EQ, NE.
        let mut context = VcpuContext { pc: 0x8000, ..Default::default() };
        let status = Psr::in_mode(Mode::Svc) | Psr::T | Psr::Z;
        context.cpsr = status.with_it_state(0b0000_0110).bits();
        for (length, it, pc) in [(Halfword, 0b0000_1100, 0x8002), (Word, 0b0001_1000, 0x8006), (Halfword, 0, 0x8008)] {
            skip_instruction(&mut context, length);
            assert_eq!((cpsr(&context).it_state(), context.pc), (it, pc));
        }
        assert_eq!(cpsr(&context), status);
    }

    #[test]
    fn an_instruction_that_fails_its_condition_is_only_passed() {
        // ITE EQ with Z clear: the first does not run, the second does.
        let mut context = VcpuContext { pc: 0x8000, ..Default::default() };
        context.cpsr = (Psr::in_mode(Mode::User) | Psr::T).with_it_state(0b0000_1100).bits();
        assert!(!passes_condition(&mut context, Condition::ItState, Halfword));
        assert_eq!(context.pc, 0x8002);
        assert!(passes_condition(&mut context, Condition::ItState, Word));
        assert_eq!(context.pc, 0x8002);
    }

    #[test]
    fn supervisor_modes_registers_are_found_without_asking_for_the_mode() {
        let (mut context, _) = numbered();
        context.cpsr = Mode::Svc as u32;
        for number in 0..15 {
            let rt = Rt::new(number).unwrap();
            let expected = read(&mut context, rt);
            assert_eq!(*supervisor(&mut context, rt), expected, "r{number}");
        }
    }

    proptest! {
        #[test]
        fn no_register_and_no_mode_panics(status: u32, number in 0..15u8, value: u32, pc: u32) {
            let mut context = VcpuContext { cpsr: status, pc, ..Default::default() };
            write(&mut context, rt(number), value);
            prop_assert_eq!(read(&mut context, rt(number)), value);
            skip_instruction(&mut context, Word);
            prop_assert_eq!(context.pc, pc.wrapping_add(4));
            prop_assert_eq!(context.cpsr & !Psr::IT.bits(), status & !Psr::IT.bits());
        }
    }
}
