// SPDX-License-Identifier: GPL-2.0-only
//! The ring of coalesced MMIO: a page that the VM's vCPUs write and the process reads.
//!
//! `first` is the oldest entry, which the process moves on, and `last` the one that is written next. One entry stays free, so that
//! a full ring differs from an empty one. The process can write to all of it at any time: an index is read once, and what it says is
//! looked at before it is used.
//!
//! Source: Documentation/virt/kvm/api.rst of Linux 5.6 (KVM_REGISTER_COALESCED_MMIO); the layout is [`CoalescedMmioRing`]'s.

use crate::host::Words;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
use uapi::memory::{CoalescedMmio, CoalescedMmioRing, KVM_COALESCED_MMIO_MAX};

const WORD: usize = size_of::<u32>();
const FIRST: usize = offset_of!(CoalescedMmioRing, first) / WORD;
const LAST: usize = offset_of!(CoalescedMmioRing, last) / WORD;

/// Adds a write. False: there is no room. Whoever calls it is alone.
pub fn push(page: &Words, addr: u64, len: u32, bytes: [u8; 8]) -> bool {
    let last = page[LAST].load(Ordering::Relaxed) as usize;
    let next = (last.wrapping_add(1) % KVM_COALESCED_MMIO_MAX) as u32;
    // What the process has done with an entry it did before it moved `first` on.
    if next == page[FIRST].load(Ordering::Acquire) {
        return false;
    }
    let Some(entry) = entry(page, last) else { return false };
    let [a, b, c, d, e, f, g, h] = bytes;
    let words = [
        addr as u32,
        (addr >> 32) as u32,
        len,
        0, // memory, not ports
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ];
    for (to, word) in entry.iter().zip(words) {
        to.store(word, Ordering::Relaxed);
    }
    page[LAST].store(next, Ordering::Release);
    true
}

/// The words of an entry. `None`: there is no such.
fn entry(page: &Words, index: usize) -> Option<&[AtomicU32]> {
    let words = size_of::<CoalescedMmio>() / WORD;
    let entries = page.get(size_of::<CoalescedMmioRing>() / WORD..)?;
    entries.chunks_exact(words).nth(index)
}

const _: () = assert!(
    offset_of!(CoalescedMmio, phys_addr) == 0
        && offset_of!(CoalescedMmio, len) == 2 * WORD
        && offset_of!(CoalescedMmio, pio) == 3 * WORD
        && offset_of!(CoalescedMmio, data) == 4 * WORD
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::boxed::Box;
    use std::collections::VecDeque;
    use std::vec::Vec;

    fn page() -> Box<Words> {
        Box::new([const { AtomicU32::new(0) }; 1024])
    }

    /// What the process reads at `first`.
    fn take(page: &Words) -> (u64, u32, u32, [u8; 8]) {
        let first = page[FIRST].load(Ordering::SeqCst);
        let words: Vec<u32> =
            entry(page, first as usize).unwrap().iter().map(|word| word.load(Ordering::SeqCst)).collect();
        page[FIRST].store((first + 1) % KVM_COALESCED_MMIO_MAX as u32, Ordering::SeqCst);
        let double = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        (double(words[0], words[1]), words[2], words[3], double(words[4], words[5]).to_le_bytes())
    }

    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn it_holds_one_less_than_it_has_room_for_wherever_it_begins() {
        for begin in 0..KVM_COALESCED_MMIO_MAX as u32 {
            let page = page();
            page[FIRST].store(begin, Ordering::SeqCst);
            page[LAST].store(begin, Ordering::SeqCst);
            for number in 1..KVM_COALESCED_MMIO_MAX {
                assert!(push(&page, number as u64, 4, [0; 8]), "entry {number} from {begin}");
            }
            assert!(!push(&page, 0, 4, [0; 8]), "one too many from {begin}");
            assert_eq!(take(&page).0, 1);
            assert!(push(&page, 0, 4, [0; 8]));
        }
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "it would take Miri minutes")]
        fn what_goes_in_comes_out(steps in proptest::collection::vec(any::<Option<(u64, u32, [u8; 8])>>(), 0..600)) {
            let page = page();
            let mut model = VecDeque::new();
            for step in steps {
                match step {
                    Some((addr, len, bytes)) => {
                        let room = model.len() < KVM_COALESCED_MMIO_MAX - 1;
                        prop_assert_eq!(push(&page, addr, len, bytes), room);
                        if room {
                            model.push_back((addr, len, 0, bytes));
                        }
                    }
                    None => if let Some(expected) = model.pop_front() {
                        prop_assert_eq!(take(&page), expected);
                    }
                }
            }
        }

        #[test]
        fn indices_are_not_believed(first: u32, last: u32) {
            let page = page();
            page[FIRST].store(first, Ordering::SeqCst);
            page[LAST].store(last, Ordering::SeqCst);
            let taken = push(&page, 1, 4, [1; 8]);
            let good = (last as usize) < KVM_COALESCED_MMIO_MAX;
            let next = if good { (last + 1) % KVM_COALESCED_MMIO_MAX as u32 } else { last };
            prop_assert_eq!(taken, good && next != first);
            prop_assert_eq!(page[LAST].load(Ordering::SeqCst), if taken { next } else { last });
        }

        #[test]
        fn indices_are_not_believed_near_the_end(first in 160..180u32, last in 160..180u32) {
            let page = page();
            page[FIRST].store(first, Ordering::SeqCst);
            page[LAST].store(last, Ordering::SeqCst);
            let good = (last as usize) < KVM_COALESCED_MMIO_MAX;
            prop_assert_eq!(push(&page, 1, 4, [1; 8]), good && (last + 1) % KVM_COALESCED_MMIO_MAX as u32 != first);
        }
    }
}
