// SPDX-License-Identifier: GPL-2.0-only
//! Memory of this process that a guest can have: what may be done to it while a guest runs.
//!
//! It stays mapped until the process ends, so that nothing else of the process ever takes its place. Accesses are atomic, since the guest
//! makes its own at any time; where nothing is mapped just now ([`Memory::unmap`]) none is made.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{self, MRemapFlags, MapFlags, MmapAdvise, ProtFlags, madvise, mprotect, mremap, munmap};

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Bytes of a huge page.
pub const BLOCK: usize = 2 << 20;

const RIGHTS: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// A stretch of the process's memory.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    /// Where nothing is mapped.
    hole: Mutex<Range<usize>>,
}

// SAFETY: addresses of memory that is the process's until it ends; accesses are atomic.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

fn size(bytes: usize) -> Result<NonZeroUsize, Errno> {
    NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)
}

/// A file of zeros that is nowhere but in memory.
pub fn memory_file(bytes: usize) -> Result<File, Errno> {
    let file: File = memfd_create(c"guest", MFdFlags::empty())?.into();
    file.set_len(bytes as u64).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    Ok(file)
}

impl Memory {
    /// Zeroed memory, aligned to a huge page.
    pub fn new(bytes: usize) -> Result<Self, Errno> {
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let start = unsafe { mman::mmap_anonymous(None, size(bytes + BLOCK)?, RIGHTS, MapFlags::MAP_PRIVATE) }?;
        let unaligned = start.as_ptr() as usize % BLOCK;
        let skip = if unaligned == 0 { 0 } else { BLOCK - unaligned };
        // SAFETY: within the mapping, which is a huge page longer than needed.
        Ok(Self { start: unsafe { start.byte_add(skip) }.cast(), bytes, hole: Mutex::new(0..0) })
    }

    /// Zeroed memory at an address that is free (EEXIST).
    pub fn at(address: usize, bytes: usize) -> Result<Self, Errno> {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
        // SAFETY: a new mapping that replaces none.
        let start = unsafe { mman::mmap_anonymous(NonZeroUsize::new(address), size(bytes)?, RIGHTS, flags) }?;
        Ok(Self { start: start.cast(), bytes, hole: Mutex::new(0..0) })
    }

    /// A zeroed page, behind which nothing is mapped.
    pub fn page_at_the_end() -> Result<Self, Errno> {
        let memory = Self::new(2 * PAGE)?;
        memory.unmap(PAGE..2 * PAGE)?;
        Ok(memory)
    }

    /// Zeroed huge pages of the host's pool.
    pub fn huge(bytes: usize) -> Result<Self, Errno> {
        // At an aligned address of ours: Linux 7.2 for 32-bit Arm chooses any, and meets a BUG of its own when the memory is touched.
        let place = Self::new(bytes)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB | MapFlags::MAP_FIXED;
        let address = NonZeroUsize::new(place.start.as_ptr() as usize);
        // SAFETY: in place of a mapping of this call alone.
        unsafe { mman::mmap_anonymous(address, size(bytes)?, RIGHTS, flags) }?;
        Ok(place)
    }

    /// The memory of a file.
    pub fn of_file(file: &File, bytes: usize, shared: bool) -> Result<Self, Errno> {
        let sharing = if shared { MapFlags::MAP_SHARED } else { MapFlags::MAP_PRIVATE };
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let start = unsafe { mman::mmap(None, size(bytes)?, RIGHTS, sharing, file.as_fd(), 0) }?;
        Ok(Self { start: start.cast(), bytes, hole: Mutex::new(0..0) })
    }

    /// A page of a device's registers, at this physical address, by way of `/dev/mem`.
    pub fn of_device(phys: u64) -> Result<Self, Errno> {
        let file = File::options().read(true).write(true).custom_flags(libc::O_SYNC).open("/dev/mem");
        let file = file.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        let offset = phys.try_into().map_err(|_| Errno::EINVAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let start = unsafe { mman::mmap(None, size(PAGE)?, RIGHTS, MapFlags::MAP_SHARED, file.as_fd(), offset) }?;
        Ok(Self { start: start.cast(), bytes: PAGE, hole: Mutex::new(0..0) })
    }

    /// How large it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The process's address of a byte.
    pub fn address(&self, offset: usize) -> u64 {
        assert!(offset <= self.bytes);
        self.start.as_ptr() as usize as u64 + offset as u64
    }

    fn pages(&self, range: &Range<usize>) -> NonNull<u8> {
        assert!(range.start < range.end && range.end <= self.bytes && range.start.is_multiple_of(PAGE));
        // SAFETY: within the memory (just checked).
        unsafe { self.start.byte_add(range.start) }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.bytes);
        assert!(!self.hole.lock().expect("no access panics").contains(&offset), "nothing is mapped at {offset:#x}");
        // SAFETY: aligned, within the memory and mapped (just checked); everybody accesses it atomically.
        unsafe { AtomicU32::from_ptr(self.start.byte_add(offset).cast().as_ptr()) }
    }

    /// Reads a word.
    pub fn read(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::SeqCst)
    }

    /// Writes a word.
    pub fn write(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::SeqCst);
    }

    /// Writes words.
    pub fn put(&self, offset: usize, words: &[u32]) {
        for (index, word) in words.iter().enumerate() {
            self.write(offset + index * 4, *word);
        }
    }

    /// `madvise`.
    pub fn advise(&self, range: Range<usize>, advice: MmapAdvise) -> Result<(), Errno> {
        let at = self.pages(&range);
        // SAFETY: memory of this value alone, whose contents nobody relies on: it is read atomically, and may be discarded.
        unsafe { madvise(at.cast(), range.len(), advice) }
    }

    /// `mprotect`, to reading only or to both.
    pub fn protect(&self, range: Range<usize>, writable: bool) -> Result<(), Errno> {
        let at = self.pages(&range);
        let rights = if writable { RIGHTS } else { ProtFlags::PROT_READ };
        // SAFETY: memory of this value alone. A write of this process to it would end the process.
        unsafe { mprotect(at.cast(), range.len(), rights) }
    }

    /// `munmap`. There is one hole at most.
    pub fn unmap(&self, range: Range<usize>) -> Result<(), Errno> {
        let at = self.pages(&range);
        let mut hole = self.hole.lock().expect("no access panics");
        assert!(hole.is_empty());
        *hole = range.clone();
        // SAFETY: memory of this value alone; `word` refuses accesses to it from here on.
        unsafe { munmap(at.cast(), range.len()) }
    }

    /// Maps zeroed memory in place of what is there.
    pub fn map_again(&self, range: Range<usize>) -> Result<(), Errno> {
        let at = self.pages(&range);
        let address = NonZeroUsize::new(at.as_ptr() as usize);
        let mut hole = self.hole.lock().expect("no access panics");
        // SAFETY: replaces memory of this value alone.
        unsafe {
            mman::mmap_anonymous(address, size(range.len())?, RIGHTS, MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED)
        }?;
        *hole = 0..0;
        Ok(())
    }

    /// `mremap`: all of `other` takes the place of what is at `offset`. A page that was there goes.
    pub fn take_over(&self, offset: usize, other: Memory) -> Result<(), Errno> {
        let at = self.pages(&(offset..offset + other.bytes));
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        // SAFETY: both are memory of these values alone, and `other` goes.
        unsafe { mremap(other.start.cast(), other.bytes, other.bytes, flags, Some(at.cast())) }?;
        Ok(())
    }
}
