// SPDX-License-Identifier: GPL-2.0-only
//! Undefined instructions, native and injected, are taken in the right mode with the right LR, SPSR and masks.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

use guests::exceptions::{Caught, Kind, catch};
use guests::test::Verdict;
use guests::{check, check_eq, gic, guest, mmio, sysreg};

guest!(
    a_native_one,
    an_unknown_register_of_cp15,
    an_unknown_register_read_from_thumb,
    a_debug_register_that_is_not_there,
    secure_calls_are_refused,
    a_supervisor_call,
    conditions_are_honoured,
    handlers_are_entered_as_sctlr_says,
    what_traps_and_is_answered,
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

/// SCTLR: exceptions are taken with CPSR.E set, and in Thumb state.
const SCTLR_EE: u32 = 1 << 25;
const SCTLR_TE: u32 = 1 << 30;

/// Handlers in one instruction set: CPSR goes to r1, SPSR to r2, LR to r3, and the code goes on behind the instruction; after a prefetch abort
/// where r4 points. No memory is touched, whose order would be that of SCTLR.EE.
macro_rules! handlers {
    ($name:ident, $set:literal) => {
        /// # Safety
        /// Not to be called.
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!(
                $set,
                ".balign 32",
                "b.w .",
                "b.w 2f",
                "b.w .",
                "b.w 3f",
                "b.w 4f",
                "b.w .",
                "b.w .",
                "b.w .",
                "2:",
                "mrs r1, cpsr",
                "mrs r2, spsr",
                "mov r3, lr",
                "subs pc, lr, #0",
                "3:",
                "mrs r1, cpsr",
                "mrs r2, spsr",
                "mov r3, lr",
                "mov lr, r4",
                "subs pc, lr, #0",
                "4:",
                "mrs r1, cpsr",
                "mrs r2, spsr",
                "mov r3, lr",
                "subs pc, lr, #4",
                ".balign 4",
                ".arm",
            )
        }
    };
}
handlers!(arm_handlers, ".arm");
handlers!(thumb_handlers, ".thumb");

/// What a handler found: CPSR without flags, SPSR without flags, LR's distance from the instruction.
type Found = (u32, u32, u32);

/// Runs an instruction, and tells what the handler found; r0 to r4 and r12 are its own, r0 holds 0 and r4 the address behind it.
macro_rules! found {
    ($text:literal, $r0:expr) => {{
        let (cpsr, spsr, lr, at): (u32, u32, u32, u32);
        // SAFETY: an exception whose handler changes r1 to r3 and goes on behind the instruction.
        unsafe {
            asm!("mov r1, #0", "adr r4, 3f", "adr r12, 2f", "2:", $text, "3:",
                inout("r0") $r0 => _, out("r1") cpsr, out("r2") spsr, out("r3") lr, out("r4") _, out("r12") at, options(nostack))
        };
        (cpsr & 0x07ff_ffff, spsr & 0x07ff_ffff, lr.wrapping_sub(at))
    }};
}

/// Where nothing is.
const NOWHERE: u32 = 0x7000_0000;

/// Undefined instructions, native and injected, a data abort (native: LDM from no multiple of four), and a prefetch abort, injected.
fn all() -> [Found; 4] {
    let before = sysreg::vbar::read();
    let thumb = sysreg::sctlr::read() & SCTLR_TE != 0;
    let handlers: unsafe extern "C" fn() = if thumb { thumb_handlers } else { arm_handlers };
    sysreg::vbar::write(handlers as *const () as u32 & !1);
    let found = [
        found!("udf #0", 0),
        found!("mrc p15, 7, r0, c15, c15, 7", 0),
        found!("ldm r0, {{r0, r1}}", handlers as *const () as u32 | 2),
        found!("bx r0", NOWHERE),
    ];
    sysreg::vbar::write(before);
    found
}

fn handlers_are_entered_as_sctlr_says() -> Verdict {
    let before = sysreg::sctlr::read();
    let cpsr = sysreg::cpsr() & 0x07ff_ffff;
    for bits in [0, SCTLR_EE, SCTLR_TE, SCTLR_EE | SCTLR_TE] {
        sysreg::sctlr::write(before & !(SCTLR_EE | SCTLR_TE) | bits);
        let [native, injected, data, prefetch] = all();
        sysreg::sctlr::write(before);
        let state = |mode: u32, a: u32| {
            // T reads as zero: that it is as SCTLR.TE says shows in that the handler runs at all.
            cpsr & !(0x1f | 1 << 9) | mode | 1 << 7 | a | if bits & SCTLR_EE != 0 { 1 << 9 } else { 0 }
        };
        check!(native == (state(UNDEFINED, 0), cpsr, 4), "SCTLR {bits:#x}, native: {native:x?}");
        check!(injected == native, "SCTLR {bits:#x}, injected: {injected:x?}, native {native:x?}");
        check!(data == (state(0x17, 0x100), cpsr, 8), "SCTLR {bits:#x}, native data abort: {data:x?}");
        check!((prefetch.0, prefetch.1) == (data.0, cpsr), "SCTLR {bits:#x}, injected prefetch abort: {prefetch:x?}");
    }
    Ok(())
}

/// Reads a coprocessor register: 0 unless it is undefined, in which case the test says so.
macro_rules! answer {
    ($text:literal) => {{
        let mut value: u32 = 0xbad;
        // SAFETY: reads a register, or is undefined and caught.
        let caught = catch(|| unsafe { asm!($text, value = inout(reg) value, options(nostack)) });
        check!(caught.is_none(), "{} took {caught:x?}", $text);
        value
    }};
}

fn what_traps_and_is_answered() -> Verdict {
    check_eq!("PMCR", answer!("mrc p15, 0, {value}, c9, c12, 0"), 0);
    check_eq!("PMCNTENSET", answer!("mrc p15, 0, {value}, c9, c12, 1"), 0);
    check_eq!("PMCCNTR", answer!("mrc p15, 0, {value}, c9, c13, 0"), 0);
    check_eq!("PMUSERENR", answer!("mrc p15, 0, {value}, c9, c14, 0"), 0);
    check_eq!("TEECR", answer!("mrc p14, 6, {value}, c0, c0, 0"), 0);
    check_eq!("TEEHBR", answer!("mrc p14, 6, {value}, c1, c0, 0"), 0);
    check_eq!("DBGDSCRint", answer!("mrc p14, 0, {value}, c0, c1, 0"), 0);
    check_eq!("DBGDIDR", answer!("mrc p14, 0, {value}, c0, c0, 0"), 0);
    let cpus = mmio::read32(gic::GICD_TYPER) >> 5 & 7;
    check_eq!("L2CTLR's number of cores", answer!("mrc p15, 1, {value}, c9, c0, 2") >> 24 & 3, cpus);
    check_eq!("L2ECTLR", answer!("mrc p15, 1, {value}, c9, c0, 3"), 0);
    // Writes are taken, and mean nothing.
    let actlr = sysreg::actlr::read();
    answer!("mcr p15, 0, {value}, c1, c0, 1");
    check_eq!("ACTLR, written to", sysreg::actlr::read(), actlr);
    answer!("mcr p15, 0, {value}, c9, c12, 0");
    check_eq!("PMCR, written to", answer!("mrc p15, 0, {value}, c9, c12, 0"), 0);
    // Bit 0 of TEECR is set where nothing traps it, and all but the last two bits of TEEHBR are.
    answer!("mcr p14, 6, {value}, c0, c0, 0");
    check_eq!("TEECR, written to", answer!("mrc p14, 6, {value}, c0, c0, 0"), 0);
    answer!("mcr p14, 6, {value}, c1, c0, 0");
    check_eq!("TEEHBR, written to", answer!("mrc p14, 6, {value}, c1, c0, 0"), 0);
    // Maintenance by set and way: clean, invalidate, both.
    for (name, caught) in
        [("DCCSW", catch(set_way::<0>)), ("DCISW", catch(set_way::<1>)), ("DCCISW", catch(set_way::<2>))]
    {
        check!(caught.is_none(), "{name} took {caught:x?}");
    }
    Ok(())
}

fn set_way<const WHICH: u32>() {
    // SAFETY: level 1, set 0, way 0: with the caches off nothing of this guest's is in them.
    unsafe {
        match WHICH {
            0 => asm!("mcr p15, 0, {}, c7, c10, 2", in(reg) 0, options(nostack)),
            1 => asm!("mcr p15, 0, {}, c7, c6, 2", in(reg) 0, options(nostack)),
            _ => asm!("mcr p15, 0, {}, c7, c14, 2", in(reg) 0, options(nostack)),
        }
    }
}
