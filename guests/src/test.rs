// SPDX-License-Identifier: GPL-2.0-only
//! Tests: their table, their verdicts, and the lines that the runner reads.
//!
//! The lines are TAP but for the number of each test: `1..N` first, then `ok NAME` or `not ok NAME: why`.

use core::fmt::{self, Write};

use crate::{exceptions, psci};

/// Why a test failed: a short text, cut off where it is too long.
pub struct Failure {
    text: [u8; 100],
    length: usize,
}

impl Failure {
    /// One that says nothing.
    pub const fn new_empty() -> Self {
        Self { text: [0; 100], length: 0 }
    }

    /// Makes one from a message.
    pub fn new(message: fmt::Arguments) -> Self {
        let mut failure = Self { text: [0; 100], length: 0 };
        let _ = failure.write_fmt(message); // never fails: what does not fit is left out
        failure
    }
}

impl Write for Failure {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Whole characters only, so that the text stays one.
        for character in text.chars() {
            let room = &mut self.text[self.length..];
            if character.len_utf8() > room.len() {
                break;
            }
            self.length += character.encode_utf8(room).len();
        }
        Ok(())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        to.write_str(core::str::from_utf8(&self.text[..self.length]).unwrap_or("?"))
    }
}

/// What a test says.
pub type Verdict = Result<(), Failure>;

/// A test.
pub struct Test {
    /// Its name.
    pub name: &'static str,
    /// It.
    pub run: fn() -> Verdict,
}

/// Runs the tests in order, then ends the machine.
pub fn run(tests: &[Test]) -> ! {
    crate::println!("1..{}", tests.len());
    for test in tests {
        exceptions::watch(test.name);
        match (test.run)() {
            Ok(()) => crate::println!("ok {}", test.name),
            Err(why) => crate::println!("not ok {}: {why}", test.name),
        }
    }
    psci::system_off()
}

/// Defines a guest: the tests that it runs, in this order.
#[macro_export]
macro_rules! guest {
    ($($test:ident),+ $(,)?) => {
        #[unsafe(no_mangle)]
        extern "C" fn guest_main() -> ! {
            $crate::test::run(&[$($crate::test::Test { name: stringify!($test), run: $test }),+])
        }
    };
}

/// Fails the test with a message unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::test::Failure::new(format_args!($($message)+)));
        }
    };
}

/// Fails the test unless a number is what it should be.
#[macro_export]
macro_rules! check_eq {
    ($what:expr, $seen:expr, $expected:expr) => {
        let (seen, expected) = ($seen, $expected);
        $crate::check!(seen == expected, "{} is {:#x}, should be {:#x}", $what, seen, expected);
    };
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    crate::println!("not ok {}: {info}", exceptions::current_test());
    psci::system_off()
}
