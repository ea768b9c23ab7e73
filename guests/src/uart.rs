// SPDX-License-Identifier: GPL-2.0-only
//! The console: a 16550A where wsvm has it.

use core::fmt;

use crate::mmio::{read8, write8};

/// Where the first serial port is.
pub const BASE: u32 = 0x1000_0000;
/// The scratch register: keeps what is written and means nothing.
pub const SCRATCH: u32 = BASE + 7;

/// That of the second serial port.
pub const SECOND_SCRATCH: u32 = SCRATCH + 0x1000;

const TRANSMIT: u32 = BASE;
const LINE_STATUS: u32 = BASE + 5;
const TRANSMIT_EMPTY: u32 = 1 << 5;

/// Prints to the console.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while read8(LINE_STATUS) & TRANSMIT_EMPTY == 0 {}
            write8(TRANSMIT, byte);
        }
        Ok(())
    }
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::uart::Console, $($argument)*); // the console's write never fails
    }};
}
