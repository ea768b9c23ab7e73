// SPDX-License-Identifier: GPL-2.0-only
//! One use of VFP after each of `exits=NUMBER` exits, and one before: so many exchanges of its registers the host should count, and no more.
#![no_std]
#![no_main]

use core::arch::asm;

use guests::test::Verdict;
use guests::{device_tree, guest, mmio, uart, vfp};

guest!(each_exit_is_followed_by_one_use);

/// The port's answer comes from the process, so each turn is a stay of its own; an interrupt between an exit and the use that
/// follows it makes one stay more, but no use.
fn each_exit_is_followed_by_one_use() -> Verdict {
    vfp::on();
    for _ in 0..device_tree::number("exits").unwrap_or(10) {
        mmio::read8(uart::SCRATCH);
        // SAFETY: changes d0, which nobody uses.
        unsafe { asm!(".fpu neon-vfpv4", "vadd.f64 d0, d0, d0", options(nostack)) };
    }
    Ok(())
}
