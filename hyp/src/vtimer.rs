// SPDX-License-Identifier: GPL-2.0-only
//! The virtual timer is the guest's own; the physical one is the host's.
//!
//! On the way in the guest gets its offset and its CNTV registers, and loses the physical timer (CNTHCTL.PL1PCEN; the physical
//! count stays readable). On the way out CNTV is stored and disabled, so that it cannot interrupt the host, and CNTVOFF is zero
//! again: the host's vDSO reads CNTVCT and expects it to equal CNTPCT.
//!
//! Source: ARM DDI 0406C.d, B8.1.3, B4.1 (CNTHCTL).

use crate::per_cpu::PerCpu;
use crate::sysreg::*;
use arch::hyp_registers::Cnthctl;
use hyp_abi::context::Timer;

/// CNTHCTL as the host has it: the physical count and timer are PL1's.
pub fn host_control() -> u32 {
    cnthctl::read() | Cnthctl::PL1PCEN.bits() | Cnthctl::PL1PCTEN.bits()
}

/// Loads the guest's timer. CNTV_CTL comes last: until then the timer is disabled, and no stale comparison can fire.
///
/// # Safety
/// The host's world ends here: CNTVCT is the guest's from now on.
#[inline(always)]
pub unsafe fn load(here: &PerCpu, timer: &Timer) {
    // SAFETY: promised by the caller.
    unsafe {
        cnthctl::write(here.settings.cnthctl & !Cnthctl::PL1PCEN.bits());
        cntvoff::write(timer.cntvoff);
        cntv_cval::write(timer.cval);
        isb();
        cntv_ctl::write(timer.ctl);
    }
}

/// Stores the guest's timer and gives the host its view back.
///
/// # Safety
/// The guest's world ends here.
#[inline(always)]
pub unsafe fn save(here: &PerCpu, timer: &mut Timer) {
    timer.ctl = cntv_ctl::read();
    timer.cval = cntv_cval::read();
    // SAFETY: promised by the caller.
    unsafe { host_defaults(here) };
}

/// The timers as the host has them: CNTV disabled, no offset, the physical timer PL1's.
///
/// # Safety
/// The host's world is the current one from here on.
#[inline(always)]
pub unsafe fn host_defaults(here: &PerCpu) {
    // SAFETY: promised by the caller.
    unsafe {
        cntv_ctl::write(0);
        // The timer is off before the count that it compares with jumps.
        isb();
        cntvoff::write(0);
        cnthctl::write(here.settings.cnthctl);
    }
}
