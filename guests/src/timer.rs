// SPDX-License-Identifier: GPL-2.0-only
//! The virtual timer, and waiting by it.
//!
//! Source: ARM DDI 0406C.d, B8.1.5 (timers), B4.1.26 (CNTV_CTL).

use crate::sysreg::{cntfrq, cntv_ctl, cntv_tval, cntvct};

/// CNTV_CTL: on.
pub const ENABLE: u32 = 1 << 0;
/// CNTV_CTL: no interrupt.
pub const IMASK: u32 = 1 << 1;
/// CNTV_CTL: the time has come.
pub const ISTATUS: u32 = 1 << 2;

/// Ticks in so many microseconds.
pub fn ticks(microseconds: u32) -> u32 {
    (u64::from(cntfrq::read()) * u64::from(microseconds) / 1_000_000) as u32
}

/// Has the timer fire in so many microseconds.
pub fn fire_in(microseconds: u32) {
    cntv_tval::write(ticks(microseconds));
    cntv_ctl::write(ENABLE);
}

/// Turns the timer off.
pub fn off() {
    cntv_ctl::write(0);
}

/// Waits until `done` or so many microseconds are over; whether it was done.
pub fn wait_until(microseconds: u32, mut done: impl FnMut() -> bool) -> bool {
    let start = cntvct::read();
    let limit = u64::from(ticks(microseconds));
    loop {
        if done() {
            return true;
        }
        if cntvct::read() - start > limit {
            return done();
        }
    }
}
