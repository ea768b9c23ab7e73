// SPDX-License-Identifier: GPL-2.0-only
//! Small bare-metal guests, each of which tests one clause of what a virtual machine must be.
//!
//! A guest is a program of `src/bin`: a table of tests, given to [`guest!`]. Each test is a function that says `Ok` or why not; the
//! guest prints a plan, a line for each test (`ok NAME`, `not ok NAME: why`), and powers off. One that dies early has printed
//! less than its plan, so it has failed; an exception that no test asked for is printed and fails the test that took it.
//!
//! The image has the head of a zImage, so that wsvm loads it as it loads a kernel, and says there that it must run at the address it was linked
//! at, 0x8200_0000: give the machine 64 MiB of memory or more. A test starts in Supervisor mode, with IRQ and FIQ masked, MMU and
//! caches off; whatever else it changes, it puts back.
//!
//! Assembly is what a guest is about, so there is `unsafe` here, in accessors that are safe to call: a guest can harm only itself.
#![no_std]
#![cfg(target_arch = "arm")]

pub mod bench;
pub mod device_tree;
pub mod exceptions;
pub mod gic;
pub mod mmio;
pub mod mmu;
pub mod psci;
pub mod smp;
mod start;
pub mod sysreg;
pub mod test;
pub mod timer;
pub mod uart;
pub mod vfp;
