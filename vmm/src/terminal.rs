// SPDX-License-Identifier: GPL-2.0-only
//! The user's terminal while a guest has it: raw mode, put back on every way out, and the escape that ends the machine.
//!
//! In raw mode every key goes to the guest, Ctrl-C too. Ctrl-A is ours: Ctrl-A X ends the machine, Ctrl-A A sends the guest a Ctrl-A.
//! The mode before is kept where a signal handler can read it, so that a crash of wsvm's does not leave a dead terminal;
//! only SIGKILL does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use nix::sys::termios::{
    InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use vmm_sys_util::signal::register_signal_handler;

use crate::error::Error;

/// The mode to put back; set once, before it is changed.
static BEFORE: OnceLock<libc::termios> = OnceLock::new();

/// The terminal in raw mode; put back on drop.
pub struct RawTerminal(());

impl RawTerminal {
    /// Puts standard input into raw mode. `None`: it is no terminal, or one that this process may not touch now, because another job has it.
    pub fn take() -> Result<Option<Self>, Error> {
        let stdin = io::stdin();
        let fd = stdin.as_fd();
        let Ok(before) = tcgetattr(fd) else {
            return Ok(None);
        };
        if nix::unistd::tcgetpgrp(fd).is_ok_and(|foreground| foreground != nix::unistd::getpgrp()) {
            return Ok(None);
        }
        let _ = BEFORE.set(before.clone().into());
        put_back_on_crash()?;
        tcsetattr(fd, SetArg::TCSANOW, &raw(before))
            .map_err(|errno| Error::host("cannot set the terminal's mode")(errno.into()))?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        put_back();
    }
}

/// No echo, no lines, no signals, no translation of input. Output is still translated, so that lines of wsvm's own come out straight.
fn raw(mut mode: Termios) -> Termios {
    mode.input_flags &= !(InputFlags::ICRNL
        | InputFlags::INLCR
        | InputFlags::IGNCR
        | InputFlags::IXON
        | InputFlags::ISTRIP
        | InputFlags::BRKINT);
    mode.local_flags &= !(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG | LocalFlags::IEXTEN);
    mode.output_flags |= OutputFlags::OPOST | OutputFlags::ONLCR;
    mode.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
    mode.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
    mode
}

/// Puts the mode back, if it was ever changed. Calls only what a signal handler may.
pub fn put_back() {
    if let Some(before) = BEFORE.get() {
        // SAFETY: `before` is a termios that tcgetattr has filled, and never changes again.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, before) };
    }
}

extern "C" fn put_back_and_die(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    put_back();
    // SAFETY: both calls are allowed in a signal handler; the second delivers the signal again, now with its deadly default.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

fn put_back_on_crash() -> Result<(), Error> {
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT] {
        register_signal_handler(signal, put_back_and_die)
            .map_err(|error| Error::host("cannot handle signals")(error.into()))?;
    }
    Ok(())
}

/// What a key typed means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The guest gets it.
    Send(u8),
    /// The first half of an escape: nothing yet.
    Nothing,
    /// End the machine.
    Quit,
    /// An escape that there is not: say which there are.
    Help,
}

/// Finds escapes among the keys typed.
#[derive(Default)]
pub struct EscapeParser {
    after_ctrl_a: bool,
}

const CTRL_A: u8 = 1;

/// What to tell the user.
pub const ESCAPES: &str = "Ctrl-A X ends the machine, Ctrl-A A sends Ctrl-A";

impl EscapeParser {
    /// Takes the next key.
    pub fn key(&mut self, key: u8) -> Key {
        match (std::mem::replace(&mut self.after_ctrl_a, false), key) {
            (false, CTRL_A) => {
                self.after_ctrl_a = true;
                Key::Nothing
            }
            (false, key) => Key::Send(key),
            (true, b'x' | b'X') => Key::Quit,
            (true, b'a' | b'A' | CTRL_A) => Key::Send(CTRL_A),
            (true, _) => Key::Help,
        }
    }
}

/// Reads what there is from standard input, at most `buffer`'s length; 0 at its end. No buffering, so that what is not asked for stays.
pub fn read_stdin(buffer: &mut [u8]) -> io::Result<usize> {
    Ok(nix::unistd::read(stdin_fd(), buffer)?)
}

/// Standard input's descriptor, to wait for.
pub fn stdin_fd() -> BorrowedFd<'static> {
    // SAFETY: the standard library sees to it that descriptor 0 is open from the start, and nothing here closes it.
    unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(keys: &[u8]) -> Vec<Key> {
        let mut parser = EscapeParser::default();
        keys.iter().map(|key| parser.key(*key)).filter(|key| *key != Key::Nothing).collect()
    }

    #[test]
    fn escapes_are_found_and_all_else_is_sent() {
        assert_eq!(parse(b"ls\r\x03"), b"ls\r\x03".map(Key::Send));
        assert_eq!(parse(b"\x01x"), [Key::Quit]);
        assert_eq!(parse(b"a\x01X"), [Key::Send(b'a'), Key::Quit]);
        assert_eq!(parse(b"\x01\x01x"), [Key::Send(1), Key::Send(b'x')]);
        assert_eq!(parse(b"\x01ax"), [Key::Send(1), Key::Send(b'x')]);
        assert_eq!(parse(b"\x01?x"), [Key::Help, Key::Send(b'x')]);
        assert_eq!(parse(b"\x01"), []);
    }
}
