// SPDX-License-Identifier: GPL-2.0-only
//! One line into the kernel's log.
//!
//! Formatted into a buffer on the stack; what does not fit is cut. Formatting integers and strings cannot panic.

use crate::ffi;
use core::fmt::{self, Write};

/// How grave the line is.
#[derive(Clone, Copy)]
pub enum Level {
    /// Something does not work.
    Error = 0,
    /// Good to know.
    Info = 1,
}

struct Line {
    bytes: [u8; 240],
    used: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if let Some(place) = self.bytes.get_mut(self.used) {
                *place = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

/// Writes one line.
pub fn write(level: Level, arguments: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 240], used: 0 };
    // `Line` accepts everything; the arguments are numbers and text.
    let _ = line.write_fmt(arguments);
    // SAFETY: the buffer holds `used` initialised bytes; the shim copies them.
    unsafe { ffi::ws_log(level as u32, line.bytes.as_ptr(), line.used) };
}

/// Logs an error.
#[macro_export]
macro_rules! error {
    ($($argument:tt)*) => { $crate::log::write($crate::log::Level::Error, format_args!($($argument)*)) };
}

/// Logs what is good to know.
#[macro_export]
macro_rules! info {
    ($($argument:tt)*) => { $crate::log::write($crate::log::Level::Info, format_args!($($argument)*)) };
}
