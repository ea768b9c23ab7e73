// SPDX-License-Identifier: GPL-2.0-only
//! Changes to whole ranges of stage 2: unmapping, write protection, ageing.
//!
//! All are one walk over the entries of level 2 in a range, with a function from the old leaf to the new. A range may be
//! large and a spin lock is held, so a call does a bounded piece of work and shortens the [`IpaRange`] by it; the caller
//! flushes, may let go of the lock, and calls again until the range is empty. A block that lies only partly in the range is
//! changed as a whole: unmapping or protecting too much costs the guest another fault, and nothing else.

use super::{Entry, Flush, Found, Stage2};
use crate::host::{Host, TablePhys};
use arch::addr::{HostPhys, IPA_BITS, Ipa, PAGE_SIZE};
use arch::long_descriptor::{Decoded, ENTRIES, Level, Stage2Access, Stage2Descriptor, Stage2Memory};
use core::sync::atomic::Ordering;

/// How many entries of levels 1 and 2 a call looks at. Each may lead to 512 pages.
const STEPS: usize = 16;

/// Part of the IPA space, in whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpaRange {
    start: u64,
    end: u64,
}

impl IpaRange {
    /// All 40 bits.
    pub const ALL: Self = Self { start: 0, end: 1 << IPA_BITS };

    /// `bytes` from `start`, rounded outwards to pages and cut off at the end of the space.
    pub const fn new(start: Ipa, bytes: u64) -> Self {
        const PAGE: u64 = PAGE_SIZE as u64;
        let end = start.get().saturating_add(bytes);
        let end = if end > 1 << IPA_BITS { 1 << IPA_BITS } else { end };
        Self { start: start.get() & !(PAGE - 1), end: (end + PAGE - 1) & !(PAGE - 1) }
    }

    /// The first address, unless the range is empty.
    pub const fn first(self) -> Option<Ipa> {
        if self.start < self.end { Some(Ipa::new(self.start)) } else { None }
    }

    /// Whether nothing is left of it.
    pub const fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// How many bytes were done since it was `before`.
    pub const fn done_since(self, before: Self) -> u64 {
        self.start.saturating_sub(before.start)
    }

    /// Whether it begins with all of what one entry of `level` covers.
    const fn holds_first(self, level: Level) -> bool {
        self.start & (level.size() - 1) == 0 && self.end.saturating_sub(self.start) >= level.size()
    }

    /// Goes on behind what one entry of `level` covers.
    fn skip(&mut self, level: Level) {
        let next = (self.start | (level.size() - 1)).saturating_add(1);
        self.start = next.min(self.end);
    }
}

/// What became of entries, the greater the more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    Nothing,
    /// Some are other than they were, and still map.
    Changed,
    /// Some map nothing any more.
    Unmapped,
}

impl Effect {
    fn of(old: Stage2Descriptor, new: Stage2Descriptor) -> Self {
        match (old == new, new.is_valid()) {
            (true, _) => Self::Nothing,
            (false, true) => Self::Changed,
            (false, false) => Self::Unmapped,
        }
    }
}

impl<H: Host> Stage2<H> {
    /// Unmaps the first part of `range`, which is left with the rest.
    pub fn unmap(&mut self, range: &mut IpaRange) -> Flush {
        self.change(range, |_, _| Stage2Descriptor::INVALID)
    }

    /// Takes the right to write from the first part of `range`.
    pub fn write_protect(&mut self, range: &mut IpaRange) -> Flush {
        self.write_protect_some(range, |_| true)
    }

    /// Takes the right to write from pages in the first part of `range` that are `wanted`, and from all blocks in it.
    pub fn write_protect_some(&mut self, range: &mut IpaRange, wanted: impl Fn(Ipa) -> bool) -> Flush {
        self.change(range, |page, leaf| match page {
            Some(page) if !wanted(page) => leaf,
            _ => leaf.with_access(Stage2Access { write: false, ..leaf.access() }),
        })
    }

    /// Clears the access flags in the first part of `range`. The flush is owed only where the next access must be seen; so
    /// is what tells whether any flag was set.
    pub fn clear_accessed(&mut self, range: &mut IpaRange) -> Flush {
        self.change(range, |_, leaf| leaf.with_accessed(false))
    }

    /// Whether an access flag is set in the first part of `range`.
    pub fn test_accessed(&mut self, range: &mut IpaRange) -> bool {
        let mut accessed = false;
        let Flush(_unchanged) = self.change(range, |_, leaf| {
            accessed |= leaf.accessed();
            leaf
        });
        accessed
    }

    /// The first leaf in `range`, which is left with what follows it. Bounded: no table is empty, so each level is
    /// searched at most once.
    pub fn next_leaf(&self, range: &mut IpaRange) -> Option<Found> {
        while let Some(at) = range.first() {
            let found = self.lookup(at);
            let empty = match (found, self.below(self.first(at), at)) {
                (Some(found), _) => {
                    range.skip(found.mapping.size.level());
                    return Some(found);
                }
                (None, None) => Level::One,
                (None, Some(second)) if self.below(second, at).is_none() => Level::Two,
                (None, Some(_)) => Level::Three,
            };
            range.skip(empty);
        }
        None
    }

    /// Unmaps the pages of the first part of `range` that lie in memory as a 2 MiB block does, table by table: what was a block may
    /// be one again when the guest touches it next.
    pub fn unmap_split_blocks(&mut self, range: &mut IpaRange) -> Flush {
        self.each_second(range, |stage2, second, rest| {
            let Decoded::Table(third) = second.read().decode(Level::Two) else { return Effect::Nothing };
            if !rest.holds_first(Level::Two) || !stage2.is_split_block(third) {
                return Effect::Nothing;
            }
            second.write(&stage2.host, Stage2Descriptor::INVALID);
            stage2.retire(third);
            Effect::Unmapped
        })
    }

    /// Whether all pages that a table maps are where they would be if one block mapped them.
    fn is_split_block(&self, table: HostPhys) -> bool {
        let table = self.host.table(TablePhys::from_page(table));
        let mut leaves = (0..ENTRIES).filter_map(|index| {
            let entry = Entry { table, index, level: Level::Three }.read();
            match entry.decode(Level::Three) {
                Decoded::Leaf(phys) => Some((phys.get().wrapping_sub((index * PAGE_SIZE) as u64), entry.memory())),
                Decoded::Table(_) | Decoded::Invalid | Decoded::Reserved => None,
            }
        });
        let Some((base, memory)) = leaves.next() else { return false };
        base.is_multiple_of(Level::Two.size())
            && memory == Some(Stage2Memory::WriteBack)
            && leaves.all(|leaf| leaf == (base, memory))
    }

    /// Puts `change` of each leaf in its place; it is told the address of a page, and `None` for a block. It may invalidate a leaf or
    /// change its rights, flags and software bits.
    fn change(
        &mut self,
        range: &mut IpaRange,
        mut change: impl FnMut(Option<Ipa>, Stage2Descriptor) -> Stage2Descriptor,
    ) -> Flush {
        self.each_second(range, |stage2, second, rest| match second.read().decode(Level::Two) {
            Decoded::Leaf(_) => {
                let old = second.read();
                let new = change(None, old);
                if old != new {
                    second.write(&stage2.host, new);
                }
                Effect::of(old, new)
            }
            Decoded::Table(third) => {
                let effect = stage2.change_pages(third, rest, &mut change);
                if effect == Effect::Unmapped {
                    stage2.unlink_if_empty(second);
                }
                effect
            }
            Decoded::Invalid | Decoded::Reserved => Effect::Nothing,
        })
    }

    /// Calls `step` with the entries of level 2 in the first part of `range`, and with what is left of the range from each on. It says
    /// what it did.
    fn each_second(
        &mut self,
        range: &mut IpaRange,
        mut step: impl FnMut(&Self, Entry<'_>, IpaRange) -> Effect,
    ) -> Flush {
        let mut changed = false;
        for _ in 0..STEPS {
            let Some(at) = range.first() else { break };
            let first = self.first(at);
            let Some(second) = self.below(first, at) else {
                range.skip(Level::One);
                continue;
            };
            let effect = step(self, second, *range);
            changed |= effect != Effect::Nothing;
            if effect == Effect::Unmapped {
                self.unlink_if_empty(first);
            }
            range.skip(Level::Two);
        }
        Flush(changed)
    }

    /// Does so for the pages of one table that lie in the range from its first address on.
    fn change_pages(
        &self,
        table: HostPhys,
        range: IpaRange,
        change: &mut impl FnMut(Option<Ipa>, Stage2Descriptor) -> Stage2Descriptor,
    ) -> Effect {
        let table = self.host.table(TablePhys::from_page(table));
        let from = Level::Three.stage2_index(Ipa::new(range.start));
        let pages = (range.end.saturating_sub(range.start) / PAGE_SIZE as u64).min(ENTRIES as u64) as usize;
        let mut effect = Effect::Nothing;
        let addresses = (range.start..).step_by(PAGE_SIZE);
        for (index, at) in (from..from.saturating_add(pages).min(ENTRIES)).zip(addresses) {
            let entry = Entry { table, index, level: Level::Three };
            let old = entry.read();
            if !old.is_valid() {
                continue;
            }
            let new = change(Some(Ipa::new(at)), old);
            if new != old {
                entry.store(new);
            }
            effect = effect.max(Effect::of(old, new));
        }
        if effect != Effect::Nothing {
            self.host.publish(table);
        }
        effect
    }

    /// Cuts off the table that `entry` leads to if it maps nothing.
    fn unlink_if_empty(&self, entry: Entry<'_>) {
        let Decoded::Table(at) = entry.read().decode(entry.level) else { return };
        let table = self.host.table(TablePhys::from_page(at));
        let valid = |bits: u64| Stage2Descriptor::from_bits(bits).is_valid();
        if !table.iter().any(|descriptor| valid(descriptor.load(Ordering::Relaxed))) {
            entry.write(&self.host, Stage2Descriptor::INVALID);
            self.retire(at);
        }
    }
}
