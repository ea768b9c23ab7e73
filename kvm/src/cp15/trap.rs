// SPDX-License-Identifier: GPL-2.0-only
//! What a trapped coprocessor access does.
//!
//! The row of the register says it; two rules stand above the rows. A User mode access to a register that is not User mode's
//! is undefined, although some traps (HSTR.T15, HCR.TIDCP) may be taken before the hardware finds that out. And what has no
//! row is undefined.
//!
//! While the guest's MMU and data cache are not both on, HCR.TVM is set: the write to SCTLR that switches them on must not pass
//! unseen, since what the host's caches hold of guest memory has to be flushed at that moment. It is cleared then, for these
//! registers are written on every context switch. Maintenance by set and way cannot be carried out for a guest: it works on one
//! CPU's caches, and the guest may move. It is answered by flushing the guest's memory by address, once, and setting TVM: the
//! guest is then about to switch its caches off or on, and will be seen doing so.
//!
//! Debug and trace registers (CP14) read as zero and ignore writes, as KVM/ARM had it.
//!
//! Source: ARM DDI 0406C.d, B1.14.4 to B1.14.12 (traps to Hyp mode), B4.1 (CNTKCTL), C12.8.2 (PMUSERENR).

use super::registers::{self, Access, Place};
use super::{Name, Registers};
use crate::{guest_registers, inject};
use arch::condition::InstructionLength;
use arch::core_id::{Core, Midr};
use arch::guest_registers::Sctlr;
use arch::hyp_registers::Hcr;
use arch::psr::Psr;
use arch::syndrome::{RegisterAccess, Rt, WideRegisterAccess};
use hyp_abi::context::VcpuContext;

/// What is left to do after a trapped access. In all cases the guest's PC and mode are what they are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Nothing.
    Emulated,
    /// Nothing, but somebody may like to know: the access was undefined, and the guest has taken the exception.
    Undefined,
    /// Clean and invalidate what the caches hold of the guest's memory: it maintained them by set and way.
    FlushAfterSetWay,
    /// Clean and invalidate what the caches hold of the guest's memory: it switched its own on or off.
    FlushAfterSwitch {
        /// They are on now.
        on: bool,
    },
    /// The guest wrote the physical timer: its interrupt and its deadline may have changed.
    PhysicalTimerWritten,
}

/// CNTKCTL.PL0PTEN: User mode may use the physical timer.
const PL0PTEN: u32 = 1 << 9;

/// The general registers at the other end of a transfer.
#[derive(Clone, Copy)]
enum Operand {
    Word(Rt),
    /// `MRC ..., APSR_nzcv`.
    Flags,
    Pair(Rt, Rt),
}

impl Operand {
    fn load(self, context: &mut VcpuContext) -> u64 {
        match self {
            Self::Word(rt) => guest_registers::read(context, rt).into(),
            Self::Flags => 0,
            Self::Pair(low, high) => {
                let low = guest_registers::read(context, low);
                u64::from(guest_registers::read(context, high)) << 32 | u64::from(low)
            }
        }
    }

    fn store(self, context: &mut VcpuContext, value: u64) {
        match self {
            Self::Word(rt) => guest_registers::write(context, rt, value as u32),
            Self::Flags => {
                let flags = (Psr::N | Psr::Z | Psr::C | Psr::V).bits();
                context.cpsr = context.cpsr & !flags | value as u32 & flags;
            }
            Self::Pair(low, high) => {
                guest_registers::write(context, low, value as u32);
                guest_registers::write(context, high, (value >> 32) as u32);
            }
        }
    }
}

/// A transfer that trapped.
struct Transfer {
    name: Name,
    operand: Operand,
    write: bool,
}

impl Transfer {
    fn word(access: &RegisterAccess) -> Self {
        let operand = access.rt.map_or(Operand::Flags, Operand::Word);
        Self { name: Name::Word(access.op), operand, write: access.write }
    }

    fn wide(access: &WideRegisterAccess) -> Self {
        let operand = Operand::Pair(access.rt, access.rt2);
        Self { name: Name::Wide(access.op), operand, write: access.write }
    }

    fn read_zero_or_ignore(&self, context: &mut VcpuContext) {
        if !self.write {
            self.operand.store(context, 0);
        }
    }
}

/// Emulates an MRC or MCR to CP15 whose condition holds. `now` is the physical count, asked for if the timer needs it.
pub fn cp15(
    registers: &mut Registers<'_>,
    access: &RegisterAccess,
    length: InstructionLength,
    now: impl FnOnce() -> u64,
) -> Outcome {
    emulate(registers, &Transfer::word(access), length, now)
}

/// Emulates an MRRC or MCRR to CP15 whose condition holds, as [`cp15`].
pub fn cp15_wide(
    registers: &mut Registers<'_>,
    access: &WideRegisterAccess,
    length: InstructionLength,
    now: impl FnOnce() -> u64,
) -> Outcome {
    emulate(registers, &Transfer::wide(access), length, now)
}

/// Emulates an MRC or MCR to CP14 whose condition holds.
pub fn cp14(context: &mut VcpuContext, access: &RegisterAccess, length: InstructionLength) {
    Transfer::word(access).read_zero_or_ignore(context);
    guest_registers::skip_instruction(context, length);
}

/// Emulates an MRRC or MCRR to CP14 whose condition holds.
pub fn cp14_wide(context: &mut VcpuContext, access: &WideRegisterAccess, length: InstructionLength) {
    Transfer::wide(access).read_zero_or_ignore(context);
    guest_registers::skip_instruction(context, length);
}

fn emulate(
    registers: &mut Registers<'_>,
    transfer: &Transfer,
    length: InstructionLength,
    now: impl FnOnce() -> u64,
) -> Outcome {
    match carry_out(registers, transfer, now) {
        Some(outcome) => {
            guest_registers::skip_instruction(registers.context, length);
            outcome
        }
        None => {
            inject::undefined(registers.context);
            Outcome::Undefined
        }
    }
}

/// Does what the register's row says. `None`: the access is undefined, and nothing was done.
fn carry_out(registers: &mut Registers<'_>, transfer: &Transfer, now: impl FnOnce() -> u64) -> Option<Outcome> {
    let row = registers::find(transfer.name)?;
    if guest_registers::mode(registers.context).is_user() && !user_may(row.access, transfer.write, registers.context) {
        return None;
    }
    let Transfer { operand, write, .. } = *transfer;
    match (row.access, write) {
        (Access::VirtualMemory, true) => {
            let (place, _) = row.kept?;
            return Some(write_virtual_memory(registers, transfer, place));
        }
        (Access::WriteIgnored, false) => {
            let (place, _) = row.kept?;
            let value = (place.get)(registers);
            operand.store(registers.context, value);
        }
        (Access::WriteIgnored, true) => {}
        (Access::ZeroOnA12AndA17, _) if !is_a12_or_a17(registers.context) => return None,
        (Access::Zero | Access::ZeroUserReads | Access::ZeroOnA12AndA17, _) | (Access::ZeroReadOnly, false) => {
            transfer.read_zero_or_ignore(registers.context);
        }
        (Access::SetWay, true) => return Some(set_way(registers.context)),
        (Access::PhysicalTimer(register), true) => {
            let value = operand.load(registers.context);
            registers.context.physical_timer.write(register, value, now());
            return Some(Outcome::PhysicalTimerWritten);
        }
        (Access::PhysicalTimer(register), false) => {
            let value = registers.context.physical_timer.read(register, now());
            operand.store(registers.context, value);
        }
        (Access::Direct, _)
        | (Access::VirtualMemory, false)
        | (Access::ZeroReadOnly, true)
        | (Access::SetWay, false) => return None,
    }
    Some(Outcome::Emulated)
}

/// Whether User mode may do this.
fn user_may(access: Access, write: bool, context: &VcpuContext) -> bool {
    match access {
        Access::ZeroUserReads => !write,
        Access::PhysicalTimer(_) => context.cp15.cntkctl & PL0PTEN != 0,
        _ => false,
    }
}

fn is_a12_or_a17(context: &VcpuContext) -> bool {
    matches!(Midr::new(context.control.midr).core(), Core::CortexA12 | Core::CortexA17)
}

/// Writes a register that HCR.TVM traps.
fn write_virtual_memory(registers: &mut Registers<'_>, transfer: &Transfer, place: Place) -> Outcome {
    let before = caches_are_on(registers.context);
    let value = transfer.operand.load(registers.context);
    (place.set)(registers, value);
    let on = caches_are_on(registers.context);
    if before == on {
        return Outcome::Emulated;
    }
    if on {
        trap_virtual_memory(registers.context, false);
    }
    Outcome::FlushAfterSwitch { on }
}

/// Maintenance by set and way. Only the first of a run of them flushes: as long as TVM is set, the guest has not switched its
/// caches since.
fn set_way(context: &mut VcpuContext) -> Outcome {
    if hcr(context).contains(Hcr::TVM) {
        return Outcome::Emulated;
    }
    trap_virtual_memory(context, true);
    Outcome::FlushAfterSetWay
}

/// Whether the guest's MMU and data cache are both on.
pub fn caches_are_on(context: &VcpuContext) -> bool {
    Sctlr::from_bits_retain(context.cp15.sctlr).contains(Sctlr::M | Sctlr::C)
}

/// Sets or clears HCR.TVM.
pub fn trap_virtual_memory(context: &mut VcpuContext, trap: bool) {
    let mut hcr = hcr(context);
    hcr.set(Hcr::TVM, trap);
    context.control.hcr = hcr.bits();
}

fn hcr(context: &VcpuContext) -> Hcr {
    Hcr::from_bits_retain(context.control.hcr)
}
