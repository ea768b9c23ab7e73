// SPDX-License-Identifier: GPL-2.0-only
//! The vGIC and the hardware's list registers together must behave as a GICv2: random machines against [`Reference`].

use super::hardware::VirtualInterface;
use super::reference::Reference;
use super::{CpuInterface, Interrupt, Kicks, Vgic};
use arch::gic::{gicd, gich};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::vec;
use std::vec::Vec;

const VCPUS: usize = 3;
const NR_IRQS: u32 = 64;
/// The PPI that is tied to a physical interrupt on every vCPU.
const TIMER: u32 = 27;

#[derive(Clone, Debug)]
enum Step {
    Enable {
        vcpu: usize,
        intid: u32,
        on: bool,
    },
    Pend {
        vcpu: usize,
        intid: u32,
        on: bool,
    },
    Activate {
        vcpu: usize,
        intid: u32,
        on: bool,
        by_dir: bool,
    },
    Priority {
        vcpu: usize,
        intid: u32,
        priority: u8,
    },
    Target {
        vcpu: usize,
        intid: u32,
        targets: u8,
    },
    Configure {
        vcpu: usize,
        intid: u32,
        edge: bool,
    },
    Group {
        vcpu: usize,
        intid: u32,
        group1: bool,
    },
    Control {
        vcpu: usize,
        ctlr: u32,
    },
    Send {
        vcpu: usize,
        intid: u32,
        filter: u32,
        list: u8,
    },
    Sources {
        vcpu: usize,
        intid: u32,
        sources: u8,
        set: bool,
    },
    Line {
        vcpu: usize,
        intid: u32,
        level: bool,
    },
    Acknowledge {
        vcpu: usize,
    },
    End {
        vcpu: usize,
    },
    Mask {
        vcpu: usize,
        pmr: u8,
    },
    Groups {
        vcpu: usize,
        groups: u32,
    },
    /// Leaves the guest, or enters it.
    Leave {
        vcpu: usize,
    },
    ReadBack,
}

/// A vCPU and the CPU that it runs on.
#[derive(Clone, Debug, Default)]
struct Core {
    hardware: VirtualInterface,
    interface: CpuInterface,
    inside: bool,
}

struct Machine {
    vgic: Vgic<Vec<Interrupt>>,
    cores: Vec<Core>,
    list_registers: usize,
    /// vCPUs that were kicked or came by themselves during this step.
    looked: Kicks,
    ended: Vec<u32>,
}

impl Machine {
    fn new(list_registers: usize) -> Self {
        let storage = vec![Interrupt::default(); Vgic::<Vec<Interrupt>>::storage(VCPUS, NR_IRQS as usize)];
        let mut vgic = Vgic::new(VCPUS, NR_IRQS as usize, storage, list_registers).expect("sound sizes");
        for vcpu in 0..VCPUS {
            vgic.map_hw(vcpu, TIMER, TIMER).expect("a PPI");
        }
        Self { vgic, cores: vec![Core::default(); VCPUS], list_registers, looked: Kicks::NONE, ended: Vec::new() }
    }

    fn enter(&mut self, vcpu: usize) {
        let core = &mut self.cores[vcpu];
        assert!(!core.inside);
        core.hardware.physical_active = self.vgic.hw_active(vcpu, TIMER);
        self.vgic.enter(vcpu, &mut core.interface);
        core.hardware.load(&core.interface, self.list_registers);
        core.inside = true;
    }

    fn leave(&mut self, vcpu: usize) -> Kicks {
        let core = &mut self.cores[vcpu];
        assert!(core.inside);
        core.inside = false;
        core.hardware.store(&mut core.interface);
        let exit = self.vgic.exit(vcpu, &core.interface);
        assert!(!exit.kicks.contains(vcpu));
        self.ended.extend(exit.ended());
        exit.kicks
    }

    /// Those that run come out and go in again; those that do not would be woken.
    fn kick(&mut self, mut kicks: Kicks) {
        while let Some(vcpu) = kicks.iter().next() {
            kicks = kicks.without(vcpu);
            self.looked |= Kicks::one(vcpu);
            if self.cores[vcpu].inside {
                kicks |= self.leave(vcpu);
                self.enter(vcpu);
            }
        }
    }

    /// Work that a vCPU does out of the guest: it leaves, and goes back if it was inside.
    fn outside(&mut self, vcpu: usize, work: impl FnOnce(&mut Vgic<Vec<Interrupt>>) -> Kicks) {
        let inside = self.cores[vcpu].inside;
        let mut kicks = if inside { self.leave(vcpu) } else { Kicks::NONE };
        kicks |= work(&mut self.vgic);
        if inside {
            self.enter(vcpu);
        }
        self.looked |= Kicks::one(vcpu);
        self.kick(kicks.without(vcpu));
    }

    fn write(&mut self, vcpu: usize, offset: u32, len: u32, value: u32) {
        self.outside(vcpu, |vgic| vgic.dist_write(vcpu, offset, len, value));
    }

    fn write_bit(&mut self, vcpu: usize, base: u32, intid: u32) {
        self.write(vcpu, base + intid / 32 * 4, 4, 1 << (intid % 32));
    }

    /// Interrupts that the host takes: maintenance, and the timer where its line is up and it is not held active.
    fn host_interrupts(&mut self, reference: &mut Reference) {
        for vcpu in 0..VCPUS {
            let mut turns = 0;
            loop {
                let hardware = &self.cores[vcpu].hardware;
                let timer = reference.irq(vcpu, TIMER).line && !hardware.physical_active;
                if !self.cores[vcpu].inside || !(hardware.maintenance() || timer) {
                    break;
                }
                self.kick(Kicks::one(vcpu));
                turns += 1;
                assert!(turns < 4, "a storm of maintenance interrupts");
            }
        }
    }

    /// Every interrupt that is in no list register stands in the queue that its state says, and in no other.
    fn check_queues(&self) {
        let queued = |vcpu: usize| self.vgic.vcpus[vcpu].queue.iter().map(move |intid| (vcpu, intid));
        let in_queues: Vec<(usize, u32)> = (0..VCPUS).flat_map(queued).collect();
        let mut expected = Vec::new();
        let private = (0..VCPUS).flat_map(|vcpu| (0..32).map(move |intid| (vcpu, intid)));
        for (vcpu, intid) in private.chain((32..NR_IRQS).map(|intid| (0, intid))) {
            let interrupt = self.vgic.interrupt(vcpu, intid).expect("in range");
            let home = if interrupt.active {
                Some(interrupt.active_on)
            } else if interrupt.enabled && interrupt.pending() {
                self.vgic.target(interrupt).map(|target| target as u8)
            } else {
                None
            };
            assert!(interrupt.loaded.is_some() || interrupt.queued == home, "{intid}: {interrupt:?}");
            expected.extend(interrupt.queued.map(|vcpu| (usize::from(vcpu), intid)));
        }
        expected.sort_unstable();
        assert_eq!(in_queues, expected);
    }
}

/// Applies a step to both machines.
fn apply(machine: &mut Machine, reference: &mut Reference, step: &Step) {
    match *step {
        Step::Enable { vcpu, intid, on } => {
            reference.irq(vcpu, intid).enabled = on;
            machine.write_bit(vcpu, if on { gicd::ISENABLER } else { gicd::ICENABLER }, intid);
        }
        Step::Pend { vcpu, intid, on } => {
            if intid >= 16 {
                reference.irq(vcpu, intid).latch = on;
            }
            machine.write_bit(vcpu, if on { gicd::ISPENDR } else { gicd::ICPENDR }, intid);
        }
        Step::Activate { vcpu, intid, on, by_dir } => {
            // What a handler has in hand stays: deactivating it behind its back leaves the guest's own order of ends.
            let handled = |cpu: &super::reference::Cpu| cpu.handling.iter().any(|handled| handled.0 == intid);
            if reference.cpus.iter().any(handled) {
                return;
            }
            reference.irq(vcpu, intid).active = on;
            if by_dir && !on {
                machine.outside(vcpu, |vgic| vgic.deactivate(vcpu, intid).kicks);
            } else {
                machine.write_bit(vcpu, if on { gicd::ISACTIVER } else { gicd::ICACTIVER }, intid);
            }
        }
        Step::Priority { vcpu, intid, priority } => {
            reference.irq(vcpu, intid).priority = priority & 0xf8;
            machine.write(vcpu, gicd::IPRIORITYR + intid, 1, priority.into());
            // What is loaded keeps its priority until it comes out.
            machine.kick((0..VCPUS).fold(Kicks::NONE, |kicks, vcpu| kicks | Kicks::one(vcpu)));
        }
        Step::Target { vcpu, intid, targets } => {
            if intid >= 32 {
                reference.irq(vcpu, intid).targets = targets & 7;
            }
            machine.write(vcpu, gicd::ITARGETSR + intid, 1, targets.into());
        }
        Step::Configure { vcpu, intid, edge } => {
            let mut value = 0;
            for (field, neighbour) in (intid & !15..).take(16).enumerate() {
                let set = if neighbour == intid { edge } else { reference.irq(vcpu, neighbour).edge };
                value |= u32::from(set) << (field * 2 + 1);
            }
            if intid >= 32 {
                reference.irq(vcpu, intid).edge = edge;
            }
            machine.write(vcpu, gicd::ICFGR + intid / 16 * 4, 4, value);
        }
        Step::Group { vcpu, intid, group1 } => {
            reference.irq(vcpu, intid).group1 = group1;
            let value = (0..32).fold(0, |value, field| {
                value | u32::from(reference.irq(vcpu, intid / 32 * 32 + field).group1) << field
            });
            machine.write(vcpu, gicd::IGROUPR + intid / 32 * 4, 4, value);
        }
        Step::Control { vcpu, ctlr } => {
            reference.ctlr = ctlr;
            machine.write(vcpu, gicd::CTLR, 4, ctlr);
        }
        Step::Send { vcpu, intid, filter, list } => {
            for receiver in 0..VCPUS {
                let meant = match filter {
                    0 => list >> receiver & 1 != 0,
                    1 => receiver != vcpu,
                    _ => receiver == vcpu,
                };
                if meant {
                    reference.irq(receiver, intid).sources |= 1 << vcpu;
                }
            }
            machine.write(vcpu, gicd::SGIR, 4, filter << 24 | u32::from(list) << 16 | intid);
        }
        Step::Sources { vcpu, intid, sources, set } => {
            let irq = reference.irq(vcpu, intid);
            irq.sources = if set { irq.sources | sources & 7 } else { irq.sources & !sources };
            let base = if set { gicd::SPENDSGIR } else { gicd::CPENDSGIR };
            machine.write(vcpu, base + intid, 1, sources.into());
        }
        Step::Line { vcpu, intid, level } => {
            let irq = reference.irq(vcpu, intid);
            if irq.edge {
                irq.latch |= level;
            } else {
                irq.line = level;
            }
            let kicks = machine.vgic.set_level(vcpu, intid, level).expect("has an input");
            machine.kick(kicks);
        }
        Step::Acknowledge { vcpu } => {
            if !machine.cores[vcpu].inside {
                machine.outside(vcpu, |_| Kicks::NONE);
                machine.enter(vcpu);
            }
            let allowed = reference.acknowledgeable(vcpu);
            match machine.cores[vcpu].hardware.acknowledge() {
                Some((intid, source)) => {
                    assert!(allowed.contains(&intid), "took {intid}, allowed {allowed:?}");
                    if intid < 16 {
                        assert!(reference.irq(vcpu, intid).sources >> source & 1 != 0, "nobody sent it");
                    }
                    reference.acknowledge(vcpu, intid, source);
                }
                None => assert!(allowed.is_empty(), "took nothing, allowed {allowed:?}"),
            }
        }
        Step::End { vcpu } => {
            if machine.cores[vcpu].inside
                && let Some((intid, source)) = reference.end(vcpu)
            {
                machine.cores[vcpu].hardware.end(intid, source);
            }
        }
        Step::Mask { vcpu, pmr } => {
            if machine.cores[vcpu].inside {
                reference.cpus[vcpu].pmr = pmr & 0xf8;
                let vmcr = &mut machine.cores[vcpu].hardware.vmcr;
                *vmcr = *vmcr << 5 >> 5 | u32::from(pmr >> 3) << gich::VMCR_PMR_SHIFT;
            }
        }
        Step::Groups { vcpu, groups } => {
            if machine.cores[vcpu].inside {
                reference.cpus[vcpu].groups = groups;
                let vmcr = &mut machine.cores[vcpu].hardware.vmcr;
                *vmcr = *vmcr & !3 | groups;
            }
        }
        Step::Leave { vcpu } => {
            if machine.cores[vcpu].inside {
                let kicks = machine.leave(vcpu);
                machine.kick(kicks);
            } else {
                machine.enter(vcpu);
            }
        }
        Step::ReadBack => read_back(machine, reference),
    }
}

/// With all vCPUs out, the registers read what the reference says.
fn read_back(machine: &mut Machine, reference: &mut Reference) {
    let inside: Vec<usize> = (0..VCPUS).filter(|&vcpu| machine.cores[vcpu].inside).collect();
    let mut kicks = Kicks::NONE;
    for &vcpu in &inside {
        kicks |= machine.leave(vcpu);
    }
    machine.kick(kicks);
    for vcpu in 0..VCPUS {
        for intid in 0..NR_IRQS {
            let read = |base| machine.vgic.dist_read(vcpu, base + intid / 32 * 4, 4) >> (intid % 32) & 1 != 0;
            let irq = reference.irq(vcpu, intid).clone();
            let pending = irq.latch || irq.sources != 0 || (irq.line && !irq.edge);
            assert_eq!(read(gicd::ISENABLER), irq.enabled, "enabled {intid}");
            assert_eq!(read(gicd::ICENABLER), irq.enabled, "enabled {intid}");
            assert_eq!(read(gicd::ISPENDR), pending, "pending {intid}");
            assert_eq!(read(gicd::ICPENDR), pending, "pending {intid}");
            assert_eq!(read(gicd::ISACTIVER), irq.active, "active {intid}");
            assert_eq!(read(gicd::ICACTIVER), irq.active, "active {intid}");
            assert_eq!(read(gicd::IGROUPR), irq.group1, "group {intid}");
            let byte = |base| machine.vgic.dist_read(vcpu, base + intid, 1) as u8;
            assert_eq!(byte(gicd::IPRIORITYR), irq.priority, "priority {intid}");
            assert_eq!(byte(gicd::ITARGETSR), irq.targets, "targets {intid}");
            if intid < 16 {
                assert_eq!(byte(gicd::SPENDSGIR), irq.sources, "sources {intid}");
            }
        }
    }
    for vcpu in inside {
        machine.enter(vcpu);
    }
}

/// A step in both machines, and all that must hold after it.
fn step_and_check(machine: &mut Machine, reference: &mut Reference, step: &Step) {
    let before: Vec<Vec<u32>> = (0..VCPUS).map(|vcpu| reference.forwarded(vcpu)).collect();
    machine.looked = Kicks::NONE;
    apply(machine, reference, step);
    machine.host_interrupts(reference);
    machine.check_queues();
    for (vcpu, before) in before.iter().enumerate() {
        let core = &machine.cores[vcpu];
        if core.inside {
            let allowed = reference.acknowledgeable(vcpu);
            match core.hardware.clone().acknowledge() {
                Some((intid, _)) => assert!(allowed.contains(&intid), "would take {intid}, allowed {allowed:?}"),
                None => assert!(allowed.is_empty(), "vCPU {vcpu} would take nothing, allowed {allowed:?}"),
            }
        } else {
            let expected = !reference.unmasked(vcpu).is_empty();
            assert_eq!(machine.vgic.has_deliverable(vcpu), expected, "vCPU {vcpu}");
            let new = reference.forwarded(vcpu).iter().any(|intid| !before.contains(intid));
            assert!(!new || machine.looked.contains(vcpu), "vCPU {vcpu} sleeps on");
        }
    }
}

/// Lets the guest take and end everything, lines falling as their interrupts are taken.
fn drain(machine: &mut Machine, reference: &mut Reference) {
    let mut steps = vec![Step::Control { vcpu: 0, ctlr: 3 }];
    for vcpu in 0..VCPUS {
        if !machine.cores[vcpu].inside {
            steps.push(Step::Leave { vcpu });
        }
        steps.push(Step::Mask { vcpu, pmr: 0xf8 });
        steps.push(Step::Groups { vcpu, groups: 3 });
    }
    for step in &steps {
        step_and_check(machine, reference, step);
    }
    for vcpu in 0..VCPUS {
        let mut turns = 0;
        loop {
            let takes = machine.cores[vcpu].hardware.clone().acknowledge();
            step_and_check(machine, reference, &Step::Acknowledge { vcpu });
            match takes {
                Some((intid, _)) if intid >= 16 && !reference.irq(vcpu, intid).edge => {
                    step_and_check(machine, reference, &Step::Line { vcpu, intid, level: false });
                }
                Some(_) => {}
                None if reference.cpus[vcpu].handling.is_empty() => break,
                None => step_and_check(machine, reference, &Step::End { vcpu }),
            }
            turns += 1;
            assert!(turns < 1000, "never ends");
        }
    }
}

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
        4 => (vcpu(), 0u32..4, 0u32..3, 0u8..16)
            .prop_map(|(vcpu, intid, filter, list)| Step::Send { vcpu, intid, filter, list }),
        1 => (vcpu(), 0u32..4, 0u8..8, on())
            .prop_map(|(vcpu, intid, sources, set)| Step::Sources { vcpu, intid, sources, set }),
        10 => (vcpu(), input(), proptest::bool::weighted(0.7))
            .prop_map(|(vcpu, intid, level)| Step::Line { vcpu, intid, level }),
        10 => vcpu().prop_map(|vcpu| Step::Acknowledge { vcpu }),
        7 => vcpu().prop_map(|vcpu| Step::End { vcpu }),
        1 => (vcpu(), any::<u8>()).prop_map(|(vcpu, pmr)| Step::Mask { vcpu, pmr }),
        1 => (vcpu(), prop_oneof![0u32..4, Just(3)]).prop_map(|(vcpu, groups)| Step::Groups { vcpu, groups }),
        2 => vcpu().prop_map(|vcpu| Step::Leave { vcpu }),
        1 => Just(Step::ReadBack),
    ]
}

/// Everything on, everything open: interrupts of a spread of priorities and vCPUs.
fn set_up(machine: &mut Machine, reference: &mut Reference, spread: u32) {
    let mut steps = vec![Step::Control { vcpu: 0, ctlr: 3 }];
    for vcpu in 0..VCPUS {
        steps.push(Step::Acknowledge { vcpu });
        steps.push(Step::Mask { vcpu, pmr: 0xf8 });
        steps.push(Step::Groups { vcpu, groups: 3 });
        steps.push(Step::Enable { vcpu, intid: TIMER, on: true });
    }
    for intid in 32..56 {
        steps.push(Step::Target { vcpu: 0, intid, targets: 1 << (intid % spread) });
        steps.push(Step::Priority { vcpu: 0, intid, priority: (intid * 7 % 6 * 8) as u8 });
        steps.push(Step::Configure { vcpu: 0, intid, edge: intid % 3 == 0 });
        steps.push(Step::Enable { vcpu: 0, intid, on: true });
    }
    for step in &steps {
        step_and_check(machine, reference, step);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
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
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Kicks take their time. Even so nothing is lost, and no edge is delivered more often than it came.
    #[test]
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
                5 => drop((machine.vgic.deactivate(vcpu, value).ended().count(), machine.vgic.has_deliverable(vcpu))),
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
    machine.ended.clear();
    for intid in 40..48 {
        step_and_check(&mut machine, &mut reference, &Step::Line { vcpu, intid, level: false });
        step_and_check(&mut machine, &mut reference, &Step::End { vcpu });
        step_and_check(&mut machine, &mut reference, &Step::ReadBack);
    }
    // Level-sensitive ones are reported for resampling, wherever they ended.
    assert_eq!(machine.ended, [41, 43, 45, 47]);
}
