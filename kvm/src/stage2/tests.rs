// SPDX-License-Identifier: GPL-2.0-only
//! Stage 2 against a model that has no tables: a map from 2 MiB numbers to a block or to pages.
//!
//! The fake host fails all of these if an entry is changed without break before make, a table is freed too early or
//! never, or written and not published.

use super::*;
use crate::fake;
use crate::vmid::Vmids;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;

const PAGE: u64 = 4096;
const BLOCK: u64 = 2 << 20;
/// Blocks at interesting places: the first, its neighbour, the last of a level-2 table and the one behind it, the last below
/// and the first in the second concatenated table, and the last of all.
const BLOCKS: [u64; 7] = [0, 1, 511, 512, (1 << 18) - 1, 1 << 18, (1 << 19) - 1];
const PAGES: [u64; 5] = [0, 1, 2, 300, 511];

struct Vm {
    host: fake::Host,
    stage2: Stage2<fake::Host>,
    cache: TableCache<fake::Host>,
    vmid: VmidSlot,
}

impl Vm {
    fn new() -> Self {
        let host = fake::Host::new();
        let vmid = VmidSlot::new();
        Vmids::new(host.clone()).assign(&vmid);
        let stage2 = Stage2::new(host.clone()).unwrap();
        Self { host, stage2, cache: TableCache::new(), vmid }
    }

    fn map(&mut self, ipa: u64, mapping: Mapping) {
        self.cache.top_up(&self.host).unwrap();
        let result = self.stage2.map(Ipa::new(ipa), mapping, &mut self.cache, &self.vmid);
        result.unwrap_or_else(|why| panic!("{why:?}")).finish();
    }

    fn all(&mut self, range: IpaRange, step: impl Fn(&mut Stage2<fake::Host>, &mut IpaRange) -> Flush) -> bool {
        let (mut range, mut owed) = (range, false);
        while !range.is_empty() {
            let flush = step(&mut self.stage2, &mut range);
            owed |= flush.is_owed();
            self.stage2.flush(flush, &self.vmid).finish();
        }
        owed
    }

    fn leaves(&self) -> Vec<Found> {
        let mut range = IpaRange::ALL;
        core::iter::from_fn(|| self.stage2.next_leaf(&mut range)).collect()
    }
}

fn access(write: bool, execute: bool) -> Stage2Access {
    Stage2Access { read: true, write, execute }
}

fn page(number: u64, access: Stage2Access) -> Mapping {
    Mapping { phys: HostPhys::new(0x8000_0000 + number * PAGE), size: Size::Page, device: false, access }
}

fn block(number: u64, access: Stage2Access) -> Mapping {
    Mapping { phys: HostPhys::new(0x1_0000_0000 + number * BLOCK), size: Size::Block, device: false, access }
}

/// Leaves by IPA, with the access flag.
#[derive(Default)]
struct Model(BTreeMap<u64, (Mapping, bool)>);

impl Model {
    fn map(&mut self, ipa: u64, mapping: Mapping) {
        let base = ipa & !(BLOCK - 1);
        if mapping.size == Size::Block {
            self.0.retain(|at, _| at & !(BLOCK - 1) != base);
        } else if let Some((old, accessed)) = self.0.get(&base).copied().filter(|(old, _)| old.size == Size::Block) {
            for offset in (0..BLOCK).step_by(PAGE as usize) {
                let phys = HostPhys::new(old.phys.get() + offset);
                self.0.insert(base + offset, (Mapping { phys, size: Size::Page, ..old }, accessed));
            }
        }
        self.0.insert(ipa, (mapping, true));
    }

    /// The leaves that have a part in the range.
    fn within(&mut self, start: u64, end: u64) -> Vec<u64> {
        let meets = |at: u64, mapping: &Mapping| at < end && start < at + mapping.size.bytes() as u64;
        self.0.iter().filter(|(at, (mapping, _))| meets(**at, mapping)).map(|(at, _)| *at).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Page(u64, u64, bool, bool, bool),
    Block(u64, u64, bool, bool),
    Unmap(u64, u64),
    Protect(u64, u64),
    Age(u64, u64),
    Touch(u64),
}

fn place() -> impl Strategy<Value = u64> {
    (prop::sample::select(&BLOCKS[..]), prop::sample::select(&PAGES[..]))
        .prop_map(|(block, page)| block * BLOCK + page * PAGE)
}

fn length() -> impl Strategy<Value = u64> {
    prop::sample::select(&[PAGE, 2 * PAGE, 300 * PAGE, BLOCK, 3 * BLOCK, 1 << 30, 1 << 39][..])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (place(), 0u64..4, any::<bool>(), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(ipa, to, write, execute, device)| Step::Page(ipa, to, write, execute, device)),
        3 => (prop::sample::select(&BLOCKS[..]), 0u64..3, any::<bool>(), any::<bool>())
            .prop_map(|(block, to, write, execute)| Step::Block(block * BLOCK, to, write, execute)),
        3 => (place(), length()).prop_map(|(ipa, bytes)| Step::Unmap(ipa, bytes)),
        2 => (place(), length()).prop_map(|(ipa, bytes)| Step::Protect(ipa, bytes)),
        1 => (place(), length()).prop_map(|(ipa, bytes)| Step::Age(ipa, bytes)),
        1 => place().prop_map(Step::Touch),
    ]
}

fn run(steps: Vec<Step>) {
    let (mut vm, mut model) = (Vm::new(), Model::default());
    for step in steps {
        match step {
            Step::Page(ipa, to, write, execute, device) => {
                let mapping = Mapping { device, ..page(to, access(write, execute)) };
                vm.map(ipa, mapping);
                model.map(ipa, mapping);
            }
            Step::Block(ipa, to, write, execute) => {
                let mapping = block(to, access(write, execute));
                vm.map(ipa, mapping);
                model.map(ipa, mapping);
            }
            Step::Unmap(ipa, bytes) => {
                let owed = vm.all(IpaRange::new(Ipa::new(ipa), bytes), Stage2::unmap);
                let gone = model.within(ipa, ipa + bytes);
                assert_eq!(owed, !gone.is_empty());
                model.0.retain(|at, _| !gone.contains(at));
            }
            Step::Protect(ipa, bytes) => {
                vm.all(IpaRange::new(Ipa::new(ipa), bytes), Stage2::write_protect);
                for at in model.within(ipa, ipa + bytes) {
                    model.0.get_mut(&at).unwrap().0.access.write = false;
                }
            }
            Step::Age(ipa, bytes) => {
                let range = IpaRange::new(Ipa::new(ipa), bytes);
                let within = model.within(ipa, ipa + bytes);
                let young = within.iter().any(|at| model.0[at].1);
                let (mut rest, mut tested) = (range, false);
                while !rest.is_empty() {
                    tested |= vm.stage2.test_accessed(&mut rest);
                }
                assert_eq!(tested, young);
                assert_eq!(vm.all(range, Stage2::clear_accessed), young);
                for at in within {
                    model.0.get_mut(&at).unwrap().1 = false;
                }
            }
            Step::Touch(ipa) => {
                vm.stage2.set_accessed(Ipa::new(ipa));
                for at in model.within(ipa, ipa + 1) {
                    model.0.get_mut(&at).unwrap().1 = true;
                }
            }
        }
        let leaves = vm.leaves();
        let got = leaves.iter().map(|found| (found.ipa.get(), (found.mapping, found.accessed)));
        assert!(got.eq(model.0.iter().map(|(at, leaf)| (*at, *leaf))), "the tables differ from the model");
        for found in leaves.iter().step_by(97) {
            let last = found.ipa.get() + found.mapping.size.bytes() as u64 - 1;
            assert_eq!(vm.stage2.lookup(Ipa::new(last)), Some(*found));
        }
    }
    vm.all(IpaRange::ALL, Stage2::unmap);
    let in_cache = vm.cache.len();
    assert_eq!(vm.host.live_tables(), 2 + in_cache, "empty tables stay");
}

proptest! {
    #![proptest_config(fake::cases(64))]

    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn tables_are_what_was_mapped(steps in prop::collection::vec(step(), 1..40)) {
        run(steps);
    }

    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn what_is_left_mapped_is_freed(places in prop::collection::vec(place(), 0..20)) {
        let mut vm = Vm::new();
        for ipa in places {
            vm.map(ipa, page(1, Stage2Access::ALL));
        }
    }
}

#[test]
fn a_vm_that_never_ran_needs_no_flush() {
    let mut vm = Vm::new();
    vm.vmid = VmidSlot::new();
    vm.map(0, page(1, Stage2Access::ALL));
    vm.host.forget_tlb();
    vm.all(IpaRange::ALL, Stage2::unmap);
    assert_eq!(vm.host.take_events(), []);
}

#[test]
fn flushes_carry_base_and_vmid() {
    let mut vm = Vm::new();
    vm.map(0, page(1, Stage2Access::ALL));
    assert_eq!(vm.host.take_events(), [], "an entry that was invalid needs no flush");
    vm.all(IpaRange::ALL, Stage2::unmap);
    let vttbr = 1 << 48 | vm.stage2.base().get();
    assert_eq!(vm.host.take_events(), [fake::Event::FlushVmid(vttbr)]);
}

#[test]
fn what_cannot_be_mapped_is_refused() {
    let mut vm = Vm::new();
    vm.cache.top_up(&vm.host).unwrap();
    let all = Stage2Access::ALL;
    for (ipa, mapping) in [
        (1, page(0, all)),
        (PAGE, block(0, all)),
        (1 << 40, page(0, all)),
        (!(PAGE - 1), page(0, all)),
        (0, Mapping { phys: HostPhys::new(0x8000_1000), ..block(0, all) }),
        (0, Mapping { phys: HostPhys::new(1 << 40), ..page(0, all) }),
    ] {
        let result = vm.stage2.map(Ipa::new(ipa), mapping, &mut vm.cache, &vm.vmid).map(Unfinished::finish);
        assert_eq!(result, Err(MapError::Unaligned), "{ipa:#x} {mapping:?}");
    }
    assert_eq!(vm.leaves(), []);
    assert_eq!(vm.host.live_tables(), 4);
    assert_eq!(vm.stage2.lookup(Ipa::new(1 << 40)), None);
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn without_memory_nothing_changes() {
    let host = fake::Host::new();
    host.allow_allocations(Some(0));
    assert!(Stage2::new(host.clone()).is_err());
    let all = Stage2Access::ALL;
    // A new page; a page beside another; one that splits a block; a block.
    for (before, ipa, mapping, needed) in [
        (None, 0, page(1, all), 2),
        (Some((BLOCK, page(1, all))), 0, page(2, all), 1),
        (Some((0, block(1, all))), PAGE, page(2, all), 1),
        (None, 0, block(1, all), 1),
    ] {
        for have in 0..needed {
            let mut vm = Vm::new();
            if let Some((ipa, mapping)) = before {
                vm.map(ipa, mapping);
            }
            vm.cache = TableCache::new();
            vm.host.allow_allocations(Some(have));
            assert!(vm.cache.top_up(&vm.host).is_err());
            let (tables, leaves) = (vm.host.live_tables(), vm.leaves());
            let result = vm.stage2.map(Ipa::new(ipa), mapping, &mut vm.cache, &vm.vmid).map(Unfinished::finish);
            assert_eq!(result, Err(MapError::NoTable));
            assert_eq!((vm.host.live_tables(), vm.leaves()), (tables, leaves));
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn nothing_is_made_where_a_break_was_not_flushed() {
    let all = Stage2Access::ALL;
    // Another page, a block over pages, a page amid a block.
    for (before, mapping) in
        [(page(1, all), page(2, all)), (page(1, all), block(1, all)), (block(1, all), page(2, all))]
    {
        let mut vm = Vm::new();
        let map = |vm: &mut Vm, ipa, mapping| {
            vm.cache.top_up(&vm.host).unwrap();
            vm.stage2.map(Ipa::new(ipa), mapping, &mut vm.cache, &vm.vmid)
        };
        vm.map(0, before);
        vm.host.put_off_flushes(true);
        let unfinished = map(&mut vm, 0, mapping).unwrap();
        assert_eq!(vm.leaves(), [], "{before:?}, then {mapping:?}");
        // Until the flush is done, nobody else does it either.
        assert_eq!(map(&mut vm, 0, mapping).map(Unfinished::finish), Err(MapError::FlushPutOff));
        unfinished.finish();
        vm.host.put_off_flushes(false);
        vm.map(0, mapping);
        assert_eq!(vm.stage2.lookup(Ipa::new(0)).map(|found| found.mapping), Some(mapping));
    }
}

#[test]
fn ranges_are_whole_pages_within_the_space() {
    let range = IpaRange::new(Ipa::new(0x1801), 0x800);
    assert_eq!(range, IpaRange::new(Ipa::new(0x1000), 0x2000));
    assert!(IpaRange::new(Ipa::new(0x1000), 0).is_empty());
    assert!(IpaRange::new(Ipa::new(1 << 40), 0x1000).is_empty());
    assert!(IpaRange::new(Ipa::new(u64::MAX), u64::MAX).is_empty());
    assert_eq!(IpaRange::new(Ipa::new(0), u64::MAX), IpaRange::ALL);
}
