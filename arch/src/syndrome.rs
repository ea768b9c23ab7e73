// SPDX-License-Identifier: GPL-2.0-only
//! HSR, the Hyp Syndrome Register: why a guest trapped to Hyp mode.
//!
//! HSR\[31:26\] is the exception class, \[25\] the instruction's length, \[24:0\] the syndrome of that class. [`Trap::from_hsr`]
//! turns the word into an enum whose variants carry what their class defines and nothing else, so that a field that is not
//! valid for a class cannot be read by mistake. It is total: any 32 bits give an answer.
//!
//! What aborted stands in two more registers: HDFAR or HIFAR, a virtual address, and HPFAR, the page of the IPA. For a stage 2
//! permission fault that was not on a stage 1 walk HPFAR is UNKNOWN, and the IPA must be found by translating the virtual address.
//!
//! Source: ARM DDI 0406C.d, B3.13.6 (HSR), B3.13.5 (HPFAR). Classes 0x0E and 0x22 are of Armv8 cores in AArch32.

use crate::addr::{Ipa, PAGE_SIZE};
use crate::condition::{Condition, ConditionCode};
use crate::cp15::{Cp15, Cp15Wide};
use crate::fault::FaultStatus;

/// A general register that a guest's trapped instruction named; 0 to 14 by construction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Rt(u8);

impl Rt {
    /// The register with this number, of which the low four bits count. `None` for 15.
    pub const fn new(number: u32) -> Option<Self> {
        match (number & 0xf) as u8 {
            15 => None,
            number => Some(Self(number)),
        }
    }

    /// The number, 0 to 14.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A trapped MRC or MCR, to CP15 or CP14.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegisterAccess {
    /// Which register.
    pub op: Cp15,
    /// From or to which general register. `None`, for reads only: the result goes to the condition flags (`MRC ..., APSR_nzcv`).
    pub rt: Option<Rt>,
    /// The guest writes the coprocessor register (MCR).
    pub write: bool,
    /// Under which condition.
    pub condition: Condition,
}

/// A trapped MRRC or MCRR, to CP15 or CP14.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WideRegisterAccess {
    /// Which register.
    pub op: Cp15Wide,
    /// The low word's general register.
    pub rt: Rt,
    /// The high word's general register.
    pub rt2: Rt,
    /// The guest writes the coprocessor register (MCRR).
    pub write: bool,
    /// Under which condition.
    pub condition: Condition,
}

/// Width of an access that a data abort reports (HSR.SAS).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AccessSize {
    /// One byte.
    Byte,
    /// Two bytes.
    Halfword,
    /// Four bytes.
    Word,
}

impl AccessSize {
    /// The width in bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Byte => 1,
            Self::Halfword => 2,
            Self::Word => 4,
        }
    }
}

/// The instruction behind a data abort, where the syndrome describes it (HSR.ISV).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccessSyndrome {
    /// How wide (SAS).
    pub size: AccessSize,
    /// A load extends the sign (SSE).
    pub sign_extend: bool,
    /// The register loaded or stored (SRT).
    pub rt: Rt,
}

/// A data abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataAbort {
    /// What the instruction was. `None`: the hardware does not say (writeback, LDM, LDRD, a load to PC, ...), or the abort is
    /// on a stage 1 walk: the instruction is to be fetched and decoded, or the access reported as it is.
    pub access: Option<AccessSyndrome>,
    /// Write, not read (WnR). A cache maintenance operation counts as a write.
    pub write: bool,
    /// A cache maintenance operation or address translation (CM).
    pub cache_maintenance: bool,
    /// The external abort's IMPLEMENTATION DEFINED classification (EA).
    pub external: bool,
    /// The fault is on stage 2 translation of an address of a stage 1 table (S1PTW).
    pub stage1_walk: bool,
    /// Which fault.
    pub fault: FaultStatus,
}

/// A prefetch abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefetchAbort {
    /// The external abort's IMPLEMENTATION DEFINED classification (EA).
    pub external: bool,
    /// The fault is on stage 2 translation of an address of a stage 1 table (S1PTW).
    pub stage1_walk: bool,
    /// Which fault.
    pub fault: FaultStatus,
}

/// What a trap to Hyp mode reports in HSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// Unknown reason: an undefined instruction taken to Hyp mode (EC 0x00).
    Unknown,
    /// WFI or WFE (EC 0x01).
    Wait {
        /// WFE, not WFI.
        event: bool,
        /// Under which condition.
        condition: Condition,
    },
    /// MCR or MRC to CP15 (EC 0x03).
    Cp15(RegisterAccess),
    /// MCRR or MRRC to CP15 (EC 0x04).
    Cp15Wide(WideRegisterAccess),
    /// MCR or MRC to CP14 (EC 0x05).
    Cp14(RegisterAccess),
    /// LDC or STC to CP14 (EC 0x06): DBGDTRTXINT from memory, or DBGDTRRXINT to it.
    Cp14Memory {
        /// LDC: the register is loaded from memory.
        load: bool,
        /// Under which condition.
        condition: Condition,
    },
    /// An access to CP0 to CP13 that HCPTR traps, VFP and NEON among them (EC 0x07).
    Coprocessor {
        /// Which coprocessor; 10 for VFP and, with `simd`, UNKNOWN.
        coprocessor: u8,
        /// A NEON instruction that HCPTR.TASE trapped (TA).
        simd: bool,
        /// Under which condition.
        condition: Condition,
    },
    /// VMRS of an ID register that HCR.TID0 or TID3 traps (EC 0x08).
    VfpId {
        /// Which: a number of [`vfp`](crate::cp15::vfp).
        register: u8,
        /// Its destination. `None`: the condition flags.
        rt: Option<Rt>,
        /// Under which condition.
        condition: Condition,
    },
    /// An access to Jazelle functionality (EC 0x09).
    Jazelle {
        /// Under which condition.
        condition: Condition,
    },
    /// BXJ (EC 0x0A).
    Bxj {
        /// Under which condition.
        condition: Condition,
    },
    /// MRRC to CP14: DBGDRAR or DBGDSAR (EC 0x0C).
    Cp14Wide(WideRegisterAccess),
    /// An execution state that the architecture forbids (EC 0x0E, Armv8).
    IllegalState,
    /// SVC routed to Hyp mode, by HCR.TGE or from Hyp mode itself (EC 0x11).
    Svc {
        /// The instruction's immediate.
        immediate: u16,
    },
    /// HVC (EC 0x12). ELR_hyp is already past it.
    Hvc {
        /// The instruction's immediate.
        immediate: u16,
    },
    /// SMC that HCR.TSC traps (EC 0x13). ELR_hyp is at it, not past it.
    Smc,
    /// Prefetch abort from the guest (EC 0x20).
    PrefetchAbort(PrefetchAbort),
    /// Prefetch abort in Hyp mode (EC 0x21).
    HypPrefetchAbort(PrefetchAbort),
    /// Misaligned PC (EC 0x22, Armv8).
    PcAlignment,
    /// Data abort from the guest (EC 0x24).
    DataAbort(DataAbort),
    /// Data abort in Hyp mode (EC 0x25).
    HypDataAbort(DataAbort),
    /// A coprocessor transfer that names register 15 where that is UNPREDICTABLE (MCR; either register of MCRR or MRRC). To be
    /// answered as undefined.
    Unpredictable {
        /// Under which condition.
        condition: Condition,
    },
}

impl Trap {
    /// Decodes a syndrome. `None`: an exception class that no core reports in AArch32.
    pub const fn from_hsr(hsr: u32) -> Option<Self> {
        let condition = Condition::from_hsr(hsr);
        Some(match exception_class(hsr) {
            0x00 => Self::Unknown,
            0x01 => Self::Wait { event: hsr & 1 != 0, condition },
            0x03 => match register_access(hsr) {
                Some(access) => Self::Cp15(access),
                None => Self::Unpredictable { condition },
            },
            0x04 => match wide_register_access(hsr) {
                Some(access) => Self::Cp15Wide(access),
                None => Self::Unpredictable { condition },
            },
            0x05 => match register_access(hsr) {
                Some(access) => Self::Cp14(access),
                None => Self::Unpredictable { condition },
            },
            0x06 => Self::Cp14Memory { load: hsr & 1 != 0, condition },
            0x07 => Self::Coprocessor { coprocessor: (hsr & 0xf) as u8, simd: hsr & 1 << 5 != 0, condition },
            0x08 => Self::VfpId { register: Cp15::from_iss(hsr).crn, rt: Rt::new(hsr >> 5), condition },
            0x09 => Self::Jazelle { condition },
            0x0a => Self::Bxj { condition },
            0x0c => match wide_register_access(hsr) {
                Some(access) => Self::Cp14Wide(access),
                None => Self::Unpredictable { condition },
            },
            0x0e => Self::IllegalState,
            0x11 => Self::Svc { immediate: hsr as u16 },
            0x12 => Self::Hvc { immediate: hsr as u16 },
            0x13 => Self::Smc,
            0x20 => Self::PrefetchAbort(prefetch_abort(hsr)),
            0x21 => Self::HypPrefetchAbort(prefetch_abort(hsr)),
            0x22 => Self::PcAlignment,
            0x24 => Self::DataAbort(DataAbort::from_hsr(hsr)),
            0x25 => Self::HypDataAbort(DataAbort::from_hsr(hsr)),
            _ => return None,
        })
    }

    /// The syndrome of an unconditional MRC of `register` to r0.
    pub const fn reads(register: Cp15) -> u32 {
        0x03 << 26 | 1 << 25 | 1 << 24 | (ConditionCode::AL.get() as u32) << 20 | register.to_iss() | 1
    }

    /// The same of an MRRC to r0 and r0.
    pub const fn reads_wide(register: Cp15Wide) -> u32 {
        0x04 << 26 | 1 << 25 | 1 << 24 | (ConditionCode::AL.get() as u32) << 20 | register.to_iss() | 1
    }

    /// Under which condition the instruction stood; [`Condition::ALWAYS`] for classes that report only what was executed. If it
    /// does not hold, the instruction is to be stepped over.
    pub const fn condition(self) -> Condition {
        match self {
            Self::Wait { condition, .. }
            | Self::Cp14Memory { condition, .. }
            | Self::Coprocessor { condition, .. }
            | Self::VfpId { condition, .. }
            | Self::Jazelle { condition }
            | Self::Bxj { condition }
            | Self::Unpredictable { condition } => condition,
            Self::Cp15(access) | Self::Cp14(access) => access.condition,
            Self::Cp15Wide(access) | Self::Cp14Wide(access) => access.condition,
            Self::Unknown
            | Self::IllegalState
            | Self::Svc { .. }
            | Self::Hvc { .. }
            | Self::Smc
            | Self::PrefetchAbort(_)
            | Self::HypPrefetchAbort(_)
            | Self::PcAlignment
            | Self::DataAbort(_)
            | Self::HypDataAbort(_) => Condition::ALWAYS,
        }
    }
}

/// HSR.EC, 0 to 63.
pub const fn exception_class(hsr: u32) -> u8 {
    (hsr >> 26) as u8
}

/// The IPA that a stage 2 fault is about: the page from HPFAR, the offset in it from HDFAR or HIFAR.
///
/// For a fault on a stage 1 walk the offset is the virtual address's, not the table entry's: only the page counts.
pub const fn fault_ipa(hpfar: u32, far: u32) -> Ipa {
    Ipa::new(((hpfar & !0xf) as u64) << 8 | (far & (PAGE_SIZE as u32 - 1)) as u64)
}

/// For the syndrome of an abort: whether HPFAR holds the IPA. Not for permission faults, unless on a stage 1 walk (B3.13.5).
pub const fn abort_tells_ipa(hsr: u32) -> bool {
    hsr & S1PTW != 0 || hsr & FAULT_KIND != FAULT_KIND_PERMISSION
}

/// HSR.EC of HVC.
pub const HVC: u8 = 0x12;
/// HSR.EC of MCR and MRC to CP15.
pub const CP15: u8 = 0x03;
/// HSR.EC of MCRR and MRRC to CP15.
pub const CP15_WIDE: u8 = 0x04;
/// HSR.EC of an access to CP0 to CP13.
pub const COPROCESSOR: u8 = 0x07;
/// HSR.EC of a guest's prefetch abort.
pub const PREFETCH_ABORT: u8 = 0x20;
/// HSR.EC of a guest's data abort.
pub const DATA_ABORT: u8 = 0x24;

/// Whether the syndrome is that of a plain load or store, fully described, to where stage 2 maps nothing: a device, perhaps.
pub const fn is_device_access(hsr: u32) -> bool {
    const FIELDS: u32 = 0x3f << 26 | ISV | EA | CM | S1PTW | FAULT_KIND;
    hsr & FIELDS == 0x24 << 26 | ISV | FAULT_KIND_TRANSLATION
}

/// What a word access is that [`is_device_access`]: which register, and whether it is stored. `None`: another width.
pub const fn word_access(hsr: u32) -> Option<(Rt, bool)> {
    if hsr >> 22 & 0b11 != 0b10 {
        return None;
    }
    match Rt::new(hsr >> 16) {
        Some(rt) => Some((rt, hsr & 1 << 6 != 0)),
        None => None,
    }
}

/// ISV: the syndrome describes the access.
pub const ISV: u32 = 1 << 24;
/// EA.
const EA: u32 = 1 << 9;
/// CM.
const CM: u32 = 1 << 8;
/// S1PTW.
const S1PTW: u32 = 1 << 7;
/// The fault status of the long-descriptor format, less the level (B3.13.3).
const FAULT_KIND: u32 = 0b1111 << 2;
const FAULT_KIND_TRANSLATION: u32 = 0b0001 << 2;
const FAULT_KIND_PERMISSION: u32 = 0b0011 << 2;

/// What a data abort's syndrome says apart from the instruction: whether it was maintenance, whether it wrote, and the fault status.
pub const fn without_instruction(hsr: u32) -> u32 {
    const CM: u32 = 1 << 8;
    const WNR: u32 = 1 << 6;
    const FAULT_STATUS: u32 = 0x3f;
    hsr & (CM | WNR | FAULT_STATUS)
}

/// HPFAR for an IPA that was found by address translation, in the register's own format.
pub const fn hpfar(ipa: Ipa) -> u32 {
    ((ipa.get() >> 8) as u32) & !0xf
}

const fn register_access(hsr: u32) -> Option<RegisterAccess> {
    let (rt, write) = (Rt::new(hsr >> 5), hsr & 1 == 0);
    if write && rt.is_none() {
        return None;
    }
    Some(RegisterAccess { op: Cp15::from_iss(hsr), rt, write, condition: Condition::from_hsr(hsr) })
}

const fn wide_register_access(hsr: u32) -> Option<WideRegisterAccess> {
    let (Some(rt), Some(rt2)) = (Rt::new(hsr >> 5), Rt::new(hsr >> 10)) else {
        return None;
    };
    let condition = Condition::from_hsr(hsr);
    Some(WideRegisterAccess { op: Cp15Wide::from_iss(hsr), rt, rt2, write: hsr & 1 == 0, condition })
}

const fn prefetch_abort(hsr: u32) -> PrefetchAbort {
    PrefetchAbort { external: hsr & 1 << 9 != 0, stage1_walk: hsr & 1 << 7 != 0, fault: FaultStatus::from_long(hsr) }
}

impl DataAbort {
    /// Decodes the syndrome of a data abort (EC 0x24 or 0x25), which the caller knows it to be.
    #[inline]
    pub const fn from_hsr(hsr: u32) -> Self {
        Self {
            access: access_syndrome(hsr),
            write: hsr & 1 << 6 != 0,
            cache_maintenance: hsr & CM != 0,
            external: hsr & EA != 0,
            stage1_walk: hsr & S1PTW != 0,
            fault: FaultStatus::from_long(hsr),
        }
    }
}

#[inline]
const fn access_syndrome(hsr: u32) -> Option<AccessSyndrome> {
    if hsr & 1 << 24 == 0 {
        return None;
    }
    let size = match hsr >> 22 & 0b11 {
        0b00 => AccessSize::Byte,
        0b01 => AccessSize::Halfword,
        0b10 => AccessSize::Word,
        _ => return None,
    };
    match Rt::new(hsr >> 16) {
        Some(rt) => Some(AccessSyndrome { size, sign_extend: hsr & 1 << 21 != 0, rt }),
        None => None,
    }
}

#[cfg(test)]
mod tests;
