// SPDX-License-Identifier: GPL-2.0-only
//! VMIDs on loom's atomics: the schedules of a few entries on a few CPUs, up to three preemptions, and every value that a load may see.
//!
//! What `vmid_tests.rs` takes for granted is looked at here: that the accesses to slots and to the generation are ordered as the
//! argument in `vmid.rs` says. A CPU is a thread; its interrupts are a lock that it holds while they are off, so that the interrupt of
//! a roll-over waits for it as the real one does. TLBs belong to the hardware and order nothing, so they are no business of loom's.
//!
//! loom 0.7 takes the SeqCst accesses for acquire and release. So what passes here passes with less than the code asks for: that lock
//! stands where the code has the mark in the guest, and orders the look at the generation after the interrupt. That the mark is enough
//! for it is tried in `crate::loom_tests`, by its fences, which loom knows.

use super::*;
use loom::sync::atomic::{AtomicBool, AtomicUsize};
use loom::sync::{Arc, Mutex, MutexGuard};
use loom::thread;
use std::collections::HashMap;
use std::sync::Mutex as Unseen;
use std::vec::Vec;

/// A lock of loom's.
struct LoomLock<T>(Mutex<T>);

impl<T> Lock<T> for LoomLock<T> {
    type Guard<'a>
        = MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }
}

struct Cpu {
    /// Held while its interrupts are off.
    interrupts: Mutex<()>,
    /// Whose entries are tagged with each VMID.
    tlb: Unseen<HashMap<u8, usize>>,
    /// Counts accesses to the TLB, so that loom tries them in every order.
    accesses: AtomicUsize,
}

impl Cpu {
    fn new() -> Self {
        Self { interrupts: Mutex::new(()), tlb: Unseen::default(), accesses: AtomicUsize::new(0) }
    }

    fn tlb(&self) -> std::sync::MutexGuard<'_, HashMap<u8, usize>> {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        self.tlb.lock().unwrap()
    }
}

#[derive(Clone)]
struct Machine(Arc<Vec<Cpu>>);

impl Cpus for Machine {
    type Mutex<T> = LoomLock<T>;

    fn exit_all_guests(&self) {
        for cpu in self.0.iter() {
            drop(cpu.interrupts.lock().unwrap());
        }
    }

    fn flush_all(&self) {
        for cpu in self.0.iter() {
            cpu.tlb().clear();
        }
    }

    fn complete_flush(&self) {}
}

/// How often a CPU tries to enter. Two that take the only VMID from each other may do so for ever.
const TRIES: usize = 3;

/// What the CPUs share.
struct World {
    machine: Machine,
    vmids: Vmids<Machine>,
    slots: Vec<VmidSlot>,
    /// Which VMID each VM had in each generation.
    given: Unseen<HashMap<(u64, usize), u8>>,
}

impl World {
    /// VM `vm` enters its guest on `cpu` once, by the steps of the run loop, unless others take its VMID away each time.
    fn enter(&self, cpu: usize, vm: usize) {
        let (here, slot) = (&self.machine.0[cpu], &self.slots[vm]);
        for _ in 0..TRIES {
            if !self.vmids.is_current(slot) {
                self.vmids.assign(slot);
            }
            let _interrupts_off = here.interrupts.lock().unwrap();
            let Some(vttbr) = self.vmids.vttbr(slot, HostPhys::new(0)) else { continue };
            let vmid = vttbr.vmid().get();
            assert!((1..self.vmids.limit).contains(&vmid.into()), "VMID {vmid} was never there to be given out");
            // Twice: between the two, others may do what they like.
            for _ in 0..2 {
                assert_eq!(*here.tlb().entry(vmid).or_insert(vm), vm, "a guest hits the TLB entry of another");
                let generation = slot.generation();
                let mut given = self.given.lock().unwrap();
                assert_eq!(
                    *given.entry((generation, vm)).or_insert(vmid),
                    vmid,
                    "a VM has two VMIDs: flushes miss one"
                );
            }
            return;
        }
    }
}

/// Tries `entries`, a list for each CPU of the VMs that enter there one after the other, with VMIDs below `limit`.
fn explore(limit: u16, entries: &'static [&'static [usize]]) {
    let mut builder = loom::model::Builder::new();
    // Enough for each bug that was put in to see whether it shows; without a bound the larger cases take hours.
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let machine = Machine(Arc::new(entries.iter().map(|_| Cpu::new()).collect()));
        let vms = entries.iter().flat_map(|vms| vms.iter()).max().map_or(0, |last| last + 1);
        let vmids = Vmids::with_limit(machine.clone(), limit);
        let world = Arc::new(World {
            machine,
            vmids,
            slots: (0..vms).map(|_| VmidSlot::new()).collect(),
            given: Unseen::default(),
        });
        let others: Vec<_> = (1..entries.len())
            .map(|cpu| {
                let world = world.clone();
                thread::spawn(move || entries[cpu].iter().for_each(|vm| world.enter(cpu, *vm)))
            })
            .collect();
        entries[0].iter().for_each(|vm| world.enter(0, *vm));
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn two_vms_take_the_only_vmid_from_each_other() {
    explore(2, &[&[0, 1], &[1, 0]]);
}

#[test]
fn two_vcpus_of_a_vm_share_its_vmid_over_a_roll_over() {
    explore(2, &[&[0, 1], &[0, 0]]);
}

#[test]
fn three_vms_share_two_vmids() {
    explore(3, &[&[0, 1], &[2, 0]]);
}

#[test]
fn three_cpus_share_two_vmids() {
    explore(3, &[&[0], &[1], &[2]]);
}

/// A VM with one page, and a TLB that may hold it.
struct Paged {
    vmids: Vmids<Machine>,
    slot: VmidSlot,
    /// What the table says. The hardware reads it in no order but that of its walks.
    mapped: AtomicBool,
    /// Whether the TLB has the page. Held during a walk: an invalidation waits for those that have begun (B3.10.1).
    tlb: Mutex<bool>,
    /// Whether the page is somebody else's by now.
    freed: Unseen<bool>,
}

impl Paged {
    /// The VM's first run.
    fn run(&self) {
        self.vmids.assign(&self.slot);
        let _interrupts_off = self.vmids.host.0[0].interrupts.lock().unwrap();
        // What `Vcpu::set_in_guest` does between a vCPU's mark and its last look.
        fence(Ordering::SeqCst);
        assert!(self.vmids.is_current(&self.slot));
        {
            let mut tlb = self.tlb.lock().unwrap();
            *tlb = self.mapped.load(Ordering::Relaxed);
        }
        let tlb = self.tlb.lock().unwrap();
        assert!(!(*tlb && *self.freed.lock().unwrap()), "a guest uses a page that was taken away");
    }

    /// Takes the page away from the VM.
    fn take_away(&self) {
        self.mapped.store(false, Ordering::Relaxed);
        if self.slot.vttbr_to_flush(HostPhys::new(0)).is_some() {
            *self.tlb.lock().unwrap() = false;
        }
        *self.freed.lock().unwrap() = true;
    }
}

/// Whoever takes a page away while its VM runs for the first time either sees the VMID and flushes, or the guest's walks see that the
/// page is gone.
#[test]
fn a_page_that_goes_before_its_vm_has_a_vmid_is_not_seen() {
    loom::model(|| {
        let paged = Arc::new(Paged {
            vmids: Vmids::new(Machine(Arc::new(std::vec![Cpu::new()]))),
            slot: VmidSlot::new(),
            mapped: AtomicBool::new(true),
            tlb: Mutex::new(false),
            freed: Unseen::new(false),
        });
        let other = paged.clone();
        let guest = thread::spawn(move || other.run());
        paged.take_away();
        guest.join().unwrap();
    });
}
