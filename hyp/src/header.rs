// SPDX-License-Identifier: GPL-2.0-only
//! The first words of the image, which tell the module where things are ([`hyp_abi::image::ImageHeader`]).
//!
//! The addresses are those of symbols; the linker fills them in.

use hyp_abi::{image, layout};

/// [`image::ImageHeader`] with addresses that only the linker knows.
#[repr(C)]
struct LinkedHeader {
    magic: u32,
    abi: u32,
    text: *const u8,
    data: *const u8,
    end: *const u8,
    entries: *const u8,
    trampoline: unsafe extern "C" fn() -> !,
    start: unsafe extern "C" fn() -> !,
}

// SAFETY: constant addresses, never written and never read through in this image.
unsafe impl Sync for LinkedHeader {}

unsafe extern "C" {
    static __text_start: u8;
    static __data_start: u8;
    static __image_end: u8;
    static hyp_entries: u8;
}

#[used]
#[unsafe(link_section = ".hyp.header")]
static HEADER: LinkedHeader = LinkedHeader {
    magic: image::MAGIC,
    abi: image::ABI,
    text: &raw const __text_start,
    data: &raw const __data_start,
    end: &raw const __image_end,
    entries: &raw const hyp_entries,
    trampoline: crate::trampoline::enter,
    start: crate::trampoline::hyp_start,
};

const _: () = assert!(layout::IMAGE_BASE == 0xfe00_0000, "hyp.ld links the image there");
const _: () = assert!(size_of::<LinkedHeader>() == size_of::<image::ImageHeader>());
