// SPDX-License-Identifier: GPL-2.0-only
//! Says that it begins, writes to its memory, and restarts, again and again: who runs it counts, and ends it. What it wrote before is to
//! be gone each time.
#![no_std]
#![no_main]

use guests::{mmio, println, psci};

/// Below the image, above where a kernel would be; nothing else is here.
const FIRST: u32 = 0x8010_0000;
const END: u32 = 0x81f0_0000;
/// One word in so many bytes is looked at.
const STEP: usize = 0x1_0000;

#[unsafe(no_mangle)]
extern "C" fn guest_main() -> ! {
    for place in (FIRST..END).step_by(STEP) {
        let word = mmio::read32(place);
        if word != 0 {
            println!("not ok: at {place:#x} is still {word:#x}");
        }
        mmio::write32(place, !place);
    }
    println!("begun");
    psci::system_reset()
}
