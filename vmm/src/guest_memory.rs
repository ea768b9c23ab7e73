// SPDX-License-Identifier: GPL-2.0-only
//! The guest's RAM as the process has it: anonymous memory, aligned so that huge pages can back it.
//!
//! A huge page can serve the guest only where guest physical and host virtual address agree modulo its size, 2 MiB. So more is
//! reserved than needed, the ends that do not fit are given back, and the rest is advised for huge pages. Or it is huge pages for
//! certain, of the pool that the host keeps for those who ask (hugetlbpage.rst of the kernel's documentation).
//! `vm-memory` wraps the mapping: the guest changes it at any time, so it is never a Rust reference.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::error::Error;

const HUGE_PAGE: usize = 2 << 20;
const RIGHTS: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// What the guest's RAM is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// What the host finds: huge pages where it has them.
    Any,
    /// Huge pages of the host's pool.
    HugePages,
}

/// The guest's RAM, mapped for as long as this lives.
pub struct GuestRam {
    // First, so that it is dropped before the mapping it looks into.
    view: GuestMemoryMmap,
    mapping: Mapping,
    guest: Range<u64>,
}

/// Anonymous memory of the process; unmapped on drop.
struct Mapping {
    start: NonNull<libc::c_void>,
    size: usize,
    backing: Backing,
}

// SAFETY: the mapping belongs to the process, not to a thread; nothing here dereferences `start`.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared access only reads the two numbers.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `size` are those of a mapping that this value alone owns.
        let _ = unsafe { munmap(self.start, self.size) };
    }
}

impl Mapping {
    /// Maps `size` bytes whose address is `guest_base` modulo 2 MiB. `size` and `guest_base` are multiples of the page size.
    fn congruent(size: usize, guest_base: u64, rights: ProtFlags) -> nix::Result<Self> {
        let reserved = size.checked_add(HUGE_PAGE).and_then(|n| n.try_into().ok()).ok_or(nix::errno::Errno::ENOMEM)?;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let reservation = unsafe { mmap_anonymous(None, reserved, rights, MapFlags::MAP_PRIVATE)? };
        let address = reservation.as_ptr() as usize;
        let skip = (guest_base as usize).wrapping_sub(address) % HUGE_PAGE;
        for (offset, length) in [(0, skip), (skip + size, HUGE_PAGE - skip)] {
            if length > 0 {
                // SAFETY: both ends lie inside the reservation made above, which nobody else knows of, and outside of what is kept.
                unsafe { munmap(reservation.byte_add(offset), length)? };
            }
        }
        // SAFETY: `skip` is less than the length of the reservation.
        let start = unsafe { reservation.byte_add(skip) };
        Ok(Self { start, size, backing: Backing::Any })
    }

    /// The same of huge pages, all of them reserved. `size` and `guest_base` are multiples of 2 MiB.
    fn of_huge_pages(size: usize, guest_base: u64) -> nix::Result<Self> {
        // Without rights, so that it is no memory that the host has to vouch for.
        let mut mapping = Self::congruent(size, guest_base, ProtFlags::PROT_NONE)?;
        mapping.backing = Backing::HugePages;
        mapping.take_huge_pages()?;
        Ok(mapping)
    }

    /// Puts fresh huge pages where the mapping is. They read as zeros.
    fn take_huge_pages(&self) -> nix::Result<()> {
        let (address, size) = (self.start.as_ptr() as usize, self.size);
        let (Ok(address), Ok(size)) = (address.try_into(), size.try_into()) else {
            return Err(nix::errno::Errno::EINVAL);
        };
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB | MapFlags::MAP_FIXED;
        // SAFETY: in place of our own mapping, all of it, which no Rust reference looks into (see the module's head).
        unsafe { mmap_anonymous(Some(address), size, RIGHTS, flags)? };
        Ok(())
    }
}

/// Why so many bytes of huge pages could not be had, and what to do.
fn no_huge_pages(bytes: usize, when: &'static str) -> impl FnOnce(nix::Error) -> Error {
    let count = bytes / HUGE_PAGE;
    move |errno| {
        let pool = fs::read_to_string("/proc/meminfo").ok().and_then(|text| pool(&text));
        let advice = match pool {
            Some((all, left)) => {
                let wanted = all.saturating_sub(left).saturating_add(count);
                format!("{left} of the host's {all} are to be had: as root, echo {wanted} >/proc/sys/vm/nr_hugepages")
            }
            None => "The host's kernel has none (it needs LPAE): leave --huge-pages out".into(),
        };
        Error::HugePages { count, when, source: errno.into(), advice }
    }
}

/// How many pages the host's pool of huge pages has by its `/proc/meminfo`, and how many of them nobody has or was promised.
fn pool(meminfo: &str) -> Option<(usize, usize)> {
    let figure = |name: &str| meminfo.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok());
    let [all, free, promised] = ["HugePages_Total:", "HugePages_Free:", "HugePages_Rsvd:"].map(figure);
    Some((all?, free?.saturating_sub(promised?)))
}

impl GuestRam {
    /// Maps RAM for the guest physical addresses `guest`, which begin at a multiple of 2 MiB if it is of huge pages.
    pub fn map(guest: Range<u64>, backing: Backing) -> Result<Self, Error> {
        let mib = (guest.end - guest.start) >> 20;
        let failed = |source: io::Error| Error::MapMemory { mib, source };
        let size = usize::try_from(guest.end - guest.start).map_err(|_| Error::TooMuchMemory { mib })?;
        let mapping = match backing {
            Backing::Any => Mapping::congruent(size, guest.start, RIGHTS).map_err(|errno| failed(errno.into()))?,
            Backing::HugePages if size % HUGE_PAGE != 0 => return Err(Error::NoWholeHugePages { mib }),
            Backing::HugePages => Mapping::of_huge_pages(size, guest.start).map_err(no_huge_pages(size, ""))?,
        };
        // SAFETY: the mapping is ours, and the advice changes how it is backed, not what it holds. A kernel without huge pages
        // refuses the advice; nothing depends on it.
        let _ = unsafe { madvise(mapping.start, mapping.size, MmapAdvise::MADV_HUGEPAGE) };
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the region looks into `mapping`, which lives in the same structure and is dropped after it.
        let region = unsafe { MmapRegion::build_raw(mapping.start.as_ptr().cast(), size, prot, flags) };
        let region = region.map_err(|error| failed(io::Error::other(error)))?;
        let region =
            GuestRegionMmap::new(region, GuestAddress(guest.start)).map_err(|error| failed(io::Error::other(error)))?;
        let view = GuestMemoryMmap::from_regions(vec![region]).map_err(|error| failed(io::Error::other(error)))?;
        Ok(Self { view, mapping, guest })
    }

    /// The guest physical addresses.
    pub fn guest(&self) -> Range<u64> {
        self.guest.clone()
    }

    /// The process's address of the first byte.
    pub fn host_address(&self) -> u64 {
        self.mapping.start.as_ptr() as usize as u64
    }

    /// Makes every byte zero again by giving the memory back to the host.
    pub fn clear(&self) -> Result<(), Error> {
        match self.mapping.backing {
            Backing::Any => {
                // SAFETY: discarding private anonymous memory makes it read as zeros. No Rust reference looks into it (see the module's head).
                let done = unsafe { madvise(self.mapping.start, self.mapping.size, MmapAdvise::MADV_DONTNEED) };
                done.map_err(|errno| Error::host("cannot clear guest memory")(errno.into()))
            }
            // Before Linux 5.18 their contents could not be given back otherwise. Who else wants huge pages may be faster.
            Backing::HugePages => {
                self.mapping.take_huge_pages().map_err(no_huge_pages(self.mapping.size, ", which restarts"))
            }
        }
    }

    /// Reads the file, from where it stands, into all of `to`.
    pub fn fill_from(&self, file: &mut File, to: &Range<u64>) -> Result<(), Error> {
        let size = (to.end - to.start) as usize; // at most RAM's size, which is a usize
        Ok(self.view.read_exact_volatile_from(GuestAddress(to.start), file, size)?)
    }

    /// Reads what lies at `from`.
    pub fn read(&self, bytes: &mut [u8], from: u64) -> Result<(), Error> {
        Ok(self.view.read_slice(bytes, GuestAddress(from))?)
    }

    /// Writes `bytes` at `to`.
    pub fn write(&self, bytes: &[u8], to: u64) -> Result<(), Error> {
        Ok(self.view.write_slice(bytes, GuestAddress(to))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};
    use vmm_sys_util::tempfile::TempFile;

    #[test]
    fn addresses_agree_modulo_two_mib() {
        for base in [0x8000_0000, 0x8000_3000, 0x801f_f000] {
            let ram = GuestRam::map(base..base + 0x40_0000, Backing::Any).unwrap();
            assert_eq!(ram.host_address() % HUGE_PAGE as u64, base % HUGE_PAGE as u64);
            ram.write(&[1], base).unwrap();
            ram.write(&[2], base + 0x3f_ffff).unwrap();
            assert!(ram.write(&[3], base + 0x40_0000).is_err());
        }
    }

    #[test]
    fn the_pool_is_what_meminfo_says() {
        let text = "MemFree: 12 kB\nHugePages_Total:     100\nHugePages_Free:       97\nHugePages_Rsvd:       77\n";
        assert_eq!(pool(text), Some((100, 20)));
        assert_eq!(pool("MemFree: 12 kB\n"), None);
    }

    #[test]
    fn files_go_in_and_clearing_forgets_them() {
        let ram = GuestRam::map(0x8000_0000..0x8040_0000, Backing::Any).unwrap();
        let mut file = TempFile::new().unwrap().into_file();
        file.write_all(b"kernel").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        ram.fill_from(&mut file, &(0x8000_1000..0x8000_1006)).unwrap();
        let mut seen = [0; 6];
        ram.view.read_slice(&mut seen, GuestAddress(0x8000_1000)).unwrap();
        assert_eq!(&seen, b"kernel");
        ram.clear().unwrap();
        ram.view.read_slice(&mut seen, GuestAddress(0x8000_1000)).unwrap();
        assert_eq!(seen, [0; 6]);
        file.seek(SeekFrom::Start(0)).unwrap();
        assert!(ram.fill_from(&mut file, &(0x8000_1000..0x8000_1007)).is_err(), "the file is shorter");
    }
}
