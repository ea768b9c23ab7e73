// SPDX-License-Identifier: GPL-2.0-only
//! Hyp mode's own map of memory: the stage-1 tables that HTTBR leads to.
//!
//! Hyp mode has 4 GiB (HTCR.T0SZ = 0), so a walk begins at level 1 with four entries, and all is mapped by 4 KiB pages.
//! Little is ever mapped (`hyp_abi::layout` says what): the image, stacks, the trampoline, and a page for each vCPU.
//! Nothing is writable and executable at once. A page has one owner and an address maps one page: mapping what is
//! mapped already is an error, found before anything is changed.
//!
//! CPUs walk these tables all the time, so an entry goes from invalid to valid and back, never from one page to another. What
//! is unmapped may linger in TLBs until the owner pays the [`FlushHyp`]. Tables stay until the map itself goes: the few
//! that there are serve the next vCPU.
//!
//! Source: ARM DDI 0406C.d, B3.6 (format), B4.1 (HTCR, HTTBR).

use crate::host::{Host, OutOfMemory, Table, TablePage, TablePhys};
use arch::addr::{HostPhys, HypVirt, PAGE_SIZE};
use arch::hyp_registers::HypMemory;
use arch::long_descriptor::{Decoded, ENTRIES, HypAccess, HypDescriptor, Level};
use core::sync::atomic::{AtomicU64, Ordering};

/// Entries of the first table that 32 bits of address can reach.
const FIRST_ENTRIES: usize = 4;

/// What a page is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Read and execute.
    Text,
    /// Read.
    Constants,
    /// Read and write: data, stacks, vCPU contexts.
    Data,
    /// Registers: read and write, Device memory.
    Device,
}

/// Why nothing was mapped. No mapping has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HypMapError {
    /// Something is mapped there.
    Overlap,
    /// An address is not aligned to pages, or does not fit into 32 bits (virtual) or 40 (physical).
    Unmappable,
    /// No memory for a table.
    OutOfMemory,
}

/// A page that was unmapped, and that TLBs may still hold.
///
/// Before the page is used for anything else, `Call::FlushHyp` is called with this address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "TLBs may still hold the page: flush it in Hyp mode"]
pub struct FlushHyp(pub HypVirt);

/// The tables. The owner locks them.
pub struct HypMap<H: Host> {
    host: H,
    root: H::TablePage,
}

impl<H: Host> HypMap<H> {
    /// Tables that map nothing. May sleep.
    pub fn new(host: H) -> Result<Self, OutOfMemory> {
        let root = host.table_page()?;
        host.publish(root.table());
        Ok(Self { host, root })
    }

    /// HTTBR.
    pub fn httbr(&self) -> u64 {
        self.root.phys().get()
    }

    /// Maps `pages` pages that are contiguous on both sides. May sleep.
    pub fn map(&mut self, at: HypVirt, to: HostPhys, pages: usize, kind: Kind) -> Result<(), HypMapError> {
        let last = pages.checked_sub(1).and_then(|pages| page_after(at, pages)).ok_or(HypMapError::Unmappable)?;
        if at.page_offset() != 0 {
            return Err(HypMapError::Unmappable);
        }
        // Each page's place and descriptor is seen to be good before the first is written.
        for page in 0..pages {
            page_after(at, page).and_then(|_| descriptor(to, page, kind)).ok_or(HypMapError::Unmappable)?;
        }
        let taken = |page| page_after(at, page).and_then(|at| self.lookup(at)).is_some();
        if (0..pages).any(taken) {
            return Err(HypMapError::Overlap);
        }
        for block in at.get() >> Level::Two.shift()..=last.get() >> Level::Two.shift() {
            self.make_table(HypVirt::new(block << Level::Two.shift()))?;
        }
        for page in 0..pages {
            let (Some(at), Some(descriptor)) = (page_after(at, page), descriptor(to, page, kind)) else { continue };
            let Some(table) = self.third(at) else { continue };
            entry(table, Level::Three.hyp_index(at)).store(descriptor.bits(), Ordering::Relaxed);
            if Level::Three.hyp_index(at) == ENTRIES - 1 || page == pages - 1 {
                self.host.publish(table);
            }
        }
        Ok(())
    }

    /// Unmaps the page at `at`. `None`: there was none.
    pub fn unmap(&mut self, at: HypVirt) -> Option<FlushHyp> {
        let at = at.page();
        self.lookup(at)?;
        let table = self.third(at)?;
        entry(table, Level::Three.hyp_index(at)).store(HypDescriptor::INVALID.bits(), Ordering::Relaxed);
        self.host.publish(table);
        Some(FlushHyp(at))
    }

    /// Maps a page that the kernel keeps using, at the kernel's own address of it. May sleep.
    pub fn share(&mut self, at: HypVirt, page: HostPhys) -> Result<(), HypMapError> {
        self.map(at, page, 1, Kind::Data)
    }

    /// The page that `at` lies in.
    pub fn lookup(&self, at: HypVirt) -> Option<HostPhys> {
        let descriptor = read(self.third(at)?, Level::Three.hyp_index(at));
        match descriptor.decode(Level::Three) {
            Decoded::Leaf(phys) => Some(phys),
            Decoded::Table(_) | Decoded::Invalid | Decoded::Reserved => None,
        }
    }

    /// The table of level 3 that serves `at`.
    fn third(&self, at: HypVirt) -> Option<&Table> {
        let second = self.below(self.root.table(), Level::One, at)?;
        self.below(second, Level::Two, at)
    }

    /// The table that the entry for `at` leads to.
    fn below(&self, table: &Table, level: Level, at: HypVirt) -> Option<&Table> {
        match read(table, level.hyp_index(at)).decode(level) {
            // An address that came out of a table descriptor of ours.
            Decoded::Table(phys) => Some(self.host.table(TablePhys::from_page(phys))),
            Decoded::Leaf(_) | Decoded::Invalid | Decoded::Reserved => None,
        }
    }

    /// Makes sure that tables down to level 3 serve `at`.
    fn make_table(&mut self, at: HypVirt) -> Result<(), HypMapError> {
        let root = self.root.table();
        let second = match self.below(root, Level::One, at) {
            Some(second) => second,
            None => self.link(root, Level::One.hyp_index(at))?,
        };
        if self.below(second, Level::Two, at).is_none() {
            self.link(second, Level::Two.hyp_index(at))?;
        }
        Ok(())
    }

    /// Puts a new table in an invalid entry's place.
    fn link(&self, table: &Table, index: usize) -> Result<&Table, HypMapError> {
        let page = self.host.table_page().map_err(|OutOfMemory| HypMapError::OutOfMemory)?;
        let descriptor = HypDescriptor::table(page.phys()).ok_or(HypMapError::Unmappable)?;
        self.host.publish(page.table());
        let at = page.into_phys();
        entry(table, index).store(descriptor.bits(), Ordering::Relaxed);
        self.host.publish(table);
        Ok(self.host.table(at))
    }
}

/// The tables are given back. No CPU walks them any more.
impl<H: Host> Drop for HypMap<H> {
    fn drop(&mut self) {
        for first in tables(self.root.table(), Level::One, FIRST_ENTRIES) {
            let second = self.host.reclaim(first);
            for third in tables(second.table(), Level::Two, ENTRIES) {
                drop(self.host.reclaim(third));
            }
        }
    }
}

fn entry(table: &Table, index: usize) -> &AtomicU64 {
    &table[index % ENTRIES]
}

fn read(table: &Table, index: usize) -> HypDescriptor {
    HypDescriptor::from_bits(entry(table, index).load(Ordering::Relaxed))
}

/// The tables that the first `count` entries lead to.
fn tables(table: &Table, level: Level, count: usize) -> impl Iterator<Item = TablePhys> {
    (0..count).filter_map(move |index| match read(table, index).decode(level) {
        Decoded::Table(at) => Some(TablePhys::from_page(at)),
        Decoded::Leaf(_) | Decoded::Invalid | Decoded::Reserved => None,
    })
}

fn page_after(at: HypVirt, pages: usize) -> Option<HypVirt> {
    at.checked_add(u32::try_from(pages.checked_mul(PAGE_SIZE)?).ok()?)
}

fn descriptor(to: HostPhys, page: usize, kind: Kind) -> Option<HypDescriptor> {
    let (memory, access) = match kind {
        Kind::Text => (HypMemory::Normal, HypAccess::ReadExecute),
        Kind::Constants => (HypMemory::Normal, HypAccess::Read),
        Kind::Data => (HypMemory::Normal, HypAccess::ReadWrite),
        Kind::Device => (HypMemory::Device, HypAccess::ReadWrite),
    };
    HypDescriptor::page(to.checked_add((page as u64).checked_mul(PAGE_SIZE as u64)?)?, memory, access)
}

#[cfg(test)]
#[path = "hyp_map_tests.rs"]
mod tests;
