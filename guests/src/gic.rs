// SPDX-License-Identifier: GPL-2.0-only
//! The GICv2 where wsvm has it, as far as the tests use it.
//!
//! Source: IHI 0048B, 4.1.2 and 4.1.3 (register maps).

use crate::mmio::{read32, write8, write32};

/// The distributor.
pub const DISTRIBUTOR: u32 = 0x2000_0000;
/// The CPU interface.
pub const CPU_INTERFACE: u32 = 0x2001_0000;

/// GICD_CTLR: enable.
pub const GICD_CTLR: u32 = DISTRIBUTOR;
/// GICD_TYPER: how many interrupts and CPUs.
pub const GICD_TYPER: u32 = DISTRIBUTOR + 0x4;
/// GICD_IIDR: who made it.
pub const GICD_IIDR: u32 = DISTRIBUTOR + 0x8;
/// GICD_ISENABLER0: enables SGIs and PPIs.
pub const GICD_ISENABLER: u32 = DISTRIBUTOR + 0x100;
/// GICD_ICENABLER0: disables PPIs.
pub const GICD_ICENABLER: u32 = DISTRIBUTOR + 0x180;
/// GICD_ISPENDR0: what is pending.
pub const GICD_ISPENDR: u32 = DISTRIBUTOR + 0x200;
/// GICD_ISACTIVER0: what is active.
pub const GICD_ISACTIVER: u32 = DISTRIBUTOR + 0x300;
/// GICD_IPRIORITYR: a byte for each interrupt.
pub const GICD_IPRIORITYR: u32 = DISTRIBUTOR + 0x400;
/// GICD_SGIR: sends a software-generated interrupt.
pub const GICD_SGIR: u32 = DISTRIBUTOR + 0xf00;

/// GICC_CTLR: enable.
pub const GICC_CTLR: u32 = CPU_INTERFACE;
/// GICC_PMR: least priority that is let through.
pub const GICC_PMR: u32 = CPU_INTERFACE + 0x4;
/// GICC_BPR: which bits of a priority decide about preemption.
pub const GICC_BPR: u32 = CPU_INTERFACE + 0x8;
/// GICC_IAR: acknowledges.
pub const GICC_IAR: u32 = CPU_INTERFACE + 0xc;
/// GICC_EOIR: ends.
pub const GICC_EOIR: u32 = CPU_INTERFACE + 0x10;
/// GICC_RPR: the running priority.
pub const GICC_RPR: u32 = CPU_INTERFACE + 0x14;
/// GICC_HPPIR: the highest priority pending interrupt.
pub const GICC_HPPIR: u32 = CPU_INTERFACE + 0x18;

/// GICC_ABPR: the same of GICC_BPR, for interrupts of group 1.
pub const GICC_ABPR: u32 = CPU_INTERFACE + 0x1c;
/// GICC_APR: a bit for each priority that is active.
pub const GICC_APR: u32 = CPU_INTERFACE + 0xd0;

/// What GICC_IAR answers when nothing is pending.
pub const SPURIOUS: u32 = 1023;
/// The virtual timer's interrupt.
pub const VIRTUAL_TIMER: u32 = 27;

/// Turns distributor and CPU interface on, with every priority let through.
pub fn enable() {
    write32(GICD_CTLR, 1);
    write32(GICC_PMR, 0xff);
    write32(GICC_CTLR, 1);
}

/// Enables SGI or PPI `interrupt`.
pub fn enable_private(interrupt: u32) {
    write32(GICD_ISENABLER, 1 << interrupt);
}

/// Disables SGI or PPI `interrupt`.
pub fn disable_private(interrupt: u32) {
    write32(GICD_ICENABLER, 1 << interrupt);
}

/// Sets an interrupt's priority: 0 is the highest.
pub fn set_priority(interrupt: u32, priority: u8) {
    write8(GICD_IPRIORITYR + interrupt, priority);
}

/// What to write to GICD_SGIR to send SGI `number` to vCPU `target`.
pub const fn sgi_to(target: u32, number: u32) -> u32 {
    1 << (16 + target) | number
}

/// Sends SGI `number` to this vCPU.
pub fn send_to_self(number: u32) {
    write32(GICD_SGIR, 2 << 24 | number);
}

/// Acknowledges the highest priority pending interrupt: its number in bits 9:0, an SGI's sender in 12:10.
pub fn acknowledge() -> u32 {
    read32(GICC_IAR)
}

/// Ends the interrupt that [`acknowledge`] answered.
pub fn end(acknowledged: u32) {
    write32(GICC_EOIR, acknowledged);
}
