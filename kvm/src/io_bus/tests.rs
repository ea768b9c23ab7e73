// SPDX-License-Identifier: GPL-2.0-only

use super::*;
use crate::fake;
use core::sync::atomic::Ordering;
use fake::ProcessEvent;
use proptest::prelude::*;
use std::vec::Vec;
use uapi::memory::KVM_COALESCED_MMIO_MAX;

const AT: u64 = 0x0a00_0050;

type Bus = IoBus<fake::Host>;

fn bus() -> (fake::Host, Bus) {
    let host = fake::Host::new();
    let bus = Bus::new(&host).unwrap();
    (host, bus)
}

fn request(addr: u64, len: u32, value: Option<u64>) -> Ioeventfd {
    let flags = if value.is_some() { KVM_IOEVENTFD_FLAG_DATAMATCH } else { 0 };
    Ioeventfd { datamatch: value.unwrap_or(0), addr, len, fd: 0, flags, pad: [0; 36] }
}

fn bell(addr: u64, len: u32, value: Option<u64>) -> Bell {
    Bell::new(&request(addr, len, value)).unwrap()
}

/// A store of the low `len` bytes of `value`.
fn write(bus: &Bus, addr: u64, len: u32, value: u32) -> bool {
    let mut bytes = [0; 8];
    bytes[..len as usize].copy_from_slice(&value.to_le_bytes()[..len as usize]);
    bus.write(addr, len, bytes)
}

impl Bell {
    /// Whether a write of memory at its address is meant.
    fn rings(&self, len: u32, value: u64) -> bool {
        let fits = self.len == len && self.value.is_none_or(|expected| expected == value);
        self.space == Space::Memory && (self.len == 0 || fits)
    }
}

/// Entries in the ring.
fn collected(bus: &Bus) -> usize {
    let [first, last, ..] = bus.ring().0.as_ref();
    let (first, last) = (first.load(Ordering::SeqCst) as usize, last.load(Ordering::SeqCst) as usize);
    (last + KVM_COALESCED_MMIO_MAX - first) % KVM_COALESCED_MMIO_MAX
}

fn zone(addr: u64, size: u32) -> CoalescedMmioZone {
    CoalescedMmioZone { addr, size, pio: 0 }
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let mut requests: Vec<_> = [3, 5, 6, 7, 9, 16, u32::MAX].map(|len| request(AT, len, None)).into();
    requests.push(request(u64::MAX, 1, None));
    requests.push(request(u64::MAX - 6, 8, None));
    requests.push(request(AT, 0, Some(0)));
    requests.push(Ioeventfd { flags: 1 << 5, ..request(AT, 4, None) });
    requests.push(Ioeventfd { flags: 1 << 31, ..request(AT, 4, None) });
    for request in requests {
        assert_eq!(Bell::new(&request), Err(BusError::Invalid), "{request:?}");
    }
    for request in [request(u64::MAX, 0, None), request(u64::MAX - 8, 8, None), request(0, 1, Some(u64::MAX))] {
        assert!(Bell::new(&request).is_ok(), "{request:?}");
    }
    // KVM's own flag, which it lets a process set.
    assert!(Bell::new(&Ioeventfd { flags: 1 << 4, ..request(AT, 4, None) }).is_ok());
}

#[test]
fn a_bell_rings_for_what_it_names_and_for_nothing_else() {
    for (len, value) in [
        (0, None),
        (1, None),
        (2, None),
        (4, None),
        (8, None),
        (1, Some(7)),
        (2, Some(7)),
        (4, Some(7)),
        (4, Some(1 << 32 | 7)),
    ] {
        let (host, bus) = bus();
        let event = ProcessEvent::default();
        bus.add_bell(&host, bell(AT, len, value), event.clone()).unwrap();
        for (written, stored) in [(1, 7), (2, 7), (4, 7), (4, 8), (1, 0x107), (4, 0x107)] {
            let mask = u32::MAX >> (32 - 8 * written);
            let expected = len == 0 || len == written && value.is_none_or(|value| value == u64::from(stored & mask));
            let what = std::format!("{written} bytes {stored:#x} for {len} bytes {value:?}");
            assert_eq!(write(&bus, AT, written, stored), expected, "{what}");
            assert_eq!(event.take(), usize::from(expected), "{what}");
            for beside in [AT - 1, AT + 1, AT + 4, AT | 1 << 32] {
                assert!(!write(&bus, beside, written, stored), "at {beside:#x}: {what}");
            }
        }
        assert_eq!(event.take(), 0);
    }
}

#[test]
fn ports_and_channels_are_noted_but_nothing_rings_there() {
    let (host, bus) = bus();
    let event = ProcessEvent::default();
    let flags = [KVM_IOEVENTFD_FLAG_PIO, KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY, 0];
    for flags in flags {
        let bell = Bell::new(&Ioeventfd { flags, ..request(AT, 4, None) }).unwrap();
        bus.add_bell(&host, bell, event.clone()).unwrap();
        assert_eq!(bus.add_bell(&host, bell, event.clone()), Err(BusError::Exists), "{flags}");
    }
    assert!(write(&bus, AT, 4, 0));
    bus.remove_bell(&bell(AT, 4, None), &event).unwrap();
    assert!(!write(&bus, AT, 4, 0));
    for flags in &flags[..2] {
        bus.remove_bell(&Bell::existing(&Ioeventfd { flags: *flags, ..request(AT, 4, None) }), &event).unwrap();
    }
    assert_eq!((event.take(), event.owners()), (1, 1));
}

#[test]
fn bells_that_would_ring_for_one_write_collide() {
    for (one, other, collide) in [
        ((4, None), (4, None), true),
        ((4, None), (2, None), false),
        ((0, None), (4, Some(1)), true),
        ((4, Some(1)), (0, None), true),
        ((4, Some(1)), (4, Some(2)), false),
        ((4, Some(1)), (4, Some(1)), true),
        ((4, None), (4, Some(1)), true),
        ((4, Some(1)), (4, None), true),
    ] {
        let (host, bus) = bus();
        bus.add_bell(&host, bell(AT, one.0, one.1), ProcessEvent::default()).unwrap();
        let result = bus.add_bell(&host, bell(AT, other.0, other.1), ProcessEvent::default());
        assert_eq!(result, if collide { Err(BusError::Exists) } else { Ok(()) }, "{one:?} {other:?}");
        bus.add_bell(&host, bell(AT + 4, other.0, other.1), ProcessEvent::default()).unwrap();
    }
}

#[test]
fn a_bell_is_removed_by_all_that_it_was_added_with() {
    let (host, bus) = bus();
    let event = ProcessEvent::default();
    bus.add_bell(&host, bell(AT, 4, Some(7)), event.clone()).unwrap();
    for other in [bell(AT, 4, Some(8)), bell(AT, 4, None), bell(AT, 2, Some(7)), bell(AT + 4, 4, Some(7))] {
        assert_eq!(bus.remove_bell(&other, &event), Err(BusError::Missing), "{other:?}");
    }
    assert_eq!(bus.remove_bell(&bell(AT, 4, Some(7)), &ProcessEvent::default()), Err(BusError::Missing));
    assert_eq!(bus.remove_bell(&bell(AT, 4, Some(7)), &event), Ok(()));
    assert_eq!(bus.remove_bell(&bell(AT, 4, Some(7)), &event), Err(BusError::Missing));
    assert_eq!(event.owners(), 1);
}

#[test]
fn writes_that_lie_in_a_zone_are_collected_until_the_ring_is_full() {
    let (host, bus) = bus();
    bus.add_zone(&host, &zone(AT, 8)).unwrap();
    for (addr, len, lies_in) in [
        (AT, 4, true),
        (AT + 4, 4, true),
        (AT + 7, 1, true),
        (AT - 1, 1, false),
        (AT + 6, 4, false),
        (AT + 8, 1, false),
    ] {
        let before = collected(&bus);
        assert_eq!(write(&bus, addr, len, 1), lies_in, "{len} bytes at {addr:#x}");
        assert_eq!(collected(&bus) - before, usize::from(lies_in));
    }
    while collected(&bus) < KVM_COALESCED_MMIO_MAX - 1 {
        assert!(write(&bus, AT, 4, 1));
    }
    assert!(!write(&bus, AT, 4, 1));
    assert_eq!(collected(&bus), KVM_COALESCED_MMIO_MAX - 1);
}

#[test]
fn zones_are_removed_by_what_lies_in_them() {
    let (host, bus) = bus();
    for (addr, size) in [(AT, 8), (AT, 16), (AT + 4, 4), (AT + 8, 8)] {
        bus.add_zone(&host, &zone(addr, size)).unwrap();
    }
    let ports = CoalescedMmioZone { pio: 1, ..zone(AT, 16) };
    bus.add_zone(&host, &ports).unwrap();
    for odd in [2, 3, u32::MAX] {
        assert_eq!(bus.add_zone(&host, &CoalescedMmioZone { pio: odd, ..zone(AT, 16) }), Err(BusError::Invalid));
        assert_eq!(bus.remove_zones(&CoalescedMmioZone { pio: odd, ..zone(AT, 16) }), Err(BusError::Invalid));
    }
    // None has so much.
    bus.remove_zones(&zone(AT, 17)).unwrap();
    bus.remove_zones(&zone(AT, 1 << 31)).unwrap();
    assert!(write(&bus, AT + 4, 4, 0) && write(&bus, AT + 8, 4, 0));
    // All but the last.
    bus.remove_zones(&zone(AT + 4, 4)).unwrap();
    assert!(!write(&bus, AT + 4, 4, 0));
    assert!(write(&bus, AT + 8, 4, 0));
    bus.remove_zones(&zone(AT + 8, 8)).unwrap();
    assert!(!write(&bus, AT + 8, 4, 0));
    // What is larger than a signed number says is never meant.
    bus.add_zone(&host, &zone(AT, u32::MAX)).unwrap();
    bus.remove_zones(&zone(AT, u32::MAX)).unwrap();
    assert!(write(&bus, AT + 8, 4, 0));
    bus.remove_zones(&zone(AT + 1, i32::MAX as u32)).unwrap();
    assert!(!write(&bus, AT + 8, 4, 0));
    // Nothing is left to be removed, which is no error.
    bus.remove_zones(&zone(AT, 16)).unwrap();
    assert_eq!(bus.zones.len(), 1);
    bus.remove_zones(&ports).unwrap();
    assert!(bus.zones.is_empty());
}

#[test]
fn a_zone_over_the_end_of_addresses_has_nothing_in_it() {
    let (host, bus) = bus();
    bus.add_zone(&host, &zone(u64::MAX - 0xfff, 0x2000)).unwrap();
    assert!(!write(&bus, u64::MAX - 0xff, 4, 0));
    assert!(!write(&bus, u64::MAX, 4, 0));
    assert!(!write(&bus, 0, 4, 0));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn there_are_a_thousand_zones_at_most() {
    let (host, bus) = bus();
    for number in 0..1000 {
        bus.add_zone(&host, &zone(number * 8, 8)).unwrap();
    }
    assert_eq!(bus.add_zone(&host, &zone(0, 8)), Err(BusError::Full));
    let ports = CoalescedMmioZone { pio: 1, ..zone(0, 8) };
    bus.add_zone(&host, &ports).unwrap();
    bus.remove_zones(&zone(0, 8)).unwrap();
    bus.add_zone(&host, &zone(0, 8)).unwrap();
}

#[test]
fn of_two_at_one_place_the_one_that_begins_first_or_is_shorter_has_the_write() {
    for (begin, rings) in [(AT - 4, false), (AT, true)] {
        let (host, bus) = bus();
        let event = ProcessEvent::default();
        bus.add_zone(&host, &zone(begin, 64)).unwrap();
        bus.add_bell(&host, bell(AT, 4, None), event.clone()).unwrap();
        assert!(write(&bus, AT, 4, 0));
        assert_eq!((event.take(), collected(&bus)), (usize::from(rings), usize::from(!rings)));
        // Who has no room for it leaves it to the other.
        while write(&bus, AT + 8, 4, 0) {}
        assert!(write(&bus, AT, 4, 0));
        assert_eq!(event.take(), 1);
    }
}

#[test]
fn without_memory_nothing_changes() {
    let host = fake::Host::new();
    host.allow_allocations(Some(0));
    assert!(Bus::new(&host).is_err());
    host.allow_allocations(None);
    let bus = Bus::new(&host).unwrap();
    let event = ProcessEvent::default();
    bus.add_bell(&host, bell(AT, 4, None), event.clone()).unwrap();
    host.allow_allocations(Some(0));
    assert_eq!(bus.add_bell(&host, bell(AT + 4, 4, None), event.clone()), Err(BusError::OutOfMemory));
    assert_eq!(bus.add_zone(&host, &zone(AT, 8)), Err(BusError::OutOfMemory));
    assert_eq!(event.owners(), 2);
    assert!(!write(&bus, AT + 4, 4, 0) && write(&bus, AT, 4, 0));
    // To remove takes none.
    bus.remove_bell(&bell(AT, 4, None), &event).unwrap();
    assert_eq!((event.take(), event.owners()), (1, 1));
}

proptest! {
    /// Against a list that is searched from the beginning.
    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn writes_find_their_bell(
        bells in proptest::collection::vec((0..6u64, 0..4usize, any::<Option<bool>>(), any::<bool>()), 0..24),
        writes in proptest::collection::vec((0..6u64, 0..3u32, 0..3u32), 0..40),
    ) {
        let (host, bus) = bus();
        let mut model: Vec<(Bell, ProcessEvent)> = Vec::new();
        for (addr, len, value, remove) in bells {
            let len = [0, 1, 2, 4][len];
            let bell = bell(addr, len, value.filter(|_| len != 0).map(u64::from));
            if remove {
                let found = model.iter().position(|(other, _)| *other == bell);
                let event = found.map_or_else(ProcessEvent::default, |index| model.remove(index).1);
                let expected = if found.is_some() { Ok(()) } else { Err(BusError::Missing) };
                prop_assert_eq!(bus.remove_bell(&bell, &event), expected);
            } else {
                let event = ProcessEvent::default();
                let collides = model.iter().any(|(other, _)| other.collides(&bell));
                let expected = if collides { Err(BusError::Exists) } else { Ok(()) };
                prop_assert_eq!(bus.add_bell(&host, bell, event.clone()), expected);
                if !collides {
                    model.push((bell, event));
                }
            }
        }
        for (addr, len, value) in writes {
            let len = 1 << len;
            let hit = model.iter().find(|(bell, _)| bell.addr == addr && bell.rings(len, value.into()));
            prop_assert_eq!(write(&bus, addr, len, value), hit.is_some());
            for (bell, event) in &model {
                let rings = hit.is_some_and(|(_, heard)| heard == event);
                prop_assert_eq!(event.take(), usize::from(rings), "{:?}", bell);
            }
        }
    }
}
