// SPDX-License-Identifier: GPL-2.0-only
//! Hypercalls and nothing else, for `cargo xtask bench` to follow through Hyp mode. It takes no times.
#![no_std]
#![no_main]

use guests::{exceptions, psci};

/// Many against all else that the guest leaves for.
const CALLS: u32 = 2000;

#[unsafe(no_mangle)]
extern "C" fn guest_main() -> ! {
    exceptions::watch("bench");
    for _ in 0..CALLS {
        psci::version();
    }
    psci::system_off()
}
