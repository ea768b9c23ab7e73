// SPDX-License-Identifier: GPL-2.0-only
//! `kexec-again KERNEL INITRD`: the host's kernel starts a kernel in its place, as if the board had been switched on again.
//!
//! The new kernel is told what this one was: the device tree comes from /sys/firmware/fdt, command line included, and is not changed. So
//! the new initial RAM disk has to lie where the tree says that this kernel's lay, and may be no longer. The kernel takes a zImage as it
//! is (r2 is the address of whatever segment begins like a device tree), so there is no code of ours in between.
//!
//! Source: the system calls kexec_load and reboot; Devicetree Specification v0.4, 5.4 (structure block).

use std::fs;
use std::process::ExitCode;

const PAGE: usize = 4096;
/// Where the kernel goes, from the beginning of RAM: behind what it unpacks, within its first 128 MiB.
const KERNEL: usize = 64 << 20;
/// Where the device tree goes, between kernel and initial RAM disk.
const TREE: usize = 96 << 20;
/// kexec_load: for this architecture (its ELF number in the upper half).
const ARCH_ARM: usize = 40 << 16;

/// `struct kexec_segment`.
#[repr(C)]
struct Segment {
    buffer: *const u8,
    buffer_bytes: usize,
    address: usize,
    bytes: usize,
}

impl Segment {
    fn new(contents: &[u8], address: usize) -> Self {
        let bytes = contents.len().next_multiple_of(PAGE);
        Self { buffer: contents.as_ptr(), buffer_bytes: contents.len(), address, bytes }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let why = match &arguments[..] {
        [kernel, initrd] => start(kernel, initrd),
        _ => "usage: kexec-again KERNEL INITRD".to_owned(),
    };
    eprintln!("kexec-again: {why}");
    ExitCode::FAILURE
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{path}: {error}"))
}

/// Comes back only with the reason why not.
fn start(kernel: &str, initrd: &str) -> String {
    let load = || {
        let (kernel, initrd, tree) = (read(kernel)?, read(initrd)?, read("/sys/firmware/fdt")?);
        let iomem = fs::read_to_string("/proc/iomem").map_err(|error| format!("/proc/iomem: {error}"))?;
        let ram = ram_base(&iomem).ok_or("/proc/iomem: no System RAM")?;
        let bound = |name| number(&tree, name).ok_or(format!("the device tree has no {name}"));
        let (start, end) = (bound("linux,initrd-start")?, bound("linux,initrd-end")?);
        let room = end.checked_sub(start).filter(|room| initrd.len() <= *room);
        let room = room.ok_or(format!("the initial RAM disk has {} bytes, more than this kernel's", initrd.len()))?;
        let mut segments = [
            Segment::new(&kernel, ram + KERNEL),
            Segment::new(&tree, ram + TREE),
            // The kernel fills the rest with zeros, of which cpio archives may have any number.
            Segment { bytes: room.next_multiple_of(PAGE), ..Segment::new(&initrd, start) },
        ];
        segments.sort_by_key(|segment| segment.address);
        let entry = ram + KERNEL;
        // SAFETY: the segments' buffers live through the call, which copies them.
        let result = unsafe { libc::syscall(libc::SYS_kexec_load, entry, segments.len(), segments.as_ptr(), ARCH_ARM) };
        if result != 0 {
            return Err(format!("kexec_load: {}", std::io::Error::last_os_error()));
        }
        Ok(())
    };
    if let Err(why) = load() {
        return why;
    }
    // SAFETY: numbers only. The kernel ends here, as was asked for.
    unsafe { libc::syscall(libc::SYS_reboot, 0xfee1_deadu32, 672_274_793u32, 0x4558_4543u32, 0) };
    format!("reboot: {}", std::io::Error::last_os_error())
}

/// Where RAM begins.
fn ram_base(iomem: &str) -> Option<usize> {
    let line = iomem.lines().find(|line| line.ends_with(": System RAM"))?;
    usize::from_str_radix(line.trim().split_once('-')?.0, 16).ok()
}

/// The number that a property holds, in one cell or two, whichever node it is of.
fn number(tree: &[u8], name: &str) -> Option<usize> {
    const BEGIN_NODE: u32 = 1;
    const PROPERTY: u32 = 3;
    const END: u32 = 9;
    let word = |at: usize| -> Option<u32> { Some(u32::from_be_bytes(tree.get(at..at + 4)?.try_into().ok()?)) };
    let text = |at: usize| -> Option<&[u8]> { tree.get(at..)?.split(|byte| *byte == 0).next() };
    let (mut at, strings) = (word(8)? as usize, word(12)? as usize);
    loop {
        let token = word(at)?;
        at += 4;
        match token {
            BEGIN_NODE => at = (at + text(at)?.len() + 1).next_multiple_of(4),
            PROPERTY => {
                let bytes = word(at)? as usize;
                let value = at + 8;
                if text(strings + word(at + 4)? as usize)? == name.as_bytes() {
                    // The upper cell of two is zero: a 32-bit kernel reads it from lowmem.
                    return Some(word((value + bytes).checked_sub(4)?)? as usize);
                }
                at = (value + bytes).next_multiple_of(4);
            }
            END => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_begins_where_the_first_line_says() {
        let iomem =
            "09000000-09000fff : pl011@9000000\n40000000-7fffffff : System RAM\n  40008000-411fffff : Kernel code\n";
        assert_eq!(ram_base(iomem), Some(0x4000_0000));
        assert_eq!(ram_base(""), None);
    }

    #[test]
    fn a_number_is_found_in_one_cell_or_two() {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        // Head: magic, size, structure at 16, strings at 68; a node "", a property of one cell, one of two, ends.
        let structure = [1, 0, 3, 4, 0, 0x4800_0000, 3, 8, 2, 0, 0x4900_0000, 2, 9];
        let mut tree = words(&[0xd00d_feed, 0, 16, 16 + structure.len() as u32 * 4]);
        tree.extend(words(&structure));
        tree.extend(b"a\0b\0");
        assert_eq!((number(&tree, "a"), number(&tree, "b")), (Some(0x4800_0000), Some(0x4900_0000)));
        assert_eq!(number(&tree, "c"), None);
        (0..tree.len() - 4).for_each(|length| assert_eq!(number(&tree[..length], "c"), None));
    }
}
