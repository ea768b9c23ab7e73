// SPDX-License-Identifier: GPL-2.0-only
//! The vGIC and the hardware's list registers together must behave as a GICv2: random machines against [`Reference`].

use super::machine::{Machine, NR_IRQS, Step, TIMER, VCPUS, drain, read_back, set_up, step_and_check};
use super::reference::Reference;
use super::{CpuInterface, Kicks};
use crate::fake::cases;
use arch::gic::gicd;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::vec;
use std::vec::Vec;

fn intid() -> impl Strategy<Value = u32> {
    prop_oneof![2 => 0u32..4, 1 => Just(20), 2 => Just(TIMER), 8 => 32u32..56]
}

fn input() -> impl Strategy<Value = u32> {
    prop_oneof![1 => Just(20u32), 2 => Just(TIMER), 8 => 32u32..56]
}

/// Few priorities, so that they meet; and the lowest, which no mask lets through.
fn priority() -> impl Strategy<Value = u8> {
    prop_oneof![0u8..6, Just(31)].prop_map(|level| level << 3 | 5)
}

fn step() -> impl Strategy<Value = Step> {
    let vcpu = || 0..VCPUS;
    let on = any::<bool>;
    prop_oneof![
        6 => (vcpu(), intid(), proptest::bool::weighted(0.75)).prop_map(|(vcpu, intid, on)| Step::Enable { vcpu, intid, on }),
        4 => (vcpu(), intid(), on()).prop_map(|(vcpu, intid, on)| Step::Pend { vcpu, intid, on }),
        1 => (vcpu(), intid(), on(), on())
            .prop_map(|(vcpu, intid, on, by_dir)| Step::Activate { vcpu, intid, on, by_dir }),
        4 => (vcpu(), intid(), priority()).prop_map(|(vcpu, intid, priority)| Step::Priority { vcpu, intid, priority }),
        5 => (vcpu(), intid(), 0u8..16).prop_map(|(vcpu, intid, targets)| Step::Target { vcpu, intid, targets }),
        2 => (vcpu(), intid(), on()).prop_map(|(vcpu, intid, edge)| Step::Configure { vcpu, intid, edge }),
        1 => (vcpu(), intid(), on()).prop_map(|(vcpu, intid, group1)| Step::Group { vcpu, intid, group1 }),
        1 => (vcpu(), prop_oneof![0u32..4, Just(3)]).prop_map(|(vcpu, ctlr)| Step::Control { vcpu, ctlr }),
        4 => (vcpu(), 0u32..4, 0u32..3, 0u8..16, on())
            .prop_map(|(vcpu, intid, filter, list, early)| Step::Send { vcpu, intid, filter, list, early }),
        1 => (vcpu(), 0u32..4, 0u8..8, on())
            .prop_map(|(vcpu, intid, sources, set)| Step::Sources { vcpu, intid, sources, set }),
        10 => (vcpu(), input(), proptest::bool::weighted(0.7))
            .prop_map(|(vcpu, intid, level)| Step::Line { vcpu, intid, level }),
        2 => (32u32..56, on()).prop_map(|(intid, on)| Step::Resample { intid, on }),
        10 => vcpu().prop_map(|vcpu| Step::Acknowledge { vcpu }),
        7 => vcpu().prop_map(|vcpu| Step::End { vcpu }),
        1 => (vcpu(), any::<u8>()).prop_map(|(vcpu, pmr)| Step::Mask { vcpu, pmr }),
        1 => (vcpu(), prop_oneof![0u32..4, Just(3)]).prop_map(|(vcpu, groups)| Step::Groups { vcpu, groups }),
        2 => vcpu().prop_map(|vcpu| Step::Leave { vcpu }),
        1 => Just(Step::ReadBack),
    ]
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn behaves_as_a_gicv2(
        list_registers in prop_oneof![4 => Just(4usize), 1 => 1usize..=17],
        spread in prop_oneof![Just(0u32), 1u32..=3],
        steps in proptest::collection::vec(step(), 1..250),
    ) {
        let mut machine = Machine::new(list_registers.min(16));
        let mut reference = Reference::new(VCPUS, NR_IRQS);
        if spread != 0 {
            set_up(&mut machine, &mut reference, spread);
        }
        for step in &steps {
            step_and_check(&mut machine, &mut reference, step);
        }
        drain(&mut machine, &mut reference);
        read_back(&mut machine, &mut reference);
    }
}

/// What happens while kicks are still under way.
#[derive(Clone, Debug)]
enum Race {
    Edge(u32),
    Raise(u32),
    Send { sender: usize, receiver: usize, intid: u32 },
    Retarget(u32, usize),
    Acknowledge(usize),
    End(usize),
    Arrive(usize),
}

proptest! {
    #![proptest_config(cases(150))]

    /// Kicks take their time. Even so nothing is lost, and no edge is delivered more often than it came.
    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn late_kicks_lose_nothing(races in proptest::collection::vec(prop_oneof![
        3 => (32u32..44).prop_map(Race::Edge),
        3 => (44u32..56).prop_map(Race::Raise),
        3 => (0..VCPUS, 0..VCPUS, 0u32..4).prop_map(|(sender, receiver, intid)| Race::Send { sender, receiver, intid }),
        1 => (32u32..56, 0..VCPUS).prop_map(|(intid, vcpu)| Race::Retarget(intid, vcpu)),
        5 => (0..VCPUS).prop_map(Race::Acknowledge),
        5 => (0..VCPUS).prop_map(Race::End),
        2 => (0..VCPUS).prop_map(Race::Arrive),
    ], 1..250)) {
        let mut machine = Machine::new(4);
        let mut reference = Reference::new(VCPUS, NR_IRQS);
        set_up(&mut machine, &mut reference, 3);
        for intid in 32..56 {
            step_and_check(&mut machine, &mut reference, &Step::Configure { vcpu: 0, intid, edge: intid < 44 });
        }
        let mut late = Kicks::NONE;
        let mut lines = BTreeSet::new();
        // By interrupt, receiver and sender: how often it came, how often it was taken, and whether any came since.
        let mut counts: BTreeMap<(u32, usize, u32), (u32, u32, bool)> = BTreeMap::new();
        let mut handling = vec![Vec::new(); VCPUS];
        let quiet = (0..VCPUS * 200).map(|turn| match turn % 4 {
            0 | 1 => Race::Arrive(turn / 4 % VCPUS),
            2 => Race::Acknowledge(turn / 4 % VCPUS),
            _ => Race::End(turn / 4 % VCPUS),
        });
        for race in races.iter().cloned().chain(quiet) {
            match race {
                Race::Edge(intid) => {
                    let count = counts.entry((intid, 0, 0)).or_default();
                    *count = (count.0 + 1, count.1, true);
                    late |= machine.vgic.set_level(0, intid, true).expect("an SPI");
                }
                Race::Raise(intid) => {
                    lines.insert(intid);
                    late |= machine.vgic.set_level(0, intid, true).expect("an SPI");
                }
                Race::Send { sender, receiver, intid } => {
                    let count = counts.entry((intid, receiver, sender as u32)).or_default();
                    *count = (count.0 + 1, count.1, true);
                    late |= machine.leave(sender);
                    late |= machine.vgic.dist_write(sender, gicd::SGIR, 4, 1 << (16 + receiver) | intid);
                    machine.enter(sender);
                }
                Race::Retarget(intid, vcpu) => {
                    late |= machine.leave(0);
                    late |= machine.vgic.dist_write(0, gicd::ITARGETSR + intid, 1, 1 << vcpu);
                    machine.enter(0);
                }
                Race::Acknowledge(vcpu) => {
                    if let Some((intid, source)) = machine.cores[vcpu].hardware.acknowledge() {
                        handling[vcpu].push((intid, source));
                        if (44..56).contains(&intid) {
                            prop_assert!(lines.contains(&intid) || late.contains(vcpu), "{} is low", intid);
                            lines.remove(&intid);
                            late |= machine.vgic.set_level(0, intid, false).expect("an SPI");
                        } else {
                            let at = if intid < 16 { (intid, vcpu, source) } else { (intid, 0, 0) };
                            let count = counts.entry(at).or_default();
                            *count = (count.0, count.1 + 1, false);
                            prop_assert!(count.1 <= count.0, "{} was taken more often than it came", intid);
                        }
                    }
                }
                Race::End(vcpu) => {
                    if let Some((intid, source)) = handling[vcpu].pop() {
                        machine.cores[vcpu].hardware.end(intid, source);
                    }
                }
                Race::Arrive(vcpu) => {
                    if late.contains(vcpu) || machine.cores[vcpu].hardware.maintenance() {
                        late = late.without(vcpu) | machine.leave(vcpu);
                        machine.enter(vcpu);
                    }
                }
            }
        }
        prop_assert!(lines.is_empty(), "never taken: {:?}", lines);
        let lost: Vec<_> = counts.iter().filter(|(_, count)| count.2).collect();
        prop_assert!(lost.is_empty(), "lost: {:?}", lost);
    }

    /// No access, no line and no state that hardware might be read in makes it panic or leaves the queues wrong.
    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn stands_anything(wild in proptest::collection::vec(
        (any::<u8>(), 0usize..10, any::<u32>(), any::<u32>(), prop_oneof![0u32..9, any::<u32>()], any::<[u32; 18]>()), 1..100,
    )) {
        let mut machine = Machine::new(4);
        for (kind, vcpu, offset, value, len, raw) in wild {
            let near = offset & 0xfff;
            match kind % 8 {
                0 => drop(machine.vgic.dist_read(vcpu, offset, len)),
                1 => drop(machine.vgic.dist_write(vcpu, offset, len, value)),
                2 => drop(machine.vgic.dist_read(vcpu, near, 4)),
                3 => drop(machine.vgic.dist_write(vcpu, near & !3, 4, value)),
                4 => drop(machine.vgic.set_level(vcpu, offset & 0x7f, value & 1 != 0)),
                5 => drop((machine.vgic.deactivate(vcpu, value).ended().count(), machine.vgic.has_deliverable(vcpu, value))),
                6 => drop((machine.vgic.map_hw(vcpu, offset & 0x3f, value & 0x7ff), machine.vgic.hw_active(vcpu, near))),
                _ => {
                    let mut interface = CpuInterface { hcr: raw[0], vmcr: raw[1], ..CpuInterface::default() };
                    machine.vgic.enter(vcpu, &mut interface);
                    for (lr, raw) in interface.lr.iter_mut().zip(&raw[2..]) {
                        *lr = arch::gic::ListRegister::from_raw(*raw);
                    }
                    (interface.hcr, interface.used) = (raw[0], raw[1] as usize);
                    let _ = machine.vgic.exit(vcpu, &interface);
                }
            }
            machine.check_queues();
        }
    }
}

/// Twenty wait, four fit: all come, each once, in order of priority.
#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn twenty_pending_through_four_list_registers() {
    let mut machine = Machine::new(4);
    let mut reference = Reference::new(VCPUS, NR_IRQS);
    set_up(&mut machine, &mut reference, 1);
    let vcpu = 0;
    step_and_check(&mut machine, &mut reference, &Step::Mask { vcpu, pmr: 0 });
    for intid in 36..56 {
        step_and_check(&mut machine, &mut reference, &Step::Configure { vcpu, intid, edge: true });
        let priority = (intid * 5 % 7 * 8) as u8;
        step_and_check(&mut machine, &mut reference, &Step::Priority { vcpu, intid, priority });
        step_and_check(&mut machine, &mut reference, &Step::Line { vcpu, intid, level: true });
    }
    step_and_check(&mut machine, &mut reference, &Step::Mask { vcpu, pmr: 0xf8 });
    let mut taken = Vec::new();
    while let Some((intid, _)) = machine.cores[vcpu].hardware.clone().acknowledge() {
        step_and_check(&mut machine, &mut reference, &Step::Acknowledge { vcpu });
        step_and_check(&mut machine, &mut reference, &Step::End { vcpu });
        taken.push((intid * 5 % 7, intid));
    }
    assert!(taken.is_sorted_by_key(|taken| taken.0), "{taken:?}");
    assert_eq!(taken.iter().map(|taken| taken.1).collect::<BTreeSet<_>>(), (36..56).collect());
    assert_eq!(taken.len(), 20);
}

/// Handlers nest deeper than there are list registers: those outside end by EOICount, in the right order.
#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn eight_handlers_nest_in_four_list_registers() {
    let mut machine = Machine::new(4);
    let mut reference = Reference::new(VCPUS, NR_IRQS);
    set_up(&mut machine, &mut reference, 1);
    let vcpu = 0;
    for (level, intid) in (40..48).rev().enumerate() {
        let priority = (20 - 2 * level as u8) << 3;
        step_and_check(&mut machine, &mut reference, &Step::Configure { vcpu, intid, edge: intid % 2 == 0 });
        step_and_check(&mut machine, &mut reference, &Step::Priority { vcpu, intid, priority });
        step_and_check(&mut machine, &mut reference, &Step::Line { vcpu, intid, level: true });
        step_and_check(&mut machine, &mut reference, &Step::Acknowledge { vcpu });
        assert_eq!(reference.cpus[vcpu].handling.len(), level + 1);
    }
    for intid in 40..48 {
        step_and_check(&mut machine, &mut reference, &Step::Resample { intid, on: true });
        step_and_check(&mut machine, &mut reference, &Step::End { vcpu });
        step_and_check(&mut machine, &mut reference, &Step::ReadBack);
    }
    // Level-sensitive ones are reported, wherever they ended.
    assert_eq!(machine.ended, [41, 43, 45, 47]);
}

/// A guest that opens and closes groups in its CPU interface while more waits than fits.
#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn groups_change_who_comes_next() {
    // Once with the one, once with the other group the more urgent.
    for urgent in [true, false] {
        let mut machine = Machine::new(4);
        let mut reference = Reference::new(VCPUS, NR_IRQS);
        set_up(&mut machine, &mut reference, 1);
        let vcpu = 0;
        let mut steps = vec![Step::Groups { vcpu, groups: 0 }];
        for intid in 40..52 {
            let group1 = (intid < 46) == urgent;
            let priority = if intid < 46 { 8 } else { 16 };
            steps.push(Step::Group { vcpu, intid, group1 });
            steps.push(Step::Priority { vcpu, intid, priority });
            steps.push(Step::Line { vcpu, intid, level: true });
        }
        // Each change alone must suffice, both with the right registers loaded and with the wrong ones.
        for groups in [1, 3, 2, 0, 2, 3, 1, 0, 1, 2, 1] {
            steps.push(Step::Groups { vcpu, groups });
        }
        for step in &steps {
            step_and_check(&mut machine, &mut reference, step);
        }
    }
}

/// Software sets the timer's interrupt pending while its handler runs. The end of a handler that is tied to hardware gives no
/// notice, so this one must not be tied.
#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn a_latch_behind_an_active_hardware_interrupt_is_not_forgotten() {
    let mut machine = Machine::new(4);
    let mut reference = Reference::new(VCPUS, NR_IRQS);
    set_up(&mut machine, &mut reference, 1);
    let (vcpu, intid) = (0, TIMER);
    for step in [
        Step::Priority { vcpu, intid, priority: 8 },
        Step::Line { vcpu, intid, level: true },
        Step::Acknowledge { vcpu },
        Step::Line { vcpu, intid, level: false },
        Step::Pend { vcpu, intid, on: true },
        Step::End { vcpu },
        Step::Acknowledge { vcpu },
    ] {
        step_and_check(&mut machine, &mut reference, &step);
    }
    assert_eq!(reference.cpus[vcpu].handling.len(), 1);
}
