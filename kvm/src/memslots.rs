// SPDX-License-Identifier: GPL-2.0-only
//! Memory slots: which parts of a process's memory are which parts of a guest's.
//!
//! A slot ties a range of IPAs to a range of the process's addresses, both in whole pages. The process makes, moves and
//! deletes slots with KVM_SET_USER_MEMORY_REGION; [`Memslots::check`] judges a request as KVM of Linux 5.6 on 32-bit Arm did,
//! check for check, and says what it amounts to. Nothing is changed there, since what follows has parts that sleep
//! (memory for the dirty bitmap) and parts that take several turns with a lock (unmapping): see `guest_memory`, which calls
//! [`Memslots::retire`] and [`Memslots::install`] in between.
//!
//! Every fault asks which slot an address lies in, so the numbers of the slots that exist are kept in the order of their IPAs.
//!
//! A slot that is being deleted or moved is *retired* first: a guest's accesses find it no more, but the process's changes
//! to its own memory (MMU notifiers) still do, until nothing of it is mapped.

use crate::host::{Host, OutOfMemory};
use crate::stage2::IpaRange;
use arch::addr::{HostVirt, IPA_BITS, Ipa, PAGE_SIZE};
use core::ops::Range;

/// How many slots a VM has (KVM_CAP_NR_MEMSLOTS). KVM/ARM had 32, which is few for a client that maps parts of files.
pub const SLOTS: usize = 512;
/// Flag of a region: note which pages the guest writes.
pub const LOG_DIRTY_PAGES: u32 = uapi::memory::KVM_MEM_LOG_DIRTY_PAGES;
/// Flag of a region: the guest's writes are MMIO.
pub const READONLY: u32 = uapi::memory::KVM_MEM_READONLY;

const PAGE: u64 = PAGE_SIZE as u64;
/// KVM_MEM_MAX_NR_PAGES.
const MAX_PAGES: u64 = (1 << 31) - 1;

/// What a process asks for, unchecked: the fields of `struct kvm_userspace_memory_region`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Slot number; the upper 16 bits name an address space, of which there is one.
    pub slot: u32,
    /// [`LOG_DIRTY_PAGES`], [`READONLY`].
    pub flags: u32,
    /// The first IPA.
    pub guest_phys_addr: u64,
    /// Bytes; 0 deletes the slot.
    pub memory_size: u64,
    /// The process's first address.
    pub userspace_addr: u64,
}

/// What a request amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The slot is as asked for already.
    Nothing,
    /// There was no such slot.
    Create,
    /// The slot goes.
    Delete,
    /// It moves to other IPAs.
    Move,
    /// Its flags change.
    Flags,
}

/// Why a request is refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// An argument makes no sense (EINVAL).
    Invalid,
    /// Another slot is there (EEXIST).
    Exists,
    /// It reaches beyond what stage 2 translates (EFAULT).
    BeyondIpa,
    /// No memory for the dirty bitmap (ENOMEM).
    OutOfMemory,
}

/// A bit a page: whether the guest wrote to it. Page n is bit n % 32 of word n / 32.
pub type DirtyBitmap<H> = <H as Host>::Array<u32>;

/// Why a slot's dirty log is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLog {
    /// No slot can have that number.
    Number,
    /// There is no such slot, or its writes are not noted.
    Off,
}

/// A slot's dirty log.
pub struct DirtyLog<'a> {
    /// The first IPA of the slot.
    pub ipa: Ipa,
    /// How many pages it has.
    pub pages: u64,
    /// What the guest wrote: see [`DirtyBitmap`].
    pub bitmap: &'a mut [u32],
}

/// Where a slot lies, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    ipa: Ipa,
    hva: HostVirt,
    bytes: u64,
    flags: u32,
}

impl Shape {
    const fn ipa_end(self) -> u64 {
        self.ipa.get().saturating_add(self.bytes)
    }

    const fn hva_end(self) -> u64 {
        (self.hva.get() as u64).saturating_add(self.bytes)
    }

    fn holds(self, ipa: Ipa) -> bool {
        self.ipa <= ipa && ipa.get() < self.ipa_end()
    }

    const fn logs(self) -> bool {
        self.flags & LOG_DIRTY_PAGES != 0
    }
}

struct Slot<H: Host> {
    shape: Shape,
    retired: bool,
    dirty: Option<DirtyBitmap<H>>,
}

/// A request that was found good. Made by [`Memslots::check`], used up by [`Memslots::install`].
#[derive(Debug)]
#[must_use]
pub struct Plan {
    /// What it amounts to.
    pub change: Change,
    index: usize,
    /// What the slot will be; its size is 0 if it goes.
    new: Shape,
    needs_bitmap: bool,
}

impl Plan {
    /// How many words of dirty bitmap [`Memslots::install`] must be given, if any.
    pub fn bitmap_words(&self) -> Option<usize> {
        self.needs_bitmap.then_some((self.new.bytes / PAGE).div_ceil(u64::from(u32::BITS)) as usize)
    }

    /// The IPAs that must lose the right to write once the slot is installed, since writes are to be noted.
    pub fn write_protect(&self) -> Option<IpaRange> {
        let logs = self.change != Change::Delete && self.new.logs();
        logs.then(|| IpaRange::new(self.new.ipa, self.new.bytes))
    }

    /// The IPAs whose split blocks may be mapped whole again once the slot is installed, since writes are no longer to be noted.
    pub fn join(&self) -> Option<IpaRange> {
        let ends = self.change == Change::Flags && !self.new.logs();
        ends.then(|| IpaRange::new(self.new.ipa, self.new.bytes))
    }
}

/// What a guest's address is in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    index: usize,
    shape: Shape,
    ipa: Ipa,
}

impl View {
    /// The process's address.
    pub fn hva(&self) -> HostVirt {
        let offset = self.ipa.get().wrapping_sub(self.shape.ipa.get());
        HostVirt::new(self.shape.hva.get().wrapping_add(offset as u32))
    }

    /// The guest's writes are MMIO.
    pub fn is_read_only(&self) -> bool {
        self.shape.flags & READONLY != 0
    }

    /// The guest's writes are noted.
    pub fn logs(&self) -> bool {
        self.shape.logs()
    }

    /// Whether a 2 MiB block may map the address: the block around it lies wholly in the slot, and the process's and the
    /// guest's blocks have the same borders.
    pub fn allows_block(&self) -> bool {
        const BLOCK: u64 = arch::addr::BLOCK_SIZE as u64;
        let congruent = (self.shape.ipa.get() ^ u64::from(self.shape.hva.get())) & (BLOCK - 1) == 0;
        let start = self.ipa.get() & !(BLOCK - 1);
        congruent && start >= self.shape.ipa.get() && start.saturating_add(BLOCK) <= self.shape.ipa_end()
    }
}

/// The slots of a VM.
pub struct Memslots<H: Host> {
    /// On the heap: a VM is made on a kernel's small stack.
    slots: H::Array<Option<Slot<H>>>,
    /// The numbers of the slots that exist, by their IPAs; `count` of them.
    order: H::Array<u16>,
    count: usize,
    /// No slot from this number on exists.
    end: usize,
}

impl<H: Host> Memslots<H> {
    /// No slots. May sleep.
    pub fn new(host: &H) -> Result<Self, OutOfMemory> {
        Ok(Self { slots: host.array(SLOTS, |_| None)?, order: host.array(SLOTS, |_| 0)?, count: 0, end: 0 })
    }

    /// One more than the greatest number of a slot that exists.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Judges a request. The process's addresses end at `user_end`.
    ///
    /// The process's address is taken modulo 2^32, as KVM took it: a pointer that was extended with its sign is good.
    pub fn check(&self, region: &Region, user_end: HostVirt) -> Result<Plan, SlotError> {
        let hva = HostVirt::new(region.userspace_addr as u32);
        let (ipa, bytes) = (region.guest_phys_addr, region.memory_size);
        // An address space other than 0 has no slots either.
        let index = usize::try_from(region.slot).unwrap_or(usize::MAX);
        let reachable = u64::from(hva.get()).checked_add(bytes).is_some_and(|end| end <= u64::from(user_end.get()));
        let ipa_end = ipa.checked_add(bytes).ok_or(SlotError::Invalid)?;
        if region.flags & !(LOG_DIRTY_PAGES | READONLY) != 0
            || (bytes | ipa | u64::from(hva.get())) & (PAGE - 1) != 0
            || !reachable
            || index >= SLOTS
            || bytes / PAGE > MAX_PAGES
        {
            return Err(SlotError::Invalid);
        }
        let new = Shape { ipa: Ipa::new(ipa), hva, bytes, flags: region.flags };
        let old = self.slots.get(index).and_then(Option::as_ref);
        let change = match old.map(|old| old.shape) {
            None if bytes == 0 => return Err(SlotError::Invalid),
            None => Change::Create,
            Some(_) if bytes == 0 => Change::Delete,
            Some(old) if (old.hva, old.bytes) != (hva, bytes) || (old.flags ^ new.flags) & READONLY != 0 => {
                return Err(SlotError::Invalid);
            }
            Some(old) if old.ipa != new.ipa => Change::Move,
            Some(old) if old.flags != new.flags => Change::Flags,
            Some(_) => Change::Nothing,
        };
        if matches!(change, Change::Create | Change::Move) {
            let mut others = self.iter().filter(|(other, _)| *other != index);
            if others.any(|(_, other)| ipa < other.shape.ipa_end() && other.shape.ipa.get() < ipa_end) {
                return Err(SlotError::Exists);
            }
        }
        // KVM refused the last page of the space as well.
        if !matches!(change, Change::Delete | Change::Nothing) && ipa_end >= 1 << IPA_BITS {
            return Err(SlotError::BeyondIpa);
        }
        let has_bitmap = old.is_some_and(|old| old.dirty.is_some());
        let needs_bitmap = !matches!(change, Change::Delete | Change::Nothing) && new.logs() && !has_bitmap;
        Ok(Plan { change, index, new, needs_bitmap })
    }

    /// Hides the slot that `plan` deletes or moves from the guest. The IPAs to unmap before it is installed; `None`: nothing
    /// is to be done.
    pub fn retire(&mut self, plan: &Plan) -> Option<IpaRange> {
        let slot = self.slots.get_mut(plan.index)?.as_mut()?;
        if !matches!(plan.change, Change::Delete | Change::Move) {
            return None;
        }
        slot.retired = true;
        Some(IpaRange::new(slot.shape.ipa, slot.shape.bytes))
    }

    /// Makes the change, with a bitmap if the plan needs one. Gives back a bitmap that is no longer of use, to be freed where
    /// that may sleep.
    pub fn install(&mut self, plan: Plan, bitmap: Option<DirtyBitmap<H>>) -> Option<DirtyBitmap<H>> {
        if plan.change == Change::Nothing {
            return bitmap;
        }
        self.unlink(plan.index);
        let slot = self.slots.get_mut(plan.index)?;
        let useless = match plan.change {
            Change::Delete => slot.take()?.dirty,
            _ => {
                let old = slot.take().and_then(|old| old.dirty);
                let (dirty, useless) = match (plan.new.logs(), bitmap) {
                    (true, Some(bitmap)) => (Some(bitmap), old),
                    (true, None) => (old, None),
                    (false, bitmap) => (None, old.or(bitmap)),
                };
                *slot = Some(Slot { shape: plan.new, retired: false, dirty });
                self.link(plan.index, plan.new.ipa);
                useless
            }
        };
        self.end = self.order().iter().map(|number| usize::from(*number).saturating_add(1)).max().unwrap_or(0);
        useless
    }

    /// The numbers of the slots that exist, by their IPAs.
    fn order(&self) -> &[u16] {
        self.order.get(..self.count).unwrap_or_default()
    }

    fn slot(&self, number: u16) -> Option<&Slot<H>> {
        self.slots.get(usize::from(number))?.as_ref()
    }

    /// Takes a slot out of the order, if it is in it.
    fn unlink(&mut self, index: usize) {
        let Some(at) = self.order().iter().position(|number| usize::from(*number) == index) else { return };
        self.count = self.count.saturating_sub(1);
        for at in at..self.count {
            let next = self.order.get(at.saturating_add(1)).copied();
            if let (Some(place), Some(next)) = (self.order.get_mut(at), next) {
                *place = next;
            }
        }
    }

    /// Puts a slot that is not in the order where its IPA belongs.
    fn link(&mut self, index: usize, ipa: Ipa) {
        let mut number = index as u16; // below SLOTS
        let at = self.before(ipa);
        self.count = self.count.saturating_add(1);
        for place in self.order.iter_mut().take(self.count).skip(at) {
            core::mem::swap(place, &mut number);
        }
    }

    /// How many slots begin before or at `ipa`.
    fn before(&self, ipa: Ipa) -> usize {
        self.order().partition_point(|number| self.slot(*number).is_some_and(|slot| slot.shape.ipa <= ipa))
    }

    /// What the guest finds at `ipa`. `None`: no memory.
    pub fn find(&self, ipa: Ipa) -> Option<View> {
        let number = *self.order.get(self.before(ipa).checked_sub(1)?)?;
        let slot = self.slot(number).filter(|slot| !slot.retired && slot.shape.holds(ipa))?;
        Some(View { index: number.into(), shape: slot.shape, ipa })
    }

    /// What slot `index` has of the process's `range`: the process's address where the common part begins, and the guest's
    /// addresses of it. A retired slot counts.
    pub fn overlap(&self, index: usize, range: &Range<HostVirt>) -> Option<(HostVirt, IpaRange)> {
        let shape = self.slots.get(index)?.as_ref()?.shape;
        let hva = u64::from(shape.hva.get());
        let (start, end) = (hva.max(range.start.get().into()), shape.hva_end().min(range.end.get().into()));
        let bytes = end.checked_sub(start).filter(|bytes| *bytes != 0)?;
        let ipa = shape.ipa.checked_add(start.wrapping_sub(hva))?;
        Some((HostVirt::new(start as u32), IpaRange::new(ipa, bytes)))
    }

    /// Notes that the guest may write to the page that `view` is of, if its slot logs.
    pub fn mark_dirty(&mut self, view: &View) {
        let page = view.ipa.get().wrapping_sub(view.shape.ipa.get()) / PAGE;
        let slot = self.slots.get_mut(view.index).and_then(Option::as_mut);
        let bitmap = slot.and_then(|slot| slot.dirty.as_mut());
        if let Some(word) = bitmap.and_then(|bitmap| bitmap.get_mut((page / u64::from(u32::BITS)) as usize)) {
            *word |= 1 << (page % u64::from(u32::BITS));
        }
    }

    /// What the guest wrote in a slot. The number's upper 16 bits name an address space, as in [`Region::slot`].
    pub fn dirty_log(&mut self, number: u32) -> Result<DirtyLog<'_>, NoLog> {
        let slot = self.slots.get_mut(number as usize).ok_or(NoLog::Number)?.as_mut().ok_or(NoLog::Off)?;
        let bitmap = slot.dirty.as_mut().ok_or(NoLog::Off)?;
        Ok(DirtyLog { ipa: slot.shape.ipa, pages: slot.shape.bytes / PAGE, bitmap })
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &Slot<H>)> {
        self.order().iter().filter_map(|number| Some((usize::from(*number), self.slot(*number)?)))
    }
}

#[cfg(test)]
#[path = "memslots_tests.rs"]
mod tests;
