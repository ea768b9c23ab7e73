// SPDX-License-Identifier: GPL-2.0-only
//! The world switch: from the host to a guest and back, in one call.
//!
//! All state that the guest can change is first stored in the CPU's page, then the vCPU's is loaded; what is not loaded is
//! trapped. On return the guest's goes back to its context and the host's into the hardware. The order:
//!
//! 1. Walks of the PL1&0 regime are forbidden (TTBCR): from here to the last step the registers that translation depends on
//!    belong to two worlds, and a speculative walk in between would leave a mixture in the TLB.
//! 2. The host's state is stored, the guest's loaded: essential ([`essential`]), deferred ([`deferred`]).
//! 3. The guest's TTBCR, then ERET, which synchronises everything.
//! 4. A first use of VFP, and what needs nothing from the host ([`answers`]), is answered here, and the guest goes on.
//! 5. The way back is the same, mirrored; the syndrome is read, and the IPA of a permission fault resolved, while the guest's
//!    tables are still in place, and before an asynchronous abort of the guest's making is let in.
//!
//! A short exit is one that the module can probably answer with interrupts off, in the time that moving the deferred state
//! would take: a hypercall, a trapped register, the distributor, from Supervisor mode, whose registers are essential. Deferred
//! state then stays the guest's, and the next call either enters the same guest again or ends its stay.

use crate::per_cpu::{Away, PerCpu};
use crate::sysreg::{hcr, hsr};
use crate::{answers, deferred, essential, fault_ipa, tlb, traps, vectors, vfp, vtimer};
use arch::psr::{Mode, Psr};
use arch::syndrome::{COPROCESSOR, CP15, CP15_WIDE, DATA_ABORT, HVC, exception_class, is_device_access};
use hyp_abi::context::{ExitCode, VcpuContext};

/// Runs the vCPU until something stops it; the host's only way into a guest.
pub extern "C" fn enter(guest: *mut VcpuContext) -> u32 {
    // SAFETY: interrupts are off, so the page of this CPU is ours alone.
    let here = unsafe { &mut *PerCpu::here() };
    // SAFETY: the module passes a context page that is mapped here at the kernel's address and stays so; its run lock makes the
    // vCPU this CPU's alone until we return.
    unsafe { load_guest(here, guest) };
    // SAFETY: as above. `load_guest` has kept the pointer for `deferred::leave`, which comes after the last use of this.
    let context = unsafe { &mut *guest };
    let mut code;
    loop {
        // SAFETY: the guest's state is loaded and the context is this CPU's.
        code = unsafe { vectors::enter_guest(context) };
        if code != ExitCode::Trap.to_raw() {
            break;
        }
        let syndrome = hsr::read();
        let class = exception_class(syndrome);
        match class {
            HVC | CP15 | CP15_WIDE if context.control.answers != 0 && answers::answer(context, syndrome) => {
                context.exit.hyp_answers = context.exit.hyp_answers.wrapping_add(1);
                continue;
            }
            // HCPTR traps nothing else to Hyp mode with this class but VFP and NEON, until the guest has them.
            COPROCESSOR if here.vfp_armed != 0 && here.guest_vfp == 0 => {
                vfp::give_to_guest(here, context);
                continue;
            }
            DATA_ABORT if is_device_access(syndrome) => {
                context.exit.hsr = syndrome;
                if fault_ipa::hits_distributor(context) {
                    code = ExitCode::ShortTrap.to_raw();
                } else if fault_ipa::hides_instruction(syndrome, context) {
                    fault_ipa::find_instruction(syndrome, context);
                }
                break;
            }
            _ => {}
        }
        context.exit.hsr = syndrome;
        if !fault_ipa::resolve(class, syndrome, &mut context.exit) {
            code = ExitCode::Again.to_raw();
        } else if matches!(class, HVC | CP15 | CP15_WIDE) && context.cpsr & Psr::M.bits() == Mode::Svc as u32 {
            code = ExitCode::ShortTrap.to_raw();
        } else if class == DATA_ABORT && fault_ipa::hides_instruction(syndrome, context) {
            fault_ipa::find_instruction(syndrome, context);
        }
        break;
    }
    // SAFETY: the syndrome and the fault addresses were read above.
    context.exit.async_abort = unsafe { vectors::drain_async_abort() };
    store_guest(here, context);
    if code == ExitCode::ShortTrap.to_raw() {
        if context.exit.async_abort == 0 {
            return code;
        }
        code = ExitCode::Trap.to_raw();
    }
    // SAFETY: the essential state is the host's again.
    unsafe { deferred::leave(here) };
    code
}

/// The first half of [`enter`], for [`crate::provoke`].
///
/// # Safety
/// As for `enter`; an exception in Hyp mode follows.
pub unsafe fn load_for_provocation(guest: *mut VcpuContext) {
    // SAFETY: this CPU's page and a vCPU that is this CPU's alone, as in `enter`.
    unsafe { load_guest(&mut *PerCpu::here(), guest) };
}

/// Exchanges the host's state for the guest's.
///
/// # Safety
/// `guest` is valid and this CPU's alone until [`deferred::leave`].
#[inline(always)]
unsafe fn load_guest(here: &mut PerCpu, guest: *mut VcpuContext) {
    tlb::leave_host(here);
    // SAFETY: walks are off, the host's state is stored before the guest's is loaded over it, and `away` and `resident` tell the
    // panic vector that the host's is in this CPU's page. The context's use is promised by the caller.
    unsafe {
        if core::ptr::eq(here.resident, guest) {
            // Straight from a short exit: the host has run on what is stored, all but its stack.
            essential::save_host_stack(&mut here.host.essential);
            here.away = Away::Guest as u32;
        } else {
            // Another's would be the module's mistake; it is not lost all the same.
            deferred::leave(here);
            essential::save_host(&mut here.host.essential);
            here.away = Away::Guest as u32;
            deferred::load(here, guest);
        }
        let context = &*guest;
        traps::load_essential(here, &context.control);
        essential::load_guest(context);
        tlb::allow_walks(context.cp15.ttbcr);
    }
}

fn store_guest(here: &mut PerCpu, context: &mut VcpuContext) {
    context.cp15.ttbcr = tlb::forbid_walks();
    // Hardware clears VA when the guest takes the asynchronous abort that was made pending for it (B1.9).
    context.control.hcr = hcr::read();
    // SAFETY: walks are off; the guest's state is stored before the host's replaces it.
    unsafe { essential::save_guest(context) };
    load_host(here);
}

/// Puts the host's essential state into the hardware. Walks are off.
fn load_host(here: &mut PerCpu) {
    // SAFETY: walks are off; what is loaded is what `load_guest` stored on this CPU.
    unsafe {
        traps::unload_essential(here);
        essential::load_host(&here.host.essential);
        tlb::return_to_host(here);
    }
}

/// After an exception in Hyp mode: whatever of the host's is not in the registers is put back. What was a guest's is lost.
pub fn abandon(here: &mut PerCpu) {
    if here.away != Away::Not as u32 {
        tlb::forbid_walks();
        if here.away == Away::Guest as u32 {
            load_host(here);
        } else {
            // SAFETY: TTBR0 and TTBR1 are the host's in this state.
            unsafe { tlb::return_to_host(here) };
        }
    }
    if !here.resident.is_null() {
        // SAFETY: the host's world begins here; what is loaded is what `deferred::load` stored on this CPU.
        unsafe {
            vtimer::host_defaults(here);
            deferred::unload(here, None);
        }
    }
}
