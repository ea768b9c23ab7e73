// SPDX-License-Identifier: GPL-2.0-only
//! Each call that allocates, with every allocation in turn the first that fails: the error says so, and all is as it was.

use super::tests::*;
use super::*;
use crate::fake;
use crate::memslots::LOG_DIRTY_PAGES;
use std::vec::Vec;

type Log = Result<Vec<u32>, LogError>;

/// All that a guest and its process can see of a VM's memory, and how many pages its tables take.
#[derive(Debug, PartialEq)]
struct Seen {
    leaves: Vec<Found>,
    log: Log,
    addresses: Vec<Option<(HostVirt, bool)>>,
    generation: u32,
    tables: usize,
}

impl Vm {
    fn dirty_words(&self) -> Log {
        let words = |log: crate::memslots::DirtyLog<'_>| log.bitmap.to_vec();
        self.memory.state.lock().slots.dirty_log(0).map(words).map_err(LogError::from)
    }

    /// Tables in the vCPU's store count as none: how many there are may change.
    fn seen(&mut self) -> Seen {
        self.cache = TableCache::new();
        Seen {
            leaves: self.leaves(),
            log: self.dirty_words(),
            addresses: [0, 1, 512, 1024, 2048, 2560].map(|page| self.memory.host_address(ipa(page))).into(),
            generation: self.memory.slots_generation(),
            tables: self.host.live_tables(),
        }
    }
}

/// Tries `call` in VMs that `make` makes, with one more allocation each time until none fails. How many it needed.
fn allocations<E: core::fmt::Debug + PartialEq + Copy>(
    error: E,
    make: impl Fn() -> Vm,
    call: impl Fn(&mut Vm) -> Result<(), E>,
) -> usize {
    for allowed in 0..10 {
        let mut vm = make();
        let before = vm.seen();
        vm.host.allow_allocations(Some(allowed));
        let result = call(&mut vm);
        vm.host.allow_allocations(None);
        if result.is_ok() {
            return allowed;
        }
        assert_eq!(result, Err(error), "with {allowed} allocations");
        assert_eq!(vm.seen(), before, "after a failure with {allowed} allocations");
        assert_eq!(call(&mut vm), Ok(()), "tried again with all the memory that it needs");
    }
    unreachable!("nothing here needs ten allocations")
}

fn nothing(_: Change) {}

fn mapped(outcome: FaultOutcome) {
    assert_eq!(outcome, FaultOutcome::Mapped);
}

/// Slot 0 logs or not, a page of it is mapped and, if it logs, dirty.
fn used(flags: u32) -> Vm {
    let mut vm = Vm::with_ram(flags);
    vm.fault(0, Access::Write).map(mapped).unwrap();
    vm
}

/// The first 2 MiB of slot 0 are mapped as a block, and then the slot logs.
fn with_a_block() -> Vm {
    let mut vm = Vm::with_ram(0);
    for page in 0..512 {
        vm.host.set_page(hva(page), Ok(Resolved { block: true, ..resolved(page, true) }));
    }
    vm.fault(0, Access::Write).map(mapped).unwrap();
    vm.memory.set_region(&ram(LOG_DIRTY_PAGES)).unwrap();
    vm
}

#[test]
fn a_new_vm() {
    for allowed in 0..2 {
        let host = fake::Host::new();
        host.allow_allocations(Some(allowed));
        assert!(GuestMemory::new(host.clone(), HostVirt::new(0xbf00_0000)).is_err());
        assert_eq!(host.live_tables(), 0);
    }
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn slots() {
    let set = |region: Region| move |vm: &mut Vm| vm.memory.set_region(&region).map(nothing);
    let other = Region { slot: 1, guest_phys_addr: RAM + (8 << 20), ..ram(LOG_DIRTY_PAGES) };
    let moved = Region { guest_phys_addr: RAM + BLOCK, ..ram(LOG_DIRTY_PAGES) };
    let gone = Region { memory_size: 0, ..ram(0) };
    for (what, flags, region, needed) in [
        ("a slot that logs", 0, other, 1),
        ("a slot that does not", 0, Region { flags: 0, ..other }, 0),
        ("logging", 0, ram(LOG_DIRTY_PAGES), 1),
        ("no longer logging", LOG_DIRTY_PAGES, ram(0), 0),
        ("moving and logging", 0, moved, 1),
        ("moving what logs", LOG_DIRTY_PAGES, moved, 0),
    ] {
        assert_eq!(allocations(SlotError::OutOfMemory, || used(flags), set(region)), needed, "{what}");
    }
    assert_eq!(used(LOG_DIRTY_PAGES).memory.set_region(&gone), Ok(Change::Delete));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn faults() {
    let fault = |page| move |vm: &mut Vm| vm.fault(page, Access::Write).map(mapped);
    let clean = || {
        let vm = used(LOG_DIRTY_PAGES);
        vm.memory.read_dirty_log(0, |_, _| Ok::<_, LogError>(())).unwrap();
        vm
    };
    // The store is filled before it is known what the fault takes.
    for (what, make, page) in [
        ("a page in new tables", (|| Vm::with_ram(0)) as fn() -> Vm, 0),
        ("a page beside others", || used(0), 1),
        ("a page whose write is to be logged", || used(LOG_DIRTY_PAGES), 1),
        ("a page of a block that is to be split", with_a_block, 1),
    ] {
        assert_eq!(allocations(Unresolved::OutOfMemory, make, fault(page)), 2, "{what}");
    }
    assert_eq!(allocations(Unresolved::OutOfMemory, clean, fault(0)), 2);
    let device = |vm: &mut Vm| vm.memory.map_device(Ipa::new(0x0801_0000), HostPhys::new(0x2c00_6000), &mut vm.cache);
    assert_eq!(allocations(Unresolved::OutOfMemory, || used(0), device), 2);
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn logs() {
    let clear = |vm: &mut Vm| {
        vm.memory.clear_dirty_log(0, 0, 64, |words| {
            words.fill(u32::MAX);
            Ok::<_, LogError>(())
        })
    };
    assert_eq!(allocations(LogError::OutOfMemory, || used(LOG_DIRTY_PAGES), clear), 1);
    let read = |vm: &mut Vm| vm.memory.read_dirty_log(0, |_, _| Ok::<_, LogError>(()));
    assert_eq!(allocations(LogError::OutOfMemory, || used(LOG_DIRTY_PAGES), read), 0);
}
