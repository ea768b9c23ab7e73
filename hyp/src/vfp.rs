// SPDX-License-Identifier: GPL-2.0-only
//! Lazy switching of VFP and NEON state.
//!
//! A vCPU enters with HCPTR.TCP10 and TCP11 set, so its first floating-point instruction traps to Hyp mode (HSR.EC = 0x07). Only
//! then is the host's state written to the CPU's page and the guest's loaded, the trap removed, and the instruction run again.
//! On the way out the exchange is undone, if it was made. A stay that uses no floating point moves nothing.
//!
//! FPEXC.EN is set while the trap is armed: HCPTR traps only what would not be undefined in the guest anyway, so with EN as the
//! host had it (lazily clear) the guest would get an Undefined Instruction exception that its own FPEXC does not warrant
//! (B1.14.8). The host's FPEXC is back before the host is.
//!
//! Where the host has no VFPv3 (`Control::vfp` zero) nothing of this happens: the trap goes to the module, which makes the
//! instruction undefined.
//!
//! Source: ARM DDI 0406C.d, A2.6.1, B1.11, B1.14.8, B4.1 (HCPTR), B6.1.38 (FPEXC).

use crate::per_cpu::PerCpu;
use crate::sysreg::{hcptr, isb};
use arch::guest_registers::Fpexc;
use arch::hyp_registers::Hcptr;
use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use hyp_abi::context::{VcpuContext, Vfp};

fn fpexc() -> u32 {
    let value: u32;
    // SAFETY: reads a register. HCPTR does not trap Hyp mode's own use here, or not yet.
    unsafe { asm!(".fpu neon", "vmrs {}, fpexc", out(reg) value, options(nostack, preserves_flags)) };
    value
}

fn set_fpexc(value: u32) {
    // SAFETY: Hyp mode uses no floating point itself; whose FPEXC it is, the callers keep track of.
    unsafe { asm!(".fpu neon", "vmsr fpexc, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Keeps the host's FPEXC and sets EN, so that the trap that `traps::load_deferred` is going to arm is what the guest's first use
/// meets. Not for a guest without floating point.
#[inline(always)]
pub fn arm(here: &mut PerCpu, context: &VcpuContext) {
    if context.control.vfp != 0 {
        let fpexc = fpexc();
        here.host.fpexc = fpexc;
        // From here on the panic vector puts it back.
        here.vfp_armed = 1;
        if fpexc & Fpexc::EN.bits() == 0 {
            set_fpexc(fpexc | Fpexc::EN.bits());
        }
    }
}

/// Gives the guest the registers, at its first use.
#[cold]
pub fn give_to_guest(here: &mut PerCpu, context: &mut VcpuContext) {
    // SAFETY: the trap is Hyp mode's own; the guest's instruction runs again without it.
    unsafe { hcptr::write(hcptr::read() & !(Hcptr::TCP10.bits() | Hcptr::TCP11.bits())) };
    isb(); // HCPTR traps Hyp mode's own accesses too (B4.1)
    set_fpexc(Fpexc::EN.bits());
    here.host.vfp.fpexc = here.host.fpexc;
    save(&mut here.host.vfp);
    // From here on the host's are to be put back, whatever happens.
    here.guest_vfp = 1;
    load(&context.vfp);
    context.exit.vfp_switches = context.exit.vfp_switches.wrapping_add(1);
}

/// On the way out: the host's registers, if the guest had them, and its FPEXC. HCPTR was just written to trap nothing.
#[inline(always)]
pub fn give_to_host(here: &mut PerCpu, context: Option<&mut VcpuContext>) {
    if here.guest_vfp != 0 {
        isb(); // HCPTR no longer traps what comes next
        take_back(here, context);
    } else if here.vfp_armed != 0 && here.host.fpexc & Fpexc::EN.bits() == 0 {
        isb();
        // The guest could not change it: its first access would have trapped.
        set_fpexc(here.host.fpexc);
    }
    here.vfp_armed = 0;
}

#[cold]
fn take_back(here: &mut PerCpu, context: Option<&mut VcpuContext>) {
    let guest = fpexc();
    set_fpexc(Fpexc::EN.bits());
    if let Some(context) = context {
        context.vfp.fpexc = guest;
        save(&mut context.vfp);
    }
    load(&here.host.vfp);
    here.guest_vfp = 0;
}

/// Stores all but FPEXC, which the caller has stored: it says whether FPINST and FPINST2 are in use. EN is set, and EX clear: with EX
/// set an access to FPSCR or a d register is itself an exception (B6.1.38).
#[inline(always)]
fn save(vfp: &mut Vfp) {
    if vfp.fpexc & Fpexc::EX.bits() != 0 {
        save_exception(vfp);
    }
    // SAFETY: `vfp` is valid; EN is set, and EX clear.
    unsafe { save_registers(vfp) };
}

#[cold]
#[inline(never)]
fn save_exception(vfp: &mut Vfp) {
    // SAFETY: EX was set, so the core has these registers.
    unsafe { asm!(".fpu neon", "vmrs {}, fpinst", out(reg) vfp.fpinst, options(nostack, preserves_flags)) };
    if vfp.fpexc & Fpexc::FP2V.bits() != 0 {
        // SAFETY: FP2V says that it is there.
        unsafe { asm!(".fpu neon", "vmrs {}, fpinst2", out(reg) vfp.fpinst2, options(nostack, preserves_flags)) };
    }
}

/// Loads all, FPEXC last. EN is set, and EX clear.
#[inline(always)]
fn load(vfp: &Vfp) {
    // SAFETY: `vfp` is valid; EN is set, and EX clear.
    unsafe { load_registers(vfp) };
    if vfp.fpexc & Fpexc::EX.bits() != 0 {
        load_exception(vfp);
    }
    set_fpexc(vfp.fpexc);
}

#[cold]
#[inline(never)]
fn load_exception(vfp: &Vfp) {
    set_fpexc(vfp.fpexc | Fpexc::EN.bits());
    // What the register keeps says what the core has: without FPINST (VFPv3 on all cores that can be hosts) EX reads as zero,
    // whatever a process put there.
    let kept = fpexc();
    if kept & Fpexc::EX.bits() != 0 {
        // SAFETY: EX can be set, so the core has these registers.
        unsafe { asm!(".fpu neon", "vmsr fpinst, {}", in(reg) vfp.fpinst, options(nostack, preserves_flags)) };
        if kept & Fpexc::FP2V.bits() != 0 {
            // SAFETY: as above.
            unsafe { asm!(".fpu neon", "vmsr fpinst2, {}", in(reg) vfp.fpinst2, options(nostack, preserves_flags)) };
        }
    }
}

const _: () = assert!(offset_of!(Vfp, d) == 0);

/// Stores d0 to d15, d16 to d31 where MVFR0 says that they are there, and FPSCR.
///
/// # Safety
/// FPEXC.EN is set and EX clear; `to` is valid for writes.
#[unsafe(naked)]
unsafe extern "C" fn save_registers(to: *mut Vfp) {
    naked_asm!(
        ".fpu neon",
        "vmrs r1, fpscr",
        "str r1, [r0, #{fpscr}]",
        "vstmia r0!, {{d0-d15}}",
        "vmrs r1, mvfr0",
        "and r1, r1, #0xf", // A_SIMD registers: 2 is 32 doublewords (B4.1)
        "cmp r1, #2",
        "vstmiaeq r0, {{d16-d31}}",
        "bx lr",
        fpscr = const offset_of!(Vfp, fpscr),
    )
}

/// Loads what [`save_registers`] stores.
///
/// # Safety
/// FPEXC.EN is set and EX clear; `from` is valid for reads.
#[unsafe(naked)]
unsafe extern "C" fn load_registers(from: *const Vfp) {
    naked_asm!(
        ".fpu neon",
        "ldr r1, [r0, #{fpscr}]",
        "vldmia r0!, {{d0-d15}}",
        "vmrs r2, mvfr0",
        "and r2, r2, #0xf",
        "cmp r2, #2",
        "vldmiaeq r0, {{d16-d31}}",
        "vmsr fpscr, r1",
        "bx lr",
        fpscr = const offset_of!(Vfp, fpscr),
    )
}
