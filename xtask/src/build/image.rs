// SPDX-License-Identifier: GPL-2.0-only
//! Flat images: the loadable segments of a linked program, laid out as they lie in memory.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSegment};

/// No image here is larger; a stray segment far away would be.
const LARGEST: u64 = 16 << 20;

/// Writes the segments of the ELF file `elf`, from the lowest address to the highest, to `image`. Memory that the file does not fill is
/// zero, at the end (bss) as between segments.
pub fn flatten(elf: &Path, image: &Path) -> Result<()> {
    let data = fs::read(elf).with_context(|| format!("{}: cannot be read", elf.display()))?;
    let bytes = flat(&data).with_context(|| format!("{}: cannot be made flat", elf.display()))?;
    write_if_different(image, &bytes)
}

fn flat(data: &[u8]) -> Result<Vec<u8>> {
    let file = object::File::parse(data)?;
    let end = |segment: &object::Segment| segment.address() + segment.size();
    let low = file.segments().map(|segment| segment.address()).min();
    let high = file.segments().map(|segment| end(&segment)).max();
    let (Some(low), Some(high)) = (low, high) else {
        bail!("it has no loadable segment");
    };
    if high - low > LARGEST {
        bail!("its segments span {low:#x} to {high:#x}, more than {LARGEST:#x} bytes");
    }
    let mut image = vec![0; (high - low) as usize];
    for segment in file.segments() {
        let bytes = segment.data()?;
        let at = (segment.address() - low) as usize;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    Ok(image)
}

/// Writes `bytes` to `path` unless they are there already, so that what is built from it is not built again for nothing.
pub fn write_if_different(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| format!("{}: cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 32-bit Arm ELF file with segments (address, bytes, size in memory).
    fn elf(segments: &[(u32, &[u8], u32)]) -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for half in [2u16, 40] {
            file.extend(half.to_le_bytes());
        }
        for word in [1u32, 0, 52, 0, 0] {
            file.extend(word.to_le_bytes());
        }
        for half in [52u16, 32, segments.len() as u16, 40, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut offset = 52 + 32 * segments.len() as u32;
        for (address, bytes, size) in segments {
            let length = bytes.len() as u32;
            for word in [1, offset, *address, *address, length, *size, 7, 4] {
                file.extend(word.to_le_bytes());
            }
            offset += length;
        }
        for (_, bytes, _) in segments {
            file.extend_from_slice(bytes);
        }
        file
    }

    #[test]
    fn gaps_and_bss_are_zero() {
        let image = flat(&elf(&[(0x1000, b"code", 4), (0x1008, b"ab", 6)])).expect("flat");
        assert_eq!(image, b"code\0\0\0\0ab\0\0\0\0");
    }

    #[test]
    fn a_far_segment_is_refused() {
        assert!(flat(&elf(&[(0x1000, b"code", 4), (0xf000_0000, b"ab", 2)])).is_err());
        assert!(flat(&elf(&[])).is_err());
        assert!(flat(b"not an ELF file").is_err());
    }
}
