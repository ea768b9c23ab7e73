// SPDX-License-Identifier: GPL-2.0-only
//! The banked registers of the PL1 modes: saved and loaded by MRS and MSR (banked), which Hyp mode may use for all of them.
//!
//! A mode's SP, LR and SPSR go in one go. The FIQ bank has r8 to r12 besides. SP_usr is here; LR_usr is Hyp mode's own LR and
//! travels with the general registers. Nothing here takes effect before the return to the mode, so no barrier is needed.
//!
//! Source: ARM DDI 0406C.d, B9.2.2 (banked register access), B9.3.9, B9.3.10.

use core::arch::naked_asm;
use core::mem::offset_of;
use hyp_abi::context::{Bank, Banks};

const _: () = assert!(offset_of!(Bank, sp) == 0 && offset_of!(Bank, lr) == 4 && offset_of!(Bank, spsr) == 8);
const _: () = assert!(offset_of!(Banks, sp_usr) == 0 && offset_of!(Banks, svc) == 4 && offset_of!(Banks, abt) == 16);
const _: () = assert!(offset_of!(Banks, und) == 28 && offset_of!(Banks, irq) == 40 && offset_of!(Banks, fiq) == 52);
const _: () = assert!(offset_of!(Banks, fiq_r) == 64 && size_of::<Banks>() == 84);

/// Stores all banked registers, in the order of [`Banks`].
///
/// # Safety
/// Hyp mode; `to` is valid for writes.
#[unsafe(naked)]
pub unsafe extern "C" fn save(to: *mut Banks) {
    naked_asm!(
        ".arch_extension virt",
        "push {{r4-r10, lr}}",
        "mrs r1, SP_usr",
        "mrs r2, SP_svc",
        "mrs r3, LR_svc",
        "mrs r4, SPSR_svc",
        "mrs r5, SP_abt",
        "mrs r6, LR_abt",
        "mrs r7, SPSR_abt",
        "mrs r8, SP_und",
        "mrs r9, LR_und",
        "mrs r10, SPSR_und",
        "stm r0!, {{r1-r10}}",
        "mrs r1, SP_irq",
        "mrs r2, LR_irq",
        "mrs r3, SPSR_irq",
        "mrs r4, SP_fiq",
        "mrs r5, LR_fiq",
        "mrs r6, SPSR_fiq",
        "stm r0!, {{r1-r6}}",
        "mrs r1, r8_fiq",
        "mrs r2, r9_fiq",
        "mrs r3, r10_fiq",
        "mrs r4, r11_fiq",
        "mrs r5, r12_fiq",
        "stm r0, {{r1-r5}}",
        "pop {{r4-r10, pc}}",
    )
}

/// Loads all banked registers, in the order of [`Banks`].
///
/// # Safety
/// Hyp mode; `from` is valid for reads, and holds the registers of the world that the next return goes to.
#[unsafe(naked)]
pub unsafe extern "C" fn load(from: *const Banks) {
    naked_asm!(
        ".arch_extension virt",
        "push {{r4-r10, lr}}",
        "ldm r0!, {{r1-r10}}",
        "msr SP_usr, r1",
        "msr SP_svc, r2",
        "msr LR_svc, r3",
        "msr SPSR_svc, r4",
        "msr SP_abt, r5",
        "msr LR_abt, r6",
        "msr SPSR_abt, r7",
        "msr SP_und, r8",
        "msr LR_und, r9",
        "msr SPSR_und, r10",
        "ldm r0!, {{r1-r6}}",
        "msr SP_irq, r1",
        "msr LR_irq, r2",
        "msr SPSR_irq, r3",
        "msr SP_fiq, r4",
        "msr LR_fiq, r5",
        "msr SPSR_fiq, r6",
        "ldm r0, {{r1-r5}}",
        "msr r8_fiq, r1",
        "msr r9_fiq, r2",
        "msr r10_fiq, r3",
        "msr r11_fiq, r4",
        "msr r12_fiq, r5",
        "pop {{r4-r10, pc}}",
    )
}
