// SPDX-License-Identifier: GPL-2.0-only
//! What traps: everything that is not loaded, while a guest runs; nothing, while the host does.
//!
//! HCR comes from the vCPU. The rest is the same for all: HSTR traps CP15's c15 (implementation defined), ThumbEE and Jazelle's
//! configuration; HCPTR traps trace registers and, until the guest uses them, VFP and NEON; HDCR traps performance monitors and
//! debug registers. HDCR.HPMN is the host's choice and stays.
//!
//! What the host has in HCPTR, HDCR and CNTHCTL only Hyp mode can change, so it is read once, when the CPU is taken ([`Settings`]).
//!
//! Source: ARM DDI 0406C.d, B1.14 (traps to the hypervisor), B4.1.

use crate::per_cpu::PerCpu;
use crate::sysreg::*;
use crate::{vectors, vtimer};
use arch::hyp_registers::{Hcptr, Hdcr, Hstr};
use hyp_abi::context::Control;

/// HCPTR with VFP and NEON trapped.
const HCPTR_GUEST: u32 = Hcptr::TTA.bits() | Hcptr::TCP10.bits() | Hcptr::TCP11.bits();
/// What of HCPTR is ours to set and to clear.
const HCPTR_OURS: u32 = HCPTR_GUEST | Hcptr::TASE.bits() | Hcptr::TCPAC.bits();
/// HDCR's traps.
const HDCR_TRAPS: u32 =
    Hdcr::TPM.bits() | Hdcr::TPMCR.bits() | Hdcr::TDRA.bits() | Hdcr::TDOSA.bits() | Hdcr::TDA.bits();
/// HSTR's traps.
const HSTR_GUEST: u32 = Hstr::t(15).bits() | Hstr::TTEE.bits() | Hstr::TJDBX.bits();

/// The host's settings of what Hyp mode alone can set, and who the CPU really is.
#[repr(C)]
pub struct Settings {
    /// HCPTR: nothing of ours, but Armv8 has bits in it that are one.
    hcptr: u32,
    /// HDCR without traps.
    hdcr: u32,
    /// CNTHCTL: the physical timer is the host's.
    pub cnthctl: u32,
    midr: u32,
    mpidr: u32,
}

impl Settings {
    /// What is set now, less what an earlier owner of Hyp mode may have left of what we set.
    pub fn of_host() -> Self {
        Self {
            hcptr: hcptr::read() & !HCPTR_OURS,
            hdcr: hdcr::read() & !HDCR_TRAPS,
            cnthctl: vtimer::host_control(),
            midr: midr::read(),
            mpidr: mpidr::read(),
        }
    }
}

/// Sets stage 2, what goes with it, and the guest's vectors. Walks are off.
///
/// # Safety
/// The guest's world begins here. The caller's ERET makes it count.
#[inline(always)]
pub unsafe fn load_essential(here: &PerCpu, control: &Control) {
    // SAFETY: promised by the caller.
    unsafe {
        vttbr::write(control.vttbr);
        hdcr::write(here.settings.hdcr | HDCR_TRAPS);
        hcr::write(control.hcr);
        hvbar::write(here.guest_vectors);
    }
}

/// Stage 2 off, no debug register trapped, the host's vectors. VTTBR is written with the walks, by [`crate::tlb::return_to_host`].
///
/// # Safety
/// The host's world begins here; walks are off. The caller's ERET makes it count.
#[inline(always)]
pub unsafe fn unload_essential(here: &PerCpu) {
    // SAFETY: promised by the caller.
    unsafe {
        hcr::write(0);
        hdcr::write(here.settings.hdcr);
        hvbar::write(vectors::for_host());
    }
}

/// Sets the guest's identity and the traps of coprocessors.
///
/// # Safety
/// As [`crate::deferred::load`].
#[inline(always)]
pub unsafe fn load_deferred(here: &PerCpu, control: &Control) {
    // SAFETY: promised by the caller.
    unsafe {
        vpidr::write(control.midr);
        vmpidr::write(control.mpidr);
        hstr::write(HSTR_GUEST);
        hcptr::write(here.settings.hcptr | HCPTR_GUEST);
    }
}

/// The real identity; no coprocessor is trapped.
///
/// # Safety
/// As [`crate::deferred::leave`].
#[inline(always)]
pub unsafe fn unload_deferred(here: &PerCpu) {
    // SAFETY: promised by the caller.
    unsafe {
        vpidr::write(here.settings.midr);
        vmpidr::write(here.settings.mpidr);
        hstr::write(0);
        hcptr::write(here.settings.hcptr);
    }
}

/// Everything in Hyp mode's gift as a host without a hypervisor has it. For taking Hyp mode and for giving it back.
pub fn host_defaults(here: &PerCpu) {
    // SAFETY: no guest's state is in the registers when Hyp mode is taken or given back, or deferred state is and the kernel has
    // crashed, whose successor sets up what it uses. So these are the values that hold anyway, or that the stub left; TTBR0 and
    // TTBR1 are the host's and stage 2 is off before and after.
    unsafe {
        unload_essential(here);
        vttbr::write(0);
        unload_deferred(here);
        vtimer::host_defaults(here);
    }
}
