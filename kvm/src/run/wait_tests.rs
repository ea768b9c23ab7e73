// SPDX-License-Identifier: GPL-2.0-only
//! Polling before sleep, and rest in the guest.

use super::*;
use crate::halt_poll::HaltPolling;
use crate::run::machine::*;
use crate::statistics::Statistic;
use std::boxed::Box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::vec::Vec;

/// A machine whose vCPU polls for up to 1000 ns, and has learnt to poll for 100.
fn polling() -> Machine {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    machine.open_interface();
    machine.host.set_halt_polling(HaltPolling { longest: 1_000, grow: 2, grow_start: 100, shrink: 0 });
    machine.states[0].halt_poll.learn(500, &machine.host.clone().halt_polling());
    machine
}

/// Runs a guest that does nothing but to wait. `on_poll` is asked at each turn of its poll, `on_sleep` called at each sleep. How often each was.
fn wait(
    machine: &mut Machine,
    mut on_poll: impl FnMut(usize) -> bool + Send + 'static,
    mut on_sleep: impl FnMut() + Send + 'static,
) -> [usize; 2] {
    let counts: Arc<[AtomicUsize; 2]> = Arc::default();
    let [for_poll, for_sleep] = [counts.clone(), counts.clone()];
    machine.host.on_poll(move || on_poll(for_poll[0].fetch_add(1, Ordering::SeqCst)));
    machine.vm.place(0).unwrap().waiter().on_sleep(move || {
        for_sleep[1].fetch_add(1, Ordering::SeqCst);
        on_sleep();
    });
    machine.states[0].context.pc = START;
    machine.script([at(0, |context| trap(context, WFI))]);
    machine.run(0);
    [0, 1].map(|count| counts[count].load(Ordering::SeqCst))
}

/// successful, attempted, invalid, wake-ups, successful nanoseconds, failed nanoseconds
fn statistics(machine: &Machine) -> [u64; 6] {
    [
        Statistic::HaltSuccessfulPoll,
        Statistic::HaltAttemptedPoll,
        Statistic::HaltPollInvalid,
        Statistic::HaltWakeup,
        Statistic::HaltPollSuccessNs,
        Statistic::HaltPollFailNs,
    ]
    .map(|which| machine.vm.statistic(which))
}

fn window(machine: &Machine) -> u32 {
    machine.states[0].halt_poll.length(&machine.host.halt_polling())
}

/// Lets this much time pass.
fn pass(host: &crate::fake::Host, ns: u64) {
    host.advance_to(host.counter() + ns);
}

#[test]
fn an_interrupt_ends_a_poll_and_wakes_nobody() {
    let mut machine = polling();
    let (host, vm) = (machine.host.clone(), machine.vm.clone());
    let on_poll = move |turn| {
        pass(&host, 30);
        if turn == 2 {
            vm.set_line(0, 40, true).unwrap();
        }
        true
    };
    assert_eq!(wait(&mut machine, on_poll, || {}), [3, 0]);
    assert_eq!(statistics(&machine), [1, 1, 0, 0, 90, 0]);
    assert_eq!((window(&machine), machine.vm.place(0).unwrap().waiter().wakes()), (100, 0));
    assert_eq!(machine.entries(), 2, "the guest goes on");
}

#[test]
fn every_other_end_of_a_wait_ends_a_poll() {
    type End = Box<dyn FnMut(&Machine) -> Box<dyn FnMut() + Send>>;
    let ends: [(&str, End); 3] = [
        (
            "a timer",
            Box::new(|machine| {
                let host = machine.host.clone();
                Box::new(move || host.advance_to(50))
            }),
        ),
        (
            "power-off",
            Box::new(|machine| {
                let (vm, host) = (machine.vm.clone(), machine.host.clone());
                Box::new(move || {
                    vm.vcpu(0).unwrap().change_power(|power| power.off = true);
                    // So that it does not wait for ever.
                    vm.vcpu(0).unwrap().waiter().set_signal(true);
                    pass(&host, 1);
                })
            }),
        ),
        (
            "a signal",
            Box::new(|machine| {
                let host = machine.host.clone();
                Box::new(move || host.set_signal(true))
            }),
        ),
    ];
    for (name, mut end) in ends {
        let mut machine = polling();
        (machine.states[0].context.timer.ctl, machine.states[0].context.timer.cval) = (1, 50);
        machine.vm.set_counter_offset(0);
        let mut end = end(&machine);
        let polls = wait(
            &mut machine,
            move |turn| {
                if turn == 1 {
                    end()
                }
                true
            },
            || {},
        )[0];
        assert_eq!((polls, statistics(&machine)[..2].to_vec()), (2, Vec::from([1, 1])), "{name}");
    }
}

#[test]
fn a_poll_is_no_longer_than_its_window_and_sleep_follows() {
    let mut machine = polling();
    let (host, later, vm) = (machine.host.clone(), machine.host.clone(), machine.vm.clone());
    let on_poll = move |_| {
        pass(&host, 40);
        true
    };
    let on_sleep = move || {
        pass(&later, 100);
        vm.set_line(0, 40, true).unwrap();
    };
    assert_eq!(wait(&mut machine, on_poll, on_sleep), [3, 1]);
    assert_eq!(statistics(&machine), [0, 1, 0, 1, 0, 120]);
    assert_eq!(window(&machine), 200, "a longer one would have been of use");
}

#[test]
fn who_is_not_alone_on_its_cpu_sleeps_at_once() {
    let mut machine = polling();
    let (vm, host) = (machine.vm.clone(), machine.host.clone());
    let on_sleep = move || {
        pass(&host, 2_000);
        vm.set_line(0, 40, true).unwrap();
    };
    assert_eq!(wait(&mut machine, |_| false, on_sleep), [1, 1]);
    assert_eq!(statistics(&machine), [0, 1, 0, 1, 0, 0]);
    assert_eq!(window(&machine), 0, "no poll would have been long enough");
}

#[test]
fn without_a_window_it_sleeps_and_learns() {
    let mut machine = polling();
    machine.states[0].halt_poll.learn(u64::MAX, &machine.host.clone().halt_polling());
    let (vm, host) = (machine.vm.clone(), machine.host.clone());
    let on_sleep = move || {
        pass(&host, 500);
        vm.set_line(0, 40, true).unwrap();
    };
    assert_eq!(wait(&mut machine, |_| true, on_sleep), [0, 1]);
    assert_eq!((statistics(&machine), window(&machine)), ([0, 0, 0, 1, 0, 0], 100));
}

#[test]
fn what_a_window_learns_is_told() {
    let mut machine = polling();
    machine.host.watch(u32::MAX);
    let (vm, host) = (machine.vm.clone(), machine.host.clone());
    let on_sleep = move || {
        pass(&host, 500);
        vm.set_line(0, 40, true).unwrap();
    };
    wait(&mut machine, |_| false, on_sleep);
    let told: Vec<Event> = machine.host.take_told();
    let told: Vec<&Event> =
        told.iter().filter(|event| [Kind::HaltPoll, Kind::VcpuWakeup].contains(&event.kind())).collect();
    let expected =
        [Event::HaltPoll { grow: 1, vcpu: 0, new: 200, old: 100 }, Event::VcpuWakeup { ns: 500, waited: 1, valid: 1 }];
    assert_eq!(told, expected.iter().collect::<Vec<_>>());
}

/// Whether a WFI would exit in the guest's last stay.
fn exits(machine: &Machine) -> bool {
    Hcr::from_bits_retain(machine.states[0].context.control.hcr).contains(Hcr::TWI)
}

/// The same after a wait of `took` ns.
fn exits_after(machine: &mut Machine, took: u64) -> bool {
    let (vm, host) = (machine.vm.clone(), machine.host.clone());
    vm.set_line(0, 40, false).unwrap();
    let on_sleep = move || {
        pass(&host, took);
        vm.set_line(0, 40, true).unwrap();
    };
    assert_eq!(wait(machine, |_| true, on_sleep), [0, 1]);
    exits(machine)
}

/// A machine whose vCPU rests in its guest after waits of up to 1000 ns.
fn resting() -> Machine {
    let mut machine = Machine::new(1);
    machine.enable_interrupts();
    machine.open_interface();
    machine.host.set_halt_rest(1_000);
    machine
}

/// Runs a guest that does nothing. Whether its WFI would exit.
fn exits_next(machine: &mut Machine) -> bool {
    machine.script([]);
    machine.run(0);
    exits(machine)
}

#[test]
fn after_a_short_wait_wfi_does_not_exit_for_a_time() {
    let mut machine = resting();
    assert!(exits_next(&mut machine));
    assert!(exits_after(&mut machine, 1_001));
    assert!(!exits_after(&mut machine, 1_000));
    let host = machine.host.clone();
    pass(&host, 4_000_000);
    assert!(!exits_next(&mut machine));
    pass(&host, 1);
    assert!(exits_next(&mut machine));
    assert!(exits_after(&mut machine, 5), "it may be what is left of a long one");
    assert!(!exits_after(&mut machine, 5));
    assert!(exits_after(&mut machine, 1_001), "a long wait takes it back");
    machine.host.set_halt_rest(0);
    assert!(exits_after(&mut machine, 0));
}

#[test]
fn wfi_exits_while_somebody_wants_the_cpu_or_watches() {
    let mut machine = resting();
    assert!(!exits_after(&mut machine, 5));
    machine.host.set_alone(false);
    assert!(exits_next(&mut machine));
    machine.host.set_alone(true);
    assert!(!exits_next(&mut machine));
    machine.host.watch(u32::MAX);
    assert!(exits_next(&mut machine));
    machine.host.watch(0);
    assert!(!exits_next(&mut machine));
}

#[test]
fn what_a_signal_ended_is_no_short_wait() {
    let mut machine = resting();
    let vm = machine.vm.clone();
    wait(&mut machine, |_| true, move || vm.vcpu(0).unwrap().waiter().set_signal(true));
    machine.vm.vcpu(0).unwrap().waiter().set_signal(false);
    assert!(exits_next(&mut machine));
}

#[test]
fn where_the_process_has_the_interrupt_controller_every_wfi_exits() {
    let mut machine = Machine::bare(1);
    machine.host.set_halt_rest(1_000);
    let vm = machine.vm.clone();
    wait(&mut machine, |_| true, move || assert!(vm.vcpu(0).unwrap().set_line(Hcr::VI, true)));
    assert!(exits_next(&mut machine));
}
