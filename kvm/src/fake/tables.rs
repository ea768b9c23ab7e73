// SPDX-License-Identifier: GPL-2.0-only
//! Table pages at made-up physical addresses, with a pessimistic model of what hardware does with them.
//!
//! Beside each descriptor stands what a TLB or walk cache may hold of it: the last live value that was published since the
//! last flush. A live value may follow another only if permissions alone differ; else the old one must have been made
//! invalid and flushed first (ARM DDI 0406C.d, B3.10.1). A page must not be freed while something that may be held points
//! to it, unless its whole tree dies too: no vCPU runs on it then.

use crate::host::Table;
use arch::addr::{HostPhys, PAGE_SIZE};
use core::sync::atomic::{AtomicU64, Ordering};
use std::boxed::Box;
use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::vec::Vec;

/// Where the first page lies: no guest page of any test is here.
const FIRST: u64 = 0xf0_0000_0000;
/// The output address of a descriptor.
const OUTPUT: u64 = 0xff_ffff_f000;
/// What may change in a live page or block descriptor: access permission, access flag, execute-never, software's bits.
const PERMISSIONS: u64 = 0b11 << 6 | 1 << 10 | 0x7f << 53;

/// Pages of hosts that are gone. They are leaked, to be `'static` without unsafe code, and used again.
static POOL: Mutex<Vec<&'static Table>> = Mutex::new(Vec::new());

struct Watched {
    table: &'static Table,
    published: Box<[u64; 512]>,
    held: Box<[u64; 512]>,
}

#[derive(Default)]
pub(super) struct Tables {
    live: BTreeMap<u64, Watched>,
    allocated: u64,
    /// Freed too early, unless the root goes as well: (root, page).
    dangling: Vec<(u64, u64)>,
    /// There was a flush on every CPU, and its completion is owed.
    incomplete: bool,
    /// A flush was asked for, and is yet to be done.
    put_off: bool,
}

fn is_live(descriptor: u64) -> bool {
    descriptor & 1 != 0
}

impl Tables {
    pub(super) fn live(&self) -> usize {
        self.live.len()
    }

    /// Contiguous zeroed pages, aligned to their size.
    pub(super) fn allocate(&mut self, pages: u64) -> HostPhys {
        self.allocated = self.allocated.next_multiple_of(pages);
        let first = FIRST + self.allocated * PAGE_SIZE as u64;
        for page in 0..pages {
            let table = super::open(&POOL).pop();
            let table = table.unwrap_or_else(|| Box::leak(Box::new([const { AtomicU64::new(0) }; 512])));
            let watched = Watched { table, published: Box::new([0; 512]), held: Box::new([0; 512]) };
            self.live.insert(first + page * PAGE_SIZE as u64, watched);
        }
        self.allocated += pages;
        HostPhys::new(first)
    }

    pub(super) fn get(&self, phys: HostPhys) -> &'static Table {
        self.live.get(&phys.get()).expect("a table page that exists").table
    }

    pub(super) fn free(&mut self, phys: HostPhys) {
        let page = phys.get();
        assert!(!self.incomplete, "a table is freed before a flush is complete");
        let mut ancestors = self.parents(page);
        for _ in 0..2 {
            let above: Vec<u64> = ancestors.iter().flat_map(|parent| self.parents(*parent)).collect();
            ancestors.extend(above);
        }
        self.dangling.extend(ancestors.into_iter().map(|ancestor| (ancestor, page)));
        let watched = self.live.remove(&page).expect("a table page that is freed once");
        self.dangling.retain(|(root, _)| *root != page);
        for descriptor in watched.table {
            descriptor.store(0, Ordering::Relaxed);
        }
        super::open(&POOL).push(watched.table);
    }

    /// The pages that lead hardware to `page`, by what it reads there or by what it holds.
    fn parents(&self, page: u64) -> Vec<u64> {
        let leads = |descriptor: u64| descriptor & 0b11 == 0b11 && descriptor & OUTPUT == page;
        let parents = self.live.iter().filter(|(_, watched)| {
            watched.table.iter().any(|descriptor| leads(descriptor.load(Ordering::Relaxed)))
                || watched.held.iter().any(|descriptor| leads(*descriptor))
        });
        parents.map(|(parent, _)| *parent).collect()
    }

    /// The pages that hardware which starts at `roots` may come to, by what it reads and, if so asked, by what it holds.
    fn reachable(&self, roots: &[u64], by_held: bool) -> HashSet<u64> {
        let mut found = HashSet::new();
        let mut next = roots.to_vec();
        while let Some(page) = next.pop() {
            let Some(watched) = self.live.get(&page) else { continue };
            if !found.insert(page) {
                continue;
            }
            let read = watched.table.iter().map(|descriptor| descriptor.load(Ordering::Relaxed));
            let links = read
                .chain(watched.held.iter().copied().filter(|_| by_held))
                .filter(|descriptor| descriptor & 0b11 == 0b11);
            next.extend(links.map(|descriptor| descriptor & OUTPUT).filter(|page| *page >= FIRST));
        }
        found
    }

    fn check_dangling(&self) {
        assert!(self.dangling.is_empty(), "tables were freed while hardware may walk them: {:x?}", self.dangling);
    }

    pub(super) fn publish(&mut self, table: &Table) {
        self.check_dangling();
        let watched = self.live.values_mut().find(|watched| core::ptr::eq(watched.table, table));
        let watched = watched.expect("a published table exists");
        for (index, descriptor) in table.iter().enumerate() {
            let (old, new) = (watched.held[index], descriptor.load(Ordering::Relaxed));
            watched.published[index] = new;
            if !is_live(new) {
                continue;
            }
            let same = old & !PERMISSIONS == new & !PERMISSIONS;
            assert!(old == 0 || same, "no break before make: {old:#x} may be held where {new:#x} is written");
            watched.held[index] = new;
        }
    }

    /// The TLB entries of the tree go.
    pub(super) fn flush(&mut self, root: HostPhys) {
        self.check_dangling();
        self.incomplete = true;
        let roots = [root.get(), root.get() + PAGE_SIZE as u64];
        for page in self.reachable(&roots, false) {
            self.check_published(page);
        }
        for page in self.reachable(&roots, true) {
            self.flush_page(page);
        }
    }

    /// All TLB entries go.
    pub(super) fn flush_all(&mut self) {
        self.check_dangling();
        let pages: Vec<u64> = self.live.keys().copied().collect();
        for page in pages {
            self.flush_page(page);
        }
    }

    /// The TLB entries stay until the flush is completed.
    pub(super) fn put_off_flush(&mut self) {
        (self.incomplete, self.put_off) = (true, true);
    }

    pub(super) fn flush_is_put_off(&self) -> bool {
        self.put_off
    }

    pub(super) fn complete_flush(&mut self) {
        if core::mem::take(&mut self.put_off) {
            self.flush_all();
        }
        self.incomplete = false;
    }

    /// What a table that is in use says is what hardware was told.
    fn check_published(&self, page: u64) {
        let Some(watched) = self.live.get(&page) else { return };
        for (descriptor, published) in watched.table.iter().zip(watched.published.iter()) {
            let now = descriptor.load(Ordering::Relaxed);
            assert_eq!(now, *published, "written, flushed and not published");
        }
    }

    fn flush_page(&mut self, page: u64) {
        let Some(watched) = self.live.get_mut(&page) else { return };
        for index in 0..512 {
            let now = watched.table[index].load(Ordering::Relaxed);
            watched.held[index] = if is_live(now) { now } else { 0 };
        }
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_dangling();
            assert!(!self.incomplete, "a flush was never completed");
        }
    }
}
