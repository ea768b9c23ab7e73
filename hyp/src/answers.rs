// SPDX-License-Identifier: GPL-2.0-only
//! Exits that need nothing from the host: answered here, and the guest goes on.
//!
//! Two kinds. What does not change while the guest runs (what some hypercalls return, what ACTLR and L2CTLR read) the module
//! has written beside the question into the context ([`Answers`](hyp_abi::context::Answers)); here it is only looked up. What the
//! emulated physical timer reads depends on the count, which Hyp mode can read as well as the module.
//!
//! Whatever is out of the ordinary is left to the module: a condition, an IT block, a mode whose registers are banked. So a
//! question here is always an unconditional instruction in Supervisor mode, and Rt is one of r0 to r12 as they were stored.

use crate::sysreg::cntpct;
use arch::cp15::{reg, wide};
use arch::psr::{Mode, Psr};
use arch::syndrome::{CP15, CP15_WIDE, HVC, Trap, exception_class};
use arch::timer::Register;
use hyp_abi::context::{Answer, VcpuContext};

/// Rt and Rt2 of a syndrome.
const RT: u32 = 0xf << 5;
const RT2: u32 = 0xf << 10;
/// The mode, and ITSTATE, which is zero outside of IT blocks.
const MODE_AND_IT: u32 = Psr::M.union(Psr::IT).bits();

/// Answers the trap that `hsr` tells of, if it can. True: the guest goes on.
#[inline(never)]
pub fn answer(context: &mut VcpuContext, hsr: u32) -> bool {
    if context.cpsr & MODE_AND_IT != Mode::Svc as u32 {
        return false;
    }
    match exception_class(hsr) {
        HVC => call(context),
        CP15 => register(context, hsr),
        CP15_WIDE => compare_value(context, hsr),
        _ => false,
    }
}

/// A hypercall. ELR is past it already.
#[inline(always)]
fn call(context: &mut VcpuContext) -> bool {
    let [function, ..] = context.r;
    let answer = |Answer { question, .. }: &&Answer| *question == function && function != 0;
    let Some(&Answer { value, .. }) = context.answers.calls.iter().find(answer) else { return false };
    let [r0, r1, r2, r3, ..] = &mut context.r;
    (*r0, *r1, *r2, *r3) = (value, 0, 0, 0);
    true
}

/// MRC.
#[inline(always)]
fn register(context: &mut VcpuContext, hsr: u32) -> bool {
    let question = hsr & !RT;
    let value = if question == context.answers.actlr.question {
        context.answers.actlr.value
    } else if question == context.answers.l2ctlr.question {
        context.answers.l2ctlr.value
    } else if question == const { Trap::reads(reg::CNTP_CTL) } {
        context.physical_timer.read(Register::Control, now()) as u32
    } else if question == const { Trap::reads(reg::CNTP_TVAL) } {
        context.physical_timer.read(Register::TimerValue, now()) as u32
    } else {
        return false;
    };
    let Some(rt) = low_register(context, hsr >> 5) else { return false };
    *rt = value;
    context.pc = context.pc.wrapping_add(4);
    true
}

/// MRRC of CNTP_CVAL.
#[inline(always)]
fn compare_value(context: &mut VcpuContext, hsr: u32) -> bool {
    let (low, high) = (hsr >> 5 & 0xf, hsr >> 10 & 0xf);
    if hsr & !(RT | RT2) != const { Trap::reads_wide(wide::CNTP_CVAL) } || low > 12 || high > 12 {
        return false;
    }
    let value = context.physical_timer.read(Register::CompareValue, 0);
    for (number, word) in [(low, value as u32), (high, (value >> 32) as u32)] {
        if let Some(register) = low_register(context, number) {
            *register = word;
        }
    }
    context.pc = context.pc.wrapping_add(4);
    true
}

/// r0 to r12, which Supervisor mode shares with User mode.
#[inline(always)]
fn low_register(context: &mut VcpuContext, number: u32) -> Option<&mut u32> {
    let number = (number & 0xf) as usize;
    if number < 13 { context.r.get_mut(number) } else { None }
}

/// CNTPCT. The trap synchronised, so that it is not read from before (B8.1.2, B3.15.5).
#[inline(always)]
fn now() -> u64 {
    cntpct::read()
}
