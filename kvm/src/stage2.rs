// SPDX-License-Identifier: GPL-2.0-only
//! A VM's stage-2 tables: what its guest's physical addresses are in the host's memory.
//!
//! A walk begins in two concatenated first tables, 1024 entries of 1 GiB for 40 bits of IPA, and goes over at most two more
//! levels: a level-2 entry maps a 2 MiB block or leads to a table of 512 pages. First tables map no blocks. Tables come
//! from a [`TableCache`] that was filled before the VM's spin lock was taken, since allocation may sleep, and go as soon as they
//! map nothing.
//!
//! Hardware walks the tables while they change, and keeps in TLBs what it found, pointers to tables included. So no live
//! entry becomes another one that maps differently but by way of an invalid one and a flush (B3.10.1), and a table that
//! was cut off is *retired*: in a list, threaded through its own first entry (an aligned address reads as an invalid
//! descriptor), until the flush after which no walk can reach it. Methods that change entries of a range hand back a
//! [`Flush`], which must be paid with [`Stage2::flush`] before the lock is left. A flush on every CPU may need more than
//! can be done under a spin lock ([`Host::complete_flush`]): that, and freeing what was retired, is [`Unfinished`].
//!
//! Source: ARM DDI 0406C.d, B3.6 (format, concatenated tables), B3.10.1 (TLB maintenance).

mod range;
#[cfg(test)]
mod tests;

pub use range::IpaRange;

use crate::host::{Host, OutOfMemory, Table, TablePage, TablePhys};
use crate::vmid::VmidSlot;
use arch::addr::{HostPhys, Ipa};
use arch::long_descriptor::{Decoded, ENTRIES, Level, Stage2Access, Stage2Descriptor, Stage2Memory};
use core::cell::Cell;
use core::sync::atomic::Ordering;

/// How much one entry maps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Size {
    /// 4 KiB, by an entry of level 3.
    Page,
    /// 2 MiB, by an entry of level 2.
    Block,
}

impl Size {
    const fn level(self) -> Level {
        match self {
            Self::Page => Level::Three,
            Self::Block => Level::Two,
        }
    }

    /// The bytes mapped.
    pub const fn bytes(self) -> usize {
        self.level().size() as usize
    }

    /// The first address of the page or block around `ipa`.
    pub const fn base(self, ipa: Ipa) -> Ipa {
        Ipa::new(ipa.get() & !(self.level().size() - 1))
    }

    /// How far into its page or block `ipa` lies.
    pub const fn offset(self, ipa: Ipa) -> u64 {
        ipa.get() & (self.level().size() - 1)
    }
}

/// A page or block of the host's memory, as a guest gets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Where it begins.
    pub phys: HostPhys,
    /// How much it is.
    pub size: Size,
    /// Device memory, never cached; else Normal Write-Back.
    pub device: bool,
    /// What the guest may do there.
    pub access: Stage2Access,
}

/// What [`Stage2::lookup`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The page or block.
    pub mapping: Mapping,
    /// Where it begins for the guest.
    pub ipa: Ipa,
    /// The access flag: with it clear, the next access faults.
    pub accessed: bool,
}

/// Why nothing was mapped. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// An address is not aligned to the size, or lies beyond 40 bits.
    Unaligned,
    /// The [`TableCache`] ran out: it was not filled.
    NoTable,
    /// TLBs may hold something old for this very address ([`Host::flush_is_put_off`]).
    FlushPutOff,
}

/// Whether TLBs may still hold what was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "TLBs may still hold what was changed: pass it to Stage2::flush before the lock is left"]
pub struct Flush(bool);

impl Flush {
    /// No TLB can hold anything stale.
    pub const NONE: Self = Self(false);

    /// Whether one is owed.
    pub const fn is_owed(self) -> bool {
        self.0
    }
}

/// What a flush leaves to do once the lock is left. Dropping it does it.
#[must_use = "to be dropped once the lock is left, and before what was unmapped is used for something else"]
pub struct Unfinished<H: Host> {
    host: H,
    flushed: bool,
    retired: Option<TablePhys>,
}

impl<H: Host> Unfinished<H> {
    /// Waits until no CPU uses what was flushed, and frees tables. No spin lock is held and interrupts are on.
    pub fn finish(self) {}
}

impl<H: Host> Drop for Unfinished<H> {
    fn drop(&mut self) {
        if self.flushed {
            self.host.complete_flush();
        }
        while let Some(at) = self.retired.take() {
            let page = self.host.reclaim(at);
            let next = HostPhys::new(page.table()[0].load(Ordering::Relaxed));
            if next != HostPhys::default() {
                self.retired = Some(TablePhys::from_page(next));
            }
        }
    }
}

/// Tables in store, for use where allocation is impossible. One a vCPU.
pub struct TableCache<H: Host>([Option<H::TablePage>; 2]);

impl<H: Host> TableCache<H> {
    /// An empty one.
    pub const fn new() -> Self {
        Self([None, None])
    }

    /// Makes sure that one [`Stage2::map`] has enough. May sleep.
    pub fn top_up(&mut self, host: &H) -> Result<(), OutOfMemory> {
        for page in &mut self.0 {
            if page.is_none() {
                *page = Some(host.table_page()?);
            }
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.0.iter().flatten().count()
    }

    fn take(&mut self) -> Result<H::TablePage, MapError> {
        self.0.iter_mut().find_map(Option::take).ok_or(MapError::NoTable)
    }
}

impl<H: Host> Default for TableCache<H> {
    fn default() -> Self {
        Self::new()
    }
}

/// One descriptor in its table.
#[derive(Clone, Copy)]
struct Entry<'a> {
    table: &'a Table,
    index: usize,
    level: Level,
}

impl Entry<'_> {
    fn read(&self) -> Stage2Descriptor {
        Stage2Descriptor::from_bits(self.table[self.index % ENTRIES].load(Ordering::Relaxed))
    }

    /// Publishing is the caller's.
    fn store(&self, descriptor: Stage2Descriptor) {
        self.table[self.index % ENTRIES].store(descriptor.bits(), Ordering::Relaxed);
    }

    fn write<H: Host>(&self, host: &H, descriptor: Stage2Descriptor) {
        self.store(descriptor);
        host.publish(self.table);
    }
}

/// A VM's stage-2 tables.
///
/// Dropping it frees them without a flush: by then no vCPU of the VM runs, and its VMID is not used again before all TLBs
/// were emptied.
pub struct Stage2<H: Host> {
    host: H,
    roots: [H::TablePage; 2],
    /// The newest table that was cut off and is not in an [`Unfinished`] yet.
    retired: Cell<Option<TablePhys>>,
    /// There was a flush that is not in an [`Unfinished`] yet.
    flushed: Cell<bool>,
    /// How many flushes there were.
    flushes: Cell<u64>,
}

impl<H: Host> Stage2<H> {
    /// Tables that map nothing. May sleep.
    pub fn new(host: H) -> Result<Self, OutOfMemory> {
        let roots = host.root_pages()?;
        for root in &roots {
            host.publish(root.table());
        }
        Ok(Self { host, roots, retired: Cell::new(None), flushed: Cell::new(false), flushes: Cell::new(0) })
    }

    /// Where the first tables lie, for VTTBR.
    pub fn base(&self) -> HostPhys {
        self.roots[0].phys()
    }

    /// Drops the TLB entries that `flush` owes on every CPU. Never sleeps.
    pub fn flush(&mut self, flush: Flush, vmid: &VmidSlot) -> Unfinished<H> {
        if flush.is_owed() {
            self.flush_now(vmid);
        }
        self.unfinished()
    }

    /// How often TLB entries were dropped on all CPUs.
    pub fn flushes(&self) -> u64 {
        self.flushes.get()
    }

    /// What maps `ipa`.
    pub fn lookup(&self, ipa: Ipa) -> Option<Found> {
        let (entry, decoded) = self.walk(ipa)?;
        let (Decoded::Leaf(phys), descriptor) = (decoded, entry.read()) else { return None };
        let size = if entry.level == Level::Three { Size::Page } else { Size::Block };
        let device = descriptor.memory() != Some(Stage2Memory::WriteBack);
        let mapping = Mapping { phys, size, device, access: descriptor.access() };
        Some(Found { mapping, ipa: size.base(ipa), accessed: descriptor.accessed() })
    }

    /// Sets the access flag of what maps `ipa`. No flush is due: TLBs keep no entry whose flag is clear (B3.7.4).
    pub fn set_accessed(&mut self, ipa: Ipa) {
        if let Some((entry, Decoded::Leaf(_))) = self.walk(ipa) {
            entry.write(&self.host, entry.read().with_accessed(true));
        }
    }

    /// Maps `mapping` at `ipa` with the access flag set, in place of whatever is there, flushing as it must. Never sleeps.
    ///
    /// A page amid a block splits it: the rest stays mapped as it was. A block over pages takes their place. If a flush in between cannot be
    /// done at once, nothing is mapped there afterwards, nor in the block's place.
    pub fn map(
        &mut self,
        ipa: Ipa,
        mapping: Mapping,
        cache: &mut TableCache<H>,
        vmid: &VmidSlot,
    ) -> Result<Unfinished<H>, MapError> {
        let level = mapping.size.level();
        let memory = if mapping.device { Stage2Memory::Device } else { Stage2Memory::WriteBack };
        let leaf = Stage2Descriptor::leaf(mapping.phys, level, memory, mapping.access).ok_or(MapError::Unaligned)?;
        if Ipa::checked(ipa.get()).is_none() || !ipa.is_aligned(level.size()) {
            return Err(MapError::Unaligned);
        }
        if cache.len() < self.tables_missing(ipa, level) {
            return Err(MapError::NoTable);
        }
        if self.host.flush_is_put_off() {
            return Err(MapError::FlushPutOff);
        }
        let first = self.first(ipa);
        let second = match self.below(first, ipa) {
            Some(second) => second,
            None => self.link(first, cache.take()?, ipa)?,
        };
        if mapping.size == Size::Block {
            self.replace(second, leaf, vmid);
            return Ok(self.unfinished());
        }
        match second.read().decode(Level::Two) {
            Decoded::Leaf(_) => self.split(second, ipa, leaf, cache.take()?, vmid)?,
            Decoded::Table(_) | Decoded::Invalid | Decoded::Reserved => {
                let third = match self.below(second, ipa) {
                    Some(third) => third,
                    None => self.link(second, cache.take()?, ipa)?,
                };
                self.replace(third, leaf, vmid);
            }
        }
        Ok(self.unfinished())
    }

    /// How many tables mapping a leaf of `level` at `ipa` takes.
    fn tables_missing(&self, ipa: Ipa, level: Level) -> usize {
        let pages = usize::from(level == Level::Three);
        match self.below(self.first(ipa), ipa) {
            None => 1 + pages,
            Some(second) if self.below(second, ipa).is_none() => pages,
            Some(_) => 0,
        }
    }

    fn first(&self, ipa: Ipa) -> Entry<'_> {
        let index = Level::One.stage2_index(ipa);
        let [low, high] = &self.roots;
        let table = if index < ENTRIES { low } else { high }.table();
        Entry { table, index: index % ENTRIES, level: Level::One }
    }

    /// The entry for `ipa` in the table that `entry` leads to.
    fn below(&self, entry: Entry<'_>, ipa: Ipa) -> Option<Entry<'_>> {
        match (entry.read().decode(entry.level), entry.level.next()) {
            (Decoded::Table(at), Some(level)) => Some(self.entry(at, level, ipa)),
            _ => None,
        }
    }

    /// The entry for `ipa` in the table at `at`, an address that came out of a table descriptor of ours.
    fn entry(&self, at: HostPhys, level: Level, ipa: Ipa) -> Entry<'_> {
        Entry { table: self.host.table(TablePhys::from_page(at)), index: level.stage2_index(ipa), level }
    }

    /// The last entry of the walk for `ipa`, and what it is.
    fn walk(&self, ipa: Ipa) -> Option<(Entry<'_>, Decoded)> {
        Ipa::checked(ipa.get())?;
        let second = self.below(self.first(ipa), ipa)?;
        let last = self.below(second, ipa).unwrap_or(second);
        Some((last, last.read().decode(last.level)))
    }

    /// Puts a table in an invalid entry's place. Its entry for `ipa`.
    fn link(&self, entry: Entry<'_>, page: H::TablePage, ipa: Ipa) -> Result<Entry<'_>, MapError> {
        let at = page.phys();
        let (Some(descriptor), Some(level)) = (Stage2Descriptor::table(at), entry.level.next()) else {
            return Err(MapError::Unaligned);
        };
        self.host.publish(page.table());
        let _owned_by_the_descriptor = page.into_phys();
        entry.write(&self.host, descriptor);
        Ok(self.entry(at, level, ipa))
    }

    /// Makes `entry` a leaf, whatever it was.
    fn replace(&self, entry: Entry<'_>, leaf: Stage2Descriptor, vmid: &VmidSlot) {
        let old = entry.read();
        if old == leaf {
            return;
        }
        if old.needs_break(leaf, entry.level) {
            entry.write(&self.host, Stage2Descriptor::INVALID);
            if let Decoded::Table(at) = old.decode(entry.level) {
                self.retire(at);
            }
            self.flush_now(vmid);
            if !self.host.flush_is_put_off() {
                entry.write(&self.host, leaf);
            }
        } else {
            entry.write(&self.host, leaf);
            if old.is_valid() {
                self.flush_now(vmid);
            }
        }
    }

    /// Replaces the block that `entry` maps by a table of its 512 pages, of which the one for `ipa` becomes `leaf`.
    fn split(
        &self,
        entry: Entry<'_>,
        ipa: Ipa,
        leaf: Stage2Descriptor,
        page: H::TablePage,
        vmid: &VmidSlot,
    ) -> Result<(), MapError> {
        let block = entry.read();
        let wanted = Level::Three.stage2_index(ipa);
        for (index, descriptor) in page.table().iter().enumerate() {
            let part = if index == wanted { Some(leaf) } else { block.part(entry.level, index) };
            descriptor.store(part.unwrap_or(Stage2Descriptor::INVALID).bits(), Ordering::Relaxed);
        }
        entry.write(&self.host, Stage2Descriptor::INVALID);
        self.flush_now(vmid);
        if self.host.flush_is_put_off() {
            self.retire(page.into_phys().phys());
        } else {
            self.link(entry, page, ipa)?;
        }
        Ok(())
    }

    /// Notes a table that no entry leads to any more, to be freed with the next flush.
    fn retire(&self, at: HostPhys) {
        let at = TablePhys::from_page(at);
        let next = self.retired.get().map_or(0, |next| next.phys().get());
        self.host.table(at)[0].store(next, Ordering::Relaxed);
        self.retired.set(Some(at));
    }

    fn flush_now(&self, vmid: &VmidSlot) {
        if let Some(vttbr) = vmid.vttbr_to_flush(self.base()) {
            self.host.flush_vmid(vttbr.bits());
            self.flushed.set(true);
            self.flushes.set(self.flushes.get().wrapping_add(1));
        }
    }

    /// To be called when all is flushed.
    fn unfinished(&self) -> Unfinished<H> {
        Unfinished { host: self.host.clone(), flushed: self.flushed.take(), retired: self.retired.take() }
    }
}

impl<H: Host> Drop for Stage2<H> {
    fn drop(&mut self) {
        drop(self.unfinished());
        for root in &self.roots {
            for first in tables(root.table(), Level::One) {
                let second = self.host.reclaim(first);
                for third in tables(second.table(), Level::Two) {
                    drop(self.host.reclaim(third));
                }
            }
        }
    }
}

/// The tables that a table's entries lead to.
fn tables(table: &Table, level: Level) -> impl Iterator<Item = TablePhys> {
    table.iter().filter_map(move |descriptor| {
        match Stage2Descriptor::from_bits(descriptor.load(Ordering::Relaxed)).decode(level) {
            Decoded::Table(at) => Some(TablePhys::from_page(at)),
            Decoded::Leaf(_) | Decoded::Invalid | Decoded::Reserved => None,
        }
    })
}
