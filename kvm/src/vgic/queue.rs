// SPDX-License-Identifier: GPL-2.0-only
//! The interrupts that concern a vCPU now, as a set of numbers.
//!
//! Two levels of bits: a word for each 32 interrupts, and a word that says which of those are not zero. A vCPU without
//! interrupts, the usual case at each entry, costs one load; others cost by what is in the set, not by what the VM has.

/// A set of interrupt numbers below 1024.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    occupied: u32,
    len: u32,
    words: [u32; 32],
}

impl Queue {
    /// Nothing.
    pub const EMPTY: Self = Self { occupied: 0, len: 0, words: [0; 32] };

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether a number is in it.
    pub fn contains(&self, intid: u32) -> bool {
        self.word(intid / 32) >> (intid % 32) & 1 != 0
    }

    /// Puts a number in. Numbers from 1024 on are ignored.
    pub fn insert(&mut self, intid: u32) {
        if let Some(word) = self.words.get_mut(intid as usize / 32) {
            self.len += u32::from(*word >> (intid % 32) & 1 == 0);
            *word |= 1 << (intid % 32);
            self.occupied |= 1 << (intid / 32);
        }
    }

    /// Takes a number out.
    pub fn remove(&mut self, intid: u32) {
        if let Some(word) = self.words.get_mut(intid as usize / 32) {
            self.len -= *word >> (intid % 32) & 1;
            *word &= !(1 << (intid % 32));
            if *word == 0 {
                self.occupied &= !(1 << (intid / 32));
            }
        }
    }

    /// Which words are not empty, one bit each.
    pub fn occupied(&self) -> u32 {
        self.occupied
    }

    /// A word: the numbers from 32 `index` on, one bit each.
    pub fn word(&self, index: u32) -> u32 {
        self.words.get(index as usize).copied().unwrap_or(0)
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        bits(self.occupied).flat_map(|index| bits(self.word(index)).map(move |bit| index * 32 + bit))
    }
}

/// The numbers of the bits that are set, ascending.
pub(super) fn bits(mut word: u32) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros();
        word &= word - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn behaves_as_a_set(steps in proptest::collection::vec((any::<bool>(), 0u32..1100), 0..200)) {
            let mut queue = Queue::EMPTY;
            let mut set = BTreeSet::new();
            for (insert, intid) in steps {
                if insert {
                    queue.insert(intid);
                    if intid < 1024 {
                        set.insert(intid);
                    }
                } else {
                    queue.remove(intid);
                    set.remove(&intid);
                }
                prop_assert_eq!((queue.is_empty(), queue.len()), (set.is_empty(), set.len()));
                prop_assert_eq!(queue.contains(intid), set.contains(&intid));
                prop_assert!(queue.iter().eq(set.iter().copied()), "{:?}", queue.iter().collect::<Vec<_>>());
            }
        }
    }
}
