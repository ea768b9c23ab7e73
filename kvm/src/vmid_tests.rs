// SPDX-License-Identifier: GPL-2.0-only
//! VMIDs against a model of CPUs with tagged TLBs.
//!
//! A CPU that runs a guest fills its TLB with entries that remember the VM they are really of. A guest that hits another
//! VM's entry fails the test. Entering takes the steps that the run loop takes (mark, check, enter), and each may happen
//! on any CPU between any two steps of a roll-over on another.

use super::*;
use crate::fake::{self, Event};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::vec::Vec;

const CPUS: usize = 3;

#[derive(Clone)]
enum Cpu {
    Host,
    /// In the guest as far as other CPUs can tell; the generation is not checked yet.
    Marked(Vm),
    /// Checked, with this VTTBR in hand.
    Checked(Vm, Vttbr),
    Running(Vm, Vttbr),
}

#[derive(Clone)]
struct Vm {
    /// Never used again for another VM.
    serial: u32,
    slot: Arc<VmidSlot>,
}

struct World {
    cpus: [Cpu; CPUS],
    tlbs: [HashMap<u8, u32>; CPUS],
    /// What happens on other CPUs while a roll-over goes on.
    meanwhile: Vec<(usize, Vm)>,
    roll_overs: usize,
}

impl World {
    /// Runs the guest for a moment: it uses its TLB.
    fn touch(&mut self, cpu: usize) {
        if let Cpu::Running(vm, vttbr) = &self.cpus[cpu] {
            assert_ne!(vttbr.vmid().get(), 0, "a guest runs with the host's VMID");
            let owner = *self.tlbs[cpu].entry(vttbr.vmid().get()).or_insert(vm.serial);
            assert_eq!(owner, vm.serial, "a guest hits the TLB entry of another");
        }
    }

    fn check(&mut self, vmids: &Vmids<fake::Host>, cpu: usize) {
        if let Cpu::Marked(vm) = &self.cpus[cpu] {
            self.cpus[cpu] = match vmids.vttbr(&vm.slot, HostPhys::new(0)) {
                Some(vttbr) => Cpu::Checked(vm.clone(), vttbr),
                None => Cpu::Host,
            }
        }
    }

    fn enter(&mut self, cpu: usize) {
        if let Cpu::Checked(vm, vttbr) = self.cpus[cpu].clone() {
            self.cpus[cpu] = Cpu::Running(vm, vttbr);
            self.touch(cpu);
        }
    }

    /// What the CPUs do when told to leave their guests: all that they were about to do first.
    fn leave_all(&mut self, vmids: &Vmids<fake::Host>) {
        for cpu in 0..CPUS {
            self.check(vmids, cpu);
            self.enter(cpu);
            self.touch(cpu);
            self.cpus[cpu] = Cpu::Host;
        }
    }

    /// The other CPUs come back at the worst moment.
    fn come_back(&mut self, vmids: &Vmids<fake::Host>) {
        for (cpu, vm) in self.meanwhile.clone() {
            if let Cpu::Host = self.cpus[cpu] {
                self.cpus[cpu] = Cpu::Marked(vm);
            }
            self.check(vmids, cpu);
            self.enter(cpu);
        }
    }
}

fn open(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    /// On this CPU, the run loop of this VM goes on by one step.
    Advance(usize, usize),
    Leave(usize),
    /// This VM dies (once it runs nowhere) and another takes its place.
    Replace(usize),
}

fn step(vms: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..CPUS, 0..vms).prop_map(|(cpu, vm)| Step::Advance(cpu, vm)),
        2 => (0..CPUS).prop_map(Step::Leave),
        3 => (0..vms).prop_map(Step::Replace),
    ]
}

/// Returns how many roll-overs there were.
fn run(limit: u16, vms: usize, steps: impl IntoIterator<Item = Step>) -> usize {
    let host = fake::Host::new();
    let vmids = Arc::new(Vmids::with_limit(host.clone(), limit));
    let world = Arc::new(Mutex::new(World {
        cpus: [const { Cpu::Host }; CPUS],
        tlbs: Default::default(),
        meanwhile: Vec::new(),
        roll_overs: 0,
    }));
    let (seen, those) = (world.clone(), Arc::downgrade(&vmids));
    host.observe(move |event| {
        let vmids = those.upgrade().unwrap();
        let mut world = open(&seen);
        match event {
            Event::ExitAllGuests => {
                world.come_back(&vmids);
                world.leave_all(&vmids);
                world.come_back(&vmids);
            }
            Event::FlushAll => {
                for cpu in 0..CPUS {
                    world.touch(cpu);
                }
                world.tlbs = Default::default();
                world.roll_overs += 1;
                world.come_back(&vmids);
            }
            other => panic!("unexpected {other:?}"),
        }
    });
    let mut serials = 0..;
    let mut new_vm = || Vm { serial: serials.next().unwrap(), slot: Arc::new(VmidSlot::new()) };
    let mut alive: Vec<Vm> = (0..vms).map(|_| new_vm()).collect();
    for step in steps {
        let now = match step {
            Step::Leave(cpu) => {
                open(&world).cpus[cpu] = Cpu::Host;
                continue;
            }
            Step::Replace(vm) => {
                let serial = alive[vm].serial;
                let busy = open(&world).cpus.iter().any(|cpu| match cpu {
                    Cpu::Host => false,
                    Cpu::Marked(vm) | Cpu::Checked(vm, _) | Cpu::Running(vm, _) => vm.serial == serial,
                });
                if !busy {
                    alive[vm] = new_vm();
                }
                continue;
            }
            Step::Advance(cpu, vm) => {
                let now = open(&world).cpus[cpu].clone();
                match now {
                    Cpu::Host => {
                        // The slow path, with interrupts on. The other CPUs run on while it rolls over.
                        let vm = alive[vm].clone();
                        open(&world).meanwhile =
                            (0..CPUS).filter(|other| *other != cpu).zip(alive.iter().cloned()).collect();
                        if !vmids.is_current(&vm.slot) {
                            vmids.assign(&vm.slot);
                        }
                        open(&world).cpus[cpu] = Cpu::Marked(vm);
                        continue;
                    }
                    Cpu::Marked(_) => (cpu, true),
                    _ => (cpu, false),
                }
            }
        };
        let (cpu, marked) = now;
        let mut world = open(&world);
        if marked {
            world.check(&vmids, cpu);
        } else {
            world.enter(cpu);
        }
        // Everybody who runs goes on running.
        for cpu in 0..CPUS {
            world.touch(cpu);
        }
        // Those who run have VMIDs of their own.
        let mut running = HashMap::new();
        for cpu in &world.cpus {
            if let Cpu::Running(vm, vttbr) = cpu {
                assert_eq!(*running.entry(*vttbr).or_insert(vm.serial), vm.serial, "two VMs run with one VMID");
            }
        }
    }
    open(&world).roll_overs
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn no_guest_sees_entries_of_another(
        limit in 2u16..7,
        steps in prop::collection::vec(step(5), 1..400),
    ) {
        run(limit, 5, steps);
    }
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn all_255_vmids_are_used_before_a_roll_over() {
    // Each VM runs once on CPU 0 and is replaced.
    let once = [Step::Advance(0, 0), Step::Advance(0, 0), Step::Advance(0, 0), Step::Leave(0), Step::Replace(0)];
    let vms = |count: usize| once.iter().cycle().take(once.len() * count).cloned();
    assert_eq!(run(VMIDS, 1, vms(255)), 0);
    assert_eq!(run(VMIDS, 1, vms(256)), 1);
    assert_eq!(run(VMIDS, 1, vms(255 * 4 + 1)), 4);
}

#[test]
fn a_vm_keeps_its_vmid_within_a_generation() {
    let vmids = Vmids::new(fake::Host::new());
    let slot = VmidSlot::new();
    assert!(!vmids.is_current(&slot));
    assert_eq!(slot.vttbr(HostPhys::new(0x4000)), None);
    vmids.assign(&slot);
    vmids.assign(&slot);
    assert!(vmids.is_current(&slot));
    assert_eq!(slot.vttbr(HostPhys::new(0x4000)), Some(Vttbr::from_bits(1 << 48 | 0x4000)));
    let other = VmidSlot::new();
    vmids.assign(&other);
    assert_eq!(other.vttbr(HostPhys::new(0)), Some(Vttbr::from_bits(2 << 48)));
}

#[test]
fn a_local_flush_is_due_when_vcpus_of_a_vm_take_turns() {
    let last = LastRan::new(&fake::Host::new()).unwrap();
    assert!(!last.note(0, 0), "nothing ran there");
    assert!(!last.note(0, 0));
    assert!(last.note(0, 1));
    assert!(!last.note(1, 1), "another CPU has another TLB");
    assert!(last.note(0, 0));
    assert!(last.note(99, 0), "a CPU beyond the array is never trusted");
}
