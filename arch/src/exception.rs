// SPDX-License-Identifier: GPL-2.0-only
//! Exceptions that a guest is made to take at PL1: undefined instruction, prefetch abort, data abort.
//!
//! A hypervisor that refuses a guest's instruction or access gives the guest the exception that hardware would have given
//! it. [`Entry::take`] computes what hardware does then: the banked LR and SPSR of the target mode, the vector to go on
//! at, and the new CPSR. The fault registers are apart, since an undefined instruction has none: [`dfsr`] and [`ifsr`]
//! encode a fault in the format that the guest's TTBCR.EAE selects; DFAR or IFAR is the faulting virtual address.
//!
//! Source: ARM DDI 0406C.d, B1.8 (processor state on taking an exception), B1.9 (each exception), B4.1 (DFSR, IFSR).

use crate::fault::FaultStatus;
use crate::guest_registers::{Sctlr, Ttbcr};
use crate::psr::{Mode, Psr};

/// Which exception.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Exception {
    /// Undefined instruction.
    Undefined,
    /// Prefetch abort.
    PrefetchAbort,
    /// Data abort.
    DataAbort,
}

impl Exception {
    /// The mode that takes it.
    pub const fn mode(self) -> Mode {
        match self {
            Self::Undefined => Mode::Und,
            Self::PrefetchAbort | Self::DataAbort => Mode::Abt,
        }
    }

    /// Its offset from the vector base.
    pub const fn vector_offset(self) -> u32 {
        match self {
            Self::Undefined => 0x4,
            Self::PrefetchAbort => 0xc,
            Self::DataAbort => 0x10,
        }
    }

    /// The banked LR, from the address of the instruction that the exception is about and the state that it ran in.
    const fn link(self, pc: u32, thumb: bool) -> u32 {
        let beyond = match self {
            // The instruction after: two bytes on in Thumb state, even where the undefined one had four.
            Self::Undefined if thumb => 2,
            Self::Undefined | Self::PrefetchAbort => 4,
            Self::DataAbort => 8,
        };
        pc.wrapping_add(beyond)
    }
}

/// A guest's state right after it took an exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The mode whose LR and SPSR are the two fields below.
    pub mode: Mode,
    /// The mode's LR.
    pub lr: u32,
    /// The mode's SPSR: the CPSR before.
    pub spsr: Psr,
    /// The new CPSR.
    pub cpsr: Psr,
    /// The new PC: the vector.
    pub pc: u32,
}

impl Entry {
    /// What taking `exception` does to a guest at the instruction `pc` with this CPSR, SCTLR and VBAR.
    pub const fn take(exception: Exception, pc: u32, cpsr: Psr, sctlr: Sctlr, vbar: u32) -> Self {
        let base = if sctlr.contains(Sctlr::V) { 0xffff_0000 } else { vbar & !0x1f };
        Self {
            mode: exception.mode(),
            lr: exception.link(pc, cpsr.contains(Psr::T)),
            spsr: cpsr,
            cpsr: status(exception, cpsr, sctlr),
            pc: base | exception.vector_offset(),
        }
    }
}

const fn status(exception: Exception, cpsr: Psr, sctlr: Sctlr) -> Psr {
    let replaced = Psr::J.union(Psr::T).union(Psr::E).union(Psr::IT).bits();
    let mut new = Psr::from_bits_retain(cpsr.bits() & !replaced).with_mode(exception.mode()).union(Psr::I);
    // With the Virtualization Extensions SCR.AW does not keep an abort from masking A in Non-secure state.
    if !matches!(exception, Exception::Undefined) {
        new = new.union(Psr::A);
    }
    if sctlr.contains(Sctlr::TE) {
        new = new.union(Psr::T);
    }
    if sctlr.contains(Sctlr::EE) {
        new = new.union(Psr::E);
    }
    new
}

/// DFSR.LPAE and IFSR.LPAE: the status is in the long-descriptor format.
const LPAE: u32 = 1 << 9;
/// DFSR.WnR: the access was a write.
const WNR: u32 = 1 << 11;

/// DFSR for a fault, in the format that TTBCR selects. What the short format has no code for becomes a synchronous external
/// abort, which every system has to expect.
pub const fn dfsr(fault: FaultStatus, write: bool, ttbcr: Ttbcr) -> u32 {
    ifsr(fault, ttbcr) | if write { WNR } else { 0 }
}

/// IFSR for a fault, as [`dfsr`].
pub const fn ifsr(fault: FaultStatus, ttbcr: Ttbcr) -> u32 {
    if ttbcr.contains(Ttbcr::EAE) {
        return LPAE | fault.to_long();
    }
    let code = match fault.to_short() {
        Some(code) => code,
        None => 0b0_1000,
    };
    // FS[4] stands apart, in bit 10.
    (code & 0x10) << 6 | code & 0xf
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::long_descriptor::Level;
    use proptest::prelude::*;

    const ALL: [Exception; 3] = [Exception::Undefined, Exception::PrefetchAbort, Exception::DataAbort];

    fn take(exception: Exception, cpsr: Psr, sctlr: Sctlr) -> Entry {
        Entry::take(exception, 0x8000, cpsr, sctlr, 0xc000_0000)
    }

    #[test]
    fn vectors_and_links_of_the_manual() {
        // B1.8: the tables of vector offsets, and of what is added to the preferred return address by state.
        let rows = [
            (Exception::Undefined, Psr::empty(), Mode::Und, 0xc000_0004, 0x8004),
            (Exception::Undefined, Psr::T, Mode::Und, 0xc000_0004, 0x8002),
            (Exception::PrefetchAbort, Psr::empty(), Mode::Abt, 0xc000_000c, 0x8004),
            (Exception::PrefetchAbort, Psr::T, Mode::Abt, 0xc000_000c, 0x8004),
            (Exception::DataAbort, Psr::empty(), Mode::Abt, 0xc000_0010, 0x8008),
            (Exception::DataAbort, Psr::T, Mode::Abt, 0xc000_0010, 0x8008),
        ];
        for (exception, state, mode, pc, lr) in rows {
            let before = state.union(Psr::in_mode(Mode::Svc));
            let entry = take(exception, before, Sctlr::RESET);
            assert_eq!((entry.mode, entry.pc, entry.lr, entry.spsr), (mode, pc, lr, before));
        }
    }

    #[test]
    fn high_vectors_ignore_vbar() {
        assert_eq!(take(Exception::DataAbort, Psr::empty(), Sctlr::V).pc, 0xffff_0010);
    }

    #[test]
    fn masks() {
        let user = Psr::in_mode(Mode::User);
        assert_eq!(take(Exception::Undefined, user, Sctlr::RESET).cpsr.bits(), 0x9b);
        assert_eq!(take(Exception::DataAbort, user, Sctlr::RESET).cpsr.bits(), 0x197);
        assert_eq!(take(Exception::PrefetchAbort, user, Sctlr::RESET).cpsr.bits(), 0x197);
        let fiq_masked = user.union(Psr::F).union(Psr::A);
        assert_eq!(take(Exception::Undefined, fiq_masked, Sctlr::RESET).cpsr.bits(), 0x1db);
    }

    #[test]
    fn fault_registers_in_both_formats() {
        let (short, long) = (Ttbcr::empty(), Ttbcr::EAE);
        assert_eq!(dfsr(FaultStatus::SyncExternal, false, short), 0x008);
        assert_eq!(dfsr(FaultStatus::SyncExternal, false, long), 0x210);
        assert_eq!(dfsr(FaultStatus::SyncExternal, true, long), 0xa10);
        assert_eq!(ifsr(FaultStatus::SyncExternal, short), 0x008);
        assert_eq!(dfsr(FaultStatus::AsyncExternal, false, short), 0x406);
        assert_eq!(dfsr(FaultStatus::AsyncExternal, false, long), 0x211);
        assert_eq!(dfsr(FaultStatus::Alignment, true, short), 0x801);
        assert_eq!(dfsr(FaultStatus::Alignment, true, long), 0xa21);
        assert_eq!(ifsr(FaultStatus::Translation(Level::Two), short), 0x007);
        // A third level is nothing that the short format knows.
        assert_eq!(ifsr(FaultStatus::Translation(Level::Three), short), 0x008);
    }

    proptest! {
        #[test]
        fn taking_keeps_flags_and_sets_state(
            exception in prop::sample::select(&ALL[..]), pc: u32, cpsr: u32, sctlr: u32, vbar: u32,
        ) {
            let (old, sctlr) = (Psr::from_bits_retain(cpsr), Sctlr::from_bits_retain(sctlr));
            let entry = Entry::take(exception, pc, old, sctlr, vbar);
            let new = entry.cpsr;
            prop_assert_eq!(entry.spsr, old);
            prop_assert_eq!(Mode::from_psr(new.bits()), Some(entry.mode));
            let kept = Psr::N | Psr::Z | Psr::C | Psr::V | Psr::Q | Psr::GE | Psr::F;
            prop_assert_eq!(new & kept, old & kept);
            prop_assert!(new.contains(Psr::I) && !new.contains(Psr::J));
            prop_assert_eq!(new.it_state(), 0);
            prop_assert_eq!(new.contains(Psr::T), sctlr.contains(Sctlr::TE));
            prop_assert_eq!(new.contains(Psr::E), sctlr.contains(Sctlr::EE));
            prop_assert_eq!(new.contains(Psr::A), old.contains(Psr::A) || exception != Exception::Undefined);
            prop_assert_eq!(entry.pc & 0x1f, exception.vector_offset());
        }
    }
}
