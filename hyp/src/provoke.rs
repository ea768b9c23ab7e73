// SPDX-License-Identifier: GPL-2.0-only
//! Exceptions in Hyp mode, on purpose.
//!
//! That a bug in Hyp mode costs a vCPU and not the host has to be shown, so there is a call that commits one of each kind with a
//! guest's state in the registers. Only the kernel can call it; the module does when root asks (its parameter
//! `provoke_hyp_panic`).

use crate::sysreg::{cntv_ctl, cntv_cval};
use crate::world_switch;
use core::arch::asm;
use hyp_abi::context::{HYP_PANIC, VcpuContext};
use hyp_abi::image::Provocation;
use hyp_abi::layout::SLOTS_BASE;

/// An address that [`hyp_abi::layout`] leaves unmapped for ever: the guard page under CPU 0's emergency stack.
const UNMAPPED: u32 = SLOTS_BASE;

/// For how many turns of a loop an interrupt that is asserted is waited for.
const PATIENCE: u32 = 1 << 24;

/// Loads the guest of `context` and takes the exception that `kind` numbers. An unknown number does nothing.
pub extern "C" fn provoke(context: *mut VcpuContext, kind: u32) -> u32 {
    let Some(kind) = Provocation::from_raw(kind) else { return 0 };
    // SAFETY: as for `world_switch::enter`: the module passes a context page that is this CPU's alone.
    unsafe { world_switch::load_for_provocation(context) };
    // SAFETY: none of these comes back: the panic vector records it, puts the host's state in place and ends the call.
    unsafe {
        match kind {
            Provocation::Undefined => asm!("udf #0"),
            Provocation::Hvc => asm!(".arch_extension virt", "hvc #0"),
            Provocation::PrefetchAbort => asm!("bx {}", in(reg) UNMAPPED),
            Provocation::DataAbort => asm!("ldr {0}, [{0}]", inout(reg) UNMAPPED => _),
            Provocation::StackOverflow => asm!("1: push {{r0-r3}}", "b 1b", options(noreturn)),
            Provocation::Interrupt => {
                cntv_cval::write(0);
                cntv_ctl::write(1); // enabled, and long over; the panic vector turns it off with all that is the guest's
                asm!("isb", "cpsie i", "1: subs {0}, {0}, #1", "bne 1b", "cpsid i", inout(reg) PATIENCE => _);
                asm!("udf #0"); // it did not come: not in this place's name, at any rate
            }
            // To the vector as a core goes there: SPSR and ELR say whence, and HVBAR where to.
            Provocation::Fiq => asm!(
                ".arch_extension virt",
                "mrs {0}, cpsr",
                "msr SPSR_hyp, {0}",
                "adr {0}, 1f",
                "msr ELR_hyp, {0}",
                "mrc p15, 4, {0}, c12, c0, 0",
                "add {0}, {0}, #0x1c",
                "1: bx {0}",
                out(reg) _,
            ),
        }
    }
    HYP_PANIC
}
