// SPDX-License-Identifier: GPL-2.0-only
//! Slots: each check of KVM 5.6 one by one, then random requests against brute force.

use super::*;
use crate::fake;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Slots = Memslots<fake::Host>;

const USER_END: HostVirt = HostVirt::new(0xbf00_0000);
const MIB: u64 = 1 << 20;

fn region(slot: u32, flags: u32, guest_phys_addr: u64, memory_size: u64, userspace_addr: u64) -> Region {
    Region { slot, flags, guest_phys_addr, memory_size, userspace_addr }
}

fn set(slots: &mut Slots, region: Region) -> Result<Change, SlotError> {
    let plan = slots.check(&region, USER_END)?;
    let change = plan.change;
    let bitmap = plan.bitmap_words().map(|words| std::vec![0; words]);
    slots.retire(&plan);
    slots.install(plan, bitmap);
    Ok(change)
}

#[test]
fn requests_are_judged_as_kvm_did() {
    let base = region(3, 0, 0x4000_0000, MIB, 0x1000_0000);
    let mut slots = Slots::new(&fake::Host::new()).unwrap();
    assert_eq!(set(&mut slots, base), Ok(Change::Create));
    assert_eq!(set(&mut slots, base), Ok(Change::Nothing));
    let refused = |slots: &mut Slots, why: SlotError, region: Region| {
        assert_eq!(set(slots, region), Err(why), "{region:x?}");
        assert_eq!(set(slots, base), Ok(Change::Nothing), "{region:x?} changed something");
    };
    let other = region(4, 0, 0x8000_0000, MIB, 0x2000_0000);
    let invalid = |slots: &mut Slots, region| refused(slots, SlotError::Invalid, region);
    invalid(&mut slots, Region { memory_size: MIB + 1, ..other });
    invalid(&mut slots, Region { memory_size: 4095, ..other });
    invalid(&mut slots, Region { guest_phys_addr: 0x8000_0800, ..other });
    invalid(&mut slots, Region { userspace_addr: 0x2000_0001, ..other });
    let last_address = u64::from(USER_END.get()) - MIB;
    invalid(&mut slots, Region { userspace_addr: last_address + 4096, ..other });
    invalid(&mut slots, Region { userspace_addr: 0xc000_0000, ..other });
    invalid(&mut slots, Region { memory_size: 1 << 32, ..other });
    invalid(&mut slots, Region { memory_size: 1 << 43, ..other });
    invalid(&mut slots, Region { memory_size: !4095, guest_phys_addr: 0, userspace_addr: 0, ..other });
    invalid(&mut slots, Region { guest_phys_addr: !4095, memory_size: 8192, ..other });
    invalid(&mut slots, Region { flags: 4, ..other });
    invalid(&mut slots, Region { slot: SLOTS as u32, ..other });
    invalid(&mut slots, Region { slot: 1 << 16 | 3, ..base });
    invalid(&mut slots, Region { memory_size: 0, ..other }); // deletes what is not there
    invalid(&mut slots, Region { memory_size: 2 * MIB, ..base });
    invalid(&mut slots, Region { userspace_addr: 0x1000_1000, ..base });
    invalid(&mut slots, Region { flags: READONLY, ..base });
    for (ipa, bytes) in [(0x4000_0000, 4096), (0x400f_f000, 4096), (0x3ff0_0000, MIB + 4096), (0, 1 << 31)] {
        let overlapping = Region { guest_phys_addr: ipa, memory_size: bytes, ..other };
        refused(&mut slots, SlotError::Exists, overlapping);
    }
    // 40 bits, and the page that ends there is out as well.
    for ipa in [(1 << 40) - MIB, 1 << 40, 1 << 50] {
        refused(&mut slots, SlotError::BeyondIpa, Region { guest_phys_addr: ipa, ..other });
    }
    let last = Region { guest_phys_addr: (1 << 40) - MIB - 4096, ..other };
    assert_eq!(set(&mut slots, last), Ok(Change::Create));
    assert_eq!(set(&mut slots, Region { memory_size: 0, ..last }), Ok(Change::Delete));
    let last = Region { slot: SLOTS as u32 - 1, userspace_addr: last_address, ..other };
    assert_eq!(set(&mut slots, last), Ok(Change::Create));
    assert_eq!(set(&mut slots, Region { memory_size: 0, ..last }), Ok(Change::Delete));
    // Neighbours do not overlap.
    assert_eq!(set(&mut slots, Region { guest_phys_addr: 0x4010_0000, ..other }), Ok(Change::Create));
    // A slot moves onto itself, in part, but not onto another.
    refused(&mut slots, SlotError::Exists, Region { guest_phys_addr: 0x4000_1000, ..base });
    assert_eq!(set(&mut slots, Region { guest_phys_addr: 0x3fff_f000, ..base }), Ok(Change::Move));
    assert_eq!(set(&mut slots, Region { flags: LOG_DIRTY_PAGES, ..base }), Ok(Change::Move));
    assert_eq!(set(&mut slots, base), Ok(Change::Flags));
    assert_eq!(
        set(&mut slots, Region { memory_size: 0, guest_phys_addr: 0, userspace_addr: 0, ..base }),
        Ok(Change::Delete)
    );
    assert_eq!(slots.find(Ipa::new(0x4000_0000)), None);
}

#[test]
fn a_pointer_that_was_extended_with_its_sign_is_good() {
    let mut slots = Slots::new(&fake::Host::new()).unwrap();
    let extended = region(0, 0, 0, 4096, 0xffff_ffff_b000_0000);
    assert_eq!(set(&mut slots, extended), Ok(Change::Create));
    assert_eq!(slots.find(Ipa::new(0)).map(|view| view.hva()), Some(HostVirt::new(0xb000_0000)));
}

#[test]
fn a_bitmap_lives_while_writes_are_logged() {
    let mut slots = Slots::new(&fake::Host::new()).unwrap();
    let logged = region(0, LOG_DIRTY_PAGES, 0x1000, 33 * 4096, 0x1000_0000);
    let plan = slots.check(&logged, USER_END).unwrap();
    assert_eq!(plan.bitmap_words(), Some(2));
    assert_eq!(plan.write_protect(), Some(IpaRange::new(Ipa::new(0x1000), 33 * 4096)));
    drop(plan);
    set(&mut slots, logged).unwrap();
    let dirty = |slots: &mut Slots| slots.dirty_log(0).map(|log| (log.ipa.get(), log.pages, log.bitmap.to_vec()));
    let mark = |slots: &mut Slots, ipa: u64| slots.mark_dirty(&slots.find(Ipa::new(ipa)).unwrap());
    for page in [1, 5, 33] {
        mark(&mut slots, page * 4096);
    }
    assert_eq!(dirty(&mut slots), Ok((0x1000, 33, std::vec![0b10001, 1])));
    // It moves with its slot.
    let moved = Region { guest_phys_addr: 0x10_0000, ..logged };
    assert_eq!(slots.check(&moved, USER_END).unwrap().bitmap_words(), None);
    set(&mut slots, moved).unwrap();
    assert_eq!(dirty(&mut slots), Ok((0x10_0000, 33, std::vec![0b10001, 1])));
    let quiet = Region { flags: 0, ..moved };
    assert_eq!(slots.check(&quiet, USER_END).unwrap().join(), Some(IpaRange::new(Ipa::new(0x10_0000), 33 * 4096)));
    set(&mut slots, quiet).unwrap();
    mark(&mut slots, 0x10_0000);
    // It is gone with what it said; a new one is empty.
    assert_eq!(dirty(&mut slots), Err(NoLog::Off));
    set(&mut slots, moved).unwrap();
    assert_eq!(dirty(&mut slots), Ok((0x10_0000, 33, std::vec![0, 0])));
}

#[test]
fn there_is_no_log_of_what_is_no_slot_or_is_not_logged() {
    let mut slots = Slots::new(&fake::Host::new()).unwrap();
    set(&mut slots, region(1, LOG_DIRTY_PAGES, 0, 4096, 0x1000_0000)).unwrap();
    set(&mut slots, region(2, READONLY, 0x10_0000, 4096, 0x1000_0000)).unwrap();
    for (number, answer) in [
        (0, Err(NoLog::Off)),
        (1, Ok(1)),
        (2, Err(NoLog::Off)),
        (SLOTS as u32 - 1, Err(NoLog::Off)),
        (SLOTS as u32, Err(NoLog::Number)),
        (1 << 16 | 1, Err(NoLog::Number)),
        (u32::MAX, Err(NoLog::Number)),
    ] {
        assert_eq!(slots.dirty_log(number).map(|log| log.pages), answer, "slot {number:#x}");
    }
}

#[test]
fn a_retired_slot_is_hidden_from_the_guest_alone() {
    let mut slots = Slots::new(&fake::Host::new()).unwrap();
    let one = region(0, 0, 0x10_0000, MIB, 0x1000_0000);
    set(&mut slots, one).unwrap();
    let plan = slots.check(&Region { memory_size: 0, ..one }, USER_END).unwrap();
    assert_eq!(slots.retire(&plan), Some(IpaRange::new(Ipa::new(0x10_0000), MIB)));
    assert_eq!(slots.find(Ipa::new(0x10_0000)), None);
    let range = HostVirt::new(0x1000_0000)..HostVirt::new(0x1000_1000);
    assert!(slots.overlap(0, &range).is_some());
    assert!(slots.install(plan, None).is_none());
    assert!(slots.overlap(0, &range).is_none());
}

#[test]
fn blocks_need_a_whole_block_in_the_slot_and_equal_borders() {
    let mut slots = Slots::new(&fake::Host::new()).unwrap();
    let block = |slots: &Slots, ipa| slots.find(Ipa::new(ipa)).unwrap().allows_block();
    set(&mut slots, region(0, 0, 0x4010_0000, 5 * MIB, 0x1010_0000)).unwrap();
    assert!(!block(&slots, 0x4010_0000), "begins amid a block");
    assert!(block(&slots, 0x4020_0000) && block(&slots, 0x403f_f000) && block(&slots, 0x4040_0000));
    set(&mut slots, region(1, 0, 0x8000_0000, 3 * MIB, 0x2000_0000)).unwrap();
    assert!(block(&slots, 0x8000_0000) && !block(&slots, 0x8020_0000), "ends amid a block");
    set(&mut slots, region(2, 0, 0xa000_0000, 4 * MIB, 0x3000_1000)).unwrap();
    assert!(!block(&slots, 0xa020_0000), "not congruent");
}

const NUMBERS: [u32; 5] = [0, 1, 2, 32, SLOTS as u32 - 1];

/// Small numbers that collide often, in pages.
fn request() -> impl Strategy<Value = Region> {
    (prop::sample::select(&NUMBERS[..]), 0u32..4, 0u64..12, 0u64..5, 0u64..12)
        .prop_map(|(slot, flags, ipa, pages, hva)| region(slot, flags, ipa * PAGE, pages * PAGE, hva * PAGE))
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn addresses_translate_as_pages_do(requests in prop::collection::vec(request(), 1..40)) {
        let mut slots = Slots::new(&fake::Host::new()).unwrap();
        let mut model: BTreeMap<u32, Region> = BTreeMap::new();
        for request in requests {
            if let Ok(change) = set(&mut slots, request) {
                match change {
                    Change::Delete => drop(model.remove(&request.slot).expect("a deleted slot existed")),
                    _ => drop(model.insert(request.slot, request)),
                }
            }
            prop_assert_eq!(slots.end(), model.keys().last().map_or(0, |last| *last as usize + 1));
            prop_assert_eq!(slots.iter().count(), model.len());
            for ipa in 0..20 * PAGE {
                if ipa % 1024 != 0 {
                    continue;
                }
                let mut here = model.values().filter(|slot| (slot.guest_phys_addr..slot.guest_phys_addr + slot.memory_size).contains(&ipa));
                let expected = here.next().map(|slot| (ipa - slot.guest_phys_addr + slot.userspace_addr, slot.flags));
                prop_assert_eq!(here.next(), None, "two slots overlap");
                let found = slots.find(Ipa::new(ipa)).map(|view| {
                    let flags = if view.logs() { LOG_DIRTY_PAGES } else { 0 } | if view.is_read_only() { READONLY } else { 0 };
                    (u64::from(view.hva().get()), flags)
                });
                prop_assert_eq!(found, expected);
            }
            for hva in 0..20u32 {
                let range = HostVirt::new(hva * 4096)..HostVirt::new((hva + 1) * 4096);
                for index in NUMBERS {
                    let slot = model.get(&index).filter(|slot| {
                        (slot.userspace_addr..slot.userspace_addr + slot.memory_size).contains(&u64::from(range.start.get()))
                    });
                    let expected = slot.map(|slot| {
                        let ipa = u64::from(range.start.get()) - slot.userspace_addr + slot.guest_phys_addr;
                        (range.start, IpaRange::new(Ipa::new(ipa), PAGE))
                    });
                    prop_assert_eq!(slots.overlap(index as usize, &range), expected);
                }
            }
        }
    }

    #[test]
    fn no_request_panics(slot: u32, flags in 0u32..8, ipa: u64, bytes: u64, hva: u64) {
        let mut slots = Slots::new(&fake::Host::new()).unwrap();
        for region in [
            region(slot, flags, ipa, bytes, hva),
            region(slot % SLOTS as u32, flags % 4, ipa & !4095, bytes & !4095, hva & !4095),
            region(slot % SLOTS as u32, flags % 4, ipa & !4095 & ((1 << 41) - 1), bytes & 0x7fff_f000, hva & 0x7fff_f000),
        ] {
            let _any_answer = set(&mut slots, region);
        }
    }
}
