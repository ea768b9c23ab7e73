// SPDX-License-Identifier: GPL-2.0-only
//! The Hyp vectors, the Hyp-ABI, and the first and last instructions of a guest's stay.
//!
//! There are two tables, and HVBAR points at the guest's while a guest's state is loaded, at the host's otherwise. Exceptions from
//! below arrive with SP_hyp where Hyp mode left it, which is known to be good.
//!
//! From the host comes `HVC #0`, which calls a function of [`crate::entries`]: SPSR, ELR and LR_usr go on the stack, the
//! arguments move down by one register, and the way back is ERET. That it is the host's is checked once more: VTTBR says
//! VMID 0. From a guest comes everything else: a trap, an abort, HVC, an interrupt. The vector stores the general registers in
//! the vCPU's context, whose address [`enter_guest`] left on top of the stack, and returns from that function. On cores whose
//! branch predictor a guest could have trained, the guest's table empties it first, or has firmware do it.
//!
//! Exceptions from Hyp mode itself are bugs, or a stack that met its guard page. Then SP is not to be trusted, and no stack is
//! touched before it is changed for the CPU's emergency stack, which HTPIDR leads to; the rest is [`crate::panic`]'s. One such
//! exception is expected: an asynchronous abort of the guest's making, drained in a window of two instructions when the
//! guest is left.
//!
//! Source: ARM DDI 0406C.d, B1.8.1 (vectors), B1.9 (Hyp Trap and the other exceptions).

use crate::sysreg::midr;
use crate::{deferred, panic, trampoline};
use arch::core_id::{BranchPredictor, Midr};
use arch::psr::{Mode, Psr};
use arch::syndrome::HVC;
use core::arch::naked_asm;
use core::mem::offset_of;
use hyp_abi::context::{ExitCode, VcpuContext};
use hyp_abi::image::{BAD_CALL, CALLS, FirmwareHardening};
use hyp_abi::layout::{DATA_PAGE, EMERGENCY_TOP};
use uapi::psci::SMCCC_ARCH_WORKAROUND_1;

/// Bytes that a call from the host pushes: a pad, SPSR, ELR, LR_usr.
const CALL_FRAME: u32 = 16;

/// Where the frame of the call from the host lies that this CPU is in.
pub fn call_frame() -> u32 {
    crate::per_cpu::PerCpu::here() as u32 - CALL_FRAME
}

unsafe extern "C" {
    /// The tables below.
    static hyp_host_vectors: u8;
    static hyp_vectors: u8;
    static hyp_vectors_bpiall: u8;
    static hyp_vectors_iciallu: u8;
    static hyp_vectors_firmware: u8;
}

/// The host's table, for HVBAR.
#[inline(always)]
pub fn for_host() -> u32 {
    &raw const hyp_host_vectors as u32
}

/// The guest's table that this core needs, for HVBAR.
pub fn for_guests(firmware: FirmwareHardening) -> u32 {
    let table = match Midr::new(midr::read()).branch_predictor() {
        predictor if firmware.is_wanted_for(predictor) => &raw const hyp_vectors_firmware,
        BranchPredictor::Bpiall => &raw const hyp_vectors_bpiall,
        BranchPredictor::Iciallu => &raw const hyp_vectors_iciallu,
        // Nothing to do, or nothing that can be done.
        BranchPredictor::NotVulnerable | BranchPredictor::Firmware | BranchPredictor::Unknown => &raw const hyp_vectors,
    };
    table as u32
}

/// A table of eight vectors (B1.8.1, Table B1-3), each one branch.
macro_rules! vectors {
    ($(#[$doc:meta])* $function:ident, $label:literal, $trap:path, $interrupt:path) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = ".hyp.vectors")]
        unsafe extern "C" fn $function() -> ! {
            naked_asm!(
                ".balign 32",
                concat!(".global ", $label),
                concat!($label, ":"),
                "b {undefined}", // 0x00: not used
                "b {undefined}", // 0x04: undefined instruction in Hyp mode
                "b {hvc}",       // 0x08: HVC in Hyp mode
                "b {prefetch}",  // 0x0c: prefetch abort in Hyp mode
                "b {data}",      // 0x10: data abort in Hyp mode
                "b {trap}",      // 0x14: from below: HVC, a trap, a stage-2 abort
                "b {interrupt}", // 0x18: IRQ
                "b {interrupt}", // 0x1c: FIQ
                undefined = sym undefined_in_hyp,
                hvc = sym hvc_in_hyp,
                prefetch = sym prefetch_abort_in_hyp,
                data = sym data_abort_in_hyp,
                trap = sym $trap,
                interrupt = sym $interrupt,
            )
        }
    };
}

vectors!(
    /// The host's. HCR routes interrupts to Hyp mode only while a guest runs.
    hyp_vectors_for_host, "hyp_host_vectors", call, interrupt_in_hyp);
vectors!(
    /// The guest's.
    hyp_vectors_plain, "hyp_vectors", trap, interrupt);

/// The guest's for cores whose branch predictor a guest could have trained: it is emptied before the first branch.
///
/// A vector has room for one instruction, and that must not be a branch. So entry n falls through the entries after it, each of
/// which adds one to SP: behind the table SP's lower three bits, which were zero, say where the fall began. SP is aligned to
/// eight whenever the exception comes from below. In Hyp mode itself it may be off by four, within a function's first
/// instructions; a data abort, which is what the guard page makes, is then taken for another exception of Hyp mode's own.
macro_rules! hardened_vectors {
    ($(#[$doc:meta])* $function:ident, $label:literal, $empty:literal) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = ".hyp.vectors")]
        unsafe extern "C" fn $function() -> ! {
            naked_asm!(
                ".balign 32",
                concat!(".global ", $label),
                concat!($label, ":"),
                ".rept 7",
                "add sp, sp, #1",
                ".endr",
                "nop",
                $empty,
                "isb",
                "tst sp, #4",
                "bne 3f",
                "tst sp, #2",
                "bne 2f",
                "bic sp, sp, #1", // 0, 1: FIQ, IRQ
                "b {interrupt}",
                "2: tst sp, #1",
                "bic sp, sp, #3",
                "beq {trap}", // 2
                "b {data}",   // 3
                "3: tst sp, #2",
                "bne 4f",
                "tst sp, #1",
                "bic sp, sp, #5",
                "beq {prefetch}", // 4
                "b {hvc}",        // 5
                "4: bic sp, sp, #7",
                "b {undefined}", // 6, 7
                undefined = sym undefined_in_hyp,
                hvc = sym hvc_in_hyp,
                prefetch = sym prefetch_abort_in_hyp,
                data = sym data_abort_in_hyp,
                trap = sym trap,
                interrupt = sym interrupt,
            )
        }
    };
}

hardened_vectors!(
    /// Cortex-A12, A17 and relatives: BPIALL.
    hyp_vectors_for_bpiall,
    "hyp_vectors_bpiall",
    "mcr p15, 0, r0, c7, c5, 6"
);
hardened_vectors!(
    /// Cortex-A15: BPIALL does nothing there, but ICIALLU empties the branch target buffer too (with ACTLR\[0\] set by firmware).
    hyp_vectors_for_iciallu,
    "hyp_vectors_iciallu",
    "mcr p15, 0, r0, c7, c5, 0"
);

/// The guest's for Cortex-A57, A72 and relatives, where only firmware can empty the branch predictor: SMCCC_ARCH_WORKAROUND_1.
///
/// As above, no branch comes before. A trap arrives with SP lowered by four, and an interrupt with SP as it was: so far STM may go. What
/// Hyp mode takes itself needs no emptying, and its entries are branches; an interrupt there, whose SP may be off by four, is told by SPSR. The call changes r0 to r3 and nothing else (SMCCC 1.1, 2.6);
/// coming back from it is an exception return, which synchronises.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".hyp.vectors")]
unsafe extern "C" fn hyp_vectors_for_firmware() -> ! {
    naked_asm!(
        ".arch_extension sec",
        ".balign 32",
        ".global hyp_vectors_firmware",
        "hyp_vectors_firmware:",
        "b {undefined}",
        "b {undefined}",
        "b {hvc}",
        "b {prefetch}",
        "b {data}",
        "sub sp, sp, #4", // 0x14: from below
        "nop",            // 0x18: IRQ
        "nop",            // 0x1c: FIQ
        "push {{r0-r3}}",
        "movw r0, #{workaround_low}",
        "movt r0, #{workaround_high}",
        "smc #0",
        "pop {{r0-r3}}",
        "tst sp, #4",
        "beq {interrupt}",
        "add sp, sp, #4",
        "push {{r0, r1}}",
        "mrs r0, SPSR",
        "and r0, r0, #{mode}",
        "cmp r0, #{hyp}",
        "pop {{r0, r1}}",
        "bne {trap}",
        "b {interrupt_in_hyp}",
        undefined = sym undefined_in_hyp,
        hvc = sym hvc_in_hyp,
        prefetch = sym prefetch_abort_in_hyp,
        data = sym data_abort_in_hyp,
        mode = const Psr::M.bits(),
        hyp = const Mode::Hyp as u32,
        interrupt_in_hyp = sym interrupt_in_hyp,
        workaround_low = const SMCCC_ARCH_WORKAROUND_1 & 0xffff,
        workaround_high = const SMCCC_ARCH_WORKAROUND_1 >> 16,
        interrupt = sym interrupt,
        trap = sym trap,
    )
}

/// HVC from the host: a call. Or, between short exits, a trap that is meant for a guest: the deferred state goes, and the kernel's
/// instruction runs again without it. Nothing that the module does then traps; an Oops might.
#[unsafe(naked)]
unsafe extern "C" fn call() -> ! {
    naked_asm!(
        ".arch_extension virt",
        "push {{lr}}",                 // LR_usr
        read!("lr", hsr),
        "lsr lr, lr, #26",
        "cmp lr, #{hvc}",
        "bne 4f",
        read!("r12", "lr", vttbr),     // VMID in bits [55:48]
        "tst lr, #0x00ff0000",
        "bne 3f",
        "cmp r0, #2",
        "blo 2f",
        // r0 must be an entry: within the table, word aligned.
        "movw r12, #:lower16:hyp_entries",
        "movt r12, #:upper16:hyp_entries",
        "sub r12, r0, r12",
        "cmp r12, #({calls} * 4)",
        "bhs 1f",
        "tst r12, #3",
        "bne 1f",
        // The Hyp-ABI: keep LR_usr, ELR and SPSR, call r0 with what stands in r1 to r3.
        "mrs r12, SPSR",
        "mrs lr, ELR_hyp",
        "push {{r0, r12, lr}}", // r0 only for the stack's alignment
        "mov r12, r0",
        "mov r0, r1",
        "mov r1, r2",
        "mov r2, r3",
        "blx r12",
        "b {return_to_host}",
        "1: pop {{lr}}",
        "ldr r0, ={bad_call}",
        "eret",
        // The stub's calls: 1 is its soft restart, 0 never was for a booted kernel.
        "2: cmp r0, #1",
        "bne 1b",
        "mov r0, r1",
        "b {soft_restart}",
        // A guest under the host's vectors: cannot be. It is a failure of Hyp mode's own.
        "3: pop {{lr}}",
        "b {undefined}",
        "4: push {{r0-r3, r12}}", // with LR 24 bytes: the stack stays aligned
        "bl {leave_guest}",
        "pop {{r0-r3, r12, lr}}",
        "eret",
        hvc = const HVC,
        leave_guest = sym deferred::leave_guest,
        calls = const CALLS,
        return_to_host = sym return_to_host,
        bad_call = const BAD_CALL,
        soft_restart = sym trampoline::soft_restart,
        undefined = sym undefined_in_hyp,
    )
}

/// A guest's HVC, trap or abort.
#[unsafe(naked)]
unsafe extern "C" fn trap() -> ! {
    naked_asm!(
        "push {{r0, r1}}",
        "mov r1, #{exit_trap}",
        "b {guest_exit}",
        exit_trap = const ExitCode::Trap.to_raw(),
        guest_exit = sym guest_exit,
    )
}

/// Ends a call from the host: SP at its frame, the result in r0 (and r1).
///
/// # Safety
/// The registers are the host's, but for what the Hyp-ABI lets a call clobber.
#[unsafe(naked)]
unsafe extern "C" fn return_to_host() -> ! {
    naked_asm!(".arch_extension virt", "pop {{r2, r3, r12, lr}}", "msr SPSR_hyp, r3", "msr ELR_hyp, r12", "eret",)
}

/// Ends the call from the host that this CPU is in, from wherever it is, with [`hyp_abi::context::HYP_PANIC`].
///
/// # Safety
/// The registers are the host's again, but for the callee-saved ones: the module expects those to be lost.
#[unsafe(naked)]
pub unsafe extern "C" fn abandon_call(frame: u32) -> ! {
    naked_asm!(
        "mov sp, r0",
        "mvn r0, #1",
        "b {return_to_host}",
        return_to_host = sym return_to_host,
    )
}

const _: () = assert!(hyp_abi::context::HYP_PANIC == !1);

/// A physical interrupt, or FIQ. Hyp mode never unmasks them; one that it took itself all the same is a bug like other exceptions
/// there, and on the stack is no context of a guest's.
#[unsafe(naked)]
unsafe extern "C" fn interrupt() -> ! {
    naked_asm!(
        "push {{r0, r1}}",
        "mrs r1, SPSR",
        "and r1, r1, #{mode}",
        "cmp r1, #{hyp}",
        "mov r1, #{exit_interrupt}",
        "bne {guest_exit}",
        "pop {{r0, r1}}",
        "b {interrupt_in_hyp}",
        mode = const Psr::M.bits(),
        hyp = const Mode::Hyp as u32,
        exit_interrupt = const ExitCode::Interrupt.to_raw(),
        guest_exit = sym guest_exit,
        interrupt_in_hyp = sym interrupt_in_hyp,
    )
}

/// Runs the guest until it leaves, and returns the [`ExitCode`].
///
/// # Safety
/// Everything else of the guest's is in the registers, and `context` is mapped here and this CPU's alone until the return.
#[unsafe(naked)]
pub unsafe extern "C" fn enter_guest(context: *mut VcpuContext) -> u32 {
    naked_asm!(
        ".arch_extension virt",
        "push {{r0, r4-r11, lr}}", // the context ends up on top, where guest_exit finds it
        "ldr r1, [r0, #{pc}]",
        "msr ELR_hyp, r1",
        "ldr r1, [r0, #{cpsr}]",
        "msr SPSR_hyp, r1",
        "ldr lr, [r0, #{lr}]",
        "clrex", // a reservation of the host's must not satisfy the guest (A3.4.4)
        "ldm r0, {{r0-r12}}",
        "eret",
        pc = const offset_of!(VcpuContext, pc),
        cpsr = const offset_of!(VcpuContext, cpsr),
        lr = const offset_of!(VcpuContext, r) + 4 * hyp_abi::context::LR_USR,
    )
}

const _: () = assert!(offset_of!(VcpuContext, r) == 0 && hyp_abi::context::LR_USR == 13);
const _: () = assert!(offset_of!(VcpuContext, pc) == 14 * 4 && offset_of!(VcpuContext, cpsr) == 15 * 4);

/// Out of the guest: stores its general registers and returns from [`enter_guest`]. r1: the exit code.
///
/// On the stack: the guest's r0 and r1, then what `enter_guest` pushed.
#[unsafe(naked)]
unsafe extern "C" fn guest_exit() -> ! {
    naked_asm!(
        ".arch_extension virt",
        "ldr r0, [sp, #8]",
        "add r0, r0, #8",
        "stm r0!, {{r2-r12, lr}}", // r[2] to r[13]
        "mrs r2, ELR_hyp",
        "mrs r3, SPSR",
        "stm r0, {{r2, r3}}", // pc, cpsr
        "pop {{r2, r3}}",
        "sub r0, r0, #56",
        "stm r0, {{r2, r3}}", // r[0], r[1]
        "clrex",
        "mov r0, r1",
        "add sp, sp, #4",
        "pop {{r4-r11, pc}}",
    )
}

/// Lets an asynchronous abort that the guest caused surface here, where it can be told apart, and not in the host: between the two
/// labels. Returns 1 if there was one: the data abort vector comes back with that in r0.
///
/// # Safety
/// What the guest's own exit left in HSR and the fault address registers was read: this may overwrite them.
#[unsafe(naked)]
pub unsafe extern "C" fn drain_async_abort() -> u32 {
    naked_asm!(
        "mov r0, #0",
        "dsb sy",
        "cpsie a",
        ".global hyp_abort_window",
        "hyp_abort_window:",
        "isb",
        "cpsid a",
        ".global hyp_abort_window_end",
        "hyp_abort_window_end:",
        "bx lr",
    )
}

/// An exception that Hyp mode itself took: onto the emergency stack with everything, whatever SP was.
///
/// HTPIDR holds the slot's data page. r0 goes to the fault address register that this exception does not report in; both are
/// Hyp mode's own and writable (B4.1, HDFAR and HIFAR).
macro_rules! exception_in_hyp {
    ($(#[$doc:meta])* $name:ident, $number:literal, $scratch:literal) => {
        $(#[$doc])*
        #[unsafe(naked)]
        unsafe extern "C" fn $name() -> ! {
            naked_asm!(
                ".arch_extension virt",
                concat!("mcr p15, 4, r0, c6, c0, ", $scratch),
                "mrc p15, 4, r0, c13, c0, 2", // HTPIDR
                "sub r0, r0, #{data_to_emergency_top}",
                "str sp, [r0, #-8]",
                "sub sp, r0, #8",
                concat!("mrc p15, 4, r0, c6, c0, ", $scratch),
                "push {{r0-r12, lr}}",
                "mov r0, sp",
                concat!("mov r1, #", $number),
                "bl {in_hyp}",
                "pop {{r0-r12, lr}}",
                "ldr sp, [sp]",
                "eret",
                data_to_emergency_top = const DATA_PAGE - EMERGENCY_TOP,
                in_hyp = sym panic::in_hyp,
            )
        }
    };
}

exception_in_hyp!(
    /// An undefined instruction in Hyp mode.
    undefined_in_hyp, "1", "2");
exception_in_hyp!(
    /// HVC executed in Hyp mode.
    hvc_in_hyp, "2", "2");
exception_in_hyp!(
    /// A prefetch abort in Hyp mode: HIFAR is in use.
    prefetch_abort_in_hyp, "3", "0");
exception_in_hyp!(
    /// A data abort in Hyp mode: HDFAR is in use.
    data_abort_in_hyp, "4", "2");
exception_in_hyp!(
    /// An IRQ or FIQ that Hyp mode took.
    interrupt_in_hyp, "6", "2");
