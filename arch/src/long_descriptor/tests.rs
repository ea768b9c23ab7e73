// SPDX-License-Identifier: GPL-2.0-only
//! Tests of the descriptors: words from the manual's figures, and properties.

use super::*;
use proptest::prelude::*;

const LEVELS: [Level; 3] = [Level::One, Level::Two, Level::Three];

fn level() -> impl Strategy<Value = Level> {
    prop::sample::select(&LEVELS[..])
}

fn memory() -> impl Strategy<Value = Stage2Memory> {
    prop::sample::select(
        &[Stage2Memory::StronglyOrdered, Stage2Memory::Device, Stage2Memory::NonCacheable, Stage2Memory::WriteBack][..],
    )
}

fn access() -> impl Strategy<Value = Stage2Access> {
    any::<(bool, bool, bool)>().prop_map(|(read, write, execute)| Stage2Access { read, write, execute })
}

#[test]
fn bits_of_a_stage2_page() {
    // B3.6: AF, SH = inner, HAP = read/write, MemAttr = outer and inner Write-Back, page.
    let page = Stage2Descriptor::page(HostPhys::new(0x12_3456_7000), Stage2Memory::WriteBack, Stage2Access::ALL);
    assert_eq!(page.unwrap().bits(), 0x12_3456_77ff);
    let read_only = page.unwrap().with_access(Stage2Access::READ_EXECUTE);
    assert_eq!(read_only.bits(), 0x12_3456_777f);
    let device = Stage2Descriptor::page(HostPhys::new(0x2c00_6000), Stage2Memory::Device, Stage2Access::READ_WRITE);
    assert_eq!(device.unwrap().bits(), 0x0040_0000_2c00_66c7);
}

#[test]
fn bits_of_a_stage2_block_and_table() {
    let block = Stage2Descriptor::block(HostPhys::new(0x4020_0000), Stage2Memory::WriteBack, Stage2Access::ALL);
    assert_eq!(block.unwrap().bits(), 0x4020_07fd);
    assert_eq!(Stage2Descriptor::table(HostPhys::new(0x4000_1000)).unwrap().bits(), 0x4000_1003);
}

#[test]
fn bits_of_hyp_pages() {
    let at = HostPhys::new(0x8000_0000);
    let page = |memory, access| HypDescriptor::page(at, memory, access).unwrap();
    let text = page(HypMemory::Normal, HypAccess::ReadExecute);
    assert_eq!(text.bits(), 0x8000_07c7);
    let constants = page(HypMemory::Normal, HypAccess::Read);
    assert_eq!(constants.bits(), 0x0040_0000_8000_07c7);
    let data = page(HypMemory::Normal, HypAccess::ReadWrite);
    assert_eq!(data.bits(), 0x0040_0000_8000_0747);
    let device = page(HypMemory::Device, HypAccess::ReadWrite);
    assert_eq!(device.bits(), 0x0040_0000_8000_0643);
    assert!(!page(HypMemory::Device, HypAccess::ReadExecute).is_executable());
    for entry in [text, constants, data, device] {
        assert!(!(entry.is_writable() && entry.is_executable()));
    }
}

#[test]
fn indices_at_the_borders() {
    let last = Ipa::new((1 << 40) - 1);
    assert_eq!(Level::One.stage2_index(last), 1023);
    assert_eq!(Level::Two.stage2_index(last), 511);
    assert_eq!(Level::Three.stage2_index(last), 511);
    // The second concatenated table begins at half the space.
    assert_eq!(Level::One.stage2_index(Ipa::new(1 << 39)), 512);
    assert_eq!(Level::One.hyp_index(HypVirt::new(0xffff_ffff)), 3);
    assert_eq!(Level::Two.hyp_index(HypVirt::new(0xff00_0000)), 0x1f8);
}

#[test]
fn a_level_3_block_is_reserved() {
    assert_eq!(Stage2Descriptor::from_bits(0x4000_0001).decode(Level::Three), Decoded::Reserved);
    assert_eq!(Stage2Descriptor::from_bits(0x4000_0002).decode(Level::Three), Decoded::Invalid);
}

#[test]
fn a_block_has_512_parts() {
    let at = HostPhys::new(0x4000_0000);
    let block = Stage2Descriptor::block(at, Stage2Memory::WriteBack, Stage2Access::ALL).unwrap();
    assert!(block.part(Level::Two, 511).is_some());
    assert_eq!(block.part(Level::Two, 512), None);
}

#[test]
fn break_before_make() {
    let at = HostPhys::new(0x4000_0000);
    let wb = Stage2Memory::WriteBack;
    let page = Stage2Descriptor::page(at, wb, Stage2Access::ALL).unwrap();
    let other = Stage2Descriptor::page(HostPhys::new(0x4000_1000), wb, Stage2Access::ALL).unwrap();
    let device = Stage2Descriptor::page(at, Stage2Memory::Device, Stage2Access::ALL).unwrap();
    let read_only = page.with_access(Stage2Access::READ_EXECUTE);
    let level = Level::Three;
    assert!(page.needs_break(other, level));
    assert!(page.needs_break(device, level));
    let uncached = Stage2Descriptor::page(at, Stage2Memory::NonCacheable, Stage2Access::ALL).unwrap();
    assert!(page.needs_break(uncached, level));
    assert!(!page.needs_break(read_only, level) && !read_only.needs_break(page, level));
    assert!(!page.needs_break(page.with_accessed(false), level));
    assert!(!page.needs_break(page.with_software(5), level));
    assert!(!page.needs_break(Stage2Descriptor::INVALID, level));
    assert!(!Stage2Descriptor::INVALID.needs_break(page, level));
    let block = Stage2Descriptor::block(at, wb, Stage2Access::ALL).unwrap();
    let table = Stage2Descriptor::table(HostPhys::new(0x5000_0000)).unwrap();
    assert!(block.needs_break(table, Level::Two) && table.needs_break(block, Level::Two));
    assert!(!table.needs_break(table, Level::Two));
}

proptest! {
    #[test]
    fn a_leaf_gives_back_what_it_was_made_of(
        to in prop_oneof![any::<u64>(), 0u64..1 << 40, (0u64..1 << 28).prop_map(|page| page << 12),
                          (0u64..1 << 19).prop_map(|block| block << 21), (0u64..1 << 10).prop_map(|block| block << 30)],
        level in level(), memory in memory(), access in access(), software in 0u8..16,
    ) {
        match Stage2Descriptor::leaf(HostPhys::new(to), level, memory, access) {
            None => prop_assert!(to >= 1 << 40 || to % level.size() != 0),
            Some(leaf) => {
                prop_assert!(to < 1 << 40 && to % level.size() == 0);
                let leaf = leaf.with_software(software);
                prop_assert_eq!(leaf.decode(level), Decoded::Leaf(HostPhys::new(to)));
                prop_assert_eq!(leaf.memory(), Some(memory));
                prop_assert_eq!(leaf.access(), access);
                prop_assert_eq!(leaf.software(), software);
                prop_assert!(leaf.accessed() && leaf.is_valid());
            }
        }
    }

    #[test]
    fn indices_and_offset_put_together_are_the_address(raw in 0u64..1 << 40) {
        let ipa = Ipa::new(raw);
        let sum = LEVELS.iter().fold(raw & 0xfff, |sum, level| sum | (level.stage2_index(ipa) as u64) << level.shift());
        prop_assert_eq!(sum, raw);
    }

    #[test]
    fn indices_are_in_bounds_for_any_number(raw: u64) {
        prop_assert!(Level::One.stage2_index(Ipa::new(raw)) < STAGE2_LEVEL1_ENTRIES);
        prop_assert!(Level::Two.stage2_index(Ipa::new(raw)) < ENTRIES);
        prop_assert!(Level::Three.stage2_index(Ipa::new(raw)) < ENTRIES);
    }

    #[test]
    fn a_split_block_maps_the_same_memory_the_same_way(
        number in 0u64..1 << 10, memory in memory(), access in access(), software in 0u8..16, index in 0usize..600,
    ) {
        for level in [Level::One, Level::Two] {
            let to = HostPhys::new(number << level.shift());
            let block = Stage2Descriptor::leaf(to, level, memory, access).unwrap().with_software(software);
            let below = level.next().unwrap();
            match block.part(level, index) {
                None => prop_assert!(index >= ENTRIES),
                Some(part) => {
                    let at = HostPhys::new(to.get() + index as u64 * below.size());
                    prop_assert_eq!(part.decode(below), Decoded::Leaf(at));
                    let whole = Stage2Descriptor::leaf(at, below, memory, access).unwrap().with_software(software);
                    prop_assert_eq!(part, whole);
                }
            }
        }
        let page = Stage2Descriptor::page(HostPhys::new(number << 12), memory, access).unwrap();
        prop_assert_eq!(page.part(Level::Three, 0), None);
    }

    #[test]
    fn break_is_symmetric_and_never_for_the_same(old: u64, new: u64, level in level()) {
        let (old, new) = (Stage2Descriptor::from_bits(old), Stage2Descriptor::from_bits(new));
        prop_assert_eq!(old.needs_break(new, level), new.needs_break(old, level));
        prop_assert!(!old.needs_break(old, level));
        let (old, new) = (HypDescriptor::from_bits(old.bits()), HypDescriptor::from_bits(new.bits()));
        prop_assert_eq!(old.needs_break(new, level), new.needs_break(old, level));
    }

    #[test]
    fn any_bits_decode(bits: u64, level in level()) {
        match Stage2Descriptor::from_bits(bits).decode(level) {
            Decoded::Invalid => prop_assert_eq!(bits & 1, 0),
            Decoded::Reserved => prop_assert!(level == Level::Three && bits & 3 == 1),
            Decoded::Table(at) => prop_assert!(level != Level::Three && bits & 3 == 3 && at.get() % 4096 == 0 && at.get() < 1 << 40),
            Decoded::Leaf(at) => prop_assert!(at.get() % level.size() == 0 && at.get() < 1 << 40),
        }
    }
}
