// SPDX-License-Identifier: GPL-2.0-only
//! Polling before sleep: for how long a vCPU that waits in WFI keeps looking for what ends its wait, before its thread sleeps.
//!
//! To put a thread to sleep and to wake it takes the host thousands of instructions, of the CPU that wakes it as well, and a CPU that
//! rests takes its time to come back. A wait that is over before that is over sooner if the thread keeps looking. What it costs is the
//! CPU's rest, so a thread looks only while nobody else wants the CPU, and each vCPU learns how long that is of use: its [`Window`].
//! After each wait it
//!
//! - stays, if the wait was over within it, or took just as long as the longest window there may be;
//! - grows, if the wait was longer than it, and a window of the greatest length would have been enough;
//! - shrinks, if no window would have been.
//!
//! By how much it grows and shrinks, and how long it may be, are parameters that may change at any time, to any value; a window that
//! is then too long counts as if it were as long as is allowed.
//!
//! Source: Documentation/virt/kvm/halt-polling.txt of Linux 5.6.

/// The parameters, by KVM's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HaltPolling {
    /// `halt_poll_ns`: the longest window, in nanoseconds. 0: nobody polls.
    pub longest: u32,
    /// `halt_poll_ns_grow`: what a window that grows is multiplied by. 0: none grows.
    pub grow: u32,
    /// `halt_poll_ns_grow_start`: what one of 0 grows to.
    pub grow_start: u32,
    /// `halt_poll_ns_shrink`: what a window that shrinks is divided by. 0: it becomes 0.
    pub shrink: u32,
}

/// How long a vCPU polls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window(u32);

/// That a window was to grow or shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// It was to grow.
    pub grow: bool,
    /// Its nanoseconds before.
    pub old: u32,
    /// Its nanoseconds now.
    pub new: u32,
}

impl Window {
    /// For how many nanoseconds the next wait polls. 0: it does not.
    pub fn length(self, parameters: &HaltPolling) -> u32 {
        self.0.min(parameters.longest)
    }

    /// Takes in that a wait took so many nanoseconds.
    pub fn learn(&mut self, took: u64, parameters: &HaltPolling) -> Option<Step> {
        let old = self.length(parameters);
        let longest = parameters.longest;
        let grow = old < longest && u64::from(old) < took && took < longest.into();
        let shrink = old != 0 && took > longest.into();
        let new = if grow {
            grown(old, parameters)
        } else if shrink {
            old.checked_div(parameters.shrink).unwrap_or(0)
        } else {
            old
        };
        *self = Self(new);
        (grow || shrink).then_some(Step { grow, old, new })
    }
}

fn grown(old: u32, parameters: &HaltPolling) -> u32 {
    match parameters.grow {
        0 => old,
        factor => old.saturating_mul(factor).max(parameters.grow_start).min(parameters.longest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// As a host of 32-bit Arm has them when nobody has written to them.
    const USUAL: HaltPolling = HaltPolling { longest: 500_000, grow: 2, grow_start: 10_000, shrink: 0 };

    fn lengths(parameters: &HaltPolling, window: &mut Window, waits: &[u64]) -> Vec<u32> {
        let after = |took: &u64| {
            window.learn(*took, parameters);
            window.length(parameters)
        };
        waits.iter().map(after).collect()
    }

    #[test]
    fn it_grows_until_waits_fit_and_is_gone_after_one_that_never_could() {
        let mut window = Window::default();
        assert_eq!(window.length(&USUAL), 0);
        let waits = [30_000, 30_000, 30_000, 30_000, 10, 499_999, 499_999, 499_999, 499_999, 500_000, 500_000];
        let expected = [10_000, 20_000, 40_000, 40_000, 40_000, 80_000, 160_000, 320_000, 500_000, 500_000, 500_000];
        assert_eq!(lengths(&USUAL, &mut window, &waits), expected);
        assert_eq!(window.learn(500_001, &USUAL), Some(Step { grow: false, old: 500_000, new: 0 }));
        assert_eq!(window.learn(500_001, &USUAL), None, "nothing is left of it");
        assert_eq!(window.learn(9, &USUAL), Some(Step { grow: true, old: 0, new: 10_000 }));
    }

    #[test]
    fn it_shrinks_by_the_divisor() {
        let parameters = HaltPolling { shrink: 3, ..USUAL };
        let mut window = Window(100);
        assert_eq!(lengths(&parameters, &mut window, &[u64::MAX; 6]), [33, 11, 3, 1, 0, 0]);
    }

    #[test]
    fn without_a_factor_it_stays() {
        let parameters = HaltPolling { grow: 0, ..USUAL };
        assert_eq!(lengths(&parameters, &mut Window(7), &[100, 100]), [7, 7]);
        assert_eq!(lengths(&HaltPolling { grow: 1, ..USUAL }, &mut Window(0), &[100_000; 2]), [10_000, 10_000]);
    }

    #[test]
    fn a_parameter_that_was_lowered_counts_at_once() {
        let mut window = Window(400_000);
        assert_eq!(window.length(&HaltPolling { longest: 1_000, ..USUAL }), 1_000);
        let off = HaltPolling { longest: 0, ..USUAL };
        assert_eq!(window.length(&off), 0);
        assert_eq!((window.learn(0, &off), window.learn(1, &off)), (None, None));
        assert_eq!(window.length(&USUAL), 0, "and is not remembered");
    }

    proptest! {
        #[test]
        fn no_parameter_makes_it_longer_than_allowed(
            steps in proptest::collection::vec(
                (prop_oneof![any::<u32>(), 0u32..4], any::<u32>(), 0u32..4, any::<u32>(), any::<u64>()), 0..20,
            ),
        ) {
            let mut window = Window::default();
            for (grow, longest, shrink, grow_start, took) in steps {
                let parameters = HaltPolling { longest, grow, grow_start, shrink };
                // Waits that are shorter than four seconds, half of them.
                let took = if took & 1 == 0 { took } else { took >> 32 };
                let old = window.length(&parameters);
                let step = window.learn(took, &parameters);
                let new = window.length(&parameters);
                prop_assert!(new <= longest && window == Window(new));
                prop_assert!(step.is_some() || new == old);
                prop_assert!(step.is_none_or(|step| (step.old, step.new) == (old, new)));
                prop_assert!(took > longest.into() || new >= old, "it shrank after a wait that could have fitted");
                prop_assert!(took > old.into() || new == old, "it changed after a wait that fitted");
            }
        }
    }
}
