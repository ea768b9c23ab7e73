// SPDX-License-Identifier: GPL-2.0-only
//! The table of CP15 registers.
//!
//! Rows stand in the order in which KVM/ARM listed registers to a process (by CRn, which for 64-bit registers is their CRm,
//! then CRm, opc1, opc2, 64 bits first): a saved VM restores in this order, and it matters where two rows name one register.
//!
//! Reset values that the architecture calls UNKNOWN are a pattern that is easily recognized in a register dump, the one that
//! KVM/ARM showed to its clients.

use super::{Name, Registers};
use arch::cp15::{Cp15, reg, wide};
use arch::timer;

/// The pattern for 32-bit registers whose reset value is UNKNOWN.
pub const UNKNOWN: u32 = 0xdeca_fbad;
/// The pattern for 64-bit registers.
pub const UNKNOWN_WIDE: u64 = 0xd0c0_ffee_deca_fbad;

/// Where a register is kept while its vCPU rests.
#[derive(Clone, Copy)]
pub struct Place {
    /// Reads it, zero-extended.
    pub get: fn(&Registers<'_>) -> u64,
    /// Writes it; of 32-bit registers the low word counts.
    pub set: fn(&mut Registers<'_>, u64),
}

/// What a register is after reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// This.
    Value(u64),
    /// The virtual MPIDR of the vCPU.
    Mpidr,
    /// The host's ACTLR with the SMP bit that the VM needs.
    Actlr,
    /// The host's L2CTLR with the number of cores that the VM has.
    L2ctlr,
}

/// What a trapped access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It does not trap. If it does all the same, it is undefined.
    Direct,
    /// HCR.TVM traps writes, while the guest's caches are off or after it flushed by set/way: written through.
    VirtualMemory,
    /// Reads give the kept value, writes are ignored.
    WriteIgnored,
    /// Reads give zero, writes are ignored.
    Zero,
    /// As [`Self::Zero`], and User mode may read it.
    ZeroUserReads,
    /// Reads give zero, writes are undefined.
    ZeroReadOnly,
    /// As [`Self::Zero`] on Cortex-A12 and A17, undefined on others.
    ZeroOnA12AndA17,
    /// Cache maintenance by set/way.
    SetWay,
    /// The emulated physical timer. User mode reaches it if CNTKCTL.PL0PTEN is set.
    PhysicalTimer(timer::Register),
}

/// A register.
#[derive(Clone, Copy)]
pub struct Row {
    /// How instructions name it.
    pub name: Name,
    /// What a trapped access does.
    pub access: Access,
    /// Where it is kept and what it is after reset; what is kept a process can read and write. `None`: nothing is.
    pub kept: Option<(Place, Reset)>,
}

/// A row for a register that is kept in a 32-bit or 64-bit field: `kept!(name, access, field, reset)`.
macro_rules! kept {
    ($name:expr, $access:expr, $part:ident.$($field:ident).+ as $raw:ty, $reset:expr) => {
        Row {
            name: $name,
            access: $access,
            kept: Some((
                Place {
                    get: |registers| u64::from(registers.$part.$($field).+),
                    set: |registers, value| registers.$part.$($field).+ = value as $raw,
                },
                $reset,
            )),
        }
    };
}

/// A row for what the world switch moves and HCR.TVM traps.
macro_rules! memory {
    ($register:ident, $field:ident, $reset:expr) => {
        kept!(
            Name::Word(reg::$register),
            Access::VirtualMemory,
            context.cp15.$field as u32,
            Reset::Value($reset as u64)
        )
    };
}

/// A row for what the world switch moves and nothing traps.
macro_rules! direct {
    ($register:ident, $field:ident, $reset:expr) => {
        kept!(Name::Word(reg::$register), Access::Direct, context.cp15.$field as u32, Reset::Value($reset as u64))
    };
}

/// A row for the low word of a 64-bit register, which is what MCR writes in either table format.
macro_rules! low_word {
    ($register:ident, $field:ident) => {
        Row {
            name: Name::Word(reg::$register),
            access: Access::VirtualMemory,
            kept: Some((
                Place {
                    get: |registers| registers.context.cp15.$field & 0xffff_ffff,
                    set: |registers, value| {
                        let high = registers.context.cp15.$field & !0xffff_ffff;
                        registers.context.cp15.$field = high | value & 0xffff_ffff;
                    },
                },
                Reset::Value(UNKNOWN as u64),
            )),
        }
    };
}

const fn not_kept(name: Cp15, access: Access) -> Row {
    Row { name: Name::Word(name), access, kept: None }
}

const fn physical_timer(name: Name, register: timer::Register) -> Row {
    Row { name, access: Access::PhysicalTimer(register), kept: None }
}

/// The Cortex-A12's and A17's diagnostic register, which Linux sets bits of for errata as early as it starts.
const DIAGNOSTIC: Cp15 = Cp15::new(15, 0, 0, 1);
/// Their internal feature register, for one more erratum.
const INTERNAL_FEATURE: Cp15 = Cp15::new(15, 0, 0, 2);

/// Where SCTLR is kept: a write to it may switch the guest's caches.
pub const SCTLR: Name = Name::Word(reg::SCTLR);

/// All registers that are the guest's own or trap. What is not here and traps is undefined: lockdown, TCM and DMA registers
/// (HCR.TIDCP), implementation defined ones (HSTR.T15), ThumbEE (HSTR.TTEE), and the GICv3's SGI registers, which a core without
/// that interface does not have.
pub static TABLE: [Row; 55] = [
    kept!(Name::Word(reg::MPIDR), Access::Direct, context.control.mpidr as u32, Reset::Mpidr),
    direct!(CSSELR, csselr, UNKNOWN),
    memory!(SCTLR, sctlr, 0x00c5_0078),
    kept!(Name::Word(reg::ACTLR), Access::WriteIgnored, context.answers.actlr.value as u32, Reset::Actlr),
    direct!(CPACR, cpacr, 0),
    kept!(Name::Wide(wide::TTBR0), Access::VirtualMemory, context.cp15.ttbr0 as u64, Reset::Value(UNKNOWN_WIDE)),
    low_word!(TTBR0, ttbr0),
    low_word!(TTBR1, ttbr1),
    memory!(TTBCR, ttbcr, 0),
    kept!(Name::Wide(wide::TTBR1), Access::VirtualMemory, context.cp15.ttbr1 as u64, Reset::Value(UNKNOWN_WIDE)),
    memory!(DACR, dacr, UNKNOWN),
    memory!(DFSR, dfsr, UNKNOWN),
    memory!(IFSR, ifsr, UNKNOWN),
    memory!(ADFSR, adfsr, UNKNOWN),
    memory!(AIFSR, aifsr, UNKNOWN),
    memory!(DFAR, dfar, UNKNOWN),
    memory!(IFAR, ifar, UNKNOWN),
    kept!(Name::Wide(wide::PAR), Access::Direct, context.cp15.par as u64, Reset::Value(UNKNOWN_WIDE)),
    not_kept(reg::DCISW, Access::SetWay),
    not_kept(reg::DCCSW, Access::SetWay),
    not_kept(reg::DCCISW, Access::SetWay),
    kept!(Name::Word(reg::L2CTLR), Access::WriteIgnored, context.answers.l2ctlr.value as u32, Reset::L2ctlr),
    not_kept(reg::L2ECTLR, Access::Zero),
    // A performance monitor without counters: PMCR.N reads as 0. ID_DFR0, which is the host's, announces one.
    not_kept(reg::PMCR, Access::Zero),
    not_kept(reg::PMCNTENSET, Access::Zero),
    not_kept(reg::PMCNTENCLR, Access::Zero),
    not_kept(reg::PMOVSR, Access::Zero),
    not_kept(reg::PMSWINC, Access::Zero),
    not_kept(reg::PMSELR, Access::Zero),
    not_kept(reg::PMCEID0, Access::Zero),
    not_kept(reg::PMCEID1, Access::Zero),
    not_kept(reg::PMCCNTR, Access::Zero),
    not_kept(reg::PMXEVTYPER, Access::Zero),
    not_kept(reg::PMXEVCNTR, Access::Zero),
    not_kept(reg::PMUSERENR, Access::ZeroUserReads),
    not_kept(reg::PMINTENSET, Access::Zero),
    not_kept(reg::PMINTENCLR, Access::Zero),
    not_kept(reg::PMOVSSET, Access::Zero),
    memory!(PRRR, prrr, UNKNOWN),
    memory!(NMRR, nmrr, UNKNOWN),
    memory!(AMAIR0, amair0, UNKNOWN),
    memory!(AMAIR1, amair1, UNKNOWN),
    direct!(VBAR, vbar, 0),
    // Off and cannot be switched on: the guest's GIC is a GICv2.
    not_kept(reg::ICC_SRE, Access::Zero),
    memory!(CONTEXTIDR, contextidr, 0),
    direct!(TPIDRURW, tpidrurw, UNKNOWN),
    direct!(TPIDRURO, tpidruro, UNKNOWN),
    direct!(TPIDRPRW, tpidrprw, UNKNOWN),
    physical_timer(Name::Wide(wide::CNTP_CVAL), timer::Register::CompareValue),
    direct!(CNTKCTL, cntkctl, 0),
    physical_timer(Name::Word(reg::CNTP_TVAL), timer::Register::TimerValue),
    physical_timer(Name::Word(reg::CNTP_CTL), timer::Register::Control),
    not_kept(DIAGNOSTIC, Access::ZeroOnA12AndA17),
    not_kept(INTERNAL_FEATURE, Access::ZeroOnA12AndA17),
    // The private peripherals lie where the device tree says.
    not_kept(reg::CBAR, Access::ZeroReadOnly),
];

/// The row of a register.
pub fn find(name: Name) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}
