// SPDX-License-Identifier: GPL-2.0-only
//! Pages of the kernel's linear map: for translation tables, for the Hyp image and its stacks, for what a process maps.

use crate::ffi;
use arch::addr::{HostPhys, PAGE_SIZE};
use core::ops::Deref;
use core::ptr::NonNull;
use kvm::host::{OutOfMemory, Table, TablePage, TablePhys, Words};

/// One zeroed page, freed when dropped.
pub struct LowmemPage(NonNull<u8>);

// SAFETY: owned memory.
unsafe impl Send for LowmemPage {}
// SAFETY: shared access goes through atomics or volatile reads at the users.
unsafe impl Sync for LowmemPage {}

impl LowmemPage {
    /// A zeroed page. May sleep.
    pub fn new() -> Result<Self, OutOfMemory> {
        // SAFETY: any order will do.
        NonNull::new(unsafe { ffi::ws_pages(0) }).map(|page| Self(page.cast())).ok_or(OutOfMemory)
    }

    /// A zeroed page that a process may map. May sleep.
    pub fn for_process() -> Result<Self, OutOfMemory> {
        NonNull::new(ffi::ws_user_page()).map(|page| Self(page.cast())).ok_or(OutOfMemory)
    }

    /// Its address in the kernel.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// Its physical address.
    pub fn phys(&self) -> HostPhys {
        // SAFETY: a lowmem address.
        HostPhys::new(unsafe { ffi::ws_phys_of(self.0.as_ptr().cast()) })
    }

    /// Copies bytes into it from `offset`; what does not fit is left out.
    pub fn fill(&mut self, offset: usize, bytes: &[u8]) {
        // SAFETY: the page is owned, 4 KiB long, and borrowed mutably.
        let page = unsafe { core::slice::from_raw_parts_mut(self.0.as_ptr(), PAGE_SIZE) };
        for (to, from) in page.iter_mut().skip(offset).zip(bytes) {
            *to = *from;
        }
    }
}

impl Drop for LowmemPage {
    fn drop(&mut self) {
        // SAFETY: from ws_pages, owned.
        unsafe { ffi::ws_free_page(self.0.as_ptr().cast()) };
    }
}

/// A zeroed page that a process may map, word by word.
pub struct ProcessPage(LowmemPage);

impl ProcessPage {
    /// A zeroed page. May sleep.
    pub fn new() -> Result<Self, OutOfMemory> {
        LowmemPage::for_process().map(Self)
    }

    /// The page.
    pub fn page(&self) -> &LowmemPage {
        &self.0
    }
}

impl Deref for ProcessPage {
    type Target = Words;
    fn deref(&self) -> &Words {
        // SAFETY: an owned page of 1024 words, any bits of which are valid atomics; the process writes to it as another thread would.
        unsafe { &*self.0.as_ptr().cast::<Words>() }
    }
}

/// A page that holds a translation table.
pub struct KernelTable(LowmemPage);

impl KernelTable {
    /// A zeroed table.
    pub fn new() -> Result<Self, OutOfMemory> {
        LowmemPage::new().map(Self)
    }

    /// Two zeroed tables, one after the other, aligned to 8 KiB.
    pub fn pair() -> Result<[Self; 2], OutOfMemory> {
        // SAFETY: an order-1 allocation is two pages, aligned to their size. Each page of it is handed out, and freed, on its own:
        // the kernel allows that after split_page, which the shim's ws_pages does for orders above 0.
        let first = NonNull::new(unsafe { ffi::ws_pages(1) }).ok_or(OutOfMemory)?.cast::<u8>();
        // SAFETY: the second page of the two.
        let second = unsafe { first.add(PAGE_SIZE) };
        Ok([Self(LowmemPage(first)), Self(LowmemPage(second))])
    }

    /// The table that a descriptor owns.
    pub fn at<'a>(at: TablePhys) -> &'a Table {
        // SAFETY: a `TablePhys` names a page that `into_phys` gave up and nobody has reclaimed; the linear map reaches it. The caller,
        // kvm's stage 2, holds the lock that keeps the table from being reclaimed while the borrow lasts.
        unsafe { &*ffi::ws_virt_of(at.phys().get()).cast::<Table>() }
    }

    /// The page that a descriptor owned.
    pub fn reclaim(at: TablePhys) -> Self {
        // SAFETY: as in `at`; the descriptor that owned it is gone, so this is the only owner.
        let page = unsafe { ffi::ws_virt_of(at.phys().get()) };
        // SAFETY: the linear map has no null.
        Self(LowmemPage(unsafe { NonNull::new_unchecked(page.cast()) }))
    }
}

impl TablePage for KernelTable {
    fn phys(&self) -> HostPhys {
        self.0.phys()
    }

    fn table(&self) -> &Table {
        // SAFETY: an owned page, 512 words of 64 bits, any bits of which are valid atomics.
        unsafe { &*self.0.as_ptr().cast::<Table>() }
    }

    fn into_phys(self) -> TablePhys {
        let phys = self.phys();
        core::mem::forget(self);
        TablePhys::from_page(phys)
    }
}
