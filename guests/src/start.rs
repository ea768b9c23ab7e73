// SPDX-License-Identifier: GPL-2.0-only
//! The first instructions: stacks, exception vectors, zeroed data; then the guest's table of tests.
//!
//! The first words are the head of a zImage: a branch, the magic number at 0x24, where the image must run, and its end.
//!
//! Source: Documentation/arch/arm/booting.rst for the state at entry.

use core::arch::naked_asm;

/// Where wsvm, or `CPU_ON`'s caller, starts a vCPU: MMU off, Supervisor mode, interrupts masked.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".guest.head")]
unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "b 1f",
        ".rept 8",
        "nop",
        ".endr",
        ".word 0x016f2818",      // a zImage
        ".word __image_start",   // that runs here
        ".word __image_end",     // and ends here
        ".word 0x04030201",      // little-endian
        "1:",
        "msr cpsr_c, #0xd7",     // Abort mode; as in all below, IRQ and FIQ masked
        "ldr sp, =__stack_abt",
        "msr cpsr_c, #0xdb",     // Undefined
        "ldr sp, =__stack_und",
        "msr cpsr_c, #0xd2",     // IRQ
        "ldr sp, =__stack_irq",
        "msr cpsr_c, #0xd1",     // FIQ
        "ldr sp, =__stack_fiq",
        "msr cpsr_c, #0xd3",     // Supervisor
        "ldr sp, =__stack_svc",
        "ldr r0, =__bss_start",
        "ldr r1, =__bss_end",
        "mov r3, #0",
        "2:",
        "cmp r0, r1",
        "strlo r3, [r0], #4",
        "blo 2b",
        "ldr r0, ={device_tree}",
        "str r2, [r0]",
        "ldr r0, ={vectors}",
        "mcr p15, 0, r0, c12, c0, 0", // VBAR
        "isb",
        "cpsie a",               // an asynchronous abort is a failure to be seen
        "bl guest_main",
        "3: b 3b",
        device_tree = sym crate::device_tree::ADDRESS,
        vectors = sym crate::exceptions::vectors,
    )
}
