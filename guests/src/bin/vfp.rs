// SPDX-License-Identifier: GPL-2.0-only
//! VFP state survives every kind of exit: d0 to d31, FPSCR, FPEXC. The guest is built soft-float, so nothing else touches them.
#![no_std]
#![no_main]

use core::arch::asm;

use guests::exceptions::{Kind, catch};
use guests::test::Verdict;
use guests::vfp::{Bank, EN, FULL_ACCESS, fpexc, fpscr, load, on, set_fpexc, set_fpscr, store};
use guests::{check, check_eq, gic, guest, mmio, psci, sysreg, timer, uart};

guest!(
    turned_off_it_is_undefined,
    registers_start_and_stay_as_written,
    they_survive_hypercalls,
    they_survive_a_trapped_register,
    they_survive_the_kernels_mmio,
    they_survive_the_processs_mmio,
    they_survive_a_wait,
    fpscr_survives,
    turned_off_again_it_is_undefined,
);

fn pattern(seed: u64) -> Bank {
    core::array::from_fn(|number| ((seed << 48) | (number as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Whether all registers, loaded before `exit`, are what they were after it.
fn survives(seed: u64, exit: fn()) -> Verdict {
    on();
    let before = pattern(seed);
    load(&before);
    for _ in 0..10 {
        exit();
    }
    let after = store();
    for (number, (before, after)) in before.iter().zip(&after).enumerate() {
        check!(before == after, "d{number} was {before:#x}, is {after:#x}");
    }
    check_eq!("FPEXC", fpexc(), EN);
    Ok(())
}

/// `vadd.f64 d0, d0, d0`, caught.
fn undefined_when_off() -> Verdict {
    // SAFETY: changes d0 at most.
    let caught = catch(|| unsafe { asm!(".fpu neon-vfpv4", "vadd.f64 d0, d0, d0", options(nostack)) });
    check!(caught.is_some_and(|caught| caught.kind == Kind::Undefined), "it took {caught:x?}, should be undefined");
    Ok(())
}

fn turned_off_it_is_undefined() -> Verdict {
    sysreg::cpacr::write(sysreg::cpacr::read() | FULL_ACCESS);
    set_fpexc(0);
    undefined_when_off()?;
    sysreg::cpacr::write(sysreg::cpacr::read() & !FULL_ACCESS);
    undefined_when_off()
}

fn registers_start_and_stay_as_written() -> Verdict {
    survives(1, || {})
}

fn they_survive_hypercalls() -> Verdict {
    survives(2, || {
        psci::version();
    })
}

fn they_survive_a_trapped_register() -> Verdict {
    survives(3, || {
        sysreg::actlr::read();
    })
}

fn they_survive_the_kernels_mmio() -> Verdict {
    survives(4, || {
        mmio::read32(gic::GICD_IIDR);
    })
}

fn they_survive_the_processs_mmio() -> Verdict {
    survives(5, || {
        mmio::read8(uart::SCRATCH);
    })
}

fn they_survive_a_wait() -> Verdict {
    gic::enable();
    gic::enable_private(gic::VIRTUAL_TIMER);
    let verdict = survives(6, || {
        timer::fire_in(5_000);
        while sysreg::cntv_ctl::read() & timer::ISTATUS == 0 {
            sysreg::wfi();
        }
        timer::off();
    });
    gic::disable_private(gic::VIRTUAL_TIMER);
    verdict
}

fn fpscr_survives() -> Verdict {
    on();
    for value in [0xf000_0000, 0x01c0_0000, 0x0200_009f, 0] {
        set_fpscr(value);
        let written = fpscr();
        psci::version();
        mmio::read8(uart::SCRATCH);
        check_eq!("FPSCR", fpscr(), written);
        check_eq!("FPSCR's flags", written & 0xf000_0000, value & 0xf000_0000);
    }
    Ok(())
}

fn turned_off_again_it_is_undefined() -> Verdict {
    on();
    psci::version();
    load(&pattern(7));
    set_fpexc(0);
    psci::version();
    check_eq!("FPEXC", fpexc(), 0);
    undefined_when_off()
}
