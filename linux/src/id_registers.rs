// SPDX-License-Identifier: GPL-2.0-only
//! Reads what the hardware says of itself into [`IdRegisters`], once, at load.

use crate::ffi;
use arch::core_id::{Core, Midr};
use core::arch::asm;
use kvm::cp15::{IdRegisters, VfpIds};

macro_rules! read {
    ($opc1:literal, $crn:literal, $crm:literal, $opc2:literal) => {{
        let value: u32;
        // SAFETY: reads an identification or control register that every ARMv7-A core with the Virtualization Extensions has at PL1.
        unsafe {
            asm!(
                concat!("mrc p15, ", $opc1, ", {}, c", $crn, ", c", $crm, ", ", $opc2),
                out(reg) value,
                options(nomem, nostack, preserves_flags),
            )
        };
        value
    }};
}

/// CCSIDR of the cache that `csselr` names.
fn ccsidr(csselr: u32) -> u32 {
    let value: u32;
    // SAFETY: CSSELR and CCSIDR are a pair; interrupts are off (`read`), so nobody selects another cache in between. The ISB makes the
    // selection count (B4.1).
    unsafe {
        asm!(
            "mcr p15, 2, {csselr}, c0, c0, 0",
            "isb",
            "mrc p15, 1, {value}, c0, c0, 0",
            csselr = in(reg) csselr,
            value = out(reg) value,
            options(nomem, nostack, preserves_flags),
        )
    };
    value
}

/// FPSID, MVFR0 and MVFR1, if the parameter `no_vfp` does not hide them, CPACR lets the kernel at the floating-point unit and it is VFPv3 or later.
fn vfp() -> Option<VfpIds> {
    if ffi::ws_no_vfp() != 0 {
        return None;
    }
    // CPACR.cp10 and cp11: full access, as the kernel sets it when it has found a VFP that it supports.
    if read!("0", 1, 0, 2) >> 20 & 0xf != 0xf {
        return None;
    }
    let (fpsid, mvfr0, mvfr1): (u32, u32, u32);
    // SAFETY: CPACR grants access; these three can be read with FPEXC.EN clear (B1.11.3).
    unsafe {
        asm!(
            ".fpu neon",
            "vmrs {fpsid}, fpsid",
            "vmrs {mvfr0}, mvfr0",
            "vmrs {mvfr1}, mvfr1",
            fpsid = out(reg) fpsid,
            mvfr0 = out(reg) mvfr0,
            mvfr1 = out(reg) mvfr1,
            options(nomem, nostack, preserves_flags),
        )
    };
    // FPSID.Subarchitecture: from 2 on VFPv3 (B6.1.40); and FPSID.SW clear.
    (fpsid >> 16 & 0x7f >= 2 && fpsid >> 23 & 1 == 0).then_some(VfpIds { fpsid, mvfr0, mvfr1 })
}

/// Reads them all on this CPU. Interrupts are off.
pub fn read() -> IdRegisters {
    let midr = read!("0", 0, 0, 0);
    let has_l2ctlr =
        matches!(Midr::new(midr).core(), Core::CortexA7 | Core::CortexA12 | Core::CortexA15 | Core::CortexA17);
    let mut registers = IdRegisters {
        midr,
        ctr: read!("0", 0, 0, 1),
        tcmtr: read!("0", 0, 0, 2),
        tlbtr: read!("0", 0, 0, 3),
        revidr: read!("0", 0, 0, 6),
        id_pfr: [read!("0", 0, 1, 0), read!("0", 0, 1, 1)],
        id_dfr0: read!("0", 0, 1, 2),
        id_afr0: read!("0", 0, 1, 3),
        id_mmfr: [read!("0", 0, 1, 4), read!("0", 0, 1, 5), read!("0", 0, 1, 6), read!("0", 0, 1, 7)],
        id_isar: [
            read!("0", 0, 2, 0),
            read!("0", 0, 2, 1),
            read!("0", 0, 2, 2),
            read!("0", 0, 2, 3),
            read!("0", 0, 2, 4),
            read!("0", 0, 2, 5),
        ],
        clidr: read!("1", 0, 0, 1),
        aidr: read!("1", 0, 0, 7),
        ccsidr: [0; _],
        vfp: vfp(),
        mpidr: read!("0", 0, 0, 5),
        actlr: read!("0", 1, 0, 1),
        l2ctlr: if has_l2ctlr { read!("1", 9, 0, 2) } else { 0 },
    };
    for csselr in 0..registers.ccsidr.len() {
        if registers.has_cache(csselr as u8)
            && let Some(place) = registers.ccsidr.get_mut(csselr)
        {
            *place = ccsidr(csselr as u32);
        }
    }
    registers
}
