// SPDX-License-Identifier: GPL-2.0-only
//! A guest's CP15 registers: which there are, where they live, what they are after reset, and what a trapped access does.
//!
//! Three kinds. Most are in the hardware while the vCPU runs and in its
//! [`VcpuContext`] while it rests; the guest reaches them without a trap. A few that no switch
//! loads (ACTLR, L2CTLR, the physical timer) are kept there too, and accesses trap. Identification registers are the host's
//! ([`IdRegisters`]), read by the guest directly and never written.
//!
//! One table, [`registers::TABLE`], says it of all but the last kind, a row a register: reset ([`reset`](crate::reset)), trap
//! ([`trap`]) and access by a process ([`one_reg`](crate::one_reg)) all follow from the row, so none of them can forget a
//! register that the others know.

pub mod id_registers;
pub mod registers;
pub mod trap;

#[cfg(test)]
mod tests;

pub use id_registers::{IdRegisters, VfpIds};

use arch::cp15::{Cp15, Cp15Wide};
use hyp_abi::context::VcpuContext;

/// A CP15 register as instructions name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// 32 bits: MRC and MCR.
    Word(Cp15),
    /// 64 bits: MRRC and MCRR.
    Wide(Cp15Wide),
}

impl Name {
    /// The register's id for a process.
    pub const fn id(self) -> u64 {
        match self {
            Self::Word(name) => uapi::cp15_32(name.opc1, name.crn, name.crm, name.opc2),
            Self::Wide(name) => uapi::cp15_64(name.opc1, name.crm),
        }
    }
}

/// All registers of a vCPU that rests.
pub struct Registers<'a> {
    /// What the world switch moves, and what Hyp mode may answer.
    pub context: &'a mut VcpuContext,
    /// The word of `struct pt_regs` that a process can write and read back, and that means nothing.
    pub orig_r0: &'a mut u32,
}
