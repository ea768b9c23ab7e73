// SPDX-License-Identifier: GPL-2.0-only
//! The hypervisor proper: VMs, vCPUs, stage 2, VMIDs, exits, emulation, PSCI, vGIC, timers.
//!
//! Host-independent and free of unsafe code: the kernel around it is [`host::Host`], the hardware is reached through it.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

#[cfg(test)]
pub mod fake;
pub mod guest_registers;
pub mod host;
pub mod psci;
pub mod vmid;
