// SPDX-License-Identifier: GPL-2.0-only
//! WFI: the thread waits until there is something that ends it.
//!
//! First it polls, if that has paid off for the vCPU ([`halt_poll`](crate::halt_poll)): it looks, again and again, with interrupts on
//! and no lock held between two looks, for as long as its window lasts and nobody else wants the CPU. Whoever changes what it looks
//! for has nobody to wake. Then it sleeps, with the alarm set to the timer that is due first.
//!
//! If the wait was short, the next ones may do without all this: [`halt_rest`](crate::halt_rest).

use super::{Next, Return, Run};
use crate::host::{Host, Wake};
use crate::trace::{self, Event, Kind, Watched};
use crate::{inject, vtimer};
use arch::hyp_registers::Hcr;
use core::cell::Cell;

impl<H: Host> Run<'_, H> {
    /// Waits until there is something to go on for.
    pub(super) fn wait(&mut self) -> Next {
        // It wakes the guest masked or not, and no interrupt controller knows of it (B1.8.14).
        if inject::async_abort_is_pending(&self.state.context) {
            return Next::Enter;
        }
        if self.process_is_behind() {
            return Next::Enter; // which tells it first
        }
        let host = &self.hypervisor.host;
        let start = host.counter();
        let due =
            [vtimer::deadline(&self.state.context.timer, start), self.state.context.physical_timer.deadline(|| start)];
        // A timer that is asserted already has told the interrupt controller so, whoever emulates it; it is not waited for.
        let due = due.iter().zip(self.state.timer_lines).filter(|(_, told)| !told).filter_map(|(due, _)| *due).min();
        let Self { vm, vcpu, number, state, .. } = self;
        let vmcr = state.cpu_interface.vmcr;
        // Where no interrupt concerns the vCPU the interrupt controller's lock is not taken: a thread that polls would keep others from it.
        let ready = || {
            vm.is_concerned(*number) && vm.look_at_vgic(|vgic| vgic.has_deliverable(*number, vmcr)).unwrap_or(false)
                || due.is_some_and(|due| host.counter() >= due)
                || !vcpu.lines().is_empty()
                || !vcpu.runs()
        };

        let polling = host.halt_polling();
        let statistics = &vcpu.statistics;
        let window = state.halt_poll.length(&polling);
        let polled = (window != 0).then(|| {
            statistics.halt_attempted_poll.count();
            let wake = poll(host, ready, || host.nanoseconds(host.counter().wrapping_sub(start)) < window.into());
            let took = u32::try_from(host.nanoseconds(host.counter().wrapping_sub(start))).unwrap_or(u32::MAX);
            if wake.is_some() {
                statistics.halt_successful_poll.count();
                statistics.halt_poll_success_ns.add(took);
            } else {
                statistics.halt_poll_fail_ns.add(took);
            }
            wake
        });
        let asked = Cell::new(0u32);
        let wake = polled.flatten().unwrap_or_else(|| {
            vcpu.sleep_until(|| {
                asked.set(asked.get().saturating_add(1));
                let ready = ready();
                if !ready {
                    // Each time: it may have woken us a little too early.
                    state.alarm.set(due);
                }
                ready
            })
        });
        let slept = asked.get() > 1;
        if slept && wake == Wake::Ready {
            statistics.halt_wakeup.count();
        }
        let now = host.counter();
        let ns = host.nanoseconds(now.wrapping_sub(start));
        if wake == Wake::Ready {
            state.halt_rest.learn(ns, host.halt_rest(), now);
        }
        if polling.longest != 0 || host.watched().any() {
            let step = state.halt_poll.learn(ns, &polling);
            let vcpu = *number as u64;
            if let Some(step) = step {
                trace::note(host, Kind::HaltPoll, || Event::HaltPoll {
                    grow: step.grow.into(),
                    vcpu,
                    new: step.new.into(),
                    old: step.old.into(),
                });
            }
            let valid = (wake == Wake::Ready).into();
            trace::note(host, Kind::VcpuWakeup, || Event::VcpuWakeup { ns, waited: slept.into(), valid });
        }
        match wake {
            Wake::Ready => Next::Enter,
            Wake::Signal => Next::Leave(Return::Interrupted),
        }
    }

    /// Chooses whether the guest's WFI exits, in the next stay. Interrupts are off.
    ///
    /// Without an interrupt controller of ours every one does: its process may want to know. So it does where somebody watches events.
    #[inline(always)]
    pub(super) fn choose_rest(&mut self, watched: Watched) {
        let host = &self.hypervisor.host;
        let state = &mut *self.state;
        let rests = state.halt_rest.is_granted(|| host.counter(), |ticks| host.nanoseconds(ticks))
            && self.with_irqchip
            && !watched.any()
            && host.is_alone();
        let mut hcr = Hcr::from_bits_retain(state.context.control.hcr);
        hcr.set(Hcr::TWI, !rests);
        state.context.control.hcr = hcr.bits();
    }
}

/// Looks for the end of a wait while there is time. `None`: it did not come.
fn poll<H: Host>(host: &H, ready: impl Fn() -> bool, in_time: impl Fn() -> bool) -> Option<Wake> {
    loop {
        if ready() {
            return Some(Wake::Ready);
        }
        if host.signal_pending() {
            return Some(Wake::Signal);
        }
        if !in_time() || !host.may_poll() {
            return None;
        }
        // YIELD: a core of several threads, or whoever emulates it, may do something else meanwhile (A8.8.426).
        core::hint::spin_loop();
    }
}

#[cfg(test)]
#[path = "wait_tests.rs"]
mod tests;
