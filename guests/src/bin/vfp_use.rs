// SPDX-License-Identifier: GPL-2.0-only
//! VFP is there, and undefined while FPEXC.EN is clear; or, where the command line says `vfp=0`, always undefined.
#![no_std]
#![no_main]

use core::arch::asm;

use guests::exceptions::{Kind, catch};
use guests::test::Verdict;
use guests::vfp::{EN, FULL_ACCESS, set_fpexc, set_fpscr};
use guests::{check, check_eq, device_tree, guest, mmio, sysreg, uart};

guest!(it_is_there_or_undefined_as_told, turned_off_it_is_undefined_before_and_after_a_switch);

fn is_there() -> bool {
    device_tree::number("vfp") != Some(0)
}

/// Whether code takes an Undefined Instruction exception; any other is a failure.
fn is_undefined(code: fn()) -> Result<bool, guests::test::Failure> {
    let caught = catch(code);
    check!(caught.is_none_or(|caught| caught.kind == Kind::Undefined), "it took {caught:x?}");
    Ok(caught.is_some())
}

fn add() {
    // SAFETY: changes d0, which nobody uses.
    unsafe { asm!(".fpu neon-vfpv4", "vadd.f64 d0, d0, d0", options(nostack)) }
}

fn it_is_there_or_undefined_as_told() -> Verdict {
    sysreg::cpacr::write(sysreg::cpacr::read() | FULL_ACCESS);
    let uses: [(&str, fn()); 4] = [
        ("VMSR FPEXC", || set_fpexc(EN)),
        ("VADD", add),
        ("VMSR FPSCR", || set_fpscr(0)),
        ("a NEON instruction", || {
            // SAFETY: changes q1, which nobody uses.
            unsafe { asm!(".fpu neon-vfpv4", "vadd.i32 q1, q1, q1", options(nostack)) }
        }),
    ];
    for (name, use_it) in uses {
        // Twice, with an exit in between: the first use of a stay is another thing than the next.
        for _ in 0..2 {
            let undefined = is_undefined(use_it)?;
            check!(undefined != is_there(), "{name} was undefined: {undefined}");
        }
        mmio::read8(uart::SCRATCH);
    }
    Ok(())
}

fn turned_off_it_is_undefined_before_and_after_a_switch() -> Verdict {
    if !is_there() {
        return Ok(());
    }
    for off_after_exit in [false, true] {
        set_fpexc(EN);
        add();
        if off_after_exit {
            set_fpexc(0);
        }
        mmio::read8(uart::SCRATCH);
        set_fpexc(0);
        // The first has the state exchanged on its behalf, and is undefined all the same; the second meets what was exchanged.
        for turn in ["before", "after"] {
            check!(is_undefined(add)?, "with FPEXC.EN clear it was not undefined {turn} the switch");
            check_eq!("FPEXC", guests::vfp::fpexc(), 0);
        }
        // Only EN was missing.
        set_fpexc(EN);
        check!(!is_undefined(add)?, "with FPEXC.EN set it was undefined");
    }
    Ok(())
}
