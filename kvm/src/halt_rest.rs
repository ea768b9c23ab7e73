// SPDX-License-Identifier: GPL-2.0-only
//! Rest in the guest: when a vCPU's WFI does not exit, and its CPU rests where it is.
//!
//! WFI exits (HCR.TWI), and the host gives the CPU to others. If it has nobody to give it to, the CPU comes to rest all the same,
//! in the host's idle loop, thousands of instructions away from the guest. A WFI that does not exit rests in the guest, and what ends
//! it is what ends a guest's spinning as well: an interrupt of the host's, and so another thread's turn, a signal, a timer, and
//! whoever interrupts the CPU for the vCPU's sake; or a virtual interrupt, whether the guest masks it or not (ARMv7-A B1.8.14).
//!
//! It costs less power than polling does, but to the host the CPU is as busy: it counts as load, its tick goes on, and it rests no deeper
//! than WFI does. A thread that comes to the CPU without being given it at once waits for the next interrupt, at the latest the
//! tick's. So a vCPU is granted rest after a wait that was short, and only if its thread is alone on the CPU as the stay begins. A grant
//! lasts for some milliseconds, or to the first interrupt of the host's after that; then a WFI exits again, and is measured. What
//! is measured first may be only what is left of a wait that the interrupt ended, so that it is the next one that counts.

/// How long a grant lasts, in nanoseconds: as long as a tick at 250 Hz.
const GRANT: u64 = 4_000_000;

/// Whether a vCPU's next waits are the guest's own affair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rest {
    /// They are not.
    #[default]
    Denied,
    /// They are, since the counter was so.
    Granted(u64),
    /// They were, and none has been measured since.
    Lapsed,
}

impl Rest {
    /// Takes in that a wait that exited took so many nanoseconds, and is over as the counter says `now`. `longest` is the parameter
    /// `halt_rest_ns`: how long a wait may be for the next ones to be spent in the guest. 0: none is.
    pub fn learn(&mut self, took: u64, longest: u32, now: u64) {
        let short = longest != 0 && took <= longest.into();
        *self = if short && *self != Self::Lapsed { Self::Granted(now) } else { Self::Denied };
    }

    /// Whether it is granted, as the counter says `now()`, of which so many ticks are so many nanoseconds. Once it is not, it has lapsed.
    #[inline(always)]
    pub fn is_granted(&mut self, now: impl FnOnce() -> u64, nanoseconds: impl FnOnce(u64) -> u64) -> bool {
        let Self::Granted(since) = *self else { return false };
        let lasts = nanoseconds(now().wrapping_sub(since)) <= GRANT;
        if !lasts {
            *self = Self::Lapsed;
        }
        lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(rest: &mut Rest, now: u64) -> bool {
        rest.is_granted(|| now, |ticks| ticks * 16)
    }

    #[test]
    fn a_short_wait_grants_it_for_a_time() {
        let mut rest = Rest::default();
        assert!(!granted(&mut rest, 0));
        rest.learn(500, 500, 1_000);
        assert!(granted(&mut rest, 1_000));
        assert!(granted(&mut rest, 1_000 + GRANT / 16));
        assert!(!granted(&mut rest, 1_001 + GRANT / 16));
        assert!(!granted(&mut rest, 1_000), "it does not come back");
    }

    #[test]
    fn what_is_left_of_a_wait_as_a_grant_lapses_does_not_renew_it() {
        let mut rest = Rest::default();
        rest.learn(1, 500, 0);
        assert!(!granted(&mut rest, 1 + GRANT / 16));
        rest.learn(1, 500, 2 + GRANT / 16);
        assert!(!granted(&mut rest, 2 + GRANT / 16));
        rest.learn(1, 500, 3 + GRANT / 16);
        assert!(granted(&mut rest, 3 + GRANT / 16));
    }

    #[test]
    fn a_long_wait_or_the_parameter_takes_it_back() {
        let mut rest = Rest::default();
        rest.learn(500, 500, 0);
        rest.learn(501, 500, 1);
        assert!(!granted(&mut rest, 1));
        rest.learn(0, 1, 2);
        assert!(granted(&mut rest, 2));
        rest.learn(0, 0, 3);
        assert!(!granted(&mut rest, 3));
    }

    #[test]
    fn the_counter_may_wrap() {
        let mut rest = Rest::default();
        rest.learn(1, 500, u64::MAX - 1);
        assert!(granted(&mut rest, 5));
    }
}
