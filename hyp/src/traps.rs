// SPDX-License-Identifier: GPL-2.0-only
//! What traps: everything that is not loaded, while a guest runs; nothing, while the host does.
//!
//! HCR comes from the vCPU. The rest is the same for all: HSTR traps CP15's c15 (implementation defined), ThumbEE and Jazelle's
//! configuration; HCPTR traps trace registers and, until the guest uses them, VFP and NEON; HDCR traps performance monitors and
//! debug registers. HDCR.HPMN is the host's choice and stays.
//!
//! Source: ARM DDI 0406C.d, B1.14 (traps to the hypervisor), B4.1.

use crate::sysreg::*;
use crate::vtimer;
use arch::hyp_registers::{Hcptr, Hdcr, Hstr};
use hyp_abi::context::Control;

/// HCPTR with VFP and NEON trapped.
const HCPTR_GUEST: u32 = Hcptr::TTA.bits() | Hcptr::TCP10.bits() | Hcptr::TCP11.bits();
/// What of HCPTR is ours to set and to clear.
pub const HCPTR_OURS: u32 = HCPTR_GUEST | Hcptr::TASE.bits() | Hcptr::TCPAC.bits();
/// HDCR's traps.
const HDCR_TRAPS: u32 =
    Hdcr::TPM.bits() | Hdcr::TPMCR.bits() | Hdcr::TDRA.bits() | Hdcr::TDOSA.bits() | Hdcr::TDA.bits();
/// HSTR's traps.
const HSTR_GUEST: u32 = Hstr::t(15).bits() | Hstr::TTEE.bits() | Hstr::TJDBX.bits();

/// Sets the guest's traps, stage 2 and identity. Walks are off.
///
/// # Safety
/// The guest's world begins here. The caller's ERET makes it count.
#[inline(always)]
pub unsafe fn load(control: &Control, host_hdcr: u32, host_hcptr: u32) {
    // SAFETY: promised by the caller.
    unsafe {
        vttbr::write(control.vttbr);
        vpidr::write(control.midr);
        vmpidr::write(control.mpidr);
        hstr::write(HSTR_GUEST);
        hcptr::write(host_hcptr | HCPTR_GUEST);
        hdcr::write(host_hdcr | HDCR_TRAPS);
        hcr::write(control.hcr);
    }
}

/// Traps nothing: stage 2 off, VMID 0, the real identity.
///
/// # Safety
/// The host's world begins here; walks are off. The caller's ERET makes it count.
#[inline(always)]
pub unsafe fn unload(host_hdcr: u32, host_hcptr: u32) {
    // SAFETY: promised by the caller.
    unsafe {
        hcr::write(0);
        hstr::write(0);
        hcptr::write(host_hcptr);
        hdcr::write(host_hdcr);
        vttbr::write(0);
        vpidr::write(midr::read());
        vmpidr::write(mpidr::read());
    }
}

/// Everything in Hyp mode's gift as a host without a hypervisor has it. For taking Hyp mode and for giving it back.
pub fn host_defaults() {
    // SAFETY: no guest's state is in the registers when Hyp mode is taken or given back, so these are the values that hold anyway,
    // or that the stub left; TTBR0 and TTBR1 are the host's and stage 2 is off before and after.
    unsafe {
        unload(hdcr::read() & !HDCR_TRAPS, hcptr::read() & !HCPTR_OURS);
        vtimer::host_defaults();
    }
}
