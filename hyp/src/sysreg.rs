// SPDX-License-Identifier: GPL-2.0-only
//! Single-register accessors: one macro line a register, named as in the manual.
//!
//! Each accessor is one MRC, MCR, MRRC or MCRR. The asm blocks carry no `nomem`, so the compiler orders them against memory
//! accesses and each other; the synchronisation that the architecture wants after a write stands where the write is made.
//!
//! Naked functions that move many registers at once name them the same way: `read!("r2", sctlr)` is the text of the MRC,
//! `write!("r2", sctlr)` that of the MCR, with two general registers for 64-bit ones.

use core::arch::asm;

macro_rules! cp15 {
    ($d:tt $($name:ident: $opc1:literal, $crn:literal, $crm:literal, $opc2:literal;)*) => {
        macro_rules! word {
            $(($d operation:literal, $d general:literal, $name) => {
                concat!($d operation, " p15, ", $opc1, ", ", $d general, ", ", $crn, ", ", $crm, ", ", $opc2)
            };)*
        }
    $(
        #[doc = concat!("CP15 register ", stringify!($name), ".")]
        #[allow(dead_code, reason = "a register that is only read, or only written, has its other half here too")]
        pub mod $name {
            use super::asm;
            /// Reads it.
            #[inline(always)]
            pub fn read() -> u32 {
                let value: u32;
                // SAFETY: reading this register in Hyp mode has no effect but the value.
                unsafe { asm!(concat!("mrc p15, ", $opc1, ", {}, ", $crn, ", ", $crm, ", ", $opc2), out(reg) value, options(nostack, preserves_flags)) };
                value
            }
            /// Writes it.
            ///
            /// # Safety
            /// The caller owns the register at this point of the switch, and makes the change visible (ISB, DSB, ERET) where it matters.
            #[inline(always)]
            pub unsafe fn write(value: u32) {
                // SAFETY: promised by the caller.
                unsafe { asm!(concat!("mcr p15, ", $opc1, ", {}, ", $crn, ", ", $crm, ", ", $opc2), in(reg) value, options(nostack, preserves_flags)) };
            }
        }
    )*};
}

macro_rules! cp15_wide {
    ($d:tt $($name:ident: $opc1:literal, $crm:literal;)*) => {
        macro_rules! doubleword {
            $(($d operation:literal, $d low:literal, $d high:literal, $name) => {
                concat!($d operation, " p15, ", $opc1, ", ", $d low, ", ", $d high, ", ", $crm)
            };)*
        }
    $(
        #[doc = concat!("64-bit CP15 register ", stringify!($name), ".")]
        #[allow(dead_code, reason = "a register that is only read, or only written, has its other half here too")]
        pub mod $name {
            use super::asm;
            /// Reads it.
            #[inline(always)]
            pub fn read() -> u64 {
                let (low, high): (u32, u32);
                // SAFETY: reading this register in Hyp mode has no effect but the value.
                unsafe { asm!(concat!("mrrc p15, ", $opc1, ", {}, {}, ", $crm), out(reg) low, out(reg) high, options(nostack, preserves_flags)) };
                u64::from(high) << 32 | u64::from(low)
            }
            /// Writes it.
            ///
            /// # Safety
            /// The caller owns the register at this point of the switch, and makes the change visible (ISB, DSB, ERET) where it matters.
            #[inline(always)]
            pub unsafe fn write(value: u64) {
                // SAFETY: promised by the caller.
                unsafe { asm!(concat!("mcrr p15, ", $opc1, ", {}, {}, ", $crm), in(reg) value as u32, in(reg) (value >> 32) as u32, options(nostack, preserves_flags)) };
            }
        }
    )*};
}

cp15! { $
    midr: 0, "c0", "c0", 0;
    mpidr: 0, "c0", "c0", 5;
    revidr: 0, "c0", "c0", 6;
    csselr: 2, "c0", "c0", 0;
    sctlr: 0, "c1", "c0", 0;
    cpacr: 0, "c1", "c0", 2;
    ttbcr: 0, "c2", "c0", 2;
    dacr: 0, "c3", "c0", 0;
    dfsr: 0, "c5", "c0", 0;
    ifsr: 0, "c5", "c0", 1;
    adfsr: 0, "c5", "c1", 0;
    aifsr: 0, "c5", "c1", 1;
    dfar: 0, "c6", "c0", 0;
    ifar: 0, "c6", "c0", 2;
    prrr: 0, "c10", "c2", 0;
    nmrr: 0, "c10", "c2", 1;
    amair0: 0, "c10", "c3", 0;
    amair1: 0, "c10", "c3", 1;
    vbar: 0, "c12", "c0", 0;
    contextidr: 0, "c13", "c0", 1;
    fcseidr: 0, "c13", "c0", 0;
    tpidrurw: 0, "c13", "c0", 2;
    tpidruro: 0, "c13", "c0", 3;
    tpidrprw: 0, "c13", "c0", 4;
    cntkctl: 0, "c14", "c1", 0;
    cntv_ctl: 0, "c14", "c3", 1;
    vpidr: 4, "c0", "c0", 0;
    vmpidr: 4, "c0", "c0", 5;
    hcr: 4, "c1", "c1", 0;
    hdcr: 4, "c1", "c1", 1;
    hcptr: 4, "c1", "c1", 2;
    hstr: 4, "c1", "c1", 3;
    hsr: 4, "c5", "c2", 0;
    hdfar: 4, "c6", "c0", 0;
    hifar: 4, "c6", "c0", 2;
    hpfar: 4, "c6", "c0", 4;
    hvbar: 4, "c12", "c0", 0;
    htpidr: 4, "c13", "c0", 2;
    cnthctl: 4, "c14", "c1", 0;
    // Operations, write only.
    ats1cpr: 0, "c7", "c8", 0;
    ats1cur: 0, "c7", "c8", 2;
    iciallu: 0, "c7", "c5", 0;
    icialluis: 0, "c7", "c1", 0;
    bpiallis: 0, "c7", "c1", 6;
    tlbiallis: 0, "c8", "c3", 0;
    tlbimvais: 0, "c8", "c3", 1;
    tlbiall: 0, "c8", "c7", 0;
    tlbiallnsnhis: 4, "c8", "c3", 4;
    tlbiallnsnh: 4, "c8", "c7", 4;
    tlbimvahis: 4, "c8", "c3", 1;
    tlbiallh: 4, "c8", "c7", 0;
}

cp15_wide! { $
    ttbr0: 0, "c2";
    ttbr1: 1, "c2";
    par: 0, "c7";
    vttbr: 6, "c2";
    cntpct: 0, "c14";
    cntv_cval: 3, "c14";
    cntvoff: 4, "c14";
}

/// The text of the instruction that reads a register of [`sysreg`](crate::sysreg) to one general register, or to two.
macro_rules! read {
    ($general:literal, $name:ident) => {
        word!("mrc", $general, $name)
    };
    ($low:literal, $high:literal, $name:ident) => {
        doubleword!("mrrc", $low, $high, $name)
    };
}

/// The same for writing it.
macro_rules! write {
    ($general:literal, $name:ident) => {
        word!("mcr", $general, $name)
    };
    ($low:literal, $high:literal, $name:ident) => {
        doubleword!("mcrr", $low, $high, $name)
    };
}

/// ISB: what was written to system registers before is seen by what is fetched after (B3.15.5).
#[inline(always)]
pub fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}

/// DSB ISH: maintenance and stores before are complete for the inner shareable domain.
#[inline(always)]
pub fn dsb_ish() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
}

/// DSB ISHST: descriptors stored before are visible to walks that the maintenance after it starts.
#[inline(always)]
pub fn dsb_ishst() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
}

/// ELR_hyp: where the next ERET returns to.
#[inline(always)]
pub fn elr_hyp() -> u32 {
    let value: u32;
    // SAFETY: reads a register.
    unsafe { asm!(".arch_extension virt", "mrs {}, ELR_hyp", out(reg) value, options(nostack, preserves_flags)) };
    value
}
