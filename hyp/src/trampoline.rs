// SPDX-License-Identifier: GPL-2.0-only
//! The one page that runs with the MMU off: into Hyp mode's own address space, and out of it.
//!
//! The stub of a stock kernel offers one service: `HVC #0` with r0 = 1 jumps to the physical address in r1, in Hyp mode, MMU
//! off, ELR_hyp and SPSR_hyp intact. The module copies this page to a page of lowmem (below 4 GiB), writes the parameters
//! behind the code, cleans both to the point of coherency, and enters [`enter`] that way on each CPU. `enter` sets up
//! translation and goes on in [`hyp_start`], at the image's own address. [`leave`] is the way back: reached with the MMU on at
//! VA = PA, it turns the MMU off and returns to whoever called, or jumps to a physical address for a soft restart.
//!
//! Code in this page is position independent and reads no memory but its parameters.

use crate::per_cpu::{Away, PerCpu, Stub};
use crate::traps::Settings;
use crate::{tlb, traps, vectors};
use arch::hyp_registers::Hsctlr;
use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use hyp_abi::image::{ABI, FirmwareHardening, TRAMPOLINE_PARAMETERS, TrampolineParameters};
use hyp_abi::layout::DATA_PAGE;

/// From the stub into the image. r1: this page's physical address; r2: the CPU's slot.
///
/// # Safety
/// Entered by the stub's soft restart and nothing else: Hyp mode, MMU off, interrupts masked, parameters written and cleaned.
/// Clobbers r0 to r3 and r12.
#[unsafe(naked)]
#[unsafe(link_section = ".hyp.trampoline.enter")]
pub unsafe extern "C" fn enter() -> ! {
    naked_asm!(
        "add r12, r1, #{parameters}",
        // Nothing stale may be fetched once caches and translation are on (B2.2.9).
        "mcr p15, 0, r0, c7, c5, 0", // ICIALLU
        "mcr p15, 0, r0, c7, c5, 6", // BPIALL
        "ldrd r0, r1, [r12, #{httbr}]",
        "mcrr p15, 4, r0, r1, c2", // HTTBR
        "ldr r0, [r12, #{htcr}]",
        "mcr p15, 4, r0, c2, c0, 2", // HTCR
        "ldr r0, [r12, #{hmair0}]",
        "mcr p15, 4, r0, c10, c2, 0", // HMAIR0
        "ldr r0, [r12, #{hmair1}]",
        "mcr p15, 4, r0, c10, c2, 1", // HMAIR1
        "ldr r0, [r12, #{vtcr}]",
        "mcr p15, 4, r0, c2, c1, 2", // VTCR
        "isb",
        // Translations of an earlier owner of Hyp mode are dropped before the MMU is on (B3.10.2).
        "mcr p15, 4, r0, c8, c7, 0", // TLBIALLH
        "dsb nsh",
        "isb",
        "mrc p15, 4, r3, c12, c0, 0", // HVBAR: the stub's
        "mrc p15, 4, r1, c1, c0, 0",  // HSCTLR: the stub's
        // HSCTLR (B4.1): M, C, I and WXN on; A, EE and TE off; what reads as one is written as one.
        "ldr r0, ={res1}",
        "orr r0, r0, r1",
        "orr r0, r0, #(1 << 0 | 1 << 2)",
        "orr r0, r0, #(1 << 12)",
        "orr r0, r0, #(1 << 19)",
        "bic r0, r0, #(1 << 1)",
        "bic r0, r0, #(1 << 25)",
        "bic r0, r0, #(1 << 30)",
        "mcr p15, 4, r0, c1, c0, 0",
        "isb",
        "ldr r0, [r12, #{entry}]",
        "sub r12, r12, #{parameters}",
        "bx r0",
        res1 = const Hsctlr::RES1.bits(),
        parameters = const TRAMPOLINE_PARAMETERS,
        httbr = const offset_of!(TrampolineParameters, httbr),
        htcr = const offset_of!(TrampolineParameters, htcr),
        hmair0 = const offset_of!(TrampolineParameters, hmair0),
        hmair1 = const offset_of!(TrampolineParameters, hmair1),
        vtcr = const offset_of!(TrampolineParameters, vtcr),
        entry = const offset_of!(TrampolineParameters, entry),
    )
}

/// Out of the image. r0: HSCTLR to set; r1: HVBAR to set; r2: zero to return by ERET, else the physical address to go to;
/// r3: what r0 is to be then.
///
/// # Safety
/// Hyp mode at VA = PA, everything else already given back, ELR_hyp, SPSR_hyp and LR_usr as the return wants them.
#[unsafe(naked)]
#[unsafe(link_section = ".hyp.trampoline.leave")]
unsafe extern "C" fn leave() -> ! {
    naked_asm!(
        ".arch_extension virt",
        "mcr p15, 4, r0, c1, c0, 0", // HSCTLR: MMU and caches off
        "isb",
        "mcr p15, 4, r1, c12, c0, 0", // HVBAR
        "mcr p15, 4, r0, c8, c7, 0",  // TLBIALLH
        "mcr p15, 0, r0, c7, c5, 0",  // ICIALLU
        "dsb nsh",
        "isb",
        "mov r0, r3",
        "cmp r2, #0",
        "bxne r2",
        "eret",
    )
}

/// Where `enter` goes on, at the image's address, MMU on. r1: the stub's HSCTLR; r2: the slot; r3: the stub's HVBAR;
/// r12: the trampoline's page. Returns to the module with [`ABI`] in r0.
///
/// # Safety
/// Entered from `enter` only.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyp_start() -> ! {
    naked_asm!(
        ".arch_extension virt",
        "add sp, r2, #{top}",
        "mcr p15, 4, sp, c13, c0, 2", // HTPIDR: the per-CPU page begins where the stack does
        "push {{r12, lr}}", // LR is LR_usr: some process's
        "mov r0, r3",
        "mov r2, r12",
        "bl {take}", // r0: HVBAR, r1: HSCTLR, r2: trampoline
        "pop {{r12, lr}}",
        "ldr r0, ={abi}",
        "eret",
        top = const DATA_PAGE,
        take = sym take,
        abi = const ABI,
    )
}

/// Remembers the stub and takes its place.
extern "C" fn take(hvbar: u32, hsctlr: u32, trampoline: u32) {
    let here = PerCpu::here();
    // SAFETY: the trampoline's page is mapped at VA = PA, and the module wrote the parameters there before.
    let parameters = unsafe { &*((trampoline as usize + TRAMPOLINE_PARAMETERS) as *const TrampolineParameters) };
    // SAFETY: the slot's data page is mapped and this CPU's own; nothing else refers to it in Hyp mode yet.
    unsafe {
        (*here).stub = Stub { hvbar, hsctlr, trampoline };
        (*here).away = Away::Not as u32;
        (*here).resident = core::ptr::null_mut();
        (*here).vfp_armed = 0;
        (*here).guest_vfp = 0;
        (*here).guest_vectors = vectors::for_guests(FirmwareHardening::from_raw(parameters.firmware_hardening));
        (*here).settings = Settings::of_host();
        // The host's vectors are installed by it, too.
        traps::host_defaults(&*here);
    }
    tlb::drop_guests_here();
}

/// The address at which [`leave`] runs: in the trampoline's page, not in the image.
fn leave_address(stub: &Stub) -> u32 {
    stub.trampoline + (leave as *const () as u32 - enter as *const () as u32)
}

/// Gives Hyp mode back to the stub and returns to the host, which called by [`crate::entries`].
pub extern "C" fn release() -> u32 {
    // SAFETY: this CPU's page; `take` filled `stub` before any call could arrive.
    let here = unsafe { &*PerCpu::here() };
    let stub = here.stub;
    traps::host_defaults(here);
    // SAFETY: the frame that `entries::call` pushed (LR_usr, ELR, SPSR) is at the top of this CPU's stack; it is put back into the
    // registers here, since `leave` does not come back. The trampoline's page is mapped at VA = PA, read-execute.
    unsafe {
        asm!(
            ".arch_extension virt",
            "mov sp, r4",
            "pop {{r2, r12}}",
            "msr SPSR_hyp, r12",
            "pop {{r12, lr}}",
            "msr ELR_hyp, r12",
            "mov r2, #0",
            "mov r3, #0",
            "bx r5",
            in("r0") stub.hsctlr,
            in("r1") stub.hvbar,
            in("r4") vectors::call_frame(),
            in("r5") leave_address(&stub),
            options(noreturn),
        )
    }
}

/// The stub's soft restart, while we are in its place: gives Hyp mode back and jumps to `target` with the MMU off.
///
/// Only a crash kernel comes this way: before kexec and reboot the module has given Hyp mode back, after a panic nobody does. Nothing
/// returns, so nothing is kept.
pub extern "C" fn soft_restart(target: u32) -> ! {
    // SAFETY: as in `release`.
    let here = unsafe { &*PerCpu::here() };
    let stub = here.stub;
    traps::host_defaults(here);
    // SAFETY: as in `release`, without a way back.
    unsafe {
        asm!(
            "mov r3, #1",
            "bx r5",
            in("r5") leave_address(&stub),
            in("r0") stub.hsctlr,
            in("r1") stub.hvbar,
            in("r2") target,
            options(noreturn),
        )
    }
}
