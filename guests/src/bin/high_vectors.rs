// SPDX-License-Identifier: GPL-2.0-only
//! Exceptions with SCTLR.V set are taken at 0xffff_0000, native and injected ones alike.
#![no_std]
#![no_main]

use core::arch::asm;

use guests::exceptions::{Kind, VECTORS_SIZE, catch, vectors};
use guests::test::Verdict;
use guests::{check, guest, mmio, mmu, sysreg};

guest!(a_native_one_goes_high, an_injected_one_goes_high, and_low_again);

/// Memory that stands in for the top of the address space.
const STAND_IN: u32 = 0x81e0_0000;
const HIGH: u32 = 0xffff_0000;
/// Where low vectors would be looked for while V is set: a table of nothing.
const NOWHERE: u32 = 0x81d0_0000;

/// Runs `code` with the vectors at the top of the address space and VBAR pointing at nothing.
fn high<T>(code: impl FnOnce() -> T) -> T {
    for offset in (0..VECTORS_SIZE as u32).step_by(4) {
        mmio::write32(STAND_IN + 0xf_0000 + offset, mmio::read32(vectors as *const () as u32 + offset));
    }
    for offset in (0..32).step_by(4) {
        mmio::write32(NOWHERE + offset, 0xeaff_fffe); // b . : a wrong vector hangs, and the runner's time limit tells
    }
    mmu::map_flat();
    mmu::map_section(HIGH, STAND_IN);
    mmu::on();
    let vbar = sysreg::vbar::read();
    sysreg::vbar::write(NOWHERE);
    sysreg::sctlr::write(sysreg::sctlr::read() | sysreg::SCTLR_V);
    let result = code();
    sysreg::sctlr::write(sysreg::sctlr::read() & !sysreg::SCTLR_V);
    sysreg::vbar::write(vbar);
    mmu::off();
    result
}

fn undefined(code: impl FnOnce()) -> Verdict {
    let caught = catch(code);
    check!(caught.is_some_and(|caught| caught.kind == Kind::Undefined), "it took {caught:x?}");
    Ok(())
}

fn native() {
    // SAFETY: an undefined instruction, caught.
    unsafe { asm!("udf #0", options(nostack)) };
}

fn injected() {
    // SAFETY: a register that the hypervisor does not know, caught.
    unsafe { asm!("mrc p15, 7, {}, c15, c15, 7", out(reg) _, options(nostack)) };
}

fn a_native_one_goes_high() -> Verdict {
    high(|| undefined(native))
}

fn an_injected_one_goes_high() -> Verdict {
    high(|| undefined(injected))
}

fn and_low_again() -> Verdict {
    undefined(injected)
}
