// SPDX-License-Identifier: GPL-2.0-only
//! What it costs to wake a vCPU that waits in WFI, and to be woken by it: two vCPUs send each other an SGI by turns. `cargo xtask bench`
//! runs it on two CPUs and on one.
//!
//! Interrupts stay masked: one that is pending ends WFI, and is acknowledged and ended where the vCPU is.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

use guests::bench::{self, Second, Went};
use guests::gic;

const TURNS: u32 = 20;

static SECOND: Second = Second::new();

#[unsafe(no_mangle)]
extern "C" fn guest_main() -> ! {
    bench::between_two(&SECOND, other, "pingpong", 14, TURNS, play)
}

/// Sends an SGI and waits for the answer, `count` times.
fn play(count: u32) -> Went {
    // SAFETY: accesses devices only.
    unsafe {
        asm!(
            "2:",
            "str {sgi}, [{sgir}]",
            "3:",
            "wfi",
            "ldr {seen}, [{interface}, #0xc]", // GICC_IAR
            "cmp {seen}, {spurious}",
            "beq 3b",
            "str {seen}, [{interface}, #0x10]", // GICC_EOIR
            "subs {count}, {count}, #1",
            "bne 2b",
            seen = out(reg) _,
            spurious = in(reg) gic::SPURIOUS,
            interface = in(reg) gic::CPU_INTERFACE,
            sgi = in(reg) gic::sgi_to(1, 1),
            sgir = in(reg) gic::GICD_SGIR,
            count = inout(reg) count => _,
            options(nostack),
        )
    };
    Went::default()
}

/// The other vCPU answers each SGI with one. r0 is where it says that it is there.
#[unsafe(naked)]
unsafe extern "C" fn other() -> ! {
    naked_asm!(
        "ldr r1, ={sgi}",
        "ldr r2, ={interface}",
        "ldr r6, ={sgir}",
        "ldr r7, ={spurious}",
        "mov r3, #0xff",
        "str r3, [r2, #4]",            // GICC_PMR
        "mov r3, #1",
        "str r3, [r2]",                // GICC_CTLR
        "str r3, [r0, #4]",
        "2:",
        "wfi",
        "ldr r5, [r2, #0xc]",          // GICC_IAR
        "cmp r5, r7",
        "beq 2b",
        "str r5, [r2, #0x10]",         // GICC_EOIR
        "str r1, [r6]",
        "b 2b",
        sgi = const gic::sgi_to(0, 1),
        interface = const gic::CPU_INTERFACE,
        sgir = const gic::GICD_SGIR,
        spurious = const gic::SPURIOUS,
    )
}
