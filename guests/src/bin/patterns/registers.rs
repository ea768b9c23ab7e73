// SPDX-License-Identifier: GPL-2.0-only
//! Every register that is a guest's own, with what may be put into it while the guest goes on.
//!
//! A register gets `pattern & writable | fixed`, by what the [`Setting`] lets it be: with the MMU off the registers of translation mean
//! nothing and may hold anything, with it on they must go on to translate. Most must take exactly that; where the architecture leaves
//! bits to the implementation, what is read back is what must be kept.

use core::arch::asm;
use guests::{mmu, sysreg};

use crate::trip::Mode;

/// How the guest translates during its trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// It does not; the registers hold short descriptors' patterns.
    Off,
    /// It does not; TTBCR.EAE is set.
    OffLong,
    /// By short descriptors.
    Short,
    /// By long descriptors.
    Long,
}

impl Setting {
    pub const ALL: [Self; 4] = [Self::Off, Self::OffLong, Self::Short, Self::Long];

    pub const fn is_long(self) -> bool {
        matches!(self, Self::OffLong | Self::Long)
    }

    pub const fn translates(self) -> bool {
        matches!(self, Self::Short | Self::Long)
    }
}

/// What a register may hold.
#[derive(Clone, Copy)]
pub struct Shape {
    /// These bits come from the pattern.
    pub writable: u64,
    /// These are set.
    pub fixed: u64,
    /// Whether the register must take all of that.
    pub exact: bool,
    /// Whether all other bits stay as they were, instead of being zero.
    pub others_stay: bool,
}

impl Shape {
    const fn all(writable: u64) -> Self {
        Self::with(writable, 0)
    }

    const fn with(writable: u64, fixed: u64) -> Self {
        Self { writable, fixed, exact: true, others_stay: false }
    }

    /// What the core keeps of it is its own choice.
    const fn as_kept(writable: u64) -> Self {
        Self { writable, fixed: 0, exact: false, others_stay: false }
    }

    /// These bits of what was there before.
    const fn bits_of(writable: u64) -> Self {
        Self { writable, fixed: 0, exact: true, others_stay: true }
    }

    /// What to write where `old` is, by `pattern`.
    pub const fn value(&self, old: u64, pattern: u64) -> u64 {
        let others = if self.others_stay { old & !self.writable } else { 0 };
        pattern & self.writable | self.fixed | others
    }
}

/// A system register.
pub struct Register {
    pub name: &'static str,
    pub read: fn() -> u64,
    pub write: fn(u64, Setting),
    pub shape: fn(Setting) -> Shape,
}

macro_rules! word {
    ($name:literal, $module:ident, $shape:expr) => {
        Register {
            name: $name,
            read: || sysreg::$module::read().into(),
            write: |value, _| sysreg::$module::write(value as u32),
            shape: $shape,
        }
    };
}

macro_rules! table_base {
    ($name:literal, $word:ident, $wide:ident, $shape:expr) => {
        Register {
            name: $name,
            read: sysreg::$wide::read,
            // MCR writes the lower half, in either format.
            write: |value, setting| match setting.is_long() {
                true => sysreg::$wide::write(value),
                false => sysreg::$word::write(value as u32),
            },
            shape: $shape,
        }
    };
}

const WORD: u64 = 0xffff_ffff;
/// TTBR0 and 1 in the long format: ASID and address.
const LONG_BASE: u64 = 0x00ff_00ff_ffff_f000;
/// In the short one: address, and how walks are cached.
const SHORT_BASE: u64 = 0xffff_c06a;
/// SCTLR: what has no effect until an exception is taken, alignment checks and the instruction cache: A, I, V, TE.
const SCTLR_ANY: u64 = 1 << 1 | 1 << 12 | 1 << 13 | 1 << 30;
/// SCTLR: what has an effect on translation only: WXN, UWXN, EE, TRE, AFE.
const SCTLR_TRANSLATION: u64 = 1 << 19 | 1 << 20 | 1 << 25 | 1 << 28 | 1 << 29;
const EAE: u64 = 1 << 31;
/// TTBCR: EPD1, with which TTBR1 means nothing in the long format, and A1, which says whose ASID counts.
const EPD1: u64 = 1 << 23;
const A1: u64 = 1 << 22;

/// The registers of CP15, and the virtual timer's. TTBCR comes before those that it gives a format, SCTLR last.
pub const CP15: [Register; 25] = [
    word!("TTBCR", ttbcr, |setting| match setting {
        Setting::Off => Shape::all(0x7), // PD0 and PD1 are there only with the Security Extensions
        Setting::OffLong => Shape::with(0x3fc7_3f87, EAE),
        Setting::Short => Shape::all(0),
        Setting::Long => Shape::with(A1, mmu::LONG_TTBCR as u64 | EPD1),
    }),
    table_base!("TTBR0", ttbr0, ttbr0_wide, |setting| match setting {
        Setting::Off => Shape::all(SHORT_BASE),
        Setting::OffLong => Shape::all(LONG_BASE),
        Setting::Short | Setting::Long => Shape::bits_of(0),
    }),
    table_base!("TTBR1", ttbr1, ttbr1_wide, |setting| match setting.is_long() {
        false => Shape::all(SHORT_BASE),
        true => Shape::all(LONG_BASE),
    }),
    word!("PRRR or MAIR0", prrr, |setting| match setting {
        Setting::OffLong => Shape::all(WORD),
        Setting::Long => Shape::with(WORD & !0xffff, mmu::LONG_MAIR0 as u64),
        Setting::Off | Setting::Short => Shape::all(0xff0f_ffff),
    }),
    word!("NMRR or MAIR1", nmrr, |_| Shape::all(WORD)),
    word!("AMAIR0", amair0, |_| Shape::as_kept(WORD)),
    word!("AMAIR1", amair1, |_| Shape::as_kept(WORD)),
    word!("DACR", dacr, |setting| match setting {
        Setting::Short => Shape::with(WORD & !3, 1),
        _ => Shape::all(WORD),
    }),
    word!("CONTEXTIDR", contextidr, |_| Shape::all(WORD)),
    word!("DFSR", dfsr, |setting| match setting.is_long() {
        false => Shape::all(0x1cff & !0x200),
        true => Shape::with(0x303f, 1 << 9),
    }),
    word!("IFSR", ifsr, |setting| match setting.is_long() {
        false => Shape::all(0x140f),
        true => Shape::with(0x103f, 1 << 9),
    }),
    word!("ADFSR", adfsr, |_| Shape::as_kept(WORD)),
    word!("AIFSR", aifsr, |_| Shape::as_kept(WORD)),
    word!("DFAR", dfar, |_| Shape::all(WORD)),
    word!("IFAR", ifar, |_| Shape::all(WORD)),
    Register {
        name: "PAR",
        read: sysreg::par_wide::read,
        write: |value, _| sysreg::par_wide::write(value),
        shape: |setting| match setting.is_long() {
            false => Shape::all(0xffff_f7fe),
            true => Shape::with(0xff00_00ff_ffff_f3fe, 1 << 11),
        },
    },
    word!("CSSELR", csselr, |_| Shape::all(1)), // the first level's data or instruction cache: every core has both
    word!("TPIDRURW", tpidrurw, |_| Shape::all(WORD)),
    word!("TPIDRURO", tpidruro, |_| Shape::all(WORD)),
    word!("TPIDRPRW", tpidrprw, |_| Shape::all(WORD)),
    word!("CNTKCTL", cntkctl, |_| Shape::all(0x3f3)),
    Register {
        name: "CNTV_CVAL",
        read: sysreg::cntv_cval::read,
        write: |value, _| sysreg::cntv_cval::write(value),
        shape: |_| Shape::all(u64::MAX),
    },
    word!("VBAR", vbar, |_| Shape::all(WORD & !0x1f)),
    word!("CPACR", cpacr, |_| Shape::bits_of(0xf << 20)), // of which `main` makes one of the three that mean something
    word!("SCTLR", sctlr, |setting| match setting.translates() {
        false => Shape::bits_of(SCTLR_ANY | SCTLR_TRANSLATION),
        true => Shape::bits_of(SCTLR_ANY),
    }),
];

/// A banked register of a mode, which every other mode can access by MRS and MSR (banked).
pub struct Banked {
    pub name: &'static str,
    pub mode: Mode,
    pub read: fn() -> u32,
    pub write: fn(u32),
    /// SPSRs keep what they are made of.
    pub is_spsr: bool,
}

macro_rules! banked {
    ($($mode:ident: $name:literal $is_spsr:literal),+ $(,)?) => {
        [$(Banked {
            name: $name,
            mode: Mode::$mode,
            read: || {
                let value;
                // SAFETY: the bank of a mode other than this, or this mode's SPSR; reading changes nothing.
                unsafe { asm!(".arch_extension virt", concat!("mrs {}, ", $name), out(reg) value, options(nostack)) };
                value
            },
            write: |value| {
                // SAFETY: as above; no exception of that mode is taken before the value is put back.
                unsafe { asm!(".arch_extension virt", concat!("msr ", $name, ", {}"), in(reg) value, options(nostack)) };
            },
            is_spsr: $is_spsr,
        }),+]
    };
}

/// All but Supervisor mode's SP and LR, which the compiler uses; `SPSR` is Supervisor mode's.
pub const BANKS: [Banked; 20] = banked!(
    System: "SP_usr" false,
    System: "LR_usr" false,
    Supervisor: "SPSR" true,
    Irq: "SP_irq" false,
    Irq: "LR_irq" false,
    Irq: "SPSR_irq" true,
    Abort: "SP_abt" false,
    Abort: "LR_abt" false,
    Abort: "SPSR_abt" true,
    Undefined: "SP_und" false,
    Undefined: "LR_und" false,
    Undefined: "SPSR_und" true,
    Fiq: "r8_fiq" false,
    Fiq: "r9_fiq" false,
    Fiq: "r10_fiq" false,
    Fiq: "r11_fiq" false,
    Fiq: "r12_fiq" false,
    Fiq: "SP_fiq" false,
    Fiq: "LR_fiq" false,
    Fiq: "SPSR_fiq" true,
);
