// SPDX-License-Identifier: GPL-2.0-only
//! What both sides of `HVC #0` agree on.
//!
//! The kernel module and the Hyp image are linked apart and share no symbol. They share three things, all described here:
//! the layout of Hyp mode's address space ([`layout`]), the header that the image begins with ([`image`]), and the vCPU's
//! context, a page that the module writes while the vCPU rests and that the world switch reads and writes while it runs
//! ([`context`]). All types are `#[repr(C)]` with fields of 32 and 64 bits only, so that both compilers lay them out alike.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod context;
pub mod image;
pub mod layout;

#[cfg(test)]
mod tests;
