// SPDX-License-Identifier: GPL-2.0-only
//! Recognises a zImage, and says what a file is that is none.
//!
//! A zImage is a program that unpacks the kernel it carries. Its head has a magic number at 0x24, the address it must run at (0x28; 0
//! for anywhere) and the end (0x2c): their difference is its size, which tells a truncated file. Newer ones say at 0x34 that a
//! table follows, whose entry KLSZ says how much room the unpacked kernel takes; the loader keeps everything else out of it.
//! Debian's vmlinuz for armhf is a zImage, with an EFI head around it that changes none of this.
//!
//! Source: Documentation/arch/arm/booting.rst; the table as kexec-tools reads it.

use std::io::{self, Read, Seek, SeekFrom};

/// How much of a file is looked at to recognise it: a zImage's table lies close to its start, as do other formats' marks.
const HEAD: u64 = 4096;

const ZIMAGE_MAGIC: u32 = 0x016f_2818;
const TABLE_MAGIC: u32 = 0x4545_4545;
const KERNEL_SIZE_TAG: u32 = 0x5a53_4c4b; // "KLSZ"

/// A zImage, as its head describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// The address that it was linked to run at; `None`: anywhere.
    pub fixed_address: Option<u64>,
    /// Bytes to load: from the start of the file.
    pub size: u64,
    /// Bytes that the unpacked kernel takes, its zeroed data included; `None` where the image does not say.
    pub unpacked_size: Option<u64>,
}

/// Why a file cannot be booted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadImage {
    /// There is nothing in it.
    #[error("the file is empty")]
    Empty,
    /// It ends early.
    #[error("truncated: its head says {expected} bytes, the file has {found}. Copy or download it again")]
    Truncated {
        /// What its head says.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// Its head contradicts itself.
    #[error("damaged: its head says that it starts at {start:#x} and ends at {end:#x}")]
    Damaged {
        /// The word at 0x28.
        start: u32,
        /// The word at 0x2c.
        end: u32,
    },
    /// It is something else that is known.
    #[error("not a zImage: {what}. {advice}")]
    Foreign {
        /// What it is.
        what: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// It is something else.
    #[error(
        "not a zImage: it starts with {}. Give arch/arm/boot/zImage of a kernel for ARMv7, or Debian's /boot/vmlinuz-VERSION-armmp",
        .0.escape_ascii()
    )]
    Unknown(Vec<u8>),
    /// It cannot be read.
    #[error("{0}")]
    Io(String),
}

impl From<io::Error> for BadImage {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

const TAKE_ZIMAGE: &str = "Give the zImage: arch/arm/boot/zImage, or Debian's /boot/vmlinuz-VERSION-armmp";
const UNPACK: &str = "If it holds a zImage, unpack it first";
const OTHER_MACHINE: &str = "wsvm's guests are 32-bit Arm: give a zImage for ARMv7, such as Debian armhf's vmlinuz";

/// Marks of other formats: name, advice, offset, bytes.
const FOREIGN: &[(&str, &str, usize, &[u8])] = &[
    ("it is an ELF file, such as a kernel's vmlinux", TAKE_ZIMAGE, 0, b"\x7fELF"),
    ("it is a kernel Image for 64-bit Arm", OTHER_MACHINE, 0x38, b"ARM\x64"),
    ("it is a bzImage, a kernel for x86", OTHER_MACHINE, 0x202, b"HdrS"),
    ("it is a kernel Image for RISC-V", OTHER_MACHINE, 0x38, b"RSC\x05"),
    ("it is a zImage for a big-endian kernel", "Give a little-endian one", 0x24, &[0x01, 0x6f, 0x28, 0x18]),
    ("it is a U-Boot image", "Take its payload: dumpimage -T kernel -p 0 -o zImage FILE", 0, &[0x27, 0x05, 0x19, 0x56]),
    (
        "it is a flattened device tree, or a U-Boot FIT image",
        "Give it to --dtb, or take the kernel out: dumpimage -T flat_dt -p 0 -o zImage FILE",
        0,
        &[0xd0, 0x0d, 0xfe, 0xed],
    ),
    ("it is an Android boot image", "Take the kernel out: unpack_bootimg", 0, b"ANDROID!"),
    ("it is compressed by gzip", UNPACK, 0, &[0x1f, 0x8b]),
    ("it is compressed by xz", UNPACK, 0, b"\xfd7zXZ"),
    ("it is compressed by zstd", UNPACK, 0, &[0x28, 0xb5, 0x2f, 0xfd]),
    ("it is compressed by bzip2", UNPACK, 0, b"BZh"),
    (
        "it is a Debian package",
        "Unpack it: dpkg -x FILE DIR; the kernel is DIR/boot/vmlinuz-VERSION",
        0,
        b"!<arch>\ndebian",
    ),
    ("it is a cpio archive, such as an initrd", "Give it to --initrd", 0, b"07070"),
    ("it is a qcow2 disk image", "A disk cannot be booted: give a kernel", 0, b"QFI\xfb"),
    ("it is an EFI program without a zImage in it", TAKE_ZIMAGE, 0, b"MZ"),
];

impl KernelImage {
    /// Looks at `file` from its start.
    pub fn recognise(file: &mut (impl Read + Seek)) -> Result<Self, BadImage> {
        let found = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        let mut head = Vec::new();
        file.take(HEAD).read_to_end(&mut head)?;
        if head.is_empty() {
            return Err(BadImage::Empty);
        }
        let word = |offset: u64| {
            let offset = usize::try_from(offset).ok()?;
            Some(u32::from_le_bytes(head.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
        };
        if word(0x24) != Some(ZIMAGE_MAGIC) {
            return Err(not_a_zimage(&head));
        }
        let (Some(start), Some(end)) = (word(0x28), word(0x2c)) else {
            return Err(BadImage::Truncated { expected: 0x30, found });
        };
        if end <= start || end - start < 0x30 {
            return Err(BadImage::Damaged { start, end });
        }
        let size = u64::from(end - start);
        if size > found {
            return Err(BadImage::Truncated { expected: size, found });
        }
        let fixed_address = (start != 0).then_some(u64::from(start));
        let table = (word(0x34) == Some(TABLE_MAGIC)).then(|| word(0x38)).flatten();
        let unpacked_size = match table.and_then(|offset| kernel_size_entry(word, u64::from(offset))) {
            Some((size_at, zeroed)) if u64::from(size_at) + 4 <= size => {
                let mut unpacked = [0; 4];
                file.seek(SeekFrom::Start(u64::from(size_at)))?;
                file.read_exact(&mut unpacked)?;
                Some(u64::from(u32::from_le_bytes(unpacked)) + u64::from(zeroed))
            }
            _ => None,
        };
        Ok(Self { fixed_address, size, unpacked_size })
    }
}

/// Finds the entry KLSZ in the table: where in the file the unpacked size is, and how many zeroed bytes follow the kernel.
/// An entry is its length in words, a tag, values; length 0 ends the table.
fn kernel_size_entry(word: impl Fn(u64) -> Option<u32>, mut at: u64) -> Option<(u32, u32)> {
    while at < HEAD {
        let length = word(at)?;
        if length == 0 {
            return None;
        }
        if word(at + 4)? == KERNEL_SIZE_TAG && length >= 4 {
            return Some((word(at + 8)?, word(at + 12)?));
        }
        at += u64::from(length) * 4;
    }
    None
}

fn not_a_zimage(head: &[u8]) -> BadImage {
    FOREIGN
        .iter()
        .find(|(_, _, offset, mark)| head.get(*offset..).is_some_and(|rest| rest.starts_with(mark)))
        .map(|&(what, advice, ..)| BadImage::Foreign { what, advice })
        .unwrap_or_else(|| BadImage::Unknown(head[..head.len().min(8)].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A file that is a zImage of `size` bytes as far as its head goes.
    fn zimage(start: u32, size: u32) -> Vec<u8> {
        let mut file = vec![0; size as usize];
        file[0x24..0x28].copy_from_slice(&ZIMAGE_MAGIC.to_le_bytes());
        file[0x28..0x2c].copy_from_slice(&start.to_le_bytes());
        file[0x2c..0x30].copy_from_slice(&(start + size).to_le_bytes());
        file
    }

    fn recognise(file: &[u8]) -> Result<KernelImage, BadImage> {
        KernelImage::recognise(&mut Cursor::new(file))
    }

    #[test]
    fn a_zimage_is_recognised_with_what_follows_it_left_out() {
        let mut file = zimage(0, 0x400);
        file.extend_from_slice(b"an appended device tree");
        assert_eq!(recognise(&file), Ok(KernelImage { fixed_address: None, size: 0x400, unpacked_size: None }));
        let fixed = recognise(&zimage(0x8200_0000, 0x400)).unwrap();
        assert_eq!(fixed.fixed_address, Some(0x8200_0000));
    }

    #[test]
    fn the_unpacked_size_is_found_through_the_table() {
        let mut file = zimage(0, 0x400);
        let mut put = |at: usize, value: u32| file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(0x34, TABLE_MAGIC);
        put(0x38, 0x100);
        put(0x100, 2); // another entry first
        put(0x108, 4);
        put(0x10c, KERNEL_SIZE_TAG);
        put(0x110, 0x3fc);
        put(0x114, 0x5000);
        put(0x3fc, 0x12_0000);
        assert_eq!(recognise(&file).unwrap().unpacked_size, Some(0x12_5000));
        file[0x110..0x114].copy_from_slice(&0x3fdu32.to_le_bytes()); // out of the image
        assert_eq!(recognise(&file).unwrap().unpacked_size, None);
        file[0x108..0x10c].copy_from_slice(&0u32.to_le_bytes()); // ends before
        assert_eq!(recognise(&file).unwrap().unpacked_size, None);
    }

    #[test]
    fn a_truncated_one_is_refused_at_every_length() {
        let whole = zimage(0, 0x400);
        assert_eq!(recognise(&[]), Err(BadImage::Empty));
        for length in 1..whole.len() {
            let error = recognise(&whole[..length]).unwrap_err();
            if length >= 0x30 {
                assert_eq!(error, BadImage::Truncated { expected: 0x400, found: length as u64 });
            }
        }
        assert!(BadImage::Truncated { expected: 9, found: 5 }.to_string().contains("9 bytes, the file has 5"));
    }

    #[test]
    fn a_head_that_contradicts_itself_is_refused() {
        let mut file = zimage(0, 0x400);
        file[0x28..0x2c].copy_from_slice(&0x400u32.to_le_bytes());
        assert_eq!(recognise(&file), Err(BadImage::Damaged { start: 0x400, end: 0x400 }));
    }

    #[test]
    fn foreign_files_are_named_with_advice() {
        for (mark, offset, named) in [
            (&b"\x7fELF"[..], 0, "ELF"),
            (b"ARM\x64", 0x38, "64-bit Arm"),
            (b"HdrS", 0x202, "bzImage"),
            (b"\x1f\x8b", 0, "gzip"),
            (b"\x27\x05\x19\x56", 0, "U-Boot"),
            (b"MZ", 0, "EFI"),
        ] {
            let mut file = vec![0; 0x1000];
            file[offset..offset + mark.len()].copy_from_slice(mark);
            let message = recognise(&file).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
        let message = recognise(b"#!/bin/sh\n").unwrap_err().to_string();
        assert!(message.contains("#!/bin/s") && message.contains("zImage"), "{message}");
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_judged(mut file in proptest::collection::vec(proptest::num::u8::ANY, 0..0x200), magic: bool, at: u8) {
            if magic && file.len() >= 0x3c {
                file[0x24..0x28].copy_from_slice(&ZIMAGE_MAGIC.to_le_bytes());
                file[0x34..0x38].copy_from_slice(&TABLE_MAGIC.to_le_bytes());
                file[0x38..0x3c].copy_from_slice(&u32::from(at).to_le_bytes());
            }
            let _ = recognise(&file);
        }
    }
}
