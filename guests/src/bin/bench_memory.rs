// SPDX-License-Identifier: GPL-2.0-only
//! What the first access to a page of guest memory costs. `cargo xtask bench` runs it, in a machine of 256 MiB, with the host's huge
//! pages on and off.
//!
//! Each page is fresh once, so that every run takes the next stretch of memory. `fresh_4mib` writes a word to each page of 4 MiB twice;
//! the second pass finds everything there, as on a machine without a hypervisor, and is printed as a run of length 0.
#![no_std]
#![no_main]

use core::arch::asm;

use guests::bench::{Bench, TIMES, Went};
use guests::exceptions;

/// Memory that nobody has touched: the guest lies below, the device tree above.
const FRESH: u32 = 0x8400_0000;
const PAGE: u32 = 0x1000;
const RUN_PAGES: u32 = 128;
const STRETCH_PAGES: u32 = 1024;
const HUGE_PAGE: u32 = 2 << 20;

#[unsafe(no_mangle)]
extern "C" fn guest_main() -> ! {
    exceptions::watch("bench");
    let mut bench = Bench::<64>::new();
    let mut next = FRESH;
    let mut fresh = |pages: u32| {
        let here = next;
        next += pages * PAGE;
        here
    };
    bench.measure("fresh_read", 6, RUN_PAGES, |pages| read(fresh(pages), pages));
    bench.measure("fresh_write", 6, RUN_PAGES, |pages| write(fresh(pages), pages));
    next = next.next_multiple_of(HUGE_PAGE);
    for _ in 0..TIMES {
        let stretch = next;
        next += STRETCH_PAGES * PAGE;
        bench.once("fresh_4mib", STRETCH_PAGES, || write(stretch, STRETCH_PAGES));
        bench.once("fresh_4mib", 0, || write(stretch, STRETCH_PAGES));
    }
    bench.end()
}

/// Reads a word of each of `pages` pages.
fn read(from: u32, pages: u32) -> Went {
    // SAFETY: memory that belongs to nobody is read.
    unsafe {
        asm!(
            "2:",
            "ldr {value}, [{at}]",
            "add {at}, {at}, #4096",
            "nop",
            "nop",
            "subs {pages}, {pages}, #1",
            "bne 2b",
            value = out(reg) _,
            at = inout(reg) from => _,
            pages = inout(reg) pages => _,
            options(nostack, readonly),
        )
    };
    Went::default()
}

/// Writes a word to each of `pages` pages.
fn write(from: u32, pages: u32) -> Went {
    // SAFETY: memory that belongs to nobody is written.
    unsafe {
        asm!(
            "2:",
            "str {pages}, [{at}]",
            "add {at}, {at}, #4096",
            "nop",
            "nop",
            "subs {pages}, {pages}, #1",
            "bne 2b",
            at = inout(reg) from => _,
            pages = inout(reg) pages => _,
            options(nostack),
        )
    };
    Went::default()
}
