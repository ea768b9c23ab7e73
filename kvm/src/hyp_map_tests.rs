// SPDX-License-Identifier: GPL-2.0-only
//! The Hyp map against a map from pages to pages. The fake host checks break before make and that nothing leaks.

use super::*;
use crate::fake;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;

const PAGE: u32 = PAGE_SIZE as u32;

fn descriptor_at(map: &HypMap<fake::Host>, at: u32) -> HypDescriptor {
    let at = HypVirt::new(at);
    map.third(at).map_or(HypDescriptor::INVALID, |table| read(table, Level::Three.hyp_index(at)))
}

#[test]
fn kinds_are_rights() {
    let mut map = HypMap::new(fake::Host::new()).unwrap();
    let kinds = [Kind::Text, Kind::Constants, Kind::Data, Kind::Device];
    for (index, kind) in kinds.into_iter().enumerate() {
        let at = 0xff00_0000 + index as u32 * PAGE;
        map.map(HypVirt::new(at), HostPhys::new(0x4000_0000), 1, kind).unwrap();
        let descriptor = descriptor_at(&map, at);
        let rights = (descriptor.is_writable(), descriptor.is_executable());
        assert_eq!(rights, (matches!(kind, Kind::Data | Kind::Device), kind == Kind::Text));
    }
}

#[test]
fn the_whole_space_can_be_used_and_no_more() {
    let mut map = HypMap::new(fake::Host::new()).unwrap();
    let last = HypVirt::new(0u32.wrapping_sub(PAGE));
    let to = HostPhys::new(0x8000_0000);
    assert_eq!(map.map(last, to, 2, Kind::Data), Err(HypMapError::Unmappable));
    assert_eq!(map.map(last, to, usize::MAX, Kind::Data), Err(HypMapError::Unmappable));
    assert_eq!(map.map(last, to, 0, Kind::Data), Err(HypMapError::Unmappable));
    assert_eq!(map.map(HypVirt::new(1), to, 1, Kind::Data), Err(HypMapError::Unmappable));
    assert_eq!(map.map(last, HostPhys::new(1), 1, Kind::Data), Err(HypMapError::Unmappable));
    assert_eq!(map.map(HypVirt::new(0), HostPhys::new((1 << 40) - 4096), 2, Kind::Data), Err(HypMapError::Unmappable));
    assert_eq!(map.lookup(HypVirt::new(0)), None);
    map.map(last, to, 1, Kind::Data).unwrap();
    map.map(HypVirt::new(0), to, 1, Kind::Data).unwrap();
    assert_eq!(map.lookup(HypVirt::new(u32::MAX)), Some(to));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn without_memory_no_mapping_changes() {
    // Pages on both sides of a border between level-2 tables: four tables.
    for have in 0..4 {
        let host = fake::Host::new();
        let mut map = HypMap::new(host.clone()).unwrap();
        let at = HypVirt::new(0x4000_0000 - PAGE);
        host.allow_allocations(Some(have));
        assert_eq!(map.map(at, HostPhys::new(0x8000_0000), 2, Kind::Data), Err(HypMapError::OutOfMemory));
        assert_eq!((map.lookup(at), map.lookup(HypVirt::new(0x4000_0000))), (None, None));
        host.allow_allocations(None);
        map.map(at, HostPhys::new(0x8000_0000), 2, Kind::Data).unwrap();
        assert_eq!(map.lookup(HypVirt::new(0x4000_0000)), Some(HostPhys::new(0x8000_1000)));
    }
    let host = fake::Host::new();
    host.allow_allocations(Some(0));
    assert!(HypMap::new(host).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Map(u32, u64, usize),
    Unmap(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let at = prop::sample::select(&[0u32, 1, 2, 510, 511, 512, 0x3_ffff, 0x4_0000, 0xf_fffe, 0xf_ffff][..]);
    prop_oneof![
        (at.clone(), 0u64..16, 1usize..4).prop_map(|(at, to, pages)| Step::Map(at, to, pages)),
        at.prop_map(Step::Unmap),
    ]
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn pages_are_where_they_were_put(steps in prop::collection::vec(step(), 1..60)) {
        let host = fake::Host::new();
        let mut map = HypMap::new(host.clone()).unwrap();
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Map(at, to, pages) => {
                    let places: Vec<u32> = (at..at + pages as u32).collect();
                    let expected = if places.iter().any(|at| *at > 0xf_ffff) {
                        Err(HypMapError::Unmappable)
                    } else if places.iter().any(|at| model.contains_key(at)) {
                        Err(HypMapError::Overlap)
                    } else {
                        model.extend(places.iter().zip(to..).map(|(at, to)| (*at, to)));
                        Ok(())
                    };
                    let result = map.map(HypVirt::new(at << 12), HostPhys::new(to << 12), pages, Kind::Data);
                    prop_assert_eq!(result, expected);
                }
                Step::Unmap(at) => {
                    let flush = map.unmap(HypVirt::new(at << 12 | 0x123));
                    prop_assert_eq!(flush, model.remove(&at).map(|_| FlushHyp(HypVirt::new(at << 12))));
                    if flush.is_some() {
                        host.forget_tlb();
                    }
                }
            }
            for at in [0u32, 1, 2, 3, 510, 511, 512, 513, 0x3_ffff, 0x4_0000, 0xf_fffe, 0xf_ffff] {
                let found = map.lookup(HypVirt::new(at << 12));
                prop_assert_eq!(found, model.get(&at).map(|to| HostPhys::new(to << 12)));
            }
        }
    }
}
