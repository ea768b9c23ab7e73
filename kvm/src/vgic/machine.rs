// SPDX-License-Identifier: GPL-2.0-only
//! A VM's vCPUs with their hardware, for tests: runs the vGIC as the run loop does, beside a [`Reference`], step by step.

use super::hardware::VirtualInterface;
use super::interrupt::Flags;
use super::reference::Reference;
use super::{CpuInterface, Interrupt, Kicks, Vgic};
use arch::gic::{gicd, gich};
use std::vec;
use std::vec::Vec;

pub const VCPUS: usize = 3;
pub const NR_IRQS: u32 = 64;
/// The PPI that is tied to a physical interrupt on every vCPU.
pub const TIMER: u32 = 27;

#[derive(Clone, Debug)]
pub enum Step {
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
        /// Before the sender's list registers are read back.
        early: bool,
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
    /// Of an SPI only.
    Resample {
        intid: u32,
        on: bool,
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
pub struct Core {
    pub hardware: VirtualInterface,
    pub interface: CpuInterface,
    pub inside: bool,
}

pub struct Machine {
    pub vgic: Vgic<Vec<Interrupt>>,
    pub cores: Vec<Core>,
    pub list_registers: usize,
    /// vCPUs that were kicked or came by themselves during this step.
    pub looked: Kicks,
    pub ended: Vec<u32>,
}

impl Machine {
    /// All vCPUs out of the guest, the timer tied.
    pub fn new(list_registers: usize) -> Self {
        let storage = vec![Interrupt::default(); Vgic::<Vec<Interrupt>>::storage(VCPUS, NR_IRQS as usize)];
        let mut vgic = Vgic::new(VCPUS, NR_IRQS as usize, storage, list_registers).expect("sound sizes");
        for vcpu in 0..VCPUS {
            vgic.map_hw(vcpu, TIMER, TIMER).expect("a PPI");
        }
        Self { vgic, cores: vec![Core::default(); VCPUS], list_registers, looked: Kicks::NONE, ended: Vec::new() }
    }

    /// With the physical distributor told first, as the run loop does.
    pub fn enter(&mut self, vcpu: usize) {
        let core = &mut self.cores[vcpu];
        assert!(!core.inside);
        core.hardware.physical_active = self.vgic.hw_active(vcpu, TIMER);
        self.vgic.enter(vcpu, &mut core.interface);
        core.hardware.load(&core.interface, self.list_registers);
        core.inside = true;
    }

    /// What the exit says of others is the caller's to see to.
    pub fn leave(&mut self, vcpu: usize) -> Kicks {
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
    pub fn kick(&mut self, mut kicks: Kicks) {
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
    pub fn outside(&mut self, vcpu: usize, work: impl FnOnce(&mut Vgic<Vec<Interrupt>>) -> Kicks) {
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
    pub fn check_queues(&self) {
        let queued = |vcpu: usize| self.vgic.vcpus[vcpu].queue.iter().map(move |intid| (vcpu, intid));
        let in_queues: Vec<(usize, u32)> = (0..VCPUS).flat_map(queued).collect();
        let mut expected = Vec::new();
        let private = (0..VCPUS).flat_map(|vcpu| (0..32).map(move |intid| (vcpu, intid)));
        for (vcpu, intid) in private.chain((32..NR_IRQS).map(|intid| (0, intid))) {
            let interrupt = self.vgic.interrupt(vcpu, intid).expect("in range");
            let home = if interrupt.is(Flags::ACTIVE) {
                Some(interrupt.active_on)
            } else if self.vgic.enabled.contains(vcpu, intid) && interrupt.pending() {
                self.vgic.target(interrupt).map(|target| target as u8)
            } else {
                None
            };
            assert!(interrupt.is(Flags::LOADED) || interrupt.queued() == home, "{intid}: {interrupt:?}");
            expected.extend(interrupt.queued().map(|vcpu| (usize::from(vcpu), intid)));
        }
        expected.sort_unstable();
        assert_eq!(in_queues, expected);
        for vcpu in 0..VCPUS {
            let state = &self.vgic.vcpus[vcpu];
            let concerned = !state.queue.is_empty() || state.used != 0;
            assert_eq!(self.vgic.concerned().contains(vcpu), concerned, "vCPU {vcpu}");
        }
    }
}

/// Applies a step to both machines.
pub fn apply(machine: &mut Machine, reference: &mut Reference, step: &Step) {
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
            let irq = reference.irq(vcpu, intid);
            let was_active = core::mem::replace(&mut irq.active, on);
            if by_dir && !on {
                if was_active {
                    irq.resample();
                }
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
        Step::Send { vcpu, intid, filter, list, early } => {
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
            let value = filter << 24 | u32::from(list) << 16 | intid;
            if early {
                let kicks = machine.vgic.write_sgir(vcpu, value);
                machine.outside(vcpu, |_| kicks);
            } else {
                machine.write(vcpu, gicd::SGIR, 4, value);
            }
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
        Step::Resample { intid, on } => {
            reference.irq(0, intid).resampled = on;
            let resampled = machine.vgic.resampled();
            if on { resampled.insert(intid) } else { resampled.remove(intid) }
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
pub fn read_back(machine: &mut Machine, reference: &mut Reference) {
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
pub fn step_and_check(machine: &mut Machine, reference: &mut Reference, step: &Step) {
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
            assert_eq!(machine.vgic.has_deliverable(vcpu, core.interface.vmcr), expected, "vCPU {vcpu}");
            let new = reference.forwarded(vcpu).iter().any(|intid| !before.contains(intid));
            assert!(!new || machine.looked.contains(vcpu), "vCPU {vcpu} sleeps on");
        }
    }
}

/// Lets the guest take and end everything, lines falling as their interrupts are taken.
pub fn drain(machine: &mut Machine, reference: &mut Reference) {
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

/// Everything on, everything open: interrupts of a spread of priorities and vCPUs.
pub fn set_up(machine: &mut Machine, reference: &mut Reference, spread: u32) {
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
