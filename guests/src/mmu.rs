// SPDX-License-Identifier: GPL-2.0-only
//! A flat map, in either format of tables: memory as write-back cached, devices as devices, each address as itself.
//!
//! Caches are turned on with the MMU, and off as the manual asks: cache off, then clean and invalidate by set and way, level by level.
//!
//! Source: ARM DDI 0406C.d, B3.5.1 (sections), B3.6.1 (long descriptors), B3.8.2 (memory attributes), B2.2.7 (turning caches off and on).

use core::arch::asm;
use core::cell::UnsafeCell;

use crate::sysreg::{self, SCTLR_C, SCTLR_I, SCTLR_M};

const RAM_FIRST: u32 = 0x800;
const SECTION: u32 = 2;
const FULL_ACCESS: u32 = 3 << 10;
const SHAREABLE: u32 = 1 << 16;
/// TEX 001, C, B: Normal, write-back, write-allocate.
const CACHED: u32 = SECTION | FULL_ACCESS | SHAREABLE | 1 << 12 | 1 << 3 | 1 << 2;
/// TEX 000, B: Device; never executed.
const DEVICE: u32 = SECTION | FULL_ACCESS | 1 << 2 | 1 << 4;

#[repr(C, align(16384))]
struct Table(UnsafeCell<[u32; 4096]>);
// SAFETY: one vCPU uses it, through the volatile accesses below.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([0; 4096]));

/// Maps the section of 1 MiB at `virtual_address` to the memory at `physical`, cached. For use before [`on`].
pub fn map_section(virtual_address: u32, physical: u32) {
    set(virtual_address >> 20, physical & 0xfff0_0000 | CACHED);
}

fn set(index: u32, entry: u32) {
    // SAFETY: the index is below 4096 by its type's use; nobody holds a reference into the table.
    unsafe { TABLE.0.get().cast::<u32>().add((index & 0xfff) as usize).write_volatile(entry) };
}

/// Fills the table: each address is itself.
pub fn map_flat() {
    for index in 0..4096 {
        set(index, index << 20 | if index >= RAM_FIRST { CACHED } else { DEVICE });
    }
}

/// Turns MMU and caches on.
pub fn on() {
    sysreg::dsb();
    sysreg::ttbcr::write(0);
    sysreg::ttbr0::write(TABLE.0.get() as u32);
    sysreg::dacr::write(1); // domain 0: as the table says
    turn_on();
}

/// The first level of the long format, which translates 1 GiB with each of its entries.
#[repr(C, align(32))]
struct LongTable([u64; 4]);

/// AF, SH inner, AP 01: used, inner shareable, both privileges read and write.
const LONG_BLOCK: u64 = 1 | 1 << 10 | 3 << 8 | 1 << 6;
/// AttrIndx 1, which is MAIR0's second byte.
const LONG_CACHED: u64 = LONG_BLOCK | 1 << 2;
/// AttrIndx 0; XN.
const LONG_DEVICE: u64 = LONG_BLOCK | 1 << 54;

/// In the second is nothing; a fetch from there is not the first stage's to refuse.
static LONG_TABLE: LongTable =
    LongTable([LONG_DEVICE, 1 << 30 | LONG_CACHED, 2 << 30 | LONG_CACHED, 3 << 30 | LONG_CACHED]);

/// TTBCR of the long format: EAE, one region; walks are write-back, write-allocate, inner shareable.
pub const LONG_TTBCR: u32 = 1 << 31 | 3 << 12 | 1 << 10 | 1 << 8;
/// MAIR0 of it: byte 0 Device, byte 1 Normal, write-back, write-allocate.
pub const LONG_MAIR0: u32 = 0xff04;

/// Turns MMU and caches on with the same flat map in the long format.
pub fn on_long() {
    sysreg::dsb();
    sysreg::ttbcr::write(LONG_TTBCR);
    sysreg::ttbr0_wide::write((&raw const LONG_TABLE) as u32 as u64);
    sysreg::prrr::write(LONG_MAIR0);
    turn_on();
}

fn turn_on() {
    sysreg::tlbiall::write(0);
    sysreg::iciallu::write(0);
    sysreg::dsb();
    sysreg::sctlr::write(sysreg::sctlr::read() | SCTLR_M | SCTLR_C | SCTLR_I);
}

/// Gives up to 2 GiB of the address space to the table at `base`, in the format in use: the rest, where memory is, keeps the
/// map that is on. [`whole`] undoes it.
pub fn lower_half_from(base: u32) {
    if sysreg::ttbcr::read() & LONG_TTBCR == 0 {
        sysreg::ttbr1::write(TABLE.0.get() as u32);
        sysreg::ttbcr::write(1); // N: TTBR0 has the addresses whose top bit is clear
    } else {
        // Two entries, for the addresses whose top bit is set: the upper half of the table of four.
        sysreg::ttbr1_wide::write((&raw const LONG_TABLE) as u32 as u64 + 16);
        sysreg::ttbcr::write(LONG_TTBCR | 1 << 16 | 1); // T1SZ, T0SZ: 31 bits each
    }
    sysreg::ttbr0_wide::write(base.into());
    sysreg::tlbiall::write(0);
    sysreg::dsb();
}

/// Gives all of the address space to the map that is on again.
pub fn whole() {
    let format = sysreg::ttbcr::read() & LONG_TTBCR;
    let table = if format == 0 { TABLE.0.get() as u32 } else { (&raw const LONG_TABLE) as u32 };
    sysreg::ttbr0_wide::write(table.into());
    sysreg::ttbcr::write(format);
    sysreg::tlbiall::write(0);
    sysreg::dsb();
}

/// Turns caches and MMU off, with everything written back.
pub fn off() {
    // SAFETY: no stack is used between cleaning and turning off: what was written before is cleaned, and nothing is written after. The map
    // is flat, so the code goes on where it is.
    unsafe {
        asm!(
            "mrc p15, 0, {sctlr}, c1, c0, 0",
            "bic {sctlr}, {sctlr}, #4",            // C: no more lines are allocated
            "mcr p15, 0, {sctlr}, c1, c0, 0",
            "isb",
            "bl {clean}",
            "mrc p15, 0, {sctlr}, c1, c0, 0",
            "bic {sctlr}, {sctlr}, #0x1000",       // I
            "bic {sctlr}, {sctlr}, #1",            // M
            "mcr p15, 0, {sctlr}, c1, c0, 0",
            "isb",
            sctlr = out(reg) _,
            clean = sym clean_and_invalidate_all,
            out("r0") _, out("r1") _, out("r2") _, out("r3") _, out("r12") _, out("lr") _,
        );
    }
    sysreg::tlbiall::write(0);
    sysreg::iciallu::write(0);
}

/// Cleans and invalidates all data caches up to the level of coherency, by set and way. Uses the stack only while caches are off.
extern "C" fn clean_and_invalidate_all() {
    sysreg::dsb();
    let clidr = sysreg::clidr::read();
    let levels = clidr >> 24 & 7;
    for level in 0..levels {
        if clidr >> (3 * level) & 7 < 2 {
            continue; // no data cache at this level
        }
        sysreg::csselr::write(level << 1);
        let ccsidr = sysreg::ccsidr::read();
        let line_shift = (ccsidr & 7) + 4;
        let last_way = ccsidr >> 3 & 0x3ff;
        let last_set = ccsidr >> 13 & 0x7fff;
        let way_shift = last_way.leading_zeros();
        for way in 0..=last_way {
            for set in 0..=last_set {
                let way = way.checked_shl(way_shift).unwrap_or(0);
                sysreg::dccisw::write(way | set << line_shift | level << 1);
            }
        }
        sysreg::dsb();
    }
    sysreg::dsb();
}
