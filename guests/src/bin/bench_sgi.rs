// SPDX-License-Identifier: GPL-2.0-only
//! What an SGI to a vCPU costs that spins on another CPU. `cargo xtask bench` runs it on two CPUs.
//!
//! The sender writes GICD_SGIR and spins until the receiver's handler has counted the interrupt. Both spin with YIELD, which QEMU
//! takes for the end of the CPU's turn: hardly any of the instructions that pass are a spinner's.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

use guests::bench::{self, Second, Went};
use guests::gic;

const TURNS: u32 = 50;

/// The receiver counts its interrupts here.
static SECOND: Second = Second::new();

#[unsafe(no_mangle)]
extern "C" fn guest_main() -> ! {
    bench::between_two(&SECOND, receiver, "sgi", 16, TURNS, send)
}

/// Sends `count` SGIs to the other vCPU, one after the other.
fn send(count: u32) -> Went {
    // SAFETY: reads the receiver's word and writes a device.
    unsafe {
        asm!(
            "ldr {expected}, [{counted}]",
            "2:",
            "add {expected}, {expected}, #1",
            "str {sgi}, [{sgir}]",
            "3:",
            "yield",
            "ldr {seen}, [{counted}]",
            "cmp {seen}, {expected}",
            "bne 3b",
            "subs {count}, {count}, #1",
            "bne 2b",
            expected = out(reg) _,
            seen = out(reg) _,
            counted = in(reg) SECOND.word(),
            sgi = in(reg) gic::sgi_to(1, 1),
            sgir = in(reg) gic::GICD_SGIR,
            count = inout(reg) count => _,
            options(nostack),
        )
    };
    Went::default()
}

/// The receiver: r0 is where it counts.
#[unsafe(naked)]
unsafe extern "C" fn receiver() -> ! {
    naked_asm!(
        "ldr r1, ={vectors}",
        "mcr p15, 0, r1, c12, c0, 0",  // VBAR
        "isb",
        "ldr r2, ={interface}",
        "mov r3, #0xff",
        "str r3, [r2, #4]",            // GICC_PMR
        "mov r3, #1",
        "str r3, [r2]",                // GICC_CTLR
        "mov r4, #0",
        "str r3, [r0, #4]",            // it is there
        "cpsie i",
        "2:",
        "yield",
        "b 2b",
        vectors = sym vectors,
        interface = const gic::CPU_INTERFACE,
    )
}

// The receiver's.
guests::irq_vectors!(
    vectors,
    "ldr r5, [r2, #0xc]", // GICC_IAR
    "add r4, r4, #1",
    "str r5, [r2, #0x10]", // GICC_EOIR
    "str r4, [r0]",
    "subs pc, lr, #4",
);
