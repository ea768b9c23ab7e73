// SPDX-License-Identifier: GPL-2.0-only
//! The command line that the monitor was given: how a test tells two machines with the same guest apart, and how long one runs.
//!
//! It is the property `bootargs` of the device tree whose address stands in r2 at the first instruction. It is the only property of
//! that name, so its node does not matter, and the tree is read as the flat run of tokens that it is.
//!
//! Source: Devicetree Specification 0.4, 5.2 (header), 5.4 (structure block); Documentation/arch/arm/booting.rst for r2.

use core::sync::atomic::{AtomicUsize, Ordering};

const MAGIC: u32 = 0xd00d_feed;
/// Token: a node begins; its name follows.
const BEGIN_NODE: u32 = 1;
/// Token: a node ends.
const END_NODE: u32 = 2;
/// Token: a property; its length, its name's place, and its value follow.
const PROPERTY: u32 = 3;
/// Token: nothing.
const NOP: u32 = 4;

/// Where the tree is. `_start` writes it.
pub(crate) static ADDRESS: AtomicUsize = AtomicUsize::new(0);

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn tree() -> Option<&'static [u8]> {
    let address = ADDRESS.load(Ordering::Relaxed);
    if address == 0 || !address.is_multiple_of(4) {
        return None;
    }
    // SAFETY: the boot protocol: the tree lies there, in memory that no guest writes to, and says itself how long it is.
    unsafe {
        let head = core::slice::from_raw_parts(address as *const u8, 8);
        let length = word(head, 4).filter(|_| word(head, 0) == Some(MAGIC))?;
        Some(core::slice::from_raw_parts(address as *const u8, length as usize))
    }
}

/// Text up to the first zero.
fn text(bytes: &[u8]) -> Option<&str> {
    core::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()
}

/// The command line; nothing if there is none.
pub fn command_line() -> &'static str {
    bootargs().unwrap_or("")
}

fn bootargs() -> Option<&'static str> {
    let tree = tree()?;
    let (mut at, names) = (word(tree, 8)? as usize, word(tree, 12)? as usize);
    loop {
        let token = word(tree, at)?;
        at += 4;
        match token {
            BEGIN_NODE => at += (text(tree.get(at..)?)?.len() + 1).next_multiple_of(4),
            PROPERTY => {
                let (length, name) = (word(tree, at)? as usize, word(tree, at + 4)? as usize);
                let value = tree.get(at + 8..at + 8 + length)?;
                if text(tree.get(names + name..)?)? == "bootargs" {
                    return text(value);
                }
                at += 8 + length.next_multiple_of(4);
            }
            END_NODE | NOP => {}
            _ => return None,
        }
    }
}

/// What the command line says of `name`, as `name=NUMBER`.
pub fn number(name: &str) -> Option<u32> {
    let words = command_line().split_ascii_whitespace();
    { words }.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}
