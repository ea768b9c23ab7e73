// SPDX-License-Identifier: GPL-2.0-only
//! The hypervisor proper: VMs, vCPUs, stage 2, VMIDs, exits, emulation, PSCI, vGIC, timers.
//!
//! Host-independent and free of unsafe code: the kernel around it is [`host::Host`], the hardware is reached through it.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod atomic;
pub mod cp15;
#[cfg(test)]
pub mod fake;
pub mod guest_memory;
pub mod guest_registers;
pub mod halt_poll;
pub mod halt_rest;
pub mod host;
pub mod hyp_map;
pub mod inject;
pub mod io_bus;
pub mod irq_routing;
pub mod irqchip_state;
pub mod irqfd;
#[cfg(all(test, loom))]
mod loom_tests;
pub mod memslots;
pub mod mmio;
pub mod one_reg;
pub mod psci;
mod read_mostly;
pub mod reset;
pub mod run;
pub mod stage2;
pub mod statistics;
pub mod timer_interrupts;
pub mod trace;
pub mod vcpu;
pub mod vcpu_events;
pub mod vgic;
pub mod vm;
pub mod vmid;
pub mod vmid_check;
pub mod vtimer;
