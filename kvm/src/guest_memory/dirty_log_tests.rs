// SPDX-License-Identifier: GPL-2.0-only
//! The dirty log of a guest whose writes are known: what it says is what was written.

use super::super::tests::*;
use super::super::{Access, FaultOutcome};
use super::*;
use crate::host::Resolved;
use crate::memslots::{Change, LOG_DIRTY_PAGES, READONLY, Region, SLOTS};
use crate::stage2::Size;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec::Vec;

/// Pages of the slot that [`Vm::with_ram`] makes.
const PAGES: u32 = 2048;

#[derive(Debug, PartialEq, Eq)]
enum Failed {
    Log(LogError),
    Copy,
}

impl From<LogError> for Failed {
    fn from(why: LogError) -> Self {
        Self::Log(why)
    }
}

fn bits(words: &[u32]) -> BTreeSet<u32> {
    (0..words.len() as u32 * 32).filter(|page| words[(page / 32) as usize] >> (page % 32) & 1 != 0).collect()
}

impl Vm {
    fn log(&self) -> Result<BTreeSet<u32>, Failed> {
        let mut words = Vec::new();
        self.memory.read_dirty_log(0, |first, piece| {
            assert_eq!(first, words.len(), "pieces come in order");
            words.extend_from_slice(piece);
            Ok::<_, Failed>(())
        })?;
        let pages = self.memory.state.lock().slots.dirty_log(0).unwrap().pages;
        assert_eq!(words.len() as u64, pages.div_ceil(32));
        Ok(bits(&words))
    }

    /// Clears those of `named` that lie in `pages` from `first` on.
    fn clear(&self, first: u64, pages: u32, named: impl IntoIterator<Item = u32>) -> Result<(), Failed> {
        self.memory.clear_dirty_log(0, first, pages, |words| {
            for page in named {
                let bit = page - first as u32;
                words[(bit / 32) as usize] |= 1 << (bit % 32);
            }
            Ok(())
        })
    }

    /// The guest writes to a page. Whether it could.
    fn write(&mut self, page: u32) -> bool {
        let may = |vm: &Self| vm.access(page).is_some_and(|access| access.write);
        may(self) || self.fault(page, Access::Write) == Ok(FaultOutcome::Mapped) && may(self)
    }

    /// What the log's head says always holds.
    fn check(&self) {
        let mut state = self.memory.state.lock();
        let mut range = IpaRange::ALL;
        let leaves: Vec<_> = core::iter::from_fn(|| state.stage2.next_leaf(&mut range)).collect();
        let Ok(log) = state.slots.dirty_log(0) else { return };
        let dirty = bits(log.bitmap);
        for found in leaves.iter().filter(|found| found.mapping.access.write) {
            let page = ((found.ipa.get() - RAM) / 4096) as u32;
            assert_eq!(found.mapping.size, Size::Page, "a block can be written to");
            assert!(dirty.contains(&page), "page {page} can be written to and has no bit");
        }
    }
}

fn set(pages: impl IntoIterator<Item = u32>) -> Result<BTreeSet<u32>, Failed> {
    Ok(pages.into_iter().collect())
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn writes_are_in_the_log_once_and_reads_are_not() {
    let mut vm = Vm::with_ram(LOG_DIRTY_PAGES);
    assert_eq!(vm.log(), set([]));
    for page in [0, 3, 15] {
        assert!(vm.write(page));
    }
    assert_eq!(vm.fault(4, Access::Read), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.fault(5, Access::Execute), Ok(FaultOutcome::Mapped));
    assert_eq!((vm.access(4), vm.access(5)), (rights(false, false), rights(false, true)));
    assert!(!vm.flushed(), "nothing was taken from the guest yet");
    assert_eq!(vm.log(), set([0, 3, 15]));
    assert!(vm.flushed(), "the right to write is out of the TLBs");
    assert_eq!(vm.access(3), rights(false, false));
    assert_eq!(vm.log(), set([]));
    assert!(!vm.flushed(), "an empty log costs no flush");
    assert!(vm.write(3));
    assert_eq!(vm.log(), set([3]));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn with_manual_clearing_what_was_read_stays_until_it_is_cleared() {
    let mut vm = Vm::with_ram(LOG_DIRTY_PAGES);
    vm.memory.set_manual_clear(true);
    for page in [1, 2, 9] {
        assert!(vm.write(page));
    }
    for _ in 0..2 {
        assert_eq!(vm.log(), set([1, 2, 9]));
    }
    assert!(!vm.flushed());
    assert_eq!(vm.access(2), rights(true, false));
    // Bits that are not set, and those behind the slot's end, mean nothing.
    assert_eq!(vm.clear(0, PAGES, [2, 5, 40, PAGES - 1]), Ok(()));
    assert!(vm.flushed());
    assert_eq!((vm.access(1), vm.access(2)), (rights(true, false), rights(false, false)));
    assert_eq!(vm.log(), set([1, 9]));
    assert_eq!(vm.clear(0, 64, [2, 5]), Ok(()));
    assert!(!vm.flushed(), "nothing was there to be cleared");
    assert!(vm.write(2));
    assert_eq!(vm.log(), set([1, 2, 9]));
    vm.memory.set_manual_clear(false);
    // Clearing by name works all the same.
    assert_eq!(vm.clear(0, 64, [1]), Ok(()));
    assert_eq!(vm.log(), set([2, 9]));
    assert_eq!(vm.log(), set([]));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn a_log_of_several_pieces_is_read_and_cleared_in_all_of_them() {
    const PIECE: u32 = (CHUNK * BITS) as u32;
    const END: u32 = 2 * PIECE + 40;
    for manual in [false, true] {
        let mut vm = Vm::new();
        vm.memory.set_manual_clear(manual);
        let large = Region { memory_size: u64::from(END) * 4096, ..ram(LOG_DIRTY_PAGES) };
        assert_eq!(vm.memory.set_region(&large), Ok(Change::Create));
        for page in [0, 70, PIECE - 1, PIECE, PIECE + 64, 2 * PIECE - 1, 2 * PIECE, END - 1] {
            vm.give(page, true);
            assert!(vm.write(page));
        }
        // What is cleared has pieces of its own.
        let cleared = [70, PIECE, PIECE + 64, END - 1];
        assert_eq!(vm.clear(64, END - 64, cleared), Ok(()));
        assert_eq!(cleared.map(|page| vm.access(page)), [rights(false, false); 4]);
        vm.check();
        let left = [0, PIECE - 1, 2 * PIECE - 1, 2 * PIECE];
        assert_eq!(vm.log(), set(left));
        assert_eq!(left.map(|page| vm.access(page)), [rights(manual, false); 4]);
    }
}

#[test]
fn what_cannot_be_named_is_refused() {
    let mut vm = Vm::with_ram(LOG_DIRTY_PAGES);
    assert!(vm.write(3));
    // 40 pages more: the end is in the middle of 64.
    let odd = Region { slot: 1, memory_size: 104 * 4096, guest_phys_addr: RAM + (8 << 20), ..ram(LOG_DIRTY_PAGES) };
    assert_eq!(vm.memory.set_region(&odd), Ok(Change::Create));
    let try_to = |slot, first, pages| {
        let mut words = None;
        let result = vm.memory.clear_dirty_log::<Failed>(slot, first, pages, |named| {
            words = Some(named.len());
            Ok(())
        });
        result.map(|()| words.unwrap())
    };
    let (invalid, off) = (Err(Failed::Log(LogError::Invalid)), Err(Failed::Log(LogError::Off)));
    for (slot, first, pages, answer) in [
        (0, 0, PAGES, Ok(64)),
        (0, 0, 64, Ok(2)),
        (0, 64, PAGES - 64, Ok(62)),
        (0, 0, 0, Ok(0)),
        (0, u64::from(PAGES), 0, Ok(0)),
        (0, 32, 64, Err(())),
        (0, 1, 64, Err(())),
        (0, 0, 63, Err(())),
        (0, 0, 1, Err(())),
        (0, 0, PAGES + 64, Err(())),
        (0, 64, PAGES, Err(())),
        (0, u64::from(PAGES) + 64, 0, Err(())),
        (0, 1 << 63, 64, Err(())),
        (0, 0, u32::MAX, Err(())),
        (1, 0, 104, Ok(4)),
        (1, 64, 40, Ok(2)),
        (1, 64, 39, Err(())),
        (1, 0, 103, Err(())),
        (SLOTS as u32, 0, 64, Err(())),
        (1 << 16, 0, 64, Err(())),
    ] {
        let answer = answer.map_err(|()| Failed::Log(LogError::Invalid));
        assert_eq!(try_to(slot, first, pages), answer, "slot {slot}: {pages} pages from {first}");
    }
    assert_eq!((try_to(2, 0, 64), try_to(2, 1, 64)), (off, invalid));
    for (slot, why) in [(2, LogError::Off), (SLOTS as u32, LogError::Invalid), (1 << 16, LogError::Invalid)] {
        assert_eq!(vm.memory.read_dirty_log(slot, |_, _| Ok(())), Err(Failed::Log(why)));
    }
    assert_eq!(vm.log(), set([3]));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn what_could_not_be_handed_out_stays() {
    let mut vm = Vm::with_ram(LOG_DIRTY_PAGES);
    assert!(vm.write(3) && vm.write(8));
    assert_eq!(vm.memory.read_dirty_log(0, |_, _| Err(Failed::Copy)), Err(Failed::Copy));
    assert!(vm.write(4));
    assert_eq!(vm.log(), set([3, 4, 8]));
    assert!(vm.write(3));
    assert_eq!(vm.memory.clear_dirty_log(0, 0, 64, |_| Err(Failed::Copy)), Err(Failed::Copy));
    assert_eq!(vm.log(), set([3]));
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn a_write_that_races_with_clearing_is_in_the_next_log() {
    for manual in [false, true] {
        let mut vm = Vm::with_ram(LOG_DIRTY_PAGES);
        vm.memory.set_manual_clear(manual);
        assert!(vm.write(3));
        let memory = vm.memory.clone();
        vm.host.race_resolve(move || {
            let cleared = memory.clear_dirty_log(0, 0, 64, |words| {
                words.fill(u32::MAX);
                Ok::<_, Failed>(())
            });
            assert_eq!(cleared, Ok(()));
        });
        assert!(vm.write(4));
        vm.check();
        assert_eq!(vm.log(), set([4]));
    }
}

fn with_blocks(flags: u32) -> Vm {
    let vm = Vm::with_ram(flags);
    for page in 0..PAGES {
        vm.host.set_page(hva(page), Ok(Resolved { block: true, ..resolved(page, true) }));
    }
    vm
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn a_block_is_logged_by_pages_and_joined_when_logging_ends() {
    let mut vm = with_blocks(0);
    assert_eq!(vm.fault(700, Access::Write), Ok(FaultOutcome::Mapped));
    assert_eq!(vm.leaves().len(), 1);
    assert_eq!(vm.memory.set_region(&ram(LOG_DIRTY_PAGES)), Ok(Change::Flags));
    assert!(vm.flushed());
    // Reading needs no split.
    assert_eq!((vm.leaves().len(), vm.access(700)), (1, rights(false, false)));
    assert!(vm.write(701) && vm.write(703));
    assert_eq!(vm.leaves().len(), 512);
    vm.check();
    assert_eq!(vm.log(), set([701, 703]));
    // A page of another block, which is mapped by pages from the start.
    assert!(vm.write(1500));
    assert_eq!((vm.leaves().len(), vm.log()), (513, set([1500])));
    vm.host.take_events();
    assert_eq!(vm.memory.set_region(&ram(0)), Ok(Change::Flags));
    assert!(vm.flushed());
    for page in [700, 1500] {
        assert_eq!(vm.fault(page, Access::Read), Ok(FaultOutcome::Mapped));
        assert_eq!(vm.access(page), rights(true, false));
    }
    let leaves = vm.leaves();
    assert!(leaves.len() == 2 && leaves.iter().all(|found| found.mapping.size == Size::Block), "{leaves:?}");
}

#[test]
#[cfg_attr(miri, ignore = "it would take Miri minutes")]
fn pages_that_were_no_block_stay_when_logging_ends() {
    let mut vm = Vm::with_ram(LOG_DIRTY_PAGES);
    let device = Resolved { device: true, ..resolved(512, true) };
    vm.host.set_page(hva(512), Ok(device));
    // Page 2 is elsewhere in memory; page 1024 is alone in its table, but not where a block would have it.
    vm.host.set_page(hva(2), Ok(resolved(7, true)));
    vm.host.set_page(hva(1024), Ok(resolved(3, true)));
    for page in [0, 1, 2, 512, 1024] {
        assert!(vm.write(page));
    }
    let before = vm.leaves();
    vm.host.take_events();
    assert_eq!(vm.memory.set_region(&ram(0)), Ok(Change::Flags));
    assert_eq!((vm.leaves(), vm.host.take_events()), (before, [].into()));
}

#[derive(Clone, Debug)]
enum Step {
    Write(u32),
    Touch(u32, Access),
    Read,
    Clear(u32, Vec<u32>),
    Manual(bool),
    /// The process's memory changes; it has blocks or pages from then on.
    Change(u32, bool),
    Logging(bool),
}

fn step() -> impl Strategy<Value = Step> {
    // Few pages, in two blocks and at the borders of words.
    let page = || prop::sample::select(&[0, 1, 31, 32, 63, 64, 511, 512, 513, 600][..]);
    prop_oneof![
        8 => page().prop_map(Step::Write),
        2 => (page(), prop::sample::select(&[Access::Read, Access::Execute][..])).prop_map(|(at, how)| Step::Touch(at, how)),
        3 => Just(Step::Read),
        3 => (0u32..10, prop::collection::vec(page(), 0..6)).prop_map(|(from, pages)| Step::Clear(from * 64, pages)),
        1 => any::<bool>().prop_map(Step::Manual),
        2 => (page(), any::<bool>()).prop_map(|(at, block)| Step::Change(at, block)),
        1 => any::<bool>().prop_map(Step::Logging),
    ]
}

proptest! {
    /// Whatever happens, the log is the set of pages that were written since their bits were cleared.
    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn the_log_is_what_was_written(steps in prop::collection::vec(step(), 1..60)) {
        let mut vm = with_blocks(LOG_DIRTY_PAGES);
        let (mut written, mut manual, mut logging) = (BTreeSet::new(), false, true);
        for step in steps {
            match step {
                Step::Write(page) => {
                    prop_assert!(vm.write(page));
                    written.extend(logging.then_some(page));
                }
                Step::Touch(page, access) => prop_assert_eq!(vm.fault(page, access), Ok(FaultOutcome::Mapped)),
                Step::Read if logging => {
                    prop_assert_eq!(vm.log(), Ok(written.clone()));
                    if !manual {
                        written.clear();
                    }
                }
                Step::Clear(first, pages) if logging => {
                    let named: Vec<u32> = pages.into_iter().filter(|page| (first..PAGES).contains(page)).collect();
                    prop_assert_eq!(vm.clear(first.into(), PAGES - first, named.iter().copied()), Ok(()));
                    written.retain(|page| !named.contains(page));
                }
                Step::Read | Step::Clear(..) => prop_assert_eq!(vm.log(), Err(Failed::Log(LogError::Off))),
                Step::Manual(on) => {
                    manual = on;
                    vm.memory.set_manual_clear(on);
                }
                Step::Change(page, block) => {
                    vm.memory.invalidate_begin(pages(page, page + 1));
                    let first = page / 512 * 512;
                    for page in first..first + 512 {
                        vm.host.set_page(hva(page), Ok(Resolved { block, ..resolved(page, true) }));
                    }
                    vm.memory.invalidate_end();
                }
                Step::Logging(on) => {
                    logging = on;
                    let flags = if on { LOG_DIRTY_PAGES } else { 0 };
                    prop_assert!(vm.memory.set_region(&ram(flags)).is_ok());
                    if !on {
                        written.clear();
                    }
                }
            }
            vm.check();
        }
    }
}

#[test]
fn a_readonly_slot_may_log_and_stays_clean() {
    let mut vm = Vm::with_ram(LOG_DIRTY_PAGES | READONLY);
    assert_eq!(vm.fault(1, Access::Write), Ok(FaultOutcome::Mmio));
    assert_eq!(vm.fault(1, Access::Read), Ok(FaultOutcome::Mapped));
    assert_eq!((vm.access(1), vm.log()), (rights(false, false), set([])));
}
