// SPDX-License-Identifier: GPL-2.0-only
//! Facts of the Arm Architecture that the hypervisor rests on: address spaces, register fields, syndromes, descriptors.
//!
//! Everything here is a pure function or a type. Nothing touches hardware, so all of it runs and is tested on any machine.
//! Sections named `B3.13.6` and the like are those of the Arm Architecture Reference Manual, ARMv7-A and ARMv7-R edition
//! (ARM DDI 0406C.d); GICv2 sections are those of ARM IHI 0048B.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod caches;
pub mod condition;
pub mod core_id;
pub mod cp15;
pub mod exception;
pub mod fault;
pub mod gic;
pub mod guest_registers;
pub mod hyp_registers;
pub mod load_store;
pub mod long_descriptor;
pub mod psr;
pub mod syndrome;
pub mod timer;
