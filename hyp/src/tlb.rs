// SPDX-License-Identifier: GPL-2.0-only
//! TLB maintenance that only Hyp mode can do.
//!
//! TLBIALL and TLBIALLIS drop the PL1&0 entries of the VMID that VTTBR names (B4.2.2), so VTTBR is the guest's for a moment while
//! TTBR0 and TTBR1 are the host's. A speculative walk in that moment would tag the host's translations with the guest's VMID:
//! walks are forbidden meanwhile. There is no invalidation by IPA on ARMv7: the VMID's entries go as a whole.

use crate::per_cpu::{Away, PerCpu};
use crate::sysreg::*;
use arch::addr::PAGE_SIZE;
use arch::core_id::{Erratum798181, Midr};
use arch::guest_registers::Ttbcr;

/// TTBCR with EAE, EPD0 and EPD1: no walk of either table, whatever TTBR0 and TTBR1 hold (B4.1).
const NO_WALKS: u32 = Ttbcr::EAE.walks_disabled().bits();

/// Forbids walks of the PL1&0 regime, whatever its registers hold meanwhile; returns TTBCR as it was.
#[inline(always)]
pub fn forbid_walks() -> u32 {
    let before = ttbcr::read();
    stop_walks();
    before
}

#[inline(always)]
fn stop_walks() {
    // SAFETY: Hyp mode uses its own translation; the PL1&0 regime is not in use until the next ERET.
    unsafe { ttbcr::write(NO_WALKS) };
    isb();
}

/// Allows walks again, as `ttbcr` says. The caller's ERET makes it count, and everything that was written since.
///
/// # Safety
/// TTBR0, TTBR1 and VTTBR are those of the world that `ttbcr` belongs to.
#[inline(always)]
pub unsafe fn allow_walks(ttbcr: u32) {
    // What a walk depends on is in place before walks are allowed (B3.15.5).
    isb();
    // SAFETY: promised by the caller.
    unsafe { ttbcr::write(ttbcr) };
}

/// [`forbid_walks`] in the host's world, noted for the panic vector.
#[inline(always)]
pub fn leave_host(here: &mut PerCpu) {
    here.host.ttbcr = ttbcr::read();
    here.away = Away::Walks as u32;
    stop_walks();
}

/// Back to the host's walks, with VMID 0.
///
/// # Safety
/// TTBR0 and TTBR1 are the host's.
#[inline(always)]
pub unsafe fn return_to_host(here: &mut PerCpu) {
    // SAFETY: the host runs with VMID 0 and stage 2 off; the rest is promised by the caller.
    unsafe {
        vttbr::write(0);
        allow_walks(here.host.ttbcr);
    }
    here.away = Away::Not as u32;
}

fn with_vmid(vttbr: u64, operation: impl FnOnce()) {
    // SAFETY: this CPU's page, which no other code refers to while this call lasts.
    let here = unsafe { &mut *PerCpu::here() };
    leave_host(here);
    // SAFETY: walks are off; the host's value is put back below.
    unsafe { vttbr::write(vttbr) };
    isb();
    operation();
    // SAFETY: TTBR0 and TTBR1 were not touched.
    unsafe { return_to_host(here) };
}

/// Drops all of this CPU's Non-secure PL1&0 entries, of every VMID: those of an earlier owner of Hyp mode, too. And what its instruction
/// caches hold, as [`flush_vmid_local`], which a CPU that had lost Hyp mode may owe.
pub fn drop_guests_here() {
    // SAFETY: invalidation loses nothing but time.
    unsafe {
        iciallu::write(0);
        tlbiallnsnh::write(0);
    }
    dsb_ish();
    isb();
}

/// Drops this CPU's PL1&0 entries of the guest whose VTTBR is loaded.
#[cold]
pub fn drop_guest_here() {
    // SAFETY: invalidation loses nothing but time.
    unsafe { tlbiall::write(0) };
    dsb_ish();
    isb();
}

/// Drops every CPU's PL1&0 entries of the VMID in `vttbr`.
pub extern "C" fn flush_vmid(vttbr: u64) {
    dsb_ishst();
    with_vmid(vttbr, || {
        // SAFETY: invalidation loses nothing but time.
        unsafe { tlbiallis::write(0) };
        dsb_ish();
        isb();
    });
    repeat_for_erratum();
}

/// Drops this CPU's PL1&0 entries of the VMID in `vttbr`, and what its instruction caches hold: a vCPU whose MMU is off fetches from memory
/// itself, beyond the point that another vCPU's maintenance reaches, and may leave there what that one is not to find (B3.2.1, B2.2.3).
pub extern "C" fn flush_vmid_local(vttbr: u64) {
    with_vmid(vttbr, || {
        // SAFETY: invalidation loses nothing but time.
        unsafe { iciallu::write(0) };
        drop_guest_here();
    });
}

/// Drops every CPU's Non-secure PL1&0 entries of all VMIDs, and all instruction caches and branch predictors.
pub extern "C" fn flush_all() {
    dsb_ishst();
    // SAFETY: invalidation loses nothing but time.
    unsafe {
        tlbiallnsnhis::write(0);
        icialluis::write(0);
        bpiallis::write(0);
    }
    dsb_ish();
    isb();
    repeat_for_erratum();
}

/// Drops every CPU's entry for one page of Hyp mode's own map.
pub extern "C" fn flush_hyp(address: u32) {
    dsb_ishst();
    // SAFETY: invalidation loses nothing but time.
    unsafe { tlbimvahis::write(address & !(PAGE_SIZE as u32 - 1)) };
    dsb_ish();
    isb();
    repeat_for_erratum();
}

/// Cortex-A15 erratum 798181: the DSB after a broadcast invalidation may end too early; one more invalidation, of any address, and
/// its DSB make it good. What affected revisions want besides, a barrier on every other CPU, is the module's to do.
fn repeat_for_erratum() {
    if Midr::new(midr::read()).erratum_798181(revidr::read()) != Erratum798181::Absent {
        // SAFETY: invalidation loses nothing but time.
        unsafe { tlbimvais::write(0) };
        dsb_ish();
    }
}
