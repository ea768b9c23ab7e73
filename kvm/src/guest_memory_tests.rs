// SPDX-License-Identifier: GPL-2.0-only
//! A guest's memory on a fake process whose memory comes and goes.

use super::*;
use crate::fake::{self, Event};
use crate::memslots::{LOG_DIRTY_PAGES, READONLY};
use crate::vmid::Vmids;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::vec::Vec;

const USER_END: HostVirt = HostVirt::new(0xbf00_0000);
pub(super) const RAM: u64 = 0x4000_0000;
pub(super) const HVA: u32 = 0x1000_0000;
pub(super) const PHYS: u64 = 0x8000_0000;
pub(super) const BLOCK: u64 = 2 << 20;

pub(super) struct Vm {
    pub(super) host: fake::Host,
    pub(super) memory: Arc<GuestMemory<fake::Host>>,
    pub(super) cache: TableCache<fake::Host>,
}

impl Vm {
    pub(super) fn new() -> Self {
        let host = fake::Host::new();
        let memory = Arc::new(GuestMemory::new(host.clone(), USER_END).unwrap());
        Vmids::new(host.clone()).assign(memory.vmid());
        Self { host, memory, cache: TableCache::new() }
    }

    /// With 8 MiB of RAM in slot 0, whose first 16 pages the process has.
    pub(super) fn with_ram(flags: u32) -> Self {
        let vm = Self::new();
        assert_eq!(vm.memory.set_region(&ram(flags)), Ok(Change::Create));
        for page in 0..16 {
            vm.give(page, true);
        }
        vm
    }

    pub(super) fn give(&self, page: u32, writable: bool) {
        self.host.set_page(hva(page), Ok(resolved(page, writable)));
    }

    pub(super) fn fault(&mut self, page: u32, access: Access) -> Result<FaultOutcome, Unresolved> {
        self.memory.fault(ipa(page), access, &mut self.cache)
    }

    pub(super) fn access(&self, page: u32) -> Option<Stage2Access> {
        self.memory.state.lock().stage2.lookup(ipa(page)).map(|found| found.mapping.access)
    }

    pub(super) fn leaves(&self) -> Vec<Found> {
        let state = self.memory.state.lock();
        let mut range = IpaRange::ALL;
        core::iter::from_fn(|| state.stage2.next_leaf(&mut range)).collect()
    }

    pub(super) fn flushed(&self) -> bool {
        self.host.take_events().iter().any(|event| matches!(event, Event::FlushVmid(_)))
    }
}

pub(super) fn ram(flags: u32) -> Region {
    Region { slot: 0, flags, guest_phys_addr: RAM, memory_size: 8 << 20, userspace_addr: HVA.into() }
}

pub(super) fn ipa(page: u32) -> Ipa {
    Ipa::new(RAM + u64::from(page) * 4096)
}

pub(super) fn hva(page: u32) -> HostVirt {
    HostVirt::new(HVA + page * 4096)
}

pub(super) fn pages(from: u32, to: u32) -> Range<HostVirt> {
    hva(from)..hva(to)
}

pub(super) fn resolved(page: u32, writable: bool) -> Resolved {
    Resolved { phys: HostPhys::new(PHYS + u64::from(page) * 4096), writable, block: false, device: false }
}

pub(super) fn rights(write: bool, execute: bool) -> Option<Stage2Access> {
    Some(Stage2Access { read: true, write, execute })
}

#[test]
fn a_page_is_cleaned_before_it_is_mapped_and_executable_when_executed() {
    let mut vm = Vm::with_ram(0);
    let clean = Event::Clean(HostPhys::new(PHYS), 4096);
    assert_eq!(vm.fault(0, Access::Read), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.access(0), rights(true, false));
    assert_eq!(vm.host.take_events(), [clean]);
    assert_eq!(vm.fault(0, Access::Execute), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.access(0), rights(true, true));
    let vttbr = vm.memory.vttbr(&Vmids::new(vm.host.clone())).unwrap().bits();
    assert_eq!(vm.host.take_events(), [Event::InvalidateIcache, Event::FlushVmid(vttbr)]);
    // All in one.
    assert_eq!(vm.fault(1, Access::Execute), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.host.take_events(), [Event::Clean(HostPhys::new(PHYS + 4096), 4096), Event::InvalidateIcache]);
    // Nothing more to do, and nothing asked of the host.
    vm.host.remove_page(hva(1));
    assert_eq!(vm.fault(1, Access::Write), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.host.take_events(), []);
}

#[test]
fn a_write_to_a_page_mapped_read_only_keeps_the_right_to_execute() {
    let mut vm = Vm::with_ram(0);
    vm.give(3, false);
    assert_eq!(vm.fault(3, Access::Execute), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.access(3), rights(false, true));
    vm.give(3, true);
    vm.host.take_events();
    assert_eq!(vm.fault(3, Access::Write), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.access(3), rights(true, true));
    assert!(!vm.host.take_events().iter().any(|event| matches!(event, Event::Clean(..))));
}

#[test]
fn where_there_is_no_memory_there_is_mmio() {
    let mut vm = Vm::with_ram(READONLY);
    assert_eq!(vm.memory.fault(Ipa::new(RAM - 4096), Access::Read, &mut vm.cache), Ok(FaultOutcome::NoSlot));
    assert_eq!(vm.memory.fault(Ipa::new(u64::MAX), Access::Read, &mut vm.cache), Ok(FaultOutcome::NoSlot));
    assert_eq!(vm.fault(0, Access::Write), Ok(FaultOutcome::Mmio));
    assert_eq!(vm.fault(0, Access::Read), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.access(0), rights(false, false));
    assert_eq!(vm.fault(0, Access::Write), Ok(FaultOutcome::Mmio));
    assert_eq!(vm.memory.host_address(ipa(2)), Some((hva(2), false)));
    let device = Resolved { device: true, ..resolved(5, true) };
    vm.host.set_page(hva(5), Ok(device));
    vm.host.take_events();
    assert_eq!(vm.fault(5, Access::Execute), Ok(FaultOutcome::Mmio));
    assert_eq!(vm.fault(5, Access::Read), Ok(FaultOutcome::Mapped));
    assert!(vm.leaves().iter().any(|found| found.mapping.device));
    assert_eq!(vm.host.take_events(), [], "device memory is not cleaned");
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn a_device_of_the_hardware_is_mapped_once_and_uncached() {
    let mut vm = Vm::new();
    let (at, gicv) = (Ipa::new(0x0801_0000), HostPhys::new(0x2c00_6000));
    for _vcpu in 0..2 {
        assert_eq!(vm.memory.map_device(at, gicv, &mut vm.cache), Ok(()));
    }
    let access = rights(true, false).unwrap();
    assert_eq!(vm.leaves()[0].mapping, Mapping { phys: gicv, size: Size::Page, device: true, access });
    assert_eq!(vm.host.take_events(), []);
    vm.memory.release();
    assert_eq!(vm.memory.map_device(at, gicv, &mut vm.cache), Err(Unresolved::Fault));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn a_flush_that_was_put_off_is_done_before_anything_is_mapped() {
    let mut vm = Vm::with_ram(0);
    let (at, gicv) = (Ipa::new(0x0801_0000), HostPhys::new(0x2c00_6000));
    // As by another thread, on a CPU that is going offline, which has yet to see to it that the flush is done.
    vm.host.put_off_flushes(true);
    vm.host.flush_vmid(0);
    assert_eq!(vm.fault(1, Access::Read), Ok(FaultOutcome::Again));
    assert_eq!(vm.access(1), None);
    assert_eq!(vm.fault(1, Access::Read), Ok(FaultOutcome::Mapped));
    vm.host.flush_vmid(0);
    assert_eq!(vm.memory.map_device(at, gicv, &mut vm.cache), Ok(()), "the guest comes again");
    assert_eq!(vm.leaves().len(), 1);
    assert_eq!(vm.memory.map_device(at, gicv, &mut vm.cache), Ok(()));
    assert_eq!(vm.leaves().len(), 2);
}

#[test]
fn what_the_process_lacks_is_an_error() {
    let mut vm = Vm::with_ram(0);
    assert_eq!(vm.fault(100, Access::Read), Err(Unresolved::Fault));
    for why in [Unresolved::Fault, Unresolved::Interrupted, Unresolved::Poisoned, Unresolved::OutOfMemory] {
        vm.host.set_page(hva(1), Err(why));
        assert_eq!(vm.fault(1, Access::Read), Err(why));
    }
    vm.give(2, false);
    assert_eq!(vm.fault(2, Access::Write), Err(Unresolved::Fault));
    let beyond = Resolved { phys: HostPhys::new(1 << 40), ..resolved(3, true) };
    vm.host.set_page(hva(3), Ok(beyond));
    assert_eq!(vm.fault(3, Access::Write), Err(Unresolved::Fault));
    assert_eq!(vm.leaves(), []);
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn huge_pages_become_blocks_where_all_fits() {
    let mut vm = Vm::with_ram(0);
    for page in 0..1024 {
        vm.host.set_page(hva(page), Ok(Resolved { block: true, ..resolved(page, true) }));
    }
    assert_eq!(vm.fault(700, Access::Write), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.host.take_events(), [Event::Clean(HostPhys::new(PHYS + BLOCK), BLOCK as usize)]);
    let leaves = vm.leaves();
    assert_eq!((leaves.len(), leaves[0].mapping.size, leaves[0].ipa), (1, Size::Block, Ipa::new(RAM + BLOCK)));
    // The host breaks up the huge page: the guest loses all of it, though one page was named.
    vm.memory.invalidate_begin(pages(700, 701));
    assert!(vm.flushed());
    assert_eq!(vm.leaves(), []);
    vm.memory.invalidate_end();
    vm.give(700, true);
    assert_eq!(vm.fault(700, Access::Write), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.leaves()[0].mapping.size, Size::Page);
    // Pages that have become a block again.
    assert_eq!(vm.fault(701, Access::Execute), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.leaves().len(), 1);
    assert_eq!(vm.access(700), rights(true, true));
    // Physical memory that is not congruent is mapped by pages, whatever the host says.
    let odd = Resolved { block: true, ..resolved(17, true) };
    vm.host.set_page(hva(16), Ok(odd));
    assert_eq!(vm.fault(16, Access::Read), Ok(FaultOutcome::Mapped));
    assert_eq!(
        vm.leaves()[0].mapping,
        Mapping { phys: odd.phys, size: Size::Page, device: false, access: rights(true, false).unwrap() }
    );
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn a_page_that_grows_to_a_block_brings_along_no_rights() {
    let mut vm = Vm::with_ram(0);
    vm.give(700, false);
    assert_eq!(vm.fault(700, Access::Execute), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.access(700), rights(false, true));
    for page in 512..1024 {
        vm.host.set_page(hva(page), Ok(Resolved { block: true, ..resolved(page, true) }));
    }
    vm.host.take_events();
    assert_eq!(vm.fault(700, Access::Write), Ok(FaultOutcome::Mapped));
    // The rest of the block was not seen before: it may lie in caches, and instruction caches may hold what was there.
    assert_eq!(vm.host.take_events()[0], Event::Clean(HostPhys::new(PHYS + BLOCK), BLOCK as usize));
    assert_eq!(vm.access(701), rights(true, false));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn a_change_of_the_hosts_mind_while_resolving_is_noticed() {
    let races: [fn(&GuestMemory<fake::Host>); 5] = [
        |memory| {
            memory.invalidate_begin(pages(0, 1));
            memory.invalidate_end();
        },
        |memory| memory.invalidate_begin(pages(0, 1)),
        |memory| memory.release(),
        |memory| assert_eq!(memory.set_region(&Region { memory_size: 0, ..ram(0) }), Ok(Change::Delete)),
        |memory| assert_eq!(memory.set_region(&ram(LOG_DIRTY_PAGES)), Ok(Change::Flags)),
    ];
    for race in races {
        let mut vm = Vm::with_ram(0);
        let memory = vm.memory.clone();
        vm.host.race_resolve(move || race(&memory));
        assert_eq!(vm.fault(0, Access::Write), Ok(FaultOutcome::Again));
        assert_eq!(vm.leaves(), []);
    }
}

#[test]
fn nothing_is_mapped_while_any_invalidation_goes_on() {
    let mut vm = Vm::with_ram(0);
    vm.memory.invalidate_begin(pages(3, 4));
    vm.memory.invalidate_begin(pages(8, 9));
    vm.memory.invalidate_end();
    assert_eq!(vm.fault(0, Access::Read), Ok(FaultOutcome::Again));
    vm.memory.invalidate_end();
    assert_eq!(vm.fault(0, Access::Read), Ok(FaultOutcome::Mapped));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn what_is_taken_is_flushed_before_the_notifier_returns() {
    let mut vm = Vm::with_ram(0);
    for page in 0..16 {
        assert_eq!(vm.fault(page, Access::Write), Ok(FaultOutcome::Mapped));
    }
    vm.host.take_events();
    vm.memory.invalidate_begin(pages(2, 4));
    assert!(vm.flushed());
    vm.memory.invalidate_end();
    let left: Vec<u64> = vm.leaves().iter().map(|found| (found.ipa.get() - RAM) / 4096).collect();
    assert_eq!(left, [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    // Not the guest's: nothing to flush.
    vm.memory.invalidate_begin(HostVirt::new(0)..HostVirt::new(HVA));
    vm.memory.invalidate_begin(pages(2, 4));
    assert!(!vm.flushed());
    vm.memory.invalidate_begin(HostVirt::new(0)..HostVirt::new(u32::MAX));
    assert!(vm.flushed());
    assert_eq!(vm.leaves(), []);
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn one_page_of_the_process_may_be_several_of_the_guest() {
    let mut vm = Vm::with_ram(0);
    let twin = Region { slot: 9, guest_phys_addr: 0x1_0000_0000, ..ram(0) };
    assert_eq!(vm.memory.set_region(&twin), Ok(Change::Create));
    let again = Ipa::new(0x1_0000_0000 + 5 * 4096);
    for round in 0..2 {
        assert_eq!(vm.fault(5, Access::Write), Ok(FaultOutcome::Mapped), "round {round}");
        assert_eq!(vm.memory.fault(again, Access::Write, &mut vm.cache), Ok(FaultOutcome::Mapped));
        assert_eq!(vm.leaves().len(), 2);
        vm.memory.invalidate_begin(pages(4, 8));
        assert_eq!(vm.leaves(), []);
        vm.memory.invalidate_end();
    }
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn slots_that_go_take_their_mappings_along() {
    let mut vm = Vm::with_ram(0);
    assert_eq!(vm.fault(1, Access::Write), Ok(FaultOutcome::Mapped));
    vm.host.take_events();
    let moved = Region { guest_phys_addr: RAM + (64 << 20), ..ram(0) };
    assert_eq!(vm.memory.set_region(&moved), Ok(Change::Move));
    assert!(vm.flushed());
    assert_eq!(vm.leaves(), []);
    assert_eq!(vm.fault(1, Access::Write), Ok(FaultOutcome::NoSlot));
    let there = Ipa::new(moved.guest_phys_addr);
    assert_eq!(vm.memory.fault(there, Access::Write, &mut vm.cache), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.memory.set_region(&Region { memory_size: 0, ..moved }), Ok(Change::Delete));
    assert!(vm.flushed());
    assert_eq!(vm.leaves(), []);
    assert_eq!(vm.memory.set_region(&Region { memory_size: 0, ..moved }), Err(SlotError::Invalid));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn logging_takes_the_right_to_write_until_the_next_write() {
    let mut vm = Vm::with_ram(0);
    for page in 0..512 {
        vm.host.set_page(hva(page), Ok(Resolved { block: true, ..resolved(page, true) }));
    }
    assert_eq!(vm.fault(0, Access::Write), Ok(FaultOutcome::Mapped));
    vm.host.take_events();
    assert_eq!(vm.memory.set_region(&ram(LOG_DIRTY_PAGES)), Ok(Change::Flags));
    assert!(vm.flushed());
    assert_eq!(vm.access(0), rights(false, false));
    assert_eq!(vm.fault(7, Access::Write), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.leaves().len(), 512, "the block was split");
    assert_eq!((vm.access(7), vm.access(8)), (rights(true, false), rights(false, false)));
    vm.memory.invalidate_begin(pages(9, 10));
    vm.memory.invalidate_end();
    assert_eq!(vm.fault(9, Access::Read), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.access(9), rights(false, false), "a read is no write");
}

#[test]
fn age_is_the_access_flag() {
    let mut vm = Vm::with_ram(0);
    assert_eq!(vm.fault(2, Access::Read), Ok(FaultOutcome::Mapped));
    assert!(vm.memory.test_young(pages(0, 16)));
    assert!(!vm.memory.test_young(pages(3, 16)));
    vm.host.take_events();
    assert!(vm.memory.clear_young(pages(0, 16), true));
    assert!(vm.flushed());
    assert!(!vm.memory.clear_young(pages(0, 16), true));
    assert!(!vm.memory.test_young(pages(0, 16)));
    // The next access faults for the flag alone, and needs nothing of the host.
    vm.host.remove_page(hva(2));
    assert_eq!(vm.fault(2, Access::Read), Ok(FaultOutcome::Mapped));
    assert!(vm.memory.test_young(pages(2, 3)));
    assert!(vm.memory.clear_young(pages(0, 16), false));
    assert!(!vm.flushed());
}

#[test]
fn a_dead_process_leaves_nothing() {
    let mut vm = Vm::with_ram(0);
    assert_eq!(vm.fault(2, Access::Read), Ok(FaultOutcome::Mapped));
    vm.host.take_events();
    vm.memory.release();
    assert!(vm.flushed());
    assert_eq!(vm.leaves(), []);
    assert_eq!(vm.fault(2, Access::Read), Err(Unresolved::Fault));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn maintenance_by_set_and_way_reaches_all_that_is_mapped() {
    let mut vm = Vm::with_ram(0);
    for page in 1024..1024 + 512 {
        vm.host.set_page(hva(page), Ok(Resolved { block: true, ..resolved(page, true) }));
    }
    vm.host.set_page(hva(600), Ok(Resolved { device: true, ..resolved(600, true) }));
    for page in (0..16).chain([600, 1024]) {
        assert_eq!(vm.fault(page, Access::Write), Ok(FaultOutcome::Mapped));
    }
    vm.host.take_events();
    vm.memory.flush_all_mapped();
    let pages = (0..16).map(|page| Event::Clean(HostPhys::new(PHYS + page * 4096), 4096));
    let block = Event::Clean(HostPhys::new(PHYS + 2 * BLOCK), BLOCK as usize);
    assert_eq!(vm.host.take_events(), pages.chain([block]).collect::<Vec<_>>());
}

#[derive(Clone, Debug)]
enum Step {
    Fault(u32, Access),
    /// The host changes what the process has in some pages: takes them, moves them, makes them read-only.
    Change(u32, u32, Option<(u32, bool)>),
    Region(u32, u32, u64, u32),
    Delete(u32),
    Age(u32, u32),
}

fn step() -> impl Strategy<Value = Step> {
    let access = prop::sample::select(&[Access::Read, Access::Write, Access::Execute][..]);
    prop_oneof![
        8 => (0u32..40, access).prop_map(|(page, access)| Step::Fault(page, access)),
        4 => (0u32..16, 1u32..5, any::<Option<(u8, bool)>>())
            .prop_map(|(page, count, to)| Step::Change(page, count, to.map(|(to, writable)| (to.into(), writable)))),
        2 => (0u32..3, 0u32..4, 0u64..32, 0u32..12).prop_map(|(slot, flags, ipa, hva)| Step::Region(slot, flags, ipa, hva)),
        1 => (0u32..3).prop_map(Step::Delete),
        1 => (0u32..16, 1u32..5).prop_map(|(page, count)| Step::Age(page, count)),
    ]
}

proptest! {
    /// Whatever happens: what the guest reaches is what the process has there now, and it writes only where both the
    /// process and the slot let it.
    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn a_guest_reaches_what_the_process_has_and_no_more(steps in prop::collection::vec(step(), 1..80)) {
        let mut vm = Vm::new();
        let mut process: BTreeMap<u32, (u64, bool)> = BTreeMap::new();
        let mut slots: BTreeMap<u32, Region> = BTreeMap::new();
        let at = |page: u32| HostVirt::new(HVA + page * 4096);
        for step in steps {
            match step {
                Step::Fault(page, access) => {
                    let _any_outcome = vm.fault(page, access);
                }
                Step::Change(page, count, to) => {
                    vm.memory.invalidate_begin(at(page)..at(page + count));
                    for page in page..page + count {
                        match to {
                            Some((to, writable)) => {
                                let resolved = resolved(to * 32 + page, writable);
                                vm.host.set_page(at(page), Ok(resolved));
                                process.insert(page, (resolved.phys.get(), writable));
                            }
                            None => {
                                vm.host.remove_page(at(page));
                                process.remove(&page);
                            }
                        }
                    }
                    vm.memory.invalidate_end();
                }
                Step::Region(slot, flags, ipa, hva) => {
                    let region = Region {
                        slot,
                        flags,
                        guest_phys_addr: RAM + ipa * 4096,
                        memory_size: 8 * 4096,
                        userspace_addr: at(hva).get().into(),
                    };
                    if vm.memory.set_region(&region).is_ok() {
                        slots.insert(slot, region);
                    }
                }
                Step::Delete(slot) => {
                    let gone = Region { slot, flags: 0, guest_phys_addr: 0, memory_size: 0, userspace_addr: 0 };
                    prop_assert_eq!(vm.memory.set_region(&gone).is_ok(), slots.remove(&slot).is_some());
                }
                Step::Age(page, count) => {
                    vm.memory.clear_young(at(page)..at(page + count), true);
                }
            }
            for found in vm.leaves() {
                let here = found.ipa.get();
                let slot = slots.values().find(|slot| (slot.guest_phys_addr..slot.guest_phys_addr + slot.memory_size).contains(&here));
                let slot = slot.expect("a mapping lies in a slot");
                let hva = here - slot.guest_phys_addr + slot.userspace_addr;
                let (phys, writable) = process[&((hva as u32 - HVA) / 4096)];
                prop_assert_eq!(found.mapping.phys.get(), phys);
                prop_assert!(!found.mapping.access.write || writable && slot.flags & READONLY == 0);
            }
        }
    }
}
