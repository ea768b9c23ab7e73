// SPDX-License-Identifier: GPL-2.0-only
//! The life of a VM: vCPUs come first, then the interrupt controller, once.

use super::*;
use crate::fake;
use crate::run::machine::{CPU, DIST, GICV, Machine, hardware};
use crate::vcpu::VcpuState;
use std::sync::Arc;
use std::vec::Vec;

const USER_END: HostVirt = HostVirt::new(0xbf00_0000);

fn hypervisor() -> (fake::Host, Hypervisor<fake::Host>) {
    let host = fake::Host::new();
    (host.clone(), Hypervisor::new(host, hardware()))
}

fn addresses(vm: &Vm<fake::Host>) -> [Result<Option<Ipa>, IrqchipError>; 2] {
    [Region::Distributor, Region::CpuInterface].map(|region| vm.irqchip_address(region))
}

/// The fake host fails the test if any of what was allocated before the failure is not given back.
#[test]
fn no_allocation_leaves_anything_behind_when_it_fails() {
    let (host, hypervisor) = hypervisor();
    let mut failures = 0;
    let vm = loop {
        host.allow_allocations(Some(failures));
        match Vm::new(&hypervisor, USER_END) {
            Ok(vm) => break vm,
            Err(OutOfMemory) => failures += 1,
        }
        assert_eq!(host.live_tables(), 0);
    };
    // The array of vCPUs, eight waiters, the root table, where each vCPU last ran.
    assert!(failures >= 11, "{failures} allocations");

    let tables = host.live_tables();
    let mut failures = 0;
    loop {
        host.allow_allocations(Some(failures));
        match VcpuState::new(&host, vm.place(0).unwrap().waiter()) {
            Ok(_) => break,
            Err(OutOfMemory) => failures += 1,
        }
        assert_eq!(host.live_tables(), tables);
    }
    assert_eq!(failures, 2, "a context page and a timer");

    assert!(vm.create_vcpu(0));
    vm.create_irqchip().unwrap();
    let mut failures = 0;
    loop {
        host.allow_allocations(Some(failures));
        match vm.initialise_irqchip(&hypervisor) {
            Ok(()) => break,
            Err(error) => assert_eq!(error, IrqchipError::OutOfMemory),
        }
        assert!(!vm.has_running_irqchip() && vm.takes_vcpus());
        assert_eq!(vm.nr_irqs(), None);
        failures += 1;
    }
    assert_eq!(failures, 2, "interrupts and the rest");
    assert_eq!(vm.nr_irqs(), Some(256));
}

#[test]
fn vcpus_have_numbers_from_zero_to_seven_once() {
    let (_host, hypervisor) = hypervisor();
    let vm = Vm::new(&hypervisor, USER_END).unwrap();
    assert!(vm.vcpu(0).is_none() && vm.place(0).is_some() && vm.place(8).is_none());
    assert!(vm.create_vcpu(7) && vm.create_vcpu(2));
    assert_eq!([2, 7, 8, 31, 32, usize::MAX].map(|number| vm.create_vcpu(number)), [false; 6]);
    assert_eq!(vm.vcpus().map(|(number, _)| number).collect::<Vec<_>>(), [2, 7]);
    assert_eq!([1, 8, 32, usize::MAX].map(|number| vm.vcpu(number).is_some()), [false; 4]);
    assert_eq!(vm.all_but(2), Kicks::one(7));
    vm.forget_vcpu(7);
    vm.forget_vcpu(usize::MAX);
    assert!(vm.vcpu(7).is_none() && vm.create_vcpu(7));
    for number in [2, 3] {
        vm.place(number).unwrap().pretend_to_sleep();
    }
    vm.kick(Kicks::one(2) | Kicks::one(3));
    assert_eq!([2, 3].map(|number| vm.place(number).unwrap().waiter().wakes()), [1, 0]);
}

#[test]
fn the_controller_is_asked_for_once_and_before_anything_is_said_of_it() {
    let (_host, hypervisor) = hypervisor();
    let vm = Vm::new(&hypervisor, USER_END).unwrap();
    assert!(!vm.has_irqchip());
    assert_eq!(addresses(&vm), [Err(IrqchipError::Missing); 2]);
    assert_eq!(vm.set_irqchip_address(Region::Distributor, DIST), Err(IrqchipError::Missing));
    assert_eq!(vm.initialise_irqchip(&hypervisor), Err(IrqchipError::Missing));
    assert_eq!(vm.set_line(0, 40, true), Err(Invalid::Interrupt));
    assert_eq!(vm.create_irqchip(), Ok(()));
    assert_eq!(vm.create_irqchip(), Err(IrqchipError::Exists));
    assert!(vm.has_irqchip() && !vm.has_running_irqchip());
    assert_eq!(addresses(&vm), [Ok(None); 2]);
    assert_eq!(vm.initialise_irqchip(&hypervisor), Err(IrqchipError::Missing), "no vCPU yet");
}

#[test]
fn a_region_has_to_lie_somewhere_sensible() {
    let (_host, hypervisor) = hypervisor();
    let vm = Vm::new(&hypervisor, USER_END).unwrap();
    vm.create_irqchip().unwrap();
    let dist = |at| vm.set_irqchip_address(Region::Distributor, at);
    let cpu = |at| vm.set_irqchip_address(Region::CpuInterface, at);
    assert_eq!([dist(DIST + 4), cpu(CPU + 0x800)], [Err(IrqchipError::Unaligned); 2]);
    assert_eq!([dist(1 << 40), cpu(u64::MAX), dist((1 << 40) + 1)], [Err(IrqchipError::OutOfRange); 3]);
    assert_eq!(cpu((1 << 40) - 0x1000), Err(IrqchipError::OutOfRange), "its second page");
    assert_eq!(addresses(&vm), [Ok(None); 2]);
    assert_eq!(dist((1 << 40) - 0x1000), Ok(()), "the last page of all");
    assert_eq!(dist(DIST), Err(IrqchipError::Exists));
    assert_eq!(addresses(&vm)[0], Ok(Some(Ipa::new((1 << 40) - 0x1000))));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn a_vcpu_does_not_run_where_regions_overlap() {
    for (first, others) in [
        (Region::Distributor, [(CPU - 0x1000, false), (CPU, false), (CPU - 0x2000, true), (CPU + 0x1000, true)]),
        (Region::CpuInterface, [(CPU, false), (CPU + 0x1000, false), (CPU - 0x1000, true), (CPU + 0x2000, true)]),
    ] {
        for (at, fits) in others {
            let Machine { hypervisor, vm, .. } = &Machine::bare(1);
            vm.create_irqchip().unwrap();
            vm.set_irqchip_address(first, CPU).unwrap();
            let second = if first == Region::Distributor { Region::CpuInterface } else { Region::Distributor };
            let expected = if fits { Ok(()) } else { Err(IrqchipError::Invalid) };
            assert_eq!(vm.set_irqchip_address(second, at), Ok(()));
            assert_eq!(vm.prepare_to_run(hypervisor), expected, "{first:?} at {CPU:#x}, other at {at:#x}");
            assert_eq!((vm.has_running_irqchip(), vm.irqchip_address(second)), (fits, Ok(Some(Ipa::new(at)))));
        }
    }
}

#[test]
fn the_number_of_interrupts_is_said_once_and_early() {
    let (_host, hypervisor) = hypervisor();
    let vm = Vm::new(&hypervisor, USER_END).unwrap();
    vm.create_irqchip().unwrap();
    for count in [0, 32, 63, 65, 1025, 1056, u32::MAX] {
        assert_eq!(vm.set_nr_irqs(count), Err(IrqchipError::Invalid), "{count}");
    }
    assert_eq!(vm.set_nr_irqs(1024), Ok(()));
    assert_eq!(vm.set_nr_irqs(64), Err(IrqchipError::Busy));
    assert_eq!(vm.nr_irqs(), Some(1024));

    let machine = Machine::new(1);
    assert_eq!(machine.vm.set_nr_irqs(64), Err(IrqchipError::Busy), "it is made");
    assert_eq!(machine.vm.nr_irqs(), Some(256));
}

#[test]
fn it_is_made_for_the_vcpus_that_there_are() {
    let machine = Machine::bare(0);
    assert!(machine.vm.create_vcpu(4));
    machine.add_irqchip();
    // CPUNumber is the highest number.
    assert_eq!(machine.vm.with_vgic(|vgic| vgic.dist_read(4, arch::gic::gicd::TYPER, 4)), Some(4 << 5 | 7));
    assert!(!machine.vm.takes_vcpus() && !machine.vm.create_vcpu(0), "too late");
    assert!(machine.vm.vcpu(0).is_none());
    assert_eq!(machine.vm.initialise_irqchip(&machine.hypervisor), Ok(()), "again is no harm");
    assert_eq!(machine.vm.create_irqchip(), Err(IrqchipError::Exists));
}

#[test]
fn every_vcpus_timer_is_tied_to_the_hardware() {
    let machine = Machine::new(3);
    machine.vm.prepare_to_run(&machine.hypervisor).unwrap();
    for vcpu in 0..3 {
        let in_flight = machine.vm.with_vgic(|vgic| {
            let _ = vgic.set_level(vcpu, 27, true);
            [27, 30].map(|ppi| vgic.hw_active(vcpu, ppi))
        });
        assert_eq!(in_flight, Some([true, false]), "vCPU {vcpu}");
    }
}

#[test]
fn vcpus_that_come_while_it_is_made_are_not_forgotten() {
    for _ in 0..if cfg!(miri) { 5 } else { 200 } {
        let machine = Machine::bare(1);
        machine.vm.create_irqchip().unwrap();
        let vm: Arc<Vm<fake::Host>> = machine.vm.clone();
        let other = std::thread::spawn(move || vm.create_vcpu(5));
        machine.vm.initialise_irqchip(&machine.hypervisor).unwrap();
        let cpus = if other.join().unwrap() { 6 } else { 1 };
        let typer = machine.vm.with_vgic(|vgic| vgic.dist_read(0, arch::gic::gicd::TYPER, 4));
        assert_eq!(typer, Some((cpus - 1) << 5 | 7));
    }
}

#[test]
fn it_is_too_late_for_one_when_a_vcpu_has_run() {
    let mut machine = Machine::bare(1);
    assert_eq!(machine.vm.prepare_to_run(&machine.hypervisor), Ok(()));
    assert_eq!(machine.vm.create_irqchip(), Err(IrqchipError::Busy));
    machine.script([]);
    machine.run(0);
    assert!(!machine.vm.has_irqchip() && !machine.vm.has_running_irqchip());
}

#[test]
fn a_vcpu_needs_both_addresses() {
    let machine = Machine::bare(1);
    machine.vm.create_irqchip().unwrap();
    machine.vm.initialise_irqchip(&machine.hypervisor).unwrap();
    assert_eq!(machine.vm.prepare_to_run(&machine.hypervisor), Err(IrqchipError::Incomplete));
    assert_eq!(machine.vm.hit(&machine.hypervisor, Ipa::new(DIST)), Hit::Nothing);
    machine.vm.set_irqchip_address(Region::CpuInterface, CPU).unwrap();
    assert_eq!(machine.vm.prepare_to_run(&machine.hypervisor), Err(IrqchipError::Incomplete));
    machine.vm.set_irqchip_address(Region::Distributor, DIST).unwrap();
    assert_eq!(machine.vm.prepare_to_run(&machine.hypervisor), Ok(()));
}

#[test]
fn what_an_access_hits() {
    let machine = Machine::new(1);
    machine.vm.prepare_to_run(&machine.hypervisor).unwrap();
    let hit = |at| machine.vm.hit(&machine.hypervisor, Ipa::new(at));
    assert_eq!([hit(DIST), hit(DIST + 0xfff)], [Hit::Distributor(0), Hit::Distributor(0xfff)]);
    let page = |offset| Hit::CpuInterface(HostPhys::new(GICV + offset));
    assert_eq!(
        [hit(CPU), hit(CPU + 0xfff), hit(CPU + 0x1000), hit(CPU + 0x1fff)],
        [page(0), page(0), page(0x1000), page(0x1000)]
    );
    assert_eq!([hit(DIST - 1), hit(CPU + 0x2000), hit(0), hit((1 << 40) - 1)], [Hit::Nothing; 4]);
}

#[test]
fn lines_are_driven_and_those_of_the_timers_are_not() {
    let machine = Machine::new(2);
    machine.enable_interrupts();
    let wakes = |number| machine.vm.place(number).unwrap().waiter().wakes();
    let before = [wakes(0), wakes(1)];
    machine.vm.vcpus().for_each(|(_, vcpu)| vcpu.pretend_to_sleep());
    assert_eq!(machine.vm.set_line(0, 40, true), Ok(()));
    assert_eq!([wakes(0), wakes(1)], [before[0] + 1, before[1]]);
    assert_eq!(machine.vm.set_line(0, 40, true), Ok(()));
    assert_eq!(wakes(0), before[0] + 1, "no change, no kick");
    for (vcpu, intid) in [(0, 15), (0, 256), (0, u32::MAX), (2, 20)] {
        assert_eq!(machine.vm.set_line(vcpu, intid, true), Err(Invalid::Interrupt), "{vcpu} {intid}");
    }
    assert_eq!(machine.vm.set_line(1, 20, true), Ok(()));
    let pending = || machine.vm.with_vgic(|vgic| vgic.dist_read(1, arch::gic::gicd::ISPENDR, 4));
    for timer in [27, 30] {
        assert_eq!(machine.vm.set_line(1, timer, true), Ok(()));
    }
    assert_eq!(pending(), Some(1 << 20));
}

#[test]
fn the_virtual_count_begins_at_zero() {
    let (host, hypervisor) = hypervisor();
    host.advance_to(12_345);
    let vm = Vm::new(&hypervisor, USER_END).unwrap();
    assert_eq!(vm.counter_offset(), 12_345);
    vm.set_counter_offset(7);
    assert_eq!(vm.counter_offset(), 7);
}

#[test]
fn firmware_tells_what_the_core_needs() {
    for (midr, firmware_hardens, expected) in [
        (0x410f_c075, false, BranchHardening::NotRequired),
        (0x412f_c0f1, false, BranchHardening::Available),
        (0x410f_d083, false, BranchHardening::Unavailable),
        (0x410f_d083, true, BranchHardening::Available),
        (0x410f_d034, true, BranchHardening::NotRequired),
    ] {
        let host = fake::Host::new();
        let mut hardware = Hardware { firmware_hardens, ..hardware() };
        hardware.id.midr = midr;
        let vm = Vm::new(&Hypervisor::new(host, hardware), USER_END).unwrap();
        assert_eq!(vm.firmware().branch_hardening, expected, "{midr:#x}");
        vm.set_psci_version(Version::V0_2);
        assert_eq!(vm.firmware().version, Version::V0_2);
    }
}

#[test]
fn an_interrupt_controller_that_nobody_got_can_be_asked_for_again() {
    let machine = Machine::bare(1);
    machine.vm.create_irqchip().unwrap();
    machine.vm.set_irqchip_address(Region::Distributor, DIST).unwrap();
    machine.vm.forget_irqchip();
    assert_eq!(machine.vm.irqchip_address(Region::Distributor), Err(IrqchipError::Missing));
    machine.add_irqchip();
    // One that is made stays.
    machine.vm.forget_irqchip();
    assert_eq!(machine.vm.create_irqchip(), Err(IrqchipError::Exists));
}
