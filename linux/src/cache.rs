// SPDX-License-Identifier: GPL-2.0-only
//! Cache maintenance by address, and of the instruction side.
//!
//! The kernel's own functions for this are not exported. Operations by address to the point of coherency and those ending in
//! IS are broadcast to the inner shareable domain (B2.2.7), so they hold for every CPU that a guest may move to.

use core::arch::asm;

/// Bytes in the smallest data cache line of any level (CTR.DminLine is its log2 in words, B4.1).
fn data_line() -> usize {
    let ctr: u32;
    // SAFETY: reads a register.
    unsafe { asm!("mrc p15, 0, {}, c0, c0, 1", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
    4 << (ctr >> 16 & 0xf)
}

/// Cleans and invalidates data caches to the point of coherency (DCCIMVAC) for a run of mapped memory.
///
/// # Safety
/// The memory is mapped.
pub unsafe fn clean_invalidate_to_poc(start: *const u8, bytes: usize) {
    let line = data_line();
    let end = start as usize + bytes;
    let mut address = start as usize & !(line - 1);
    // Sixteen at a time: a guest's fresh memory is maintained page by page, and the loop's own instructions count.
    while address + 15 * line < end {
        // SAFETY: as below.
        unsafe {
            asm!(
                ".rept 16",
                "mcr p15, 0, {address}, c7, c14, 1",
                "add {address}, {address}, {line}",
                ".endr",
                address = inout(reg) address,
                line = in(reg) line,
                options(nostack, preserves_flags),
            )
        };
    }
    while address < end {
        // SAFETY: mapped, says the caller; the operation moves data to where it belongs and changes none.
        unsafe { asm!("mcr p15, 0, {}, c7, c14, 1", in(reg) address, options(nostack, preserves_flags)) };
        address += line;
    }
    // SAFETY: a barrier: complete for all observers, those with caches off included.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Invalidates instruction caches and branch predictors, inner shareable (ICIALLUIS, BPIALLIS).
pub fn invalidate_instructions() {
    // SAFETY: invalidation loses nothing but time. The DSB before makes what was written to the data side visible (B2.2.7), the one
    // after completes the operations, and the ISB drops what this CPU has fetched.
    unsafe {
        asm!(
            "dsb ish",
            "mcr p15, 0, {zero}, c7, c1, 0",
            "mcr p15, 0, {zero}, c7, c1, 6",
            "dsb ish",
            "isb",
            zero = in(reg) 0,
            options(nostack, preserves_flags),
        )
    };
}

/// Makes descriptors that were just stored visible to table walks.
///
/// With the multiprocessing extensions walks look into the data cache (ID_MMFR3.CoherentWalk); where they do not, the table
/// is cleaned.
///
/// # Safety
/// The memory is mapped.
pub unsafe fn publish_table(table: *const u8, bytes: usize) {
    let mmfr3: u32;
    // SAFETY: reads a register.
    unsafe { asm!("mrc p15, 0, {}, c0, c1, 7", out(reg) mmfr3, options(nomem, nostack, preserves_flags)) };
    if mmfr3 >> 20 & 0xf == 0 {
        // SAFETY: promised by the caller.
        unsafe { clean_invalidate_to_poc(table, bytes) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
}
