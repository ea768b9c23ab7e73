// SPDX-License-Identifier: GPL-2.0-only
//! The world switch: from the host to a guest and back, in one call.
//!
//! All state that the guest can change is first stored in the CPU's page, then the vCPU's is loaded; what is not loaded is
//! trapped. On return the guest's goes back to its context and the host's into the hardware. The order:
//!
//! 1. Walks of the PL1&0 regime are forbidden (TTBCR): from here to the last step the registers that translation depends on
//!    belong to two worlds, and a speculative walk in between would leave a mixture in the TLB.
//! 2. The host's CP15 and banked registers are stored; the guest's VTTBR, traps, CP15, timer and banks are loaded.
//! 3. The guest's TTBCR, then ERET, which synchronises everything.
//! 4. A first use of VFP is answered here, and the guest goes on.
//! 5. The way back is the same, mirrored; the syndrome is read, and the IPA of a permission fault resolved, while the guest's
//!    tables are still in place, and before an asynchronous abort of the guest's making is let in.

use crate::per_cpu::{Away, PerCpu};
use crate::sysreg::{hcr, hdcr, hsr, isb};
use crate::{banked, cp15, fault_ipa, tlb, traps, vectors, vfp, vtimer};
use arch::syndrome::Trap;
use hyp_abi::context::{ExitCode, VcpuContext};

/// Runs the vCPU until something stops it; the host's only way into a guest.
pub extern "C" fn enter(context: *mut VcpuContext) -> u32 {
    // SAFETY: the module passes a context page that is mapped here at the kernel's address and stays so; its run lock makes the
    // vCPU this CPU's alone until we return, and interrupts are off, so the page of this CPU is ours alone too.
    let (here, context) = unsafe { (&mut *PerCpu::here(), &mut *context) };
    load_guest(here, context);
    let mut code;
    loop {
        // SAFETY: the guest's state is loaded and the context is this CPU's.
        code = unsafe { vectors::enter_guest(context) };
        if code != ExitCode::Trap.to_raw() {
            break;
        }
        let syndrome = hsr::read();
        match Trap::from_hsr(syndrome) {
            // HCPTR traps nothing else to Hyp mode with this class but VFP and NEON, until the guest has them.
            Some(Trap::Coprocessor { .. }) if context.control.vfp != 0 && here.guest_vfp == 0 => {
                vfp::give_to_guest(here, context);
                continue;
            }
            Some(trap) => match fault_ipa::resolve(&trap) {
                Some(fault) => {
                    context.exit.far = fault.far;
                    context.exit.hpfar = fault.hpfar;
                }
                None => code = ExitCode::Again.to_raw(),
            },
            None => {}
        }
        context.exit.hsr = syndrome;
        break;
    }
    // SAFETY: the syndrome and the fault addresses were read above.
    context.exit.async_abort = unsafe { vectors::drain_async_abort() };
    store_guest(here, context);
    code
}

/// The first half of [`enter`], for [`crate::provoke`].
///
/// # Safety
/// As for `enter`; an exception in Hyp mode follows.
pub unsafe fn load_for_provocation(context: &mut VcpuContext) {
    // SAFETY: this CPU's page, as in `enter`.
    load_guest(unsafe { &mut *PerCpu::here() }, context);
}

fn load_guest(here: &mut PerCpu, context: &mut VcpuContext) {
    tlb::leave_host(here);
    here.host.hdcr = hdcr::read();
    cp15::save(&mut here.host.cp15);
    // SAFETY: walks are off, the host's state is stored before the guest's is loaded over it, and `away` tells the panic vector that
    // the host's is in this CPU's page.
    unsafe {
        banked::save(&mut here.host.banks);
        if context.control.vfp != 0 {
            here.away = Away::GuestWithVfp as u32;
            vfp::arm(&mut here.host.fpexc);
        } else {
            here.away = Away::Guest as u32;
        }
        traps::load(&context.control, here.host.hdcr, here.stub.hcptr);
        cp15::load(&context.cp15);
        vtimer::load(&context.timer);
        banked::load(&context.banks);
        tlb::allow_walks(context.cp15.ttbcr);
    }
}

fn store_guest(here: &mut PerCpu, context: &mut VcpuContext) {
    context.cp15.ttbcr = tlb::forbid_walks();
    // Hardware clears VA when the guest takes the asynchronous abort that was made pending for it (B1.9).
    context.control.hcr = hcr::read();
    cp15::save(&mut context.cp15);
    // SAFETY: walks are off; the guest's state is stored before the host's replaces it.
    unsafe {
        banked::save(&mut context.banks);
        vtimer::save(&mut context.timer);
    }
    load_host(here, Some(context));
}

/// Puts the host's state into the hardware. `context`, if there still is one, gets the guest's floating point first. Walks are off.
fn load_host(here: &mut PerCpu, context: Option<&mut VcpuContext>) {
    // SAFETY: walks are off; what is loaded is what `load_guest` stored on this CPU.
    unsafe {
        traps::unload(here.host.hdcr, here.stub.hcptr);
        if here.away == Away::GuestWithVfp as u32 {
            isb(); // HCPTR no longer traps what comes next
            vfp::give_to_host(here, context);
        }
        cp15::load(&here.host.cp15);
        banked::load(&here.host.banks);
        tlb::return_to_host(here);
    }
}

/// After an exception in Hyp mode: whatever of the host's is not in the registers is put back. What was a guest's is lost.
pub fn abandon(here: &mut PerCpu) {
    if here.away == Away::Not as u32 {
        return;
    }
    tlb::forbid_walks();
    if here.away == Away::Walks as u32 {
        // SAFETY: TTBR0 and TTBR1 are the host's in this state.
        unsafe { tlb::return_to_host(here) };
        return;
    }
    // SAFETY: the host's world begins here.
    unsafe { vtimer::host_defaults() };
    load_host(here, None);
}
