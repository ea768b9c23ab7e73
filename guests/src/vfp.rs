// SPDX-License-Identifier: GPL-2.0-only
//! VFP and NEON registers. The guests are built soft-float, so nothing but what stands here touches them.
//!
//! Source: ARM DDI 0406C.d, B1.11 (turning them on), B4.1.40 (CPACR), B6.1.38 (FPEXC), B6.1.39 (FPSCR).

use core::arch::asm;

use crate::sysreg;

/// d0 to d31.
pub type Bank = [u64; 32];

/// Loads d0 to d31.
pub fn load(bank: &Bank) {
    // SAFETY: reads 256 bytes from `bank`; the compiler uses no VFP registers for this target.
    unsafe {
        asm!(".fpu neon-vfpv4", "vldmia {0}!, {{d0-d15}}", "vldmia {0}, {{d16-d31}}", inout(reg) bank.as_ptr() => _, options(nostack, readonly))
    };
}

/// Stores d0 to d31.
pub fn store() -> Bank {
    let mut bank = [0; 32];
    // SAFETY: writes 256 bytes to `bank`.
    unsafe {
        asm!(".fpu neon-vfpv4", "vstmia {0}!, {{d0-d15}}", "vstmia {0}, {{d16-d31}}", inout(reg) bank.as_mut_ptr() => _, options(nostack))
    };
    bank
}

/// Writes FPSCR.
pub fn set_fpscr(value: u32) {
    // SAFETY: rounding mode, flags and the like mean nothing to code without floating point.
    unsafe { asm!(".fpu neon-vfpv4", "vmsr fpscr, {}", in(reg) value, options(nostack)) };
}

/// Reads FPSCR.
pub fn fpscr() -> u32 {
    let value;
    // SAFETY: reading a status register changes nothing.
    unsafe { asm!(".fpu neon-vfpv4", "vmrs {}, fpscr", out(reg) value, options(nostack)) };
    value
}

/// Writes FPEXC.
pub fn set_fpexc(value: u32) {
    // SAFETY: as in `set_fpscr`.
    unsafe { asm!(".fpu neon-vfpv4", "vmsr fpexc, {}", in(reg) value, options(nostack)) };
}

/// Reads FPEXC.
pub fn fpexc() -> u32 {
    let value;
    // SAFETY: as in `fpscr`.
    unsafe { asm!(".fpu neon-vfpv4", "vmrs {}, fpexc", out(reg) value, options(nostack)) };
    value
}

/// FPEXC: VFP and NEON are on.
pub const EN: u32 = 1 << 30;
/// CPACR: full access to coprocessors 10 and 11.
pub const FULL_ACCESS: u32 = 0xf << 20;

/// Lets both privileges at VFP and NEON, and turns them on.
pub fn on() {
    sysreg::cpacr::write(sysreg::cpacr::read() | FULL_ACCESS);
    set_fpexc(EN);
}
