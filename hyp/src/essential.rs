// SPDX-License-Identifier: GPL-2.0-only
//! Essential state: what the host cannot take one step without, and what it overwrites by taking one.
//!
//! Moved on every way into a guest and out of it. For the host it is the registers that its kernel runs on even with interrupts
//! masked: translation, vectors, the thread and per-CPU pointers, and the stack pointers of the modes that an abort in the kernel
//! goes through. For the guest it is the same registers, and those that such an abort would overwrite: fault status and
//! address, LR and SPSR of the modes.
//!
//! Of the host's, some need no keeping, since nobody reads them while it waits in HVC with interrupts masked. LR and SPSR of all
//! modes are live between an exception's entry and its first instructions, and before its return; LR_svc is on the stack
//! of whoever executed HVC. Fault status and address registers are read in the handler of the abort that set them. SP_usr and
//! LR_usr are the calling process's, which the kernel keeps in its own frame from the system call's first instructions to its last.
//!
//! TTBCR is not here: it is what allows table walks, and so is written first and last ([`crate::tlb::forbid_walks`]). With walks
//! off the order of the others does not matter, CONTEXTIDR against TTBR0 included (B3.10.4). SCTLR takes effect at the return
//! from Hyp mode, which synchronises (B3.15.5): Hyp mode itself runs by HSCTLR. Banked registers are read and written by MRS and
//! MSR (banked), which Hyp mode may use for those of every other mode (B9.2.2); none takes effect before the return.

use core::arch::naked_asm;
use core::mem::{offset_of, size_of};
use hyp_abi::context::{Banks, Cp15, VcpuContext};

/// The host's.
#[repr(C)]
pub struct HostEssential {
    sp: [u32; 3],
    ttbr0: [u32; 2],
    ttbr1: [u32; 2],
    others: [u32; 10],
}

const _: () = assert!(size_of::<HostEssential>() == 17 * 4);
// The order in which the guest's stand in its context.
const _: () = assert!(offset_of!(Banks, svc) == 0 && offset_of!(Banks, abt) == 12 && offset_of!(Banks, und) == 24);
const _: () = assert!(offset_of!(Cp15, ttbr0) == 0 && offset_of!(Cp15, ttbr1) == 8 && offset_of!(Cp15, sctlr) == 16);
const _: () = assert!(offset_of!(Cp15, dacr) == 20 && offset_of!(Cp15, dfsr) == 24 && offset_of!(Cp15, ifsr) == 28);
const _: () = assert!(offset_of!(Cp15, adfsr) == 32 && offset_of!(Cp15, aifsr) == 36 && offset_of!(Cp15, dfar) == 40);
const _: () = assert!(offset_of!(Cp15, ifar) == 44 && offset_of!(Cp15, prrr) == 48 && offset_of!(Cp15, nmrr) == 52);
const _: () = assert!(offset_of!(Cp15, amair0) == 56 && offset_of!(Cp15, amair1) == 60 && offset_of!(Cp15, vbar) == 64);
const _: () = assert!(offset_of!(Cp15, contextidr) == 68 && offset_of!(Cp15, tpidruro) == 72);
const _: () = assert!(offset_of!(Cp15, tpidrprw) == 76 && offset_of!(Cp15, ttbcr) == 80);

/// Stores the host's.
///
/// # Safety
/// Hyp mode; `to` is valid for writes.
#[unsafe(naked)]
pub unsafe extern "C" fn save_host(to: *mut HostEssential) {
    naked_asm!(
        ".arch_extension virt",
        "push {{r4-r11, lr}}",
        "mrs r1, SP_svc",
        "mrs r2, SP_abt",
        "mrs r3, SP_und",
        read!("r4", "r5", ttbr0),
        read!("r6", "r7", ttbr1),
        read!("r8", sctlr),
        read!("r9", dacr),
        read!("r10", prrr),
        read!("r11", nmrr),
        read!("r12", amair0),
        "stm r0!, {{r1-r12}}",
        read!("r1", amair1),
        read!("r2", vbar),
        read!("r3", contextidr),
        read!("r4", tpidruro),
        read!("r5", tpidrprw),
        "stm r0, {{r1-r5}}",
        "pop {{r4-r11, pc}}",
    )
}

/// Stores SP_svc alone, where the rest is known to be what [`save_host`] stored.
///
/// # Safety
/// As [`save_host`].
#[inline(always)]
pub unsafe fn save_host_stack(to: &mut HostEssential) {
    let [svc, ..] = &mut to.sp;
    // SAFETY: reads a banked register.
    unsafe {
        core::arch::asm!(
            ".arch_extension virt",
            "mrs {}, SP_svc",
            out(reg) * svc,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// Loads the host's.
///
/// # Safety
/// Hyp mode, walks off; `from` is what [`save_host`] stored on this CPU.
#[unsafe(naked)]
pub unsafe extern "C" fn load_host(from: *const HostEssential) {
    naked_asm!(
        ".arch_extension virt",
        "push {{r4-r11, lr}}",
        "ldm r0!, {{r1-r12}}",
        "msr SP_svc, r1",
        "msr SP_abt, r2",
        "msr SP_und, r3",
        write!("r4", "r5", ttbr0),
        write!("r6", "r7", ttbr1),
        write!("r8", sctlr),
        write!("r9", dacr),
        write!("r10", prrr),
        write!("r11", nmrr),
        write!("r12", amair0),
        "ldm r0, {{r1-r5}}",
        write!("r1", amair1),
        write!("r2", vbar),
        write!("r3", contextidr),
        write!("r4", tpidruro),
        write!("r5", tpidrprw),
        "pop {{r4-r11, pc}}",
    )
}

/// Stores the guest's.
///
/// # Safety
/// Hyp mode; `to` is valid for writes.
#[unsafe(naked)]
pub unsafe extern "C" fn save_guest(to: *mut VcpuContext) {
    naked_asm!(
        ".arch_extension virt",
        "push {{r4-r11, lr}}",
        "add r1, r0, #{banks}",
        "add r0, r0, #{cp15}",
        "mrs r2, SP_svc",
        "mrs r3, LR_svc",
        "mrs r4, SPSR_svc",
        "mrs r5, SP_abt",
        "mrs r6, LR_abt",
        "mrs r7, SPSR_abt",
        "mrs r8, SP_und",
        "mrs r9, LR_und",
        "mrs r10, SPSR_und",
        "stm r1, {{r2-r10}}",
        read!("r1", "r2", ttbr0),
        read!("r3", "r4", ttbr1),
        read!("r5", sctlr),
        read!("r6", dacr),
        read!("r7", dfsr),
        read!("r8", ifsr),
        read!("r9", adfsr),
        read!("r10", aifsr),
        read!("r11", dfar),
        read!("r12", ifar),
        "stm r0!, {{r1-r12}}",
        read!("r1", prrr),
        read!("r2", nmrr),
        read!("r3", amair0),
        read!("r4", amair1),
        read!("r5", vbar),
        read!("r6", contextidr),
        read!("r7", tpidruro),
        read!("r8", tpidrprw),
        "stm r0, {{r1-r8}}",
        "pop {{r4-r11, pc}}",
        banks = const offset_of!(VcpuContext, banks),
        cp15 = const offset_of!(VcpuContext, cp15),
    )
}

/// Loads the guest's.
///
/// # Safety
/// Hyp mode, walks off; the host's are stored, and `from` is the context of the vCPU that VTTBR is or is going to be set for.
#[unsafe(naked)]
pub unsafe extern "C" fn load_guest(from: *const VcpuContext) {
    naked_asm!(
        ".arch_extension virt",
        "push {{r4-r11, lr}}",
        "add r1, r0, #{banks}",
        "add r0, r0, #{cp15}",
        "ldm r1, {{r2-r10}}",
        "msr SP_svc, r2",
        "msr LR_svc, r3",
        "msr SPSR_svc, r4",
        "msr SP_abt, r5",
        "msr LR_abt, r6",
        "msr SPSR_abt, r7",
        "msr SP_und, r8",
        "msr LR_und, r9",
        "msr SPSR_und, r10",
        "ldm r0!, {{r1-r12}}",
        write!("r1", "r2", ttbr0),
        write!("r3", "r4", ttbr1),
        write!("r5", sctlr),
        write!("r6", dacr),
        write!("r7", dfsr),
        write!("r8", ifsr),
        write!("r9", adfsr),
        write!("r10", aifsr),
        write!("r11", dfar),
        write!("r12", ifar),
        "ldm r0, {{r1-r8}}",
        write!("r1", prrr),
        write!("r2", nmrr),
        write!("r3", amair0),
        write!("r4", amair1),
        write!("r5", vbar),
        write!("r6", contextidr),
        write!("r7", tpidruro),
        write!("r8", tpidrprw),
        "pop {{r4-r11, pc}}",
        banks = const offset_of!(VcpuContext, banks),
        cp15 = const offset_of!(VcpuContext, cp15),
    )
}
