// SPDX-License-Identifier: GPL-2.0-only
//! Memory that is certain to lie in huge pages, wherever the host makes any: a case about them must not pass because there were none.

use std::fs;

use nix::sys::mman::MmapAdvise;

use crate::memory_map::{Memory, PAGE};
use crate::verdict::{Failure, Outcome};

/// What a host with transparent huge pages says of them. Kernels for 32-bit Arm have them with LPAE only.
const ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Whether the host has them.
pub fn are_there() -> bool {
    fs::read_to_string(ENABLED).is_ok_and(|enabled| !enabled.contains("[never]"))
}

/// Zeroed memory, in huge pages throughout if the host has them.
pub fn memory(bytes: usize) -> Result<Memory, Failure> {
    if !are_there() {
        return Memory::new(bytes).succeeds("mmap");
    }
    let mut found = 0;
    for _ in 0..20 {
        let memory = Memory::new(bytes).succeeds("mmap")?;
        memory.advise(0..bytes, MmapAdvise::MADV_HUGEPAGE).succeeds("MADV_HUGEPAGE")?;
        (0..bytes).step_by(PAGE).for_each(|page| memory.write(page, 0));
        found = in_huge_pages(&memory)?;
        if found >= bytes {
            return Ok(memory);
        }
        // There was no block free: the host is to move away what lies between.
        memory.unmap(0..bytes).succeeds("munmap")?;
        let _ = fs::write("/proc/sys/vm/drop_caches", "3");
        let _ = fs::write("/proc/sys/vm/compact_memory", "1");
    }
    Err(Failure::new(format!("the host has huge pages, and of {bytes:#x} bytes {found:#x} lie in them")))
}

/// How much of the mapping that begins with this memory is in huge pages (proc(5), /proc/PID/smaps).
fn in_huge_pages(memory: &Memory) -> Result<usize, Failure> {
    let maps = fs::read_to_string("/proc/self/smaps");
    let maps = maps.map_err(|error| Failure::new(format!("/proc/self/smaps: {error}")))?;
    // START-END and more, and then NAME: NUMBER kB for each figure.
    let start = format!("{:08x}-", memory.address(0));
    let mut own = maps.lines().skip_while(|line| !line.starts_with(&start)).skip(1);
    let figure = own.find_map(|line| line.strip_prefix("AnonHugePages:"));
    let kib = figure.and_then(|figure| figure.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| Failure::new(format!("/proc/self/smaps has no mapping at {start}")))
}
