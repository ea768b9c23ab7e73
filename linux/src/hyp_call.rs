// SPDX-License-Identifier: GPL-2.0-only
//! `HVC #0`: the instruction, before and after Hyp mode is ours.

use core::arch::{asm, naked_asm};

/// `HVC #0` with these registers. Returns r0.
///
/// Hyp functions keep r4 to r11 and the stack, but a call that ends by a Hyp panic does not, so they are kept here too.
///
/// # Safety
/// Hyp mode is ours on this CPU, or a stub's that knows this call; and what the called function promises holds.
#[unsafe(naked)]
pub unsafe extern "C" fn hvc(r0: u32, r1: u32, r2: u32, r3: u32) -> u32 {
    naked_asm!(".arch_extension virt", "push {{r4-r11, lr}}", "hvc #0", "pop {{r4-r11, pc}}",)
}

/// Who answers `HVC #0` on this CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nobody: the instruction is undefined. The host did not start in Hyp mode.
    Nobody,
    /// The stub of a kernel that started in Hyp mode.
    Stub,
    /// Our own image.
    Worldswitch,
    /// Another hypervisor or firmware.
    Other(u32),
}

/// What the kernel's stub answers to a call that it does not know.
const STUB_ERROR: u32 = 0x0bad_ca11;

/// Asks. Interrupts are off.
///
/// HVC is undefined where Hyp mode does not exist or is disabled (SCR.HCE), and the kernel would take that for its own bug. So
/// VBAR points to a table of our own for the time of the instruction, and SCTLR.V is clear to make it count; nothing in between
/// touches memory, and aborts are masked, so no other exception can find that table.
pub fn owner() -> Owner {
    // SAFETY: interrupts are off (caller); `probe` puts back all that it changes and touches no memory. r0 = 0xffffffff is no call of
    // the stub, of PSCI or of our image, each of which refuses it without doing anything.
    let (answered, answer) = unsafe { probe() };
    match (answered, answer) {
        (false, _) => Owner::Nobody,
        (true, STUB_ERROR) => Owner::Stub,
        (true, hyp_abi::image::BAD_CALL) => Owner::Worldswitch,
        (true, other) => Owner::Other(other),
    }
}

/// `HVC #0` with r0 = 0xffffffff: whether it was executed, and r0 afterwards.
unsafe fn probe() -> (bool, u32) {
    let answer: u32;
    let answered: u32;
    // SAFETY: see `owner`.
    unsafe {
        asm!(
            ".arch_extension virt",
            ".arch_extension sec",
            "mrs {cpsr}, cpsr",
            "cpsid aif",
            "mrc p15, 0, {vbar}, c12, c0, 0",
            "mrc p15, 0, {sctlr}, c1, c0, 0",
            "mcr p15, 0, {table}, c12, c0, 0",
            "bic {scratch}, {sctlr}, #(1 << 13)",     // SCTLR.V: VBAR counts
            "bic {scratch}, {scratch}, #(1 << 30)", // SCTLR.TE: exceptions in Arm state, as the table is
            "mcr p15, 0, {scratch}, c1, c0, 0",
            "isb",
            "mvn r0, #0",
            "mov r5, #1",
            "hvc #0",
            "mcr p15, 0, {sctlr}, c1, c0, 0",
            "mcr p15, 0, {vbar}, c12, c0, 0",
            "isb",
            "msr cpsr_cxsf, {cpsr}",
            cpsr = out(reg) _,
            vbar = out(reg) _,
            sctlr = out(reg) _,
            scratch = out(reg) _,
                        table = in(reg) probe_vectors as *const () as u32,
            out("r5") answered,
            out("r0") answer,
            out("r1") _, out("r2") _, out("r3") _, out("r12") _,
            options(nostack),
        );
    }
    (answered != 0, answer)
}

/// The table for that one instruction: an undefined one is noted in r5 and passed over. Nothing else can come.
#[unsafe(naked)]
#[unsafe(link_section = ".text.ws_probe_vectors")]
unsafe extern "C" fn probe_vectors() -> ! {
    naked_asm!(
        ".balign 32",
        "b .",
        "b 1f", // 0x04: undefined instruction
        "b .",
        "b .",
        "b .",
        "b .",
        "b .",
        "b .",
        "1: mov r5, #0",
        "movs pc, lr", // LR_und: the instruction after; the mode and the masks come back from SPSR_und
    )
}

/// What the trampoline does ends here. See [`crate::hyp_mode`].
pub const SOFT_RESTART: u32 = 1;
