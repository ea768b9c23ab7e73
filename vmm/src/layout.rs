// SPDX-License-Identifier: GPL-2.0-only
//! The guest's physical memory map, and where kernel, initrd and device tree go in it.
//!
//! | from | bytes | what | interrupt |
//! |---|---|---|---|
//! | 0x1000_0000 | 0x1000 | first serial port: the console | SPI 0 |
//! | 0x1000_1000 | 0x1000 | second serial port | SPI 1 |
//! | 0x1001_0000 | 32 x 0x1000 | kept for virtio | SPI 16 and on |
//! | 0x2000_0000 | 0x1000 | GIC distributor | |
//! | 0x2001_0000 | 0x2000 | GIC CPU interface | |
//! | 0x8000_0000 | as given | RAM | |
//!
//! A zImage finds where RAM starts by clearing the low 27 bits of its own address (or from the device tree, if it is new enough), so
//! RAM starts at a multiple of 128 MiB and the image lies in its first 128 MiB: at 32 MiB, where the kernel that it unpacks to the
//! start of RAM seldom reaches, so that it need not first copy itself away. Initrd and device tree go to the top of the first
//! 512 MiB: the kernel reaches them there by its linear mapping, and they are out of the way of anything that unpacks.
//!
//! Source: Documentation/arch/arm/booting.rst.

use std::ops::Range;

use crate::kernel_image::KernelImage;

/// The first serial port.
pub const UART0: Range<u64> = 0x1000_0000..0x1000_1000;
/// The second serial port.
pub const UART1: Range<u64> = 0x1000_1000..0x1000_2000;
/// Shared interrupt of the first serial port.
pub const UART0_SPI: u16 = 0;
/// Shared interrupt of the second serial port.
pub const UART1_SPI: u16 = 1;
/// Kept for virtio; the test below keeps it apart from the rest.
#[cfg_attr(not(test), expect(dead_code))]
pub const VIRTIO: Range<u64> = 0x1001_0000..0x1003_0000;
/// The GIC's distributor.
pub const GICD: Range<u64> = 0x2000_0000..0x2000_1000;
/// The GIC's CPU interface.
pub const GICC: Range<u64> = 0x2001_0000..0x2001_2000;
/// How many interrupts the GIC has, SGIs and PPIs included.
pub const GIC_INTERRUPTS: u32 = 128;
/// Number of the first shared interrupt at the GIC.
pub const FIRST_SPI: u16 = 32;
/// Where RAM starts.
pub const RAM_BASE: u64 = 0x8000_0000;
/// The most RAM: what fits under 4 GiB, less 1 MiB, because a 32-bit process has hardly 2 GiB in one piece.
pub const MAX_RAM: u64 = 0x7ff0_0000;
/// The least RAM.
pub const MIN_RAM: u64 = 0x0100_0000;
/// The most vCPUs: a GICv2 serves eight.
pub const MAX_CPUS: i64 = 8;
/// The greatest device tree, and the alignment of its place: the kernel maps two sections around it.
pub const DTB_ROOM: u64 = 2 << 20;

const KERNEL_OFFSET: u64 = 32 << 20;
const SMALL_KERNEL_OFFSET: u64 = 0x8000;
const SMALL_RAM: u64 = 64 << 20;
const REACH: u64 = 512 << 20;
/// Where the unpacked kernel starts in RAM.
const UNPACKED_OFFSET: u64 = 0x8000;
/// What the decompressor needs beside the images: stack, heap, early page tables.
const SLACK: u64 = 1 << 20;
const PAGE: u64 = 0x1000;

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// RAM as a whole.
    pub ram: Range<u64>,
    /// The zImage.
    pub kernel: Range<u64>,
    /// The initrd.
    pub initrd: Option<Range<u64>>,
    /// Room for the device tree.
    pub dtb: Range<u64>,
}

/// Why nothing can be placed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPlacement {
    /// RAM is too small for what goes into it.
    #[error("{mib}M of memory is too little for this kernel and initrd. Give --mem {enough}M or more")]
    TooSmall {
        /// How much there is.
        mib: u64,
        /// What would do.
        enough: u64,
    },
    /// The initrd fits no memory at all.
    #[error("the initrd is too big: {mib}M, and kernel and initrd must lie in the first {reach}M of memory", reach = REACH >> 20)]
    InitrdTooBig {
        /// Its size.
        mib: u64,
    },
    /// The image must run where no RAM is.
    #[error("the kernel image must run at {address:#x}, where this machine has no free memory: RAM is {:#x} to {:#x}", .ram.start, .ram.end)]
    FixedAddress {
        /// What it says.
        address: u64,
        /// What there is.
        ram: Range<u64>,
    },
}

impl Placement {
    /// Places an image and an initrd of `initrd_size` bytes in `ram_size` bytes of RAM, a multiple of the page size of at least [`MIN_RAM`].
    pub fn new(ram_size: u64, kernel: &KernelImage, initrd_size: Option<u64>) -> Result<Self, BadPlacement> {
        let ram = RAM_BASE..RAM_BASE + ram_size;
        // The whole of the first 512 MiB is tried before giving up, to say what would have been enough.
        match Self::below(ram.clone(), ram.end.min(RAM_BASE + REACH), kernel, initrd_size) {
            Some(placement) => Ok(placement),
            None => Err(Self::why_not(ram, kernel, initrd_size)),
        }
    }

    fn below(ram: Range<u64>, top: u64, kernel: &KernelImage, initrd_size: Option<u64>) -> Option<Self> {
        let kernel_start = kernel.fixed_address.unwrap_or(match ram.end - ram.start {
            size if size < SMALL_RAM => ram.start + SMALL_KERNEL_OFFSET,
            _ => ram.start + KERNEL_OFFSET,
        });
        let kernel_range = kernel_start..kernel_start.checked_add(kernel.size)?;
        let dtb_start = top.checked_sub(DTB_ROOM)? & !(DTB_ROOM - 1);
        let dtb = dtb_start..dtb_start + DTB_ROOM;
        let initrd = match initrd_size {
            Some(size) => {
                let start = dtb_start.checked_sub(size)? & !(PAGE - 1);
                Some(start..start + size)
            }
            None => None,
        };
        // If the unpacked kernel reaches the image, the image first moves behind it.
        let unpacked = kernel.unpacked_size.unwrap_or(kernel.size * 5);
        let busy_end = kernel_range.end.max(ram.start + UNPACKED_OFFSET + unpacked + kernel.size) + SLACK;
        let lowest = initrd.as_ref().map_or(dtb.start, |initrd| initrd.start);
        (kernel_range.start >= ram.start && busy_end <= lowest).then_some(Self {
            ram,
            kernel: kernel_range,
            initrd,
            dtb,
        })
    }

    fn why_not(ram: Range<u64>, kernel: &KernelImage, initrd_size: Option<u64>) -> BadPlacement {
        let most = RAM_BASE + REACH;
        let enough = (ram.end - RAM_BASE..=REACH)
            .step_by(1 << 20)
            .find(|size| Self::below(RAM_BASE..RAM_BASE + size, RAM_BASE + size, kernel, initrd_size).is_some());
        match enough {
            Some(size) => BadPlacement::TooSmall { mib: (ram.end - RAM_BASE) >> 20, enough: size.div_ceil(1 << 20) },
            None if Self::below(RAM_BASE..most, most, kernel, None).is_some() => {
                BadPlacement::InitrdTooBig { mib: initrd_size.unwrap_or(0) >> 20 }
            }
            None => BadPlacement::FixedAddress { address: kernel.fixed_address.unwrap_or(RAM_BASE), ram },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn image(size: u64) -> KernelImage {
        KernelImage { fixed_address: None, size, unpacked_size: Some(size * 4) }
    }

    fn apart(a: &Range<u64>, b: &Range<u64>) -> bool {
        a.end <= b.start || b.end <= a.start
    }

    #[test]
    fn debian_in_256m() {
        let placement = Placement::new(256 * MIB, &image(5 * MIB), Some(30 * MIB + 5)).unwrap();
        assert_eq!(placement.kernel.start, RAM_BASE + 32 * MIB);
        assert_eq!(placement.dtb, RAM_BASE + 254 * MIB..RAM_BASE + 256 * MIB);
        assert_eq!(placement.initrd.unwrap().start, RAM_BASE + 224 * MIB - 0x1000);
    }

    #[test]
    fn too_little_memory_says_how_much_is_enough() {
        let Err(BadPlacement::TooSmall { mib: 32, enough }) = Placement::new(32 * MIB, &image(5 * MIB), Some(30 * MIB))
        else {
            panic!("should not fit");
        };
        Placement::new(enough * MIB, &image(5 * MIB), Some(30 * MIB)).unwrap();
        assert!(Placement::new((enough - 1) * MIB, &image(5 * MIB), Some(30 * MIB)).is_err());
    }

    #[test]
    fn what_fits_nowhere_is_told_apart() {
        assert_eq!(
            Placement::new(1024 * MIB, &image(5 * MIB), Some(600 * MIB)),
            Err(BadPlacement::InitrdTooBig { mib: 600 })
        );
        let fixed = KernelImage { fixed_address: Some(0x4000_8000), ..image(MIB) };
        assert!(matches!(
            Placement::new(256 * MIB, &fixed, None),
            Err(BadPlacement::FixedAddress { address: 0x4000_8000, .. })
        ));
    }

    #[test]
    fn devices_lie_below_ram_and_apart() {
        let devices = [UART0, UART1, VIRTIO, GICD, GICC];
        for (i, a) in devices.iter().enumerate() {
            assert!(a.end <= 0x4000_0000 && a.start % 0x1000 == 0);
            assert!(devices[i + 1..].iter().all(|b| apart(a, b)));
        }
    }

    proptest! {
        #[test]
        fn nothing_overlaps(ram_mib in 16..2047u64, kernel in 0x30..48 * MIB, factor in 1..8u64, known: bool,
                            initrd in proptest::option::of(1..600 * MIB), fixed in proptest::option::of(RAM_BASE..RAM_BASE + 600 * MIB)) {
            let kernel = KernelImage { fixed_address: fixed, size: kernel, unpacked_size: known.then_some(kernel * factor) };
            match Placement::new(ram_mib * MIB, &kernel, initrd) {
                Ok(Placement { ram, kernel: k, initrd: i, dtb }) => {
                    prop_assert_eq!(k.end - k.start, kernel.size);
                    prop_assert!(fixed.is_none_or(|address| address == k.start));
                    prop_assert!(fixed.is_some() || k.start < RAM_BASE + 128 * MIB);
                    prop_assert_eq!(i.as_ref().map(|i| i.end - i.start), initrd);
                    prop_assert_eq!(dtb.start % DTB_ROOM, 0);
                    let unpacked = RAM_BASE..RAM_BASE + UNPACKED_OFFSET + kernel.unpacked_size.unwrap_or(kernel.size * 5);
                    let moving = [Some(dtb), i];
                    for part in moving.iter().flatten() {
                        prop_assert!(part.start >= ram.start && part.end <= ram.end.min(RAM_BASE + REACH));
                        prop_assert!(apart(part, &k) && apart(part, &unpacked));
                    }
                    if let [Some(dtb), Some(initrd)] = &moving {
                        prop_assert!(apart(dtb, initrd));
                    }
                }
                Err(BadPlacement::TooSmall { enough, .. }) => {
                    prop_assert!(enough > ram_mib);
                    prop_assert!(Placement::new(enough * MIB, &kernel, initrd).is_ok());
                }
                Err(_) => {}
            }
        }
    }
}
