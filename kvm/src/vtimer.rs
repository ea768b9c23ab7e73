// SPDX-License-Identifier: GPL-2.0-only
//! A vCPU's Generic Timers.
//!
//! The *virtual* timer is hardware: the world switch loads CNTV_CTL, CNTV_CVAL and CNTVOFF, and its interrupt reaches the
//! host as long as the vCPU is loaded. What is needed here is to tell, while it is not loaded, whether its output is
//! asserted (the input of one of the vCPU's PPIs in the vGIC) and at which count of the host it will be, to wake the vCPU from WFI.
//!
//! The *physical* timer is the host's, so the guest's accesses to it trap (CNTHCTL.PL1PCEN clear) and
//! [`PhysicalTimer`](arch::timer::PhysicalTimer) answers them; the host's own timers stand in for its comparator. The physical
//! counter itself is the host's for all.
//!
//! The offset's subtraction wraps, the comparison does not: [`arch::timer`] says when a comparator's output is asserted.
//!
//! Source: ARM DDI 0406C.d, B8.1.

use arch::hyp_registers::CntCtl;
use arch::timer::{self, output, read_control, until_output};
use hyp_abi::context::Timer;

/// The virtual timer's count when the host's is `now`.
pub fn virtual_count(timer: &Timer, now: u64) -> u64 {
    now.wrapping_sub(timer.cntvoff)
}

/// The CNTVOFF with which the virtual count is `count` when the host's is `now`.
pub fn offset_for(count: u64, now: u64) -> u64 {
    now.wrapping_sub(count)
}

/// Whether the virtual timer's output is asserted when the host's count is `now`.
pub fn asserted(timer: &Timer, now: u64) -> bool {
    output(timer.ctl, timer.cval, virtual_count(timer, now))
}

/// Whether the virtual timer has an output at all: it is enabled and not masked.
pub fn is_on(timer: &Timer) -> bool {
    timer::is_on(timer.ctl)
}

/// Whether its output was asserted when the guest was left, or when [`note_asserted`] said so since.
pub fn was_asserted(timer: &Timer) -> bool {
    CntCtl::from_bits_retain(timer.ctl).line()
}

/// Has [`was_asserted`] say this of a timer that is on, in case that the guest is not entered after all. The hardware ignores it.
pub fn note_asserted(timer: &mut Timer, asserted: bool) {
    let istatus = CntCtl::ISTATUS.bits();
    timer.ctl = timer.ctl & !istatus | if asserted { istatus } else { 0 };
}

/// The host's count at which the virtual timer's output will be asserted; `now` where it is already. `None`: never, unless
/// its registers change (off, masked, or past the end of the host's counter).
pub fn deadline(timer: &Timer, now: u64) -> Option<u64> {
    now.checked_add(until_output(timer.ctl, timer.cval, virtual_count(timer, now))?)
}

/// CNTV_CTL as the guest or a debugger reads it: with ISTATUS of now.
pub fn control(timer: &Timer, now: u64) -> u32 {
    read_control(timer.ctl, timer.cval, virtual_count(timer, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timer(ctl: u32, cval: u64, cntvoff: u64) -> Timer {
        Timer { ctl, cval, cntvoff, reserved: 0 }
    }

    #[test]
    fn output_needs_enable_no_mask_and_the_count() {
        for (ctl, now, expected) in
            [(1, 1099, false), (1, 1100, true), (3, 1100, false), (0, 1100, false), (5, 1101, true)]
        {
            assert_eq!(asserted(&timer(ctl, 100, 1000), now), expected, "{ctl} {now}");
        }
        assert_eq!(deadline(&timer(1, 100, 1000), 1040), Some(1100));
        assert_eq!(deadline(&timer(1, 100, 1000), 1140), Some(1140));
        assert_eq!(deadline(&timer(3, 100, 1000), 1040), None);
        assert_eq!(deadline(&timer(0, 100, 1000), 1040), None);
    }

    #[test]
    fn a_compare_value_at_the_end_of_time_is_never_reached() {
        assert_eq!(deadline(&timer(1, u64::MAX, 1000), 5000), None);
        assert!(!asserted(&timer(1, u64::MAX, 1000), 5000));
    }

    #[test]
    fn the_offset_sets_the_virtual_count() {
        let timer = timer(0, 0, offset_for(7, 1_000));
        assert_eq!((virtual_count(&timer, 1_000), virtual_count(&timer, 1_010)), (7, 17));
        let ahead = Timer { cntvoff: offset_for(5_000, 1_000), ..timer };
        assert_eq!(virtual_count(&ahead, 1_001), 5_001);
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "it would take Miri minutes")]
        fn the_deadline_is_the_first_asserted_count(
            ctl in 0u32..8, cval in any::<u64>(), cntvoff in any::<u64>(), now in any::<u64>(),
        ) {
            let timer = timer(ctl, cval, cntvoff);
            match deadline(&timer, now) {
                Some(at) => {
                    prop_assert!(at >= now && asserted(&timer, at));
                    prop_assert!(at == now || !asserted(&timer, at - 1));
                }
                None => prop_assert!(!asserted(&timer, now)),
            }
        }
    }
}
