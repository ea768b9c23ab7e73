// SPDX-License-Identifier: GPL-2.0-only
//! System registers and the instructions that go with them.
//!
//! Source: ARM DDI 0406C.d, B4.1 (names and encodings).

use core::arch::asm;

/// Defines accessors of a 64-bit CP15 register: `read` and, where given, `write`.
macro_rules! cp15_wide {
    ($(#[$doc:meta])* $name:ident: $op1:literal $crm:literal $($write:ident)?) => {
        $(#[$doc])*
        pub mod $name {
            use core::arch::asm;
            /// Reads it.
            pub fn read() -> u64 {
                let (low, high): (u32, u32);
                // SAFETY: reading a system register of PL1 changes nothing.
                unsafe { asm!("isb", concat!("mrrc p15, ", $op1, ", {}, {}, ", $crm), out(reg) low, out(reg) high, options(nostack)) };
                u64::from(high) << 32 | u64::from(low)
            }
            $(
                /// Writes it, and waits until that has taken effect.
                pub fn $write(value: u64) {
                    // SAFETY: what a guest does to its own registers it does to itself; memory is not assumed unchanged.
                    unsafe { asm!(concat!("mcrr p15, ", $op1, ", {}, {}, ", $crm), "isb", in(reg) value as u32, in(reg) (value >> 32) as u32, options(nostack)) };
                }
            )?
        }
    };
}

/// Defines accessors of a 32-bit CP15 register: `read` and, where given, `write`.
macro_rules! cp15 {
    ($(#[$doc:meta])* $name:ident: $op1:literal $crn:literal $crm:literal $op2:literal $($write:ident)?) => {
        $(#[$doc])*
        pub mod $name {
            use core::arch::asm;
            /// Reads it.
            pub fn read() -> u32 {
                let value;
                // SAFETY: reading a system register of PL1 changes nothing.
                unsafe { asm!(concat!("mrc p15, ", $op1, ", {}, ", $crn, ", ", $crm, ", ", $op2), out(reg) value, options(nostack)) };
                value
            }
            $(
                /// Writes it, and waits until that has taken effect.
                pub fn $write(value: u32) {
                    // SAFETY: what a guest does to its own registers it does to itself; memory is not assumed unchanged.
                    unsafe { asm!(concat!("mcr p15, ", $op1, ", {}, ", $crn, ", ", $crm, ", ", $op2), "isb", in(reg) value, options(nostack)) };
                }
            )?
        }
    };
}

cp15!(/** The core's identity. */ midr: "0" "c0" "c0" "0");
cp15!(/** Cache type. */ ctr: "0" "c0" "c0" "1");
cp15!(/** The core's place among others. */ mpidr: "0" "c0" "c0" "5");
cp15!(/** Processor features 1: which extensions there are. */ id_pfr1: "0" "c0" "c1" "1");
cp15!(/** Cache level identification. */ clidr: "1" "c0" "c0" "1");
cp15!(/** Size of the cache that CSSELR selects. */ ccsidr: "1" "c0" "c0" "0");
cp15!(/** Selects a cache for CCSIDR. */ csselr: "2" "c0" "c0" "0" write);
cp15!(/** System control. */ sctlr: "0" "c1" "c0" "0" write);
cp15!(/** Auxiliary control. */ actlr: "0" "c1" "c0" "1");
cp15!(/** Coprocessor access. */ cpacr: "0" "c1" "c0" "2" write);
cp15!(/** Translation table base 0. */ ttbr0: "0" "c2" "c0" "0" write);
cp15!(/** Translation table base 1. */ ttbr1: "0" "c2" "c0" "1" write);
cp15!(/** Translation table base control. */ ttbcr: "0" "c2" "c0" "2" write);
cp15!(/** Domain access control. */ dacr: "0" "c3" "c0" "0" write);
cp15!(/** Data fault status. */ dfsr: "0" "c5" "c0" "0" write);
cp15!(/** Instruction fault status. */ ifsr: "0" "c5" "c0" "1" write);
cp15!(/** Auxiliary data fault status. */ adfsr: "0" "c5" "c1" "0" write);
cp15!(/** Auxiliary instruction fault status. */ aifsr: "0" "c5" "c1" "1" write);
cp15!(/** Data fault address. */ dfar: "0" "c6" "c0" "0" write);
cp15!(/** Instruction fault address. */ ifar: "0" "c6" "c0" "2" write);
cp15!(/** Result of an address translation. */ par: "0" "c7" "c4" "0" write);
cp15!(/** Memory attributes 0. */ prrr: "0" "c10" "c2" "0" write);
cp15!(/** Memory attributes 1. */ nmrr: "0" "c10" "c2" "1" write);
cp15!(/** Auxiliary memory attributes 0. */ amair0: "0" "c10" "c3" "0" write);
cp15!(/** Auxiliary memory attributes 1. */ amair1: "0" "c10" "c3" "1" write);
cp15!(/** Vector base. */ vbar: "0" "c12" "c0" "0" write);
cp15!(/** Context and address space id. */ contextidr: "0" "c13" "c0" "1" write);
cp15!(/** Thread id, writable by User mode. */ tpidrurw: "0" "c13" "c0" "2" write);
cp15!(/** Thread id, readable by User mode. */ tpidruro: "0" "c13" "c0" "3" write);
cp15!(/** Thread id of PL1. */ tpidrprw: "0" "c13" "c0" "4" write);
cp15!(/** Frequency of the timers. */ cntfrq: "0" "c14" "c0" "0");
cp15!(/** Timer access from User mode. */ cntkctl: "0" "c14" "c1" "0" write);
cp15!(/** Virtual timer: countdown. */ cntv_tval: "0" "c14" "c3" "0" write);
cp15!(/** Virtual timer: control. */ cntv_ctl: "0" "c14" "c3" "1" write);
cp15!(/** Physical timer: countdown. */ cntp_tval: "0" "c14" "c2" "0" write);
cp15!(/** Physical timer: control. */ cntp_ctl: "0" "c14" "c2" "1" write);
cp15!(/** Invalidate all instruction caches; the value means nothing. */ iciallu: "0" "c7" "c5" "0" write);
cp15!(/** Clean and invalidate a data cache line by address. */ dccimvac: "0" "c7" "c14" "1" write);
cp15!(/** Clean and invalidate a data cache line by set and way. */ dccisw: "0" "c7" "c14" "2" write);
cp15!(/** Invalidate the TLB; the value means nothing. */ tlbiall: "0" "c8" "c7" "0" write);
cp15_wide!(/** Translation table base 0, all of it. */ ttbr0_wide: "0" "c2" write);
cp15_wide!(/** Translation table base 1, all of it. */ ttbr1_wide: "1" "c2" write);
cp15_wide!(/** Result of an address translation, all of it. */ par_wide: "0" "c7" write);
cp15_wide!(/** The virtual count. */ cntvct: "1" "c14");
cp15_wide!(/** The physical count. */ cntpct: "0" "c14");
cp15_wide!(/** Physical timer: when it fires. */ cntp_cval: "2" "c14" write);
cp15_wide!(/** Virtual timer: when it fires. */ cntv_cval: "3" "c14" write);

/// SCTLR: the MMU.
pub const SCTLR_M: u32 = 1 << 0;
/// SCTLR: data caches.
pub const SCTLR_C: u32 = 1 << 2;
/// SCTLR: instruction caches.
pub const SCTLR_I: u32 = 1 << 12;
/// SCTLR: vectors at 0xffff_0000.
pub const SCTLR_V: u32 = 1 << 13;

/// Reads CPSR.
pub fn cpsr() -> u32 {
    let value;
    // SAFETY: reading CPSR changes nothing.
    unsafe { asm!("mrs {}, cpsr", out(reg) value, options(nomem, nostack)) };
    value
}

/// Lets IRQs through.
pub fn unmask_irq() {
    // SAFETY: the vectors are in place from the start.
    unsafe { asm!("cpsie i", "isb", options(nostack)) };
}

/// Holds IRQs back.
pub fn mask_irq() {
    // SAFETY: masking an interrupt only delays it.
    unsafe { asm!("cpsid i", options(nostack)) };
}

/// Waits for an interrupt, or something like it.
pub fn wfi() {
    // SAFETY: waiting changes nothing.
    unsafe { asm!("dsb", "wfi", options(nostack)) };
}

/// Has instructions that were written to the cache line at `address` fetched as they are.
pub fn clean_to_unification(address: u32) {
    // SAFETY: DCCMVAU changes no memory, nor does dropping what instruction caches hold.
    unsafe { asm!("mcr p15, 0, {}, c7, c11, 1", "dsb", in(reg) address, options(nostack)) };
    iciallu::write(0);
    dsb();
}

/// Waits until all memory accesses are done.
pub fn dsb() {
    // SAFETY: a barrier changes nothing.
    unsafe { asm!("dsb", "isb", options(nostack)) };
}
