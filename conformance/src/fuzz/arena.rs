// SPDX-License-Identifier: GPL-2.0-only
//! Memory of a hostile process that anything may be done to while KVM and guests use it.
//!
//! The arena is a range of addresses with parts of every kind of memory in it. Everything in it may be unmapped, protected, moved, cut off
//! and mapped again at any moment by any thread, so the process itself never touches it: it writes through a second mapping of
//! the file that one part is of, or through /proc/self/mem, which answers EIO where there is nothing. Above it lies a moat, where
//! nothing ever is, so that a slot or a bitmap that begins in the arena and is far too long meets nothing of the process's.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};

use fastrand::Rng;

use crate::values::Values;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;
/// Where the arena begins: within the 2 GiB that every split of a 32-bit address space leaves free, away from a program and its stack.
const START: usize = 0x2000_0000;
/// Where the moat ends.
pub const MOAT_END: usize = 0x6000_0000;
/// Shared memory of a file, which the process can write behind everybody's back. Guests have their programs here.
const FILE: Part = Part { at: START, pages: 64 };
/// Anonymous memory that can be huge pages.
const HUGE: Part = Part { at: START + 0x40_0000, pages: 1024 };
/// Memory of a file that is made shorter and longer.
const CUT: Part = Part { at: START + 0x80_0000, pages: 64 };
/// Where vCPUs' pages are mapped, two and a hole each.
const WINDOWS: Part = Part { at: START + 0x90_0000, pages: 48 };
/// Nothing, at first: where memory is moved to.
const SPARE: Part = Part { at: START + 0xa0_0000, pages: 256 };
/// All of it.
const ALL: Part = Part { at: START, pages: 0xb00 };

/// A part of the arena.
#[derive(Clone, Copy)]
struct Part {
    at: usize,
    pages: usize,
}

impl Part {
    const fn bytes(self) -> usize {
        self.pages * PAGE
    }

    /// Some pages of it: where, and bytes.
    fn some(self, random: &mut Rng) -> (usize, usize) {
        let most = random.of(&[1, 1, 1, 2, 4, 16, 64, self.pages]).min(self.pages);
        let pages = random.usize(1..=most);
        (self.at + random.usize(..=self.pages - pages) * PAGE, pages * PAGE)
    }
}

/// The arena of a process.
pub struct Arena {
    file: File,
    cut: File,
    memory: File,
    /// Where the process has the file for itself.
    alias: usize,
    vdso: usize,
}

/// The system call `mmap`: where it mapped something.
///
/// # Safety
/// `at` and on, if `flags` have it mapped there, is the arena's.
unsafe fn map(at: usize, bytes: usize, rights: i32, flags: i32, fd: RawFd, page: usize) -> io::Result<usize> {
    // SAFETY: the caller's promise; anywhere else a new mapping disturbs no other.
    let mapped = unsafe { libc::mmap(at as *mut _, bytes, rights, flags, fd, (page * PAGE) as libc::off_t) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(mapped as usize) }
}

const ANY_RIGHTS: [i32; 6] = [
    libc::PROT_READ | libc::PROT_WRITE,
    libc::PROT_READ | libc::PROT_WRITE,
    libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
    libc::PROT_READ,
    libc::PROT_NONE,
    libc::PROT_EXEC,
];
const WRITABLE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const NOTHING: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// A file that is nowhere but in memory, with a number that no descriptor of KVM's gets.
fn memory_file(name: &CStr, bytes: usize) -> io::Result<File> {
    // SAFETY: makes a descriptor.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes as u64)?;
    out_of_the_way(&file)
}

/// The same file under a number that is never taken for one of KVM's descriptors.
fn out_of_the_way(file: &File) -> io::Result<File> {
    // SAFETY: makes a descriptor.
    let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, crate::descriptors::OWN) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made.
    Ok(unsafe { File::from_raw_fd(fd) })
}

impl Arena {
    /// Makes it. A process has one.
    pub fn new() -> io::Result<Self> {
        let file = memory_file(c"guest", FILE.bytes())?;
        let cut = memory_file(c"cut", CUT.bytes())?;
        let memory = out_of_the_way(&File::options().read(true).write(true).open("/proc/self/mem")?)?;
        let fresh = NOTHING | libc::MAP_FIXED_NOREPLACE;
        let fixed = libc::MAP_FIXED;
        // SAFETY: the first call takes the range if nothing is there, the next three are within it, the last maps anywhere.
        let alias = unsafe {
            map(ALL.at, MOAT_END - START, libc::PROT_NONE, fresh, -1, 0)?;
            map(FILE.at, FILE.bytes(), WRITABLE, libc::MAP_SHARED | fixed, file.as_raw_fd(), 0)?;
            map(HUGE.at, HUGE.bytes(), WRITABLE, NOTHING | fixed, -1, 0)?;
            map(CUT.at, CUT.bytes(), WRITABLE, libc::MAP_SHARED | fixed, cut.as_raw_fd(), 0)?;
            map(0, FILE.bytes(), WRITABLE, libc::MAP_SHARED, file.as_raw_fd(), 0)?
        };
        // SAFETY: asks for a number.
        let vdso = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } as usize;
        Ok(Self { file, cut, memory, alias, vdso })
    }

    /// Where the part with the guest's program is mapped, and its bytes.
    pub fn program(&self) -> (usize, usize) {
        (FILE.at, FILE.bytes())
    }

    /// Fills it with copies of these words.
    pub fn fill(&self, words: &[u32]) -> io::Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        (0..FILE.bytes() / bytes.len()).try_for_each(|copy| self.file.write_all_at(&bytes, (copy * bytes.len()) as u64))
    }

    /// Writes words into that part, wherever it is mapped and however.
    pub fn put(&self, offset: usize, words: &[u32]) {
        for (index, word) in words.iter().enumerate() {
            let at = (offset + index * 4) % FILE.bytes();
            // SAFETY: within the alias, which stays; everybody accesses it atomically, kernel and guests apart.
            unsafe { AtomicU32::from_ptr((self.alias + at) as *mut u32) }.store(*word, Ordering::Relaxed);
        }
    }

    /// An address in the arena: now and then at the very end of a page, or odd.
    pub fn address(&self, random: &mut Rng) -> usize {
        let part = random.of(&[FILE, FILE, FILE, FILE, FILE, FILE, HUGE, CUT, WINDOWS, SPARE, ALL]);
        let page = part.at + random.usize(..part.pages) * PAGE;
        match random.u32(..8) {
            0 | 1 => page,
            2 => page + PAGE - 4,
            3 => page + random.usize(..PAGE),
            _ => page + random.usize(..PAGE / 8) * 8,
        }
    }

    /// An address that a structure can be put to through [`Self::put`], with how far from the part's beginning it is.
    pub fn place(&self, random: &mut Rng) -> (usize, usize) {
        let page = random.usize(..FILE.pages) * PAGE;
        let offset = page + random.of(&[0, 8, 64, 2048, PAGE - 4, PAGE - 8, PAGE - 16, PAGE - 24]);
        (FILE.at + offset, offset)
    }

    /// Pages for a slot: the beginning of some, and of which it has how many bytes.
    pub fn pages(&self, random: &mut Rng) -> (usize, usize) {
        if random.one_in(64) && self.vdso != 0 {
            return (self.vdso & !(PAGE - 1), PAGE);
        }
        random.of(&[FILE, FILE, FILE, HUGE, HUGE, CUT, WINDOWS, SPARE]).some(random)
    }

    /// Maps a vCPU's pages, or what else `fd` is, into a window.
    pub fn map(&self, fd: RawFd, random: &mut Rng) -> io::Result<usize> {
        let at = WINDOWS.at + random.usize(..WINDOWS.pages / 3) * 3 * PAGE;
        let sharing = random.of(&[libc::MAP_SHARED, libc::MAP_SHARED, libc::MAP_SHARED, libc::MAP_PRIVATE]);
        let pages = random.of(&[1, 2, 2, 2, 3]);
        let first = random.of(&[0, 0, 0, 0, 1, 2, 0xf_ffff]);
        // SAFETY: a window, which has three pages.
        unsafe { map(at, pages * PAGE, random.of(&ANY_RIGHTS), sharing | libc::MAP_FIXED, fd, first) }
    }

    /// Writes into a vCPU's pages, or whatever is in the windows now, at a place that means something or any.
    pub fn scribble(&self, random: &mut Rng) {
        let window = WINDOWS.at + random.usize(..WINDOWS.pages / 3) * 3 * PAGE;
        let page = if random.one_in(3) { PAGE } else { 0 };
        let any = random.usize(..PAGE - 8);
        let offset = random.of(&[0, 1, 8, 32, 40, 48, 52, 304, 0, 4, 8, 24, PAGE - 8, any]);
        let value = random.value().to_le_bytes();
        let bytes = random.of(&[1, 4, 8]);
        let _ = self.memory.write_at(&value[..bytes], (window + page + offset) as u64);
    }

    /// Does something to the arena that a process can do to its memory.
    pub fn disturb(&self, random: &mut Rng) {
        let part = random.of(&[FILE, FILE, HUGE, HUGE, CUT, WINDOWS, SPARE, ALL]);
        let (at, bytes) = part.some(random);
        // A whole huge page without rights is not taken away here: Linux on 32-bit Arm takes it for one that is not there when it
        // unmaps it, and dies of it, whoever the process is (zap_huge_pmd; 6.1 for one).
        let rights = match random.of(&ANY_RIGHTS) {
            libc::PROT_NONE if bytes >= HUGE_PAGE => WRITABLE,
            rights => rights,
        };
        let anonymous = random.of(&[NOTHING, NOTHING & !libc::MAP_NORESERVE, libc::MAP_SHARED | libc::MAP_ANONYMOUS]);
        // SAFETY: all of this happens to addresses of the arena, which this process does not touch, or to its files' contents.
        unsafe {
            match random.u32(..12) {
                0 => drop(libc::munmap(at as *mut _, bytes)),
                1 | 2 => drop(libc::mprotect(at as *mut _, bytes, rights)),
                3 => drop(map(at, bytes, rights, anonymous | libc::MAP_FIXED, -1, 0)),
                4 | 5 => self.renew(part, at, bytes, rights, random),
                6 => {
                    let to = random.of(&[SPARE, SPARE, HUGE, FILE]);
                    let to = to.at + random.usize(..to.pages) * PAGE;
                    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                    let room = (ALL.at + ALL.bytes() - to).min(bytes);
                    libc::mremap(at as *mut _, bytes, room, flags, to as *mut libc::c_void);
                }
                7..=9 => drop(libc::madvise(at as *mut _, bytes, random.of(&ADVICE))),
                10 => match random.u32(..3) {
                    0 => drop(libc::mlock(at as *const _, bytes)),
                    1 => drop(libc::munlock(at as *const _, bytes)),
                    _ => drop(libc::msync(at as *mut _, bytes, libc::MS_SYNC | libc::MS_INVALIDATE)),
                },
                _ => {
                    let _ = self.cut.set_len((random.usize(..=CUT.pages) * PAGE) as u64);
                    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                    let (from, length) = (random.usize(..FILE.pages) * PAGE, PAGE);
                    libc::fallocate(self.cut.as_raw_fd(), hole, from as libc::off_t, length as libc::off_t);
                }
            }
        }
    }

    /// Maps again what a part has at first.
    ///
    /// # Safety
    /// `at` and on is the arena's.
    unsafe fn renew(&self, part: Part, at: usize, bytes: usize, rights: i32, random: &mut Rng) {
        let sharing = random.of(&[libc::MAP_SHARED, libc::MAP_SHARED, libc::MAP_PRIVATE]) | libc::MAP_FIXED;
        let file = if part.at == CUT.at { &self.cut } else { &self.file };
        let page = (at - part.at) / PAGE % FILE.pages;
        let rights = if random.one_in(2) { rights } else { WRITABLE };
        // SAFETY: promised by the caller.
        let _ = unsafe {
            if part.at == HUGE.at {
                map(HUGE.at, HUGE.bytes(), WRITABLE, NOTHING | libc::MAP_FIXED, -1, 0)
            } else {
                map(at, bytes.min(FILE.bytes() - page * PAGE), rights, sharing, file.as_raw_fd(), page)
            }
        };
    }
}

/// MADV_COLD and MADV_PAGEOUT among them, which the library does not name for every target.
const ADVICE: [i32; 13] = [
    libc::MADV_DONTNEED,
    libc::MADV_DONTNEED,
    libc::MADV_DONTNEED,
    libc::MADV_FREE,
    libc::MADV_REMOVE,
    libc::MADV_HUGEPAGE,
    libc::MADV_NOHUGEPAGE,
    libc::MADV_MERGEABLE,
    libc::MADV_DONTFORK,
    libc::MADV_DOFORK,
    libc::MADV_WILLNEED,
    20,
    21,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_in_the_arena_and_apart() {
        let parts = [FILE, HUGE, CUT, WINDOWS, SPARE];
        assert!(parts.iter().all(|part| part.at >= ALL.at && part.at + part.bytes() <= ALL.at + ALL.bytes()));
        assert!(parts.windows(2).all(|two| two[0].at + two[0].bytes() <= two[1].at));
        assert!(HUGE.at.is_multiple_of(HUGE_PAGE) && WINDOWS.pages.is_multiple_of(3));
        let mut random = Rng::with_seed(1);
        for _ in 0..10_000 {
            let (at, bytes) = HUGE.some(&mut random);
            assert!(at >= HUGE.at && bytes > 0 && at + bytes <= HUGE.at + HUGE.bytes());
        }
    }
}
