// SPDX-License-Identifier: GPL-2.0-only

use super::*;
use crate::fake::{self, ProcessEvent};
use crate::irq_routing::RoutingError;
use crate::run::Return;
use crate::run::machine::*;
use crate::vgic::Kicks;
use arch::gic::gicd;
use hyp_abi::context::ExitCode;
use std::vec;
use std::vec::Vec;
use uapi::irq::{IrqRoutingEntry, KVM_IRQ_ROUTING_IRQCHIP};

/// SPI 40, which [`Machine::enable_interrupts`] enables for vCPU 0, by its usual GSI.
const GSI: u32 = 8;
const SPI: u32 = 40;

fn machine() -> Machine {
    let mut machine = Machine::new(2);
    machine.enable_interrupts();
    machine.open_interface();
    machine
}

/// Makes SPI 40 edge-triggered.
fn edge(machine: &Machine) {
    machine.dist_write(gicd::ICFGR + 8, 2 << 16);
}

fn plain(event: &ProcessEvent, gsi: u32, watch: fake::Watch) -> Irqfd<fake::Host> {
    Irqfd { event: event.clone(), gsi, resample: None, watch }
}

fn resampling(event: &ProcessEvent, gsi: u32, told: &ProcessEvent) -> Irqfd<fake::Host> {
    let watch = fake::Watch::default();
    Irqfd { event: event.clone(), gsi, resample: Some(told.clone()), watch }
}

fn assign(machine: &Machine, irqfd: Irqfd<fake::Host>) -> Result<(), IrqfdError> {
    machine.vm.assign_irqfd(&machine.host, irqfd)
}

/// Which interrupts wait for vCPU 0.
fn is_pending(machine: &Machine, intid: u32) -> bool {
    let bits = machine.vm.look_at_vgic(|vgic| vgic.dist_read(0, gicd::ISPENDR + intid / 32 * 4, 4));
    bits.unwrap() >> (intid % 32) & 1 != 0
}

/// Which lines fall at the ends of their interrupts.
fn resampled(machine: &Machine) -> Vec<u32> {
    machine.vm.with_vgic(|vgic| vgic.resampled().iter().collect()).unwrap()
}

/// What the hardware was given.
fn loaded(host: &fake::Host) -> Vec<u32> {
    host.with_cpu_interface(|interface| interface.lr[..interface.used].iter().map(|lr| lr.intid()).collect())
}

/// The guest acknowledges and ends the interrupt that it has.
fn take_and_end(host: &fake::Host) {
    host.with_cpu_interface(|interface| {
        assert_eq!(interface.used, 1, "the guest has one interrupt");
        assert!(interface.lr[0].pending() && !interface.lr[0].active());
        interface.lr[0] = interface.lr[0].with_pending(false);
    });
}

#[test]
fn an_event_is_an_edge() {
    let machine = machine();
    edge(&machine);
    machine.vm.irqfd_event(GSI, false);
    assert!(is_pending(&machine, SPI));
    machine.dist_write(gicd::ICPENDR + 4, 1 << 8);
    assert!(!is_pending(&machine, SPI), "the line is down again");
    machine.vm.irqfd_event(GSI, false);
    assert!(is_pending(&machine, SPI), "and can go up again");
}

#[test]
fn an_edge_is_nothing_to_a_level_sensitive_interrupt() {
    let machine = machine();
    machine.vm.irqfd_event(GSI, false);
    assert!(!is_pending(&machine, SPI));
}

#[test]
fn an_event_wakes_the_vcpu_and_kicks_it_out_of_its_guest() {
    let mut machine = machine();
    edge(&machine);
    let place = machine.vm.place(0).unwrap().waiter().clone();
    let before = place.wakes();
    machine.vm.vcpu(0).unwrap().pretend_to_sleep();
    machine.vm.irqfd_event(GSI, false);
    assert_eq!(place.wakes() - before, 1);
    let (vm, host) = (machine.vm.clone(), machine.host.clone());
    let (before, waiter) = (place.kicks(), place.clone());
    machine.script([
        at(0, move |_| {
            take_and_end(&host);
            vm.irqfd_event(GSI, false);
            assert_eq!(waiter.kicks() - before, 1);
            ExitCode::Interrupt
        }),
        at(0, |_| ExitCode::Interrupt),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(loaded(&machine.host), [SPI]);
}

#[test]
fn one_that_resamples_is_up_until_the_guest_ends_it_and_then_tells() {
    let mut machine = machine();
    let (event, told) = (ProcessEvent::default(), ProcessEvent::default());
    assign(&machine, resampling(&event, GSI, &told)).unwrap();
    machine.vm.irqfd_event(GSI, true);
    assert!(is_pending(&machine, SPI));
    let step = |number: u32| {
        let (host, told, vm) = (machine.host.clone(), told.clone(), machine.vm.clone());
        at(0, move |_| {
            match number {
                // Acknowledged only, it is not over.
                0 => host.with_cpu_interface(|interface| {
                    interface.lr[0] = interface.lr[0].with_pending(false).with_active(true);
                }),
                1 => host.with_cpu_interface(|interface| {
                    assert!(interface.lr[0].active() && told.take() == 0);
                    interface.lr[0] = interface.lr[0].with_active(false);
                }),
                2 => {
                    assert_eq!((loaded(&host), told.take()), (vec![], 1), "the line is down, and the process knows");
                    // The device still wants something.
                    vm.irqfd_event(GSI, true);
                }
                3 => take_and_end(&host),
                _ => assert_eq!((loaded(&host), told.take()), (vec![], 1)),
            }
            ExitCode::Interrupt
        })
    };
    let steps: Vec<Step> = (0..5).map(step).collect();
    machine.script(steps);
    assert_eq!(machine.run(0), Return::Interrupted);
}

#[test]
fn the_end_of_an_interrupt_is_seen_in_a_short_exit_too() {
    let mut machine = machine();
    let (event, told) = (ProcessEvent::default(), ProcessEvent::default());
    assign(&machine, resampling(&event, GSI, &told)).unwrap();
    machine.vm.irqfd_event(GSI, true);
    let (first, second) = (machine.host.clone(), machine.host.clone());
    let heard = told.clone();
    machine.script([
        // Without this the distributor is not yet known to Hyp mode.
        at(0, |_| ExitCode::Interrupt),
        at(0, move |context| {
            take_and_end(&first);
            // ISENABLER1 is read: a short exit.
            fault(context, load(3), DIST + u64::from(gicd::ISENABLER) + 4)
        }),
        at(4, move |context| {
            assert_eq!(context.r[3], 1 << 8);
            assert_eq!((loaded(&second), heard.take()), (vec![], 1));
            ExitCode::Interrupt
        }),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(machine.host.leaves(), 1, "the guest was left before anybody was told");
}

/// The process is told when the other vCPU looks already.
#[test]
fn an_interrupt_that_was_retargeted_while_active_is_not_taken_once_more() {
    for short in [false, true] {
        let mut machine = machine();
        let told = ProcessEvent::default();
        assign(&machine, resampling(&ProcessEvent::default(), GSI, &told)).unwrap();
        machine.vm.irqfd_event(GSI, true);
        let other = machine.vm.place(1).unwrap().waiter().clone();
        machine.vm.vcpu(1).unwrap().pretend_to_sleep();
        let (vm, host) = (machine.vm.clone(), machine.host.clone());
        let wakes = other.wakes();
        machine.script([
            at(0, move |_| {
                host.with_cpu_interface(|interface| {
                    interface.lr[0] = interface.lr[0].with_pending(false).with_active(true);
                });
                ExitCode::Interrupt
            }),
            at(0, {
                let host = machine.host.clone();
                move |context| {
                    // vCPU 1 takes it over.
                    let kicks = vm.with_vgic(|vgic| vgic.dist_write(1, gicd::ITARGETSR + SPI, 1, 2)).unwrap();
                    assert_eq!(kicks, Kicks::one(0));
                    host.with_cpu_interface(|interface| interface.lr[0] = interface.lr[0].with_active(false));
                    let isenabler = DIST + u64::from(gicd::ISENABLER) + 4;
                    if short { fault(context, load(3), isenabler) } else { ExitCode::Interrupt }
                }
            }),
        ]);
        assert_eq!(machine.run(0), Return::Interrupted);
        assert_eq!((other.wakes() - wakes, told.take()), (0, 1), "short exit: {short}");
        assert!(!is_pending(&machine, SPI));
        // If the device still wants something, that is vCPU 1's.
        machine.vm.irqfd_event(GSI, true);
        assert_eq!(other.wakes() - wakes, 1);
    }
}

#[test]
fn an_event_that_comes_between_an_end_and_its_telling_is_kept() {
    let machine = machine();
    let told = ProcessEvent::default();
    assign(&machine, resampling(&ProcessEvent::default(), GSI, &told)).unwrap();
    let mut ended = Queue::EMPTY;
    ended.insert(SPI);
    machine.vm.irqfd_event(GSI, true);
    machine.vm.resample(&ended);
    assert!(told.take() == 1 && is_pending(&machine, SPI));
}

#[test]
fn the_guests_timer_does_not_keep_an_end_from_being_told() {
    let mut machine = machine();
    let (event, told) = (ProcessEvent::default(), ProcessEvent::default());
    assign(&machine, resampling(&event, GSI, &told)).unwrap();
    machine.vm.irqfd_event(GSI, true);
    let (host, heard) = (machine.host.clone(), told.clone());
    let second = machine.host.clone();
    machine.script([
        at(0, move |context| {
            take_and_end(&host);
            // Its timer comes at the same moment, for which alone the guest would be entered again at once.
            (context.timer.ctl, context.timer.cval) = (1, 0);
            ExitCode::Interrupt
        }),
        at(0, move |context| {
            assert_eq!((loaded(&second), heard.take()), (vec![27], 1));
            context.timer.ctl = 0;
            second.with_cpu_interface(|interface| interface.lr[0] = interface.lr[0].with_pending(false));
            ExitCode::Interrupt
        }),
    ]);
    assert_eq!(machine.run(0), Return::Interrupted);
}

#[test]
fn all_that_share_a_gsi_are_told_and_no_others() {
    let mut machine = machine();
    let events: Vec<_> = (0..4).map(|_| ProcessEvent::default()).collect();
    let told: Vec<_> = (0..4).map(|_| ProcessEvent::default()).collect();
    for (number, gsi) in [(0, GSI), (1, GSI), (2, GSI + 1)] {
        assign(&machine, resampling(&events[number], gsi, &told[number])).unwrap();
    }
    assign(&machine, plain(&events[3], GSI, fake::Watch::default())).unwrap();
    machine.vm.irqfd_event(GSI, true);
    machine.vm.irqfd_event(GSI, true);
    let host = machine.host.clone();
    machine.script([at(0, move |_| {
        take_and_end(&host);
        ExitCode::Interrupt
    })]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(told.iter().map(ProcessEvent::take).collect::<Vec<_>>(), [1, 1, 0, 0]);
    assert!(!is_pending(&machine, SPI), "two that raised it are lowered at once");
    assert!(events.iter().all(|event| event.take() == 0));
}

#[test]
fn an_end_costs_nothing_where_nobody_is_to_hear() {
    let mut machine = machine();
    machine.vm.set_line(0, SPI, true).unwrap();
    // The guest reads ISENABLER1 after it has ended the interrupt: a short exit, which stays one.
    for told in [None, Some(ProcessEvent::default())] {
        if let Some(told) = &told {
            // Of another interrupt.
            assign(&machine, resampling(&ProcessEvent::default(), GSI + 1, told)).unwrap();
        }
        let (host, before) = (machine.host.clone(), machine.host.leaves());
        machine.states[0].context.pc = START;
        machine.script([
            at(0, |_| ExitCode::Interrupt),
            at(0, move |context| {
                take_and_end(&host);
                fault(context, load(3), DIST + u64::from(gicd::ISENABLER) + 4)
            }),
        ]);
        assert_eq!(machine.run(0), Return::Interrupted);
        assert_eq!(machine.host.leaves(), before);
        assert!(is_pending(&machine, SPI), "a line that the process drives stays as it is");
        assert_eq!(told.map_or(0, |told| told.take()), 0);
    }
}

#[test]
fn what_has_come_before_counts() {
    let machine = machine();
    edge(&machine);
    let event = ProcessEvent::default();
    let watch = fake::Watch::of_pending();
    assign(&machine, plain(&event, GSI, watch.clone())).unwrap();
    assert!(watch.is_started() && is_pending(&machine, SPI));
}

#[test]
fn an_event_is_one_interrupt_of_a_vm_and_undone_by_both_its_numbers() {
    let machine = machine();
    let (event, told) = (ProcessEvent::default(), ProcessEvent::default());
    let watch = fake::Watch::default();
    assign(&machine, plain(&event, GSI, watch.clone())).unwrap();
    for gsi in [GSI, GSI + 1] {
        let again = fake::Watch::of_pending();
        assert_eq!(assign(&machine, plain(&event, gsi, again.clone())), Err(IrqfdError::Busy));
        assert_eq!(assign(&machine, resampling(&event, gsi, &told)), Err(IrqfdError::Busy));
        assert!(!again.is_started() && again.owners() == 1);
    }
    machine.vm.deassign_irqfd(&event, GSI + 1);
    machine.vm.deassign_irqfd(&ProcessEvent::default(), GSI);
    assert_eq!((watch.owners(), event.owners()), (2, 2));
    machine.vm.deassign_irqfd(&event, GSI);
    assert_eq!((watch.owners(), event.owners(), told.owners()), (1, 1, 1));
    assign(&machine, plain(&event, GSI + 1, fake::Watch::default())).unwrap();
    machine.vm.irqfd_closed(&event);
    machine.vm.irqfd_closed(&event);
    assert_eq!(event.owners(), 1);
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn there_is_room_for_many_and_none_is_left() {
    let machine = machine();
    let events: Vec<_> = (0..100).map(|_| ProcessEvent::default()).collect();
    for event in &events {
        assign(&machine, plain(event, GSI, fake::Watch::default())).unwrap();
    }
    for event in events.iter().step_by(3) {
        machine.vm.deassign_irqfd(event, GSI);
    }
    for event in events.iter().step_by(3) {
        assign(&machine, resampling(event, GSI, event)).unwrap();
    }
    assert_eq!(resampled(&machine), [SPI]);
    machine.vm.release_irqfds();
    assert_eq!(resampled(&machine), []);
    assert!(events.iter().all(|event| event.owners() == 1));
}

#[test]
fn the_last_that_resamples_takes_its_line_down_with_it() {
    let machine = machine();
    let events = [0, 1].map(|_| ProcessEvent::default());
    for event in &events {
        assign(&machine, resampling(event, GSI, event)).unwrap();
    }
    machine.vm.irqfd_event(GSI, true);
    machine.vm.deassign_irqfd(&events[0], GSI);
    assert!(is_pending(&machine, SPI), "there is another who will hear of it");
    machine.vm.irqfd_closed(&events[1]);
    assert!(!is_pending(&machine, SPI));
    // An event that comes while its watch ends is lowered too.
    let (vm, watch) = (machine.vm.clone(), fake::Watch::default());
    watch.on_end(move || vm.irqfd_event(GSI, true));
    let irqfd = Irqfd { event: events[0].clone(), gsi: GSI, resample: Some(events[1].clone()), watch };
    assign(&machine, irqfd).unwrap();
    machine.vm.release_irqfds();
    assert!(!is_pending(&machine, SPI));
}

#[test]
fn without_memory_nothing_is_assigned() {
    let machine = machine();
    let events: Vec<_> = (0..5).map(|_| ProcessEvent::default()).collect();
    let watch = fake::Watch::of_pending();
    for event in &events[..4] {
        assign(&machine, plain(event, GSI, fake::Watch::default())).unwrap();
    }
    machine.host.allow_allocations(Some(0));
    assert_eq!(assign(&machine, plain(&events[4], GSI, watch.clone())), Err(IrqfdError::OutOfMemory));
    assert!(!watch.is_started() && watch.owners() == 1);
    assert!(resampled(&machine).is_empty() && !is_pending(&machine, SPI));
    let owners: Vec<_> = events.iter().map(ProcessEvent::owners).collect();
    assert_eq!(owners, [2, 2, 2, 2, 1]);
    // To undo takes none, and gives room.
    machine.vm.deassign_irqfd(&events[0], GSI);
    assign(&machine, plain(&events[4], GSI, fake::Watch::default())).unwrap();
}

fn route(gsi: u32, pin: u32) -> IrqRoutingEntry {
    let route = [0, pin, 0, 0, 0, 0, 0, 0];
    IrqRoutingEntry { gsi, route_type: KVM_IRQ_ROUTING_IRQCHIP, route, ..Default::default() }
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn a_table_leads_events_elsewhere_and_back() {
    let mut machine = machine();
    let told = [0, 1].map(|_| ProcessEvent::default());
    assign(&machine, resampling(&ProcessEvent::default(), 5, &told[0])).unwrap();
    assign(&machine, resampling(&ProcessEvent::default(), GSI, &told[1])).unwrap();
    assert_eq!(resampled(&machine), [37, SPI]);
    machine.vm.set_gsi_routing(&machine.host, &[route(5, SPI - 32)]).unwrap();
    assert_eq!(resampled(&machine), [SPI]);
    machine.vm.irqfd_event(GSI, true);
    assert!(!is_pending(&machine, SPI), "its GSI leads nowhere");
    machine.vm.irqfd_event(5, true);
    assert!(is_pending(&machine, SPI));
    let host = machine.host.clone();
    machine.script([at(0, move |_| {
        take_and_end(&host);
        ExitCode::Interrupt
    })]);
    assert_eq!(machine.run(0), Return::Interrupted);
    assert_eq!(told.each_ref().map(ProcessEvent::take), [1, 0]);
    // One that is refused, or finds no memory, changes nothing.
    assert_eq!(machine.vm.set_gsi_routing(&machine.host, &[route(5, 988)]), Err(RoutingError::Invalid));
    machine.host.allow_allocations(Some(1));
    assert_eq!(machine.vm.set_gsi_routing(&machine.host, &[]), Err(RoutingError::OutOfMemory));
    machine.vm.irqfd_event(5, true);
    assert!(is_pending(&machine, SPI));
    machine.host.allow_allocations(None);
    // Of two that lead to one pin the last stands for it.
    machine.vm.set_gsi_routing(&machine.host, &[route(5, 9), route(6, 9)]).unwrap();
    assert_eq!(resampled(&machine), []);
    let event = ProcessEvent::default();
    assign(&machine, resampling(&event, 6, &event)).unwrap();
    assert_eq!(resampled(&machine), [41]);
    machine.vm.deassign_irqfd(&event, 6);
    assert_eq!(resampled(&machine), []);
}

#[test]
fn pins_that_the_interrupt_controller_does_not_have_lead_nowhere() {
    let machine = machine();
    let pins = [223, 224, 987, 988, 4095, 4096, u32::MAX - 32, u32::MAX];
    for gsi in pins {
        machine.vm.irqfd_event(gsi, true);
    }
    assert!(is_pending(&machine, 255));
    assert!((32..255).all(|intid| !is_pending(&machine, intid)));
    let far: Vec<_> = (0..).zip([224, 987]).map(|(gsi, pin)| route(gsi, pin)).collect();
    machine.vm.set_gsi_routing(&machine.host, &far).unwrap();
    machine.vm.irqfd_event(0, true);
    machine.vm.irqfd_event(1, true);
    assert!((32..255).all(|intid| !is_pending(&machine, intid)));
}

#[test]
fn a_table_that_comes_before_the_interrupt_controller_does_not_stay() {
    let machine = Machine::bare(1);
    machine.vm.set_gsi_routing(&machine.host, &[route(5, SPI - 32)]).unwrap();
    assert_eq!(machine.vm.set_gsi_routing(&machine.host, &[route(5, 988)]), Err(RoutingError::Invalid));
    // There is nothing yet that an event could reach.
    machine.vm.irqfd_event(GSI, true);
    assert!(!machine.vm.has_initialised_irqchip());
    machine.add_irqchip();
    machine.enable_interrupts();
    assert!(machine.vm.has_initialised_irqchip() && !is_pending(&machine, SPI));
    machine.vm.irqfd_event(5, true);
    assert!(!is_pending(&machine, SPI));
    machine.vm.irqfd_event(GSI, true);
    assert!(is_pending(&machine, SPI));
}

#[test]
fn an_event_is_traced_as_an_interrupt() {
    let machine = Machine::new(1);
    machine.host.watch(1 << Kind::SetIrq as u32);
    machine.vm.irqfd_event(3, true);
    assert_eq!(machine.host.take_told(), [Event::SetIrq { gsi: 3, level: 1, source: 0 }]);
}
