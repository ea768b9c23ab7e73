// SPDX-License-Identifier: GPL-2.0-only
//! A GIC that is read out and written into a fresh one behaves as before: random machines against [`Reference`], moved in the midst.

use super::machine::{Core, Machine, NR_IRQS, Step, VCPUS, drain, read_back, set_up, step_and_check};
use super::reference::Reference;
use super::{CpuInterface, Interrupt, Parked, StateError, Vgic};
use arch::gic::{MAX_CPUS, gicc, gicd, gich};
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

type TestVgic = Vgic<Vec<Interrupt>>;

/// The words that a process saves, in the order in which it may write them. Those that are each vCPU's own come with each vCPU.
fn distributor_words() -> Vec<(usize, u32)> {
    let mut words = Vec::new();
    words.extend([gicd::CTLR, gicd::IIDR].map(|offset| (0, offset)));
    // Configuration before pending state, targets before active state: what depends on the other comes after it.
    for (base, fields_a_word) in [
        (gicd::IGROUPR, 32),
        (gicd::ISENABLER, 32),
        (gicd::ITARGETSR, 4),
        (gicd::ICFGR, 16),
        (gicd::ISPENDR, 32),
        (gicd::ISACTIVER, 32),
        (gicd::IPRIORITYR, 4),
    ] {
        for word in 0..NR_IRQS / fields_a_word {
            let vcpus = if word * fields_a_word < 32 { VCPUS } else { 1 };
            words.extend((0..vcpus).map(|vcpu| (vcpu, base + word * 4)));
        }
    }
    words.extend((0..VCPUS).flat_map(|vcpu| (0..4).map(move |word| (vcpu, gicd::SPENDSGIR + word * 4))));
    words
}

const CPU_WORDS: [u32; 5] = [gicc::CTLR, gicc::PMR, gicc::BPR, gicc::ABPR, gicc::APR0];

fn parked(machine: &Machine) -> [Parked; MAX_CPUS] {
    core::array::from_fn(|vcpu| {
        let interface = machine.cores.get(vcpu).map_or(CpuInterface::default(), |core| core.interface);
        Parked { vmcr: interface.vmcr, apr: interface.apr }
    })
}

/// Whatever is cleared by writing to a register of its own is cleared first, as clients do.
fn write_word(vgic: &mut TestVgic, vcpu: usize, offset: u32, value: u32) {
    let clears = match offset {
        gicd::ISENABLER..gicd::ICENABLER | gicd::ISPENDR..gicd::ICPENDR | gicd::ISACTIVER..gicd::ICACTIVER => {
            Some(offset + 0x80)
        }
        gicd::SPENDSGIR.. => Some(offset - 0x10),
        _ => None,
    };
    if let Some(clears) = clears {
        vgic.write_state(vcpu, clears, u32::MAX).unwrap();
    }
    vgic.write_state(vcpu, offset, value).unwrap();
}

/// Takes all out of the guest, and goes on with a fresh machine that was given what the old one's registers read.
fn moved(old: &mut Machine, reference: &mut Reference) -> Machine {
    read_back(old, reference);
    for vcpu in 0..VCPUS {
        if old.cores[vcpu].inside {
            step_and_check(old, reference, &Step::Leave { vcpu });
        }
    }
    let mut new = Machine::new(old.list_registers);
    for (vcpu, offset) in distributor_words() {
        write_word(&mut new.vgic, vcpu, offset, old.vgic.read_state(vcpu, offset));
    }
    let mut interfaces = [Parked::default(); MAX_CPUS];
    for (old, new) in parked(old).iter().zip(&mut interfaces) {
        CPU_WORDS.iter().for_each(|&offset| new.write(offset, old.read(offset)));
    }
    assert_eq!(interfaces, parked(old));
    new.vgic.rank_restored(&interfaces);
    for (core, parked) in new.cores.iter_mut().zip(interfaces) {
        let interface = CpuInterface { vmcr: parked.vmcr, apr: parked.apr, ..CpuInterface::default() };
        *core = Core { interface, ..Core::default() };
    }
    // Lines are the devices', which drive them again. Until then what they made pending is pending by itself.
    for (vcpu, intid) in
        (0..VCPUS).flat_map(|vcpu| (16..32).map(move |intid| (vcpu, intid))).chain((32..NR_IRQS).map(|spi| (0, spi)))
    {
        let irq = reference.irq(vcpu, intid);
        irq.line &= !irq.edge;
        irq.latch |= irq.line;
        let line = irq.line;
        let _ = new.vgic.set_level(vcpu, intid, line).unwrap();
    }
    new.check_queues();
    new
}

fn step() -> impl Strategy<Value = Step> {
    let vcpu = || 0..VCPUS;
    let intid = || prop_oneof![3 => 0u32..4, 1 => Just(20u32), 1 => Just(super::machine::TIMER), 8 => 32u32..56];
    let input = || prop_oneof![1 => Just(20u32), 2 => Just(super::machine::TIMER), 8 => 32u32..56];
    let on = any::<bool>;
    prop_oneof![
        2 => (vcpu(), intid(), on()).prop_map(|(vcpu, intid, on)| Step::Enable { vcpu, intid, on }),
        3 => (vcpu(), intid(), on()).prop_map(|(vcpu, intid, on)| Step::Pend { vcpu, intid, on }),
        2 => (vcpu(), intid(), 0u8..32)
            .prop_map(|(vcpu, intid, level)| Step::Priority { vcpu, intid, priority: level << 3 }),
        2 => (vcpu(), intid(), 0u8..16).prop_map(|(vcpu, intid, targets)| Step::Target { vcpu, intid, targets }),
        1 => (vcpu(), intid(), on()).prop_map(|(vcpu, intid, edge)| Step::Configure { vcpu, intid, edge }),
        1 => (vcpu(), intid(), on()).prop_map(|(vcpu, intid, group1)| Step::Group { vcpu, intid, group1 }),
        1 => (vcpu(), 0u32..4).prop_map(|(vcpu, ctlr)| Step::Control { vcpu, ctlr }),
        6 => (vcpu(), 0u32..4, 0u32..3, 0u8..16)
            .prop_map(|(vcpu, intid, filter, list)| Step::Send { vcpu, intid, filter, list, early: false }),
        8 => (vcpu(), input(), on()).prop_map(|(vcpu, intid, level)| Step::Line { vcpu, intid, level }),
        14 => vcpu().prop_map(|vcpu| Step::Acknowledge { vcpu }),
        5 => vcpu().prop_map(|vcpu| Step::End { vcpu }),
        1 => (vcpu(), any::<u8>()).prop_map(|(vcpu, pmr)| Step::Mask { vcpu, pmr }),
        1 => (vcpu(), 0u32..4).prop_map(|(vcpu, groups)| Step::Groups { vcpu, groups }),
        2 => vcpu().prop_map(|vcpu| Step::Leave { vcpu }),
    ]
}

proptest! {
    #![proptest_config(crate::fake::cases(120))]

    /// What no register shows cannot be moved: the priority at which an interrupt was acknowledged, if it has another since; on which of
    /// two vCPUs that handle the same priority it is. So a handler's interrupt keeps priority, group and targets here.
    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn goes_on_elsewhere(
        list_registers in prop_oneof![3 => Just(4usize), 1 => 1usize..=3],
        before in proptest::collection::vec(step(), 1..120),
        after in proptest::collection::vec(step(), 1..120),
    ) {
        let mut machine = Machine::new(list_registers);
        let mut reference = Reference::new(VCPUS, NR_IRQS);
        set_up(&mut machine, &mut reference, 3);
        for half in [before, after] {
            for step in &half {
                if step.leaves_handlers_alone(&reference) {
                    step_and_check(&mut machine, &mut reference, step);
                }
            }
            machine = moved(&mut machine, &mut reference);
            read_back(&mut machine, &mut reference);
        }
        drain(&mut machine, &mut reference);
        read_back(&mut machine, &mut reference);
    }
}

impl Step {
    /// Changes nothing that decides where and when the end of a handler under way comes.
    fn leaves_handlers_alone(&self, reference: &Reference) -> bool {
        let handled =
            |intid: u32| reference.cpus.iter().any(|cpu| cpu.handling.iter().any(|handled| handled.0 == intid));
        match *self {
            Step::Priority { intid, .. } | Step::Target { intid, .. } | Step::Group { intid, .. } => !handled(intid),
            _ => true,
        }
    }
}

fn fresh() -> TestVgic {
    Machine::new(4).vgic
}

#[test]
fn groups_can_be_written_once_the_process_has_written_what_kind_of_gic_it_is() {
    let mut vgic = fresh();
    let iidr = vgic.read_state(0, gicd::IIDR);
    assert_eq!(iidr, 0x4b00_243b);
    vgic.write_state(0, gicd::IGROUPR + 4, 5).unwrap();
    assert_eq!(vgic.read_state(0, gicd::IGROUPR + 4), 0);
    for wrong in [0, iidr ^ 1, iidr ^ 1 << 12, iidr ^ 1 << 31] {
        assert_eq!(vgic.write_state(0, gicd::IIDR, wrong), Err(StateError));
    }
    vgic.write_state(0, gicd::IGROUPR + 4, 5).unwrap();
    assert_eq!(vgic.read_state(0, gicd::IGROUPR + 4), 0);
    vgic.write_state(1, gicd::IIDR, iidr).unwrap();
    vgic.write_state(0, gicd::IGROUPR + 4, 5).unwrap();
    assert_eq!(vgic.read_state(0, gicd::IGROUPR + 4), 5);
}

#[test]
fn a_process_reaches_pending_sgis_by_either_register() {
    let mut vgic = fresh();
    // A guest does not.
    let _ = vgic.dist_write(1, gicd::ISPENDR, 4, 1 << 3);
    assert_eq!(vgic.read_state(1, gicd::ISPENDR), 0);
    vgic.write_state(1, gicd::ISPENDR, 1 << 3 | 1 << 20).unwrap();
    assert_eq!(
        (vgic.read_state(1, gicd::ISPENDR), vgic.read_state(1, gicd::SPENDSGIR)),
        (1 << 3 | 1 << 20, 0x0200_0000)
    );
    vgic.write_state(1, gicd::SPENDSGIR, 0x0500_0000).unwrap();
    assert_eq!(vgic.read_state(1, gicd::CPENDSGIR), 0x0700_0000);
    vgic.write_state(1, gicd::ICPENDR, 1 << 3).unwrap();
    assert_eq!((vgic.read_state(1, gicd::ISPENDR), vgic.read_state(1, gicd::SPENDSGIR)), (1 << 20, 0));
    assert_eq!(vgic.read_state(0, gicd::ISPENDR), 0, "another vCPU's");
}

#[test]
fn the_cpu_interface_is_gichs_and_the_mask_has_five_bits() {
    let mut parked = Parked { vmcr: 0x1f << gich::VMCR_PMR_SHIFT, apr: 0 };
    for (offset, value, reads) in [
        (gicc::CTLR, u32::MAX, 0x21f),
        (gicc::CTLR, 1, 1),
        (gicc::PMR, 0x1e, 0x1e),
        (gicc::PMR, 0xf5, 0x15),
        (gicc::BPR, 0xfd, 5),
        (gicc::ABPR, 3, 3),
        (gicc::APR0, 0x8000_0001, 0x8000_0001),
        (gicc::APR0 + 4, 7, 0),
        (gicc::IIDR, 7, 0x04b2_043b),
        (gicc::IAR, 7, 0),
    ] {
        parked.write(offset, value);
        assert_eq!(parked.read(offset), reads, "{offset:#x}");
    }
    assert_eq!(parked, Parked { vmcr: 0x15 << 27 | 5 << 21 | 3 << 18 | 1, apr: 0x8000_0001 });
    let there: Vec<u32> = (0..0x200).filter(|&offset| Parked::has(offset)).collect();
    assert_eq!(there, [0, 4, 8, 0x1c, 0xd0, 0xd4, 0xd8, 0xdc, 0xfc]);
}

/// More handlers are under way than there are list registers, and a move in the midst: each end is still that of the right one.
#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn nested_handlers_end_in_order_elsewhere() {
    let (mut machine, mut reference) = (Machine::new(4), Reference::new(VCPUS, NR_IRQS));
    set_up(&mut machine, &mut reference, 1);
    let vcpu = 0;
    // One is active that nobody handles: its priority is among theirs, but none of theirs.
    step_and_check(&mut machine, &mut reference, &Step::Priority { vcpu, intid: 50, priority: 1 << 3 });
    step_and_check(&mut machine, &mut reference, &Step::Activate { vcpu, intid: 50, on: true, by_dir: false });
    for (level, intid) in (40..48).enumerate() {
        let priority = (20 - 2 * level as u8) << 3;
        for step in [
            Step::Configure { vcpu, intid, edge: true },
            Step::Priority { vcpu, intid, priority },
            Step::Line { vcpu, intid, level: true },
            Step::Acknowledge { vcpu },
        ] {
            step_and_check(&mut machine, &mut reference, &step);
        }
    }
    for _ in 0..8 {
        machine = moved(&mut machine, &mut reference);
        step_and_check(&mut machine, &mut reference, &Step::Leave { vcpu });
        step_and_check(&mut machine, &mut reference, &Step::End { vcpu });
        read_back(&mut machine, &mut reference);
    }
    assert!(reference.cpus[vcpu].handling.is_empty());
}

/// An interrupt that goes elsewhere from now on ends where it is handled.
#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn a_handler_is_found_by_its_priority() {
    let (mut machine, mut reference) = (Machine::new(4), Reference::new(VCPUS, NR_IRQS));
    set_up(&mut machine, &mut reference, 1);
    let intid = 40;
    for step in [
        Step::Target { vcpu: 0, intid, targets: 1 << 2 },
        Step::Line { vcpu: 0, intid, level: true },
        Step::Acknowledge { vcpu: 2 },
        Step::Line { vcpu: 0, intid, level: false },
        Step::Target { vcpu: 0, intid, targets: 1 },
    ] {
        step_and_check(&mut machine, &mut reference, &step);
    }
    machine = moved(&mut machine, &mut reference);
    // What the line made pending before the move is not any more: it was acknowledged.
    step_and_check(&mut machine, &mut reference, &Step::Leave { vcpu: 2 });
    step_and_check(&mut machine, &mut reference, &Step::End { vcpu: 2 });
    read_back(&mut machine, &mut reference);
    step_and_check(&mut machine, &mut reference, &Step::Line { vcpu: 0, intid, level: true });
    step_and_check(&mut machine, &mut reference, &Step::Leave { vcpu: 0 });
    step_and_check(&mut machine, &mut reference, &Step::Acknowledge { vcpu: 0 });
    assert_eq!(reference.cpus[0].handling.len(), 1);
}
