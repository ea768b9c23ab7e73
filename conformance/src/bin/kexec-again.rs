// SPDX-License-Identifier: GPL-2.0-only
//! `kexec-again KERNEL INITRD`: the host's kernel starts a kernel in its place, as if the board had been switched on again.
//! `kexec-again --crash KERNEL INITRD`: it will start that one if it panics, as its crash kernel.
//!
//! The new kernel is told what this one was: the device tree comes from /sys/firmware/fdt, command line included, and is not changed. So
//! the new initial RAM disk has to lie where the tree says that this kernel's lay, and may be no longer. The kernel takes a zImage as it
//! is (r2 is the address of whatever segment begins like a device tree), so there is no code of ours in between.
//!
//! A crash kernel has the memory that `crashkernel=` reserved and nothing else. Its tree says so: where RAM and the initial RAM disk are
//! is changed, each number in its place, and `crashkernel=` itself gives way to `maxcpus=1`, since the other CPUs still are where the
//! panic stopped them.
//!
//! Source: the system calls kexec_load and reboot; Devicetree Specification v0.4, 3.4 (memory), 5.4 (structure block).

use std::fs;
use std::ops::Range;
use std::process::ExitCode;

const PAGE: usize = 4096;
/// Where the kernel goes, from the beginning of RAM: behind what it unpacks, within its first 128 MiB.
const KERNEL: usize = 64 << 20;
/// Where the device tree goes, between kernel and initial RAM disk.
const TREE: usize = 96 << 20;
/// The same three in the memory of a crash kernel, which has less.
const CRASH_KERNEL: usize = 32 << 20;
const CRASH_TREE: usize = 48 << 20;
const CRASH_INITRD: usize = 56 << 20;
/// kexec_load: for this architecture (its ELF number in the upper half).
const ARCH_ARM: usize = 40 << 16;
/// kexec_load: for a panic.
const ON_CRASH: usize = 1;

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
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let why = match arguments[..] {
        ["--crash", kernel, initrd] => match load_for_crash(kernel, initrd) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(why) => why,
        },
        [kernel, initrd] => start(kernel, initrd),
        _ => "usage: kexec-again [--crash] KERNEL INITRD".to_owned(),
    };
    eprintln!("kexec-again: {why}");
    ExitCode::FAILURE
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{path}: {error}"))
}

/// Comes back only with the reason why not.
fn start(kernel: &str, initrd: &str) -> String {
    if let Err(why) = load_for_reboot(kernel, initrd) {
        return why;
    }
    // SAFETY: numbers only. The kernel ends here, as was asked for.
    unsafe { libc::syscall(libc::SYS_reboot, 0xfee1_deadu32, 672_274_793u32, 0x4558_4543u32, 0) };
    format!("reboot: {}", std::io::Error::last_os_error())
}

fn load_for_reboot(kernel: &str, initrd: &str) -> Result<(), String> {
    let (kernel, initrd, tree) = (read(kernel)?, read(initrd)?, read("/sys/firmware/fdt")?);
    let ram = memory("System RAM")?.start;
    let bound = |name| {
        let value = property(&tree, "chosen", name).and_then(|value| number(&tree, value));
        value.ok_or(format!("the device tree has no {name}"))
    };
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
    load(ram + KERNEL, &segments, 0)
}

fn load_for_crash(kernel: &str, initrd: &str) -> Result<(), String> {
    let (kernel, initrd, mut tree) = (read(kernel)?, read(initrd)?, read("/sys/firmware/fdt")?);
    let ram = memory("Crash kernel")?;
    for_crash(&mut tree, &ram, initrd.len())?;
    let segments = [
        Segment::new(&kernel, ram.start + CRASH_KERNEL),
        Segment::new(&tree, ram.start + CRASH_TREE),
        Segment::new(&initrd, ram.start + CRASH_INITRD),
    ];
    load(ram.start + CRASH_KERNEL, &segments, ON_CRASH)
}

/// kexec_load.
fn load(entry: usize, segments: &[Segment], flags: usize) -> Result<(), String> {
    let flags = flags | ARCH_ARM;
    // SAFETY: the segments' buffers live through the call, which copies them.
    match unsafe { libc::syscall(libc::SYS_kexec_load, entry, segments.len(), segments.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(format!("kexec_load: {}", std::io::Error::last_os_error())),
    }
}

/// The first memory that /proc/iomem has by this name.
fn memory(name: &str) -> Result<Range<usize>, String> {
    let iomem = fs::read_to_string("/proc/iomem").map_err(|error| format!("/proc/iomem: {error}"))?;
    memory_in(&iomem, name).ok_or(format!("/proc/iomem: no {name}"))
}

fn memory_in(iomem: &str, name: &str) -> Option<Range<usize>> {
    let (range, _) = iomem.lines().filter_map(|line| line.split_once(" : ")).find(|(_, what)| *what == name)?;
    let (first, last) = range.trim().split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(first)?..number(last)?.checked_add(1)?)
}

/// Makes a tree of this kernel's one for its crash kernel.
fn for_crash(tree: &mut [u8], ram: &Range<usize>, initrd_bytes: usize) -> Result<(), String> {
    let value = |tree: &[u8], node, name| property(tree, node, name).ok_or(format!("the device tree has no {name}"));
    let reg = value(tree, "memory", "reg")?;
    if reg.len() != 16 {
        return Err("the device tree has not one bank of RAM, in two cells each".to_owned());
    }
    let (base, size) = (reg.start..reg.start + 8, reg.start + 8..reg.end);
    let initrd = ram.start + CRASH_INITRD;
    let chosen = |name| value(tree, "chosen", name);
    let numbers = [
        (base, ram.start),
        (size, ram.len()),
        (chosen("linux,initrd-start")?, initrd),
        (chosen("linux,initrd-end")?, initrd + initrd_bytes),
    ];
    let line = chosen("bootargs")?;
    for (at, number) in numbers {
        // As in `number`: the last cell says it all.
        let cell = at.end.checked_sub(4).and_then(|cell| tree.get_mut(cell..at.end));
        cell.ok_or("the device tree is cut off")?.copy_from_slice(&(number as u32).to_be_bytes());
    }
    let line = tree.get_mut(line).ok_or("the device tree is cut off")?;
    let word = line.split_mut(|byte| b" \0".contains(byte)).find(|word| word.starts_with(b"crashkernel="));
    let word = word.ok_or("the command line has no crashkernel=")?;
    word.fill(b' ');
    word[..b"maxcpus=1".len()].copy_from_slice(b"maxcpus=1");
    Ok(())
}

/// The number that a property holds, in one cell or two.
fn number(tree: &[u8], value: Range<usize>) -> Option<usize> {
    // The upper cell of two is zero: a 32-bit kernel reads it from lowmem.
    Some(word(tree, value.end.checked_sub(4)?)? as usize)
}

fn word(tree: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(tree.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Where the value of a property lies, of the first node that is called so (but for its address) and has it.
fn property(tree: &[u8], node: &str, name: &str) -> Option<Range<usize>> {
    const BEGIN_NODE: u32 = 1;
    const PROPERTY: u32 = 3;
    const END: u32 = 9;
    let text = |at: usize| -> Option<&[u8]> { tree.get(at..)?.split(|byte| *byte == 0).next() };
    let (mut at, strings) = (word(tree, 8)? as usize, word(tree, 12)? as usize);
    // A node's properties come before the nodes in it, so they are the last one's that began.
    let mut here = false;
    loop {
        let token = word(tree, at)?;
        at += 4;
        match token {
            BEGIN_NODE => {
                let called = text(at)?;
                here = called.split(|byte| *byte == b'@').next()? == node.as_bytes();
                at = (at + called.len() + 1).next_multiple_of(4);
            }
            PROPERTY => {
                let (bytes, value) = (word(tree, at)? as usize, at + 8);
                if here && text(strings + word(tree, at + 4)? as usize)? == name.as_bytes() {
                    return Some(value..value + bytes);
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

    /// A name and a value.
    type Property<'a> = (&'a str, &'a [u8]);

    /// Nodes, each with properties and no node in it, in the root.
    fn tree(nodes: &[(&str, &[Property])]) -> Vec<u8> {
        fn put(to: &mut Vec<u8>, bytes: &[u8]) {
            to.extend(bytes);
            to.resize(to.len().next_multiple_of(4), 0);
        }
        let word = |number: usize| (number as u32).to_be_bytes();
        let (mut structure, mut strings) = (Vec::new(), Vec::new());
        for (node, properties) in [("", &[][..])].iter().chain(nodes) {
            put(&mut structure, &word(1));
            put(&mut structure, format!("{node}\0").as_bytes());
            for (name, value) in *properties {
                put(&mut structure, &[word(3), word(value.len()), word(strings.len())].concat());
                put(&mut structure, value);
                strings.extend(format!("{name}\0").as_bytes());
            }
            if !node.is_empty() {
                put(&mut structure, &word(2));
            }
        }
        structure.extend([word(2), word(9)].concat());
        // Head: magic, size, where the structure is, where the strings.
        let head = [word(0xd00d_feed), word(0), word(16), word(16 + structure.len())].concat();
        [head, structure, strings].concat()
    }

    fn cells(cells: &[u32]) -> Vec<u8> {
        cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
    }

    #[test]
    fn memory_is_where_its_line_says() {
        let iomem =
            "09000000-09000fff : pl011@9000000\n40000000-7fffffff : System RAM\n  60000000-67ffffff : Crash kernel\n";
        assert_eq!(memory_in(iomem, "System RAM"), Some(0x4000_0000..0x8000_0000));
        assert_eq!(memory_in(iomem, "Crash kernel"), Some(0x6000_0000..0x6800_0000));
        assert_eq!(memory_in(iomem, "Kernel code"), None);
    }

    #[test]
    fn a_number_is_found_in_one_cell_or_two() {
        let (one, two) = (cells(&[0x4800_0000]), cells(&[0, 0x4900_0000]));
        let tree = tree(&[("other", &[("a", &two)]), ("chosen@0", &[("a", &one), ("b", &two)])]);
        let found = |name| number(&tree, property(&tree, "chosen", name)?);
        assert_eq!((found("a"), found("b"), found("c")), (Some(0x4800_0000), Some(0x4900_0000), None));
        (0..tree.len() - 4).for_each(|length| assert_eq!(property(&tree[..length], "chosen", "c"), None));
    }

    #[test]
    fn a_crash_kernel_is_told_of_its_memory_only() {
        let made = |reg: &[u32], start: &[u32], end: &[u32], line: &[u8]| {
            tree(&[
                ("memory@40000000", &[("reg", &cells(reg))]),
                (
                    "chosen",
                    &[("linux,initrd-end", &cells(end)), ("linux,initrd-start", &cells(start)), ("bootargs", line)],
                ),
            ])
        };
        let ram = 0x6000_0000..0x6800_0000;
        let this = made(&[0, 0x4000_0000, 0, 0x4000_0000], &[0x4800_0000], &[0, 1], b"a crashkernel=128M b\0");
        let mut changed = this.clone();
        assert_eq!(for_crash(&mut changed, &ram, 0x123), Ok(()));
        let wanted =
            made(&[0, 0x6000_0000, 0, 0x0800_0000], &[0x6380_0000], &[0, 0x6380_0123], b"a maxcpus=1        b\0");
        assert_eq!(changed, wanted);
        assert!(for_crash(&mut changed, &ram, 0).is_err(), "it has no crashkernel= any more");
        // Up to the last letter of the last name.
        (0..this.len() - 1).for_each(|length| assert!(for_crash(&mut this.clone()[..length], &ram, 0).is_err()));
    }
}
