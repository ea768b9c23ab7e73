// SPDX-License-Identifier: GPL-2.0-only
//! Device accesses by exactly one load or store, of the plain form that a syndrome describes completely.

use core::arch::asm;

/// Reads a word.
pub fn read32(address: u32) -> u32 {
    let value;
    // SAFETY: a guest's own address space; a wrong address is an exception that is reported.
    unsafe { asm!("ldr {}, [{}]", out(reg) value, in(reg) address, options(nostack)) };
    value
}

/// Writes a word.
pub fn write32(address: u32, value: u32) {
    // SAFETY: as in `read32`; devices do not change memory here.
    unsafe { asm!("str {}, [{}]", in(reg) value, in(reg) address, options(nostack)) };
}

/// Reads a halfword, zero-extended.
pub fn read16(address: u32) -> u32 {
    let value;
    // SAFETY: as in `read32`.
    unsafe { asm!("ldrh {}, [{}]", out(reg) value, in(reg) address, options(nostack)) };
    value
}

/// Reads a byte, zero-extended.
pub fn read8(address: u32) -> u32 {
    let value;
    // SAFETY: as in `read32`.
    unsafe { asm!("ldrb {}, [{}]", out(reg) value, in(reg) address, options(nostack)) };
    value
}

/// Reads a byte, sign-extended.
pub fn read8_signed(address: u32) -> i32 {
    let value;
    // SAFETY: as in `read32`.
    unsafe { asm!("ldrsb {}, [{}]", out(reg) value, in(reg) address, options(nostack)) };
    value
}

/// Writes a byte.
pub fn write8(address: u32, value: u8) {
    // SAFETY: as in `write32`.
    unsafe { asm!("strb {}, [{}]", in(reg) u32::from(value), in(reg) address, options(nostack)) };
}
