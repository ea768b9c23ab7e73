// SPDX-License-Identifier: GPL-2.0-only
//! Undefined instructions, native and injected, are taken in the right mode with the right LR, SPSR and masks.
#![no_std]
#![no_main]

use core::arch::asm;

use guests::exceptions::{Caught, Kind, catch};
use guests::test::Verdict;
use guests::{check, check_eq, guest, sysreg};

guest!(
    a_native_one,
    an_unknown_register_of_cp15,
    an_unknown_register_read_from_thumb,
    a_debug_register_that_is_not_there,
    secure_calls_are_refused,
    a_supervisor_call,
    conditions_are_honoured
);

/// Checks an exception that was taken from this mode at `at`, with `behind` bytes between it and LR.
fn as_expected(caught: Option<Caught>, kind: Kind, mode: u32, lr: u32, spsr: u32) -> Verdict {
    let Some(caught) = caught else {
        check!(false, "no exception was taken");
        return Ok(());
    };
    check!(caught.kind == kind, "it took {:?}", caught.kind);
    check_eq!("LR", caught.lr, lr);
    check_eq!("the handler's mode", caught.cpsr & 0x1f, mode);
    check_eq!("the handler's I bit", caught.cpsr >> 7 & 1, 1);
    check_eq!("the handler's T bit", caught.cpsr >> 5 & 1, 0);
    // Flags are the compiler's business.
    check_eq!("SPSR", caught.spsr & 0x07ff_ffff, spsr & 0x07ff_ffff);
    Ok(())
}

/// Runs one instruction, in ARM state; says where the next one is.
macro_rules! instruction {
    ($($text:literal),+) => {{
        let mut next: u32 = 0;
        // SAFETY: one instruction that is undefined or reads into r0; the label tells where it ended.
        let caught = catch(|| unsafe {
            asm!("adr {next}, 2f", $($text,)+ "2:", next = out(reg) next, out("r0") _, out("r1") _, out("r2") _, out("r3") _, options(nostack))
        });
        (caught, next)
    }};
}

const UNDEFINED: u32 = 0x1b;

fn a_native_one() -> Verdict {
    let cpsr = sysreg::cpsr();
    let (caught, next) = instruction!("udf #0");
    as_expected(caught, Kind::Undefined, UNDEFINED, next, cpsr)
}

fn an_unknown_register_of_cp15() -> Verdict {
    let cpsr = sysreg::cpsr();
    let (caught, next) = instruction!("mrc p15, 7, r0, c15, c15, 7");
    as_expected(caught, Kind::Undefined, UNDEFINED, next, cpsr)?;
    let (caught, next) = instruction!("mcr p15, 7, r0, c15, c15, 7");
    as_expected(caught, Kind::Undefined, UNDEFINED, next, cpsr)
}

fn an_unknown_register_read_from_thumb() -> Verdict {
    let cpsr = sysreg::cpsr();
    let mut next: u32 = 0;
    // SAFETY: as in `instruction`, in Thumb state and back. The handler goes on at LR, two bytes behind the start of a four-byte
    // instruction: there, where its second half is, a NOP-like halfword is not to be had, so the handler's LR is what is looked at and the rest
    // of the encoding (0x7fff: ldrb r7, [r7, #31]) reads from the stack, whose address r7 has.
    let caught = catch(|| unsafe {
        asm!(
            "push {{r7, lr}}",
            "mov r7, sp",
            "adr {next}, 3f + 1",
            "bx {next}",
            ".thumb",
            "3:",
            ".inst.n 0xeeff, 0x7fff",  // mrc p15, 7, r7, c15, c15, 7
            "adr {next}, 4f",
            "bx {next}",
            ".balign 4",
            ".arm",
            "4:",
            "adr {next}, 3b",
            "pop {{r7, lr}}",
            next = out(reg) next,
        )
    });
    as_expected(caught, Kind::Undefined, UNDEFINED, next + 2, cpsr | 0x20)
}

fn a_debug_register_that_is_not_there() -> Verdict {
    let cpsr = sysreg::cpsr();
    let (caught, next) = instruction!("mrc p14, 7, r0, c15, c15, 7");
    as_expected(caught, Kind::Undefined, UNDEFINED, next, cpsr)
}

/// KVM/ARM answers a trapped SMC as SMCCC answers an unknown function, and goes on behind it. On a core without Secure state it does
/// not trap: there it is undefined.
fn secure_calls_are_refused() -> Verdict {
    let mut r0: u32 = 0x8400_0000;
    // SAFETY: the call changes r0 to r3 at most.
    let caught = catch(|| unsafe {
        asm!(".arch_extension sec", "smc #0", inout("r0") r0, out("r1") _, out("r2") _, out("r3") _)
    });
    match caught {
        Some(caught) => {
            check!(caught.kind == Kind::Undefined, "it took {:?}", caught.kind);
        }
        None => {
            check_eq!("the answer", r0, u32::MAX);
        }
    }
    Ok(())
}

fn a_supervisor_call() -> Verdict {
    // Taken in Supervisor mode itself: LR of this very mode is lost, so it is declared.
    let cpsr = sysreg::cpsr();
    let mut next: u32 = 0;
    // SAFETY: the handler returns behind the instruction.
    let caught = catch(|| unsafe { asm!("adr {next}, 2f", "svc #0", "2:", next = out(reg) next, out("lr") _) });
    as_expected(caught, Kind::Supervisor, 0x13, next, cpsr)
}

fn conditions_are_honoured() -> Verdict {
    // Z is clear after comparing 0 with 1: an EQ instruction is skipped, trapped or not.
    let before = 0x1234u32;
    let after: u32;
    // SAFETY: reads ACTLR, or nothing, into a register that is declared.
    unsafe {
        asm!("cmp {zero}, #1", "mrceq p15, 0, {value}, c1, c0, 1", zero = in(reg) 0, value = inout(reg) before => after, options(nostack))
    };
    check_eq!("a register that should not be written", after, before);
    // SAFETY: as above; the hypercall would answer a version.
    let answer: u32 = unsafe {
        let answer;
        asm!(".arch_extension virt", "cmp {zero}, #1", "mrcne p15, 0, {value}, c1, c0, 1", zero = in(reg) 0, value = inout(reg) before => answer, options(nostack));
        answer
    };
    check_eq!("ACTLR, read under a condition", answer, sysreg::actlr::read());
    Ok(())
}
