// SPDX-License-Identifier: GPL-2.0-only
//! Loads and stores that hardware does not describe: several registers, or one and a written-back base.
//!
//! LDRD, STRD, LDM, STM and every form with writeback abort with HSR.ISV clear. [`fetch`] reads the instruction from
//! guest memory, [`Transfer::begin`] makes of it a sequence of plain accesses, one register each, in the order of their
//! addresses. To the device they are as many loads or stores. Their values are collected, and only when the last access
//! is done do the registers and the base change and does PC move on: until then the vCPU is at the instruction as if
//! nothing had happened. So whoever refuses one of the accesses, or initialises the vCPU anew, has nothing to undo, and
//! the guest that then runs the instruction again makes all of its accesses again, as after an interrupt in the midst
//! of an LDM. What the process writes to the vCPU's registers in between counts, as between KVM_EXIT_MMIO and the next
//! KVM_RUN for any load: what was loaded goes to the registers of the mode that CPSR says at the end, and PC, wherever
//! it is then, moves on by the instruction's length.
//!
//! The abort says where one of the accesses hit; the others' places follow from the registers, as long as all of them
//! are in one page. Device accesses that cross a page are UNPREDICTABLE (A3.5.7); they are refused, as is what
//! [`arch::load_store`] does not decode: exclusives and SWP, which would need of the device that it is atomic; VFP and
//! NEON; loads of PC, the User mode bank and RFE and SRS, which no driver uses on a device. KVM/ARM refused all of
//! these.
//!
//! Instructions are little-endian whatever CPSR.E and SCTLR.EE say (A3.3.1: BE-8 is the only other format). The
//! process's view of the memory is cached. A guest that runs with its caches off writes past it, so what the host may
//! hold of the page is cleaned and invalidated first.
//!
//! Source: ARM DDI 0406C.d, B3.13.6 (ISV), A3.3.1, A3.5.7.

use super::{Direction, Pending};
use crate::cp15::trap::caches_are_on;
use crate::guest_memory::GuestMemory;
use crate::guest_registers;
use crate::host::Host;
use arch::addr::{Ipa, PAGE_SIZE};
use arch::condition::InstructionLength;
use arch::load_store::{Access, LoadStore, decode_arm, decode_thumb, is_wide};
use arch::psr::Psr;
use arch::syndrome::{DataAbort, Rt, fault_ipa};
use hyp_abi::context::{UNRESOLVED, VcpuContext};

/// The most registers that one instruction moves: r0 to r14.
const MOST: usize = 15;

/// An instruction of the guest's, as it was read from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// Arm.
    Arm(u32),
    /// Thumb: one halfword or, where [`is_wide`] says so, two.
    Thumb(u16, u16),
}

impl Opcode {
    fn decode(self) -> Option<LoadStore> {
        match self {
            Self::Arm(word) => decode_arm(word),
            Self::Thumb(first, second) => decode_thumb(first, second),
        }
    }

    /// Its encoding; a Thumb instruction of two halfwords has the first in the upper half.
    pub fn bits(self) -> u32 {
        match self {
            Self::Arm(word) => word,
            Self::Thumb(first, second) if is_wide(first) => u32::from(first) << 16 | u32::from(second),
            Self::Thumb(first, _) => first.into(),
        }
    }

    fn length(self) -> InstructionLength {
        match self {
            Self::Thumb(first, _) if !is_wide(first) => InstructionLength::Halfword,
            _ => InstructionLength::Word,
        }
    }
}

/// Reads the instruction that aborted. `None`: it is no longer where it was, and the guest is to run it again. May sleep;
/// runs in the process.
pub fn fetch<H: Host>(host: &H, memory: &GuestMemory<H>, context: &VcpuContext) -> Option<Opcode> {
    let [first, last] = context.exit.code;
    let half = |page, address| {
        let mut bytes = [0; 2];
        read(host, memory, context, page, address, &mut bytes)?;
        Some(u16::from_le_bytes(bytes))
    };
    if !guest_registers::cpsr(context).contains(Psr::T) {
        let mut bytes = [0; 4];
        read(host, memory, context, first, context.pc, &mut bytes)?;
        return Some(Opcode::Arm(u32::from_le_bytes(bytes)));
    }
    let one = half(first, context.pc)?;
    let two = if is_wide(one) { half(last, context.pc.wrapping_add(2))? } else { 0 };
    Some(Opcode::Thumb(one, two))
}

/// Reads guest memory at a virtual address whose page has this IPA, in HPFAR's format. An instruction crosses no page
/// here.
fn read<H: Host>(
    host: &H,
    memory: &GuestMemory<H>,
    context: &VcpuContext,
    page: u32,
    address: u32,
    to: &mut [u8],
) -> Option<()> {
    if page == UNRESOLVED {
        return None;
    }
    let (at, _) = memory.host_address(fault_ipa(page, address))?;
    if !caches_are_on(context) {
        let resolved = host.resolve(at, false).ok()?;
        if resolved.device {
            return None; // a device by now, which holds no instructions and is in no cache
        }
        host.clean_to_poc(resolved.phys, PAGE_SIZE);
    }
    host.read_process(at, to).then_some(())
}

/// Why an instruction is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another instruction is there now than the one that aborted: the guest is to run it.
    Changed,
    /// It is none that can be carried out here.
    Unsupported,
}

/// An instruction under way, access by access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    instruction: LoadStore,
    /// Where its first access is.
    start: Ipa,
    /// What is stored, or what was loaded so far, access by access.
    values: [u32; MOST],
    /// How many accesses are done.
    done: u8,
    writeback: Option<(Rt, u32)>,
    big_endian: bool,
    length: InstructionLength,
}

impl Transfer {
    /// Begins with an instruction that aborted at `ipa`, virtual address `far`, the guest still being at it.
    pub fn begin(
        context: &mut VcpuContext,
        opcode: Opcode,
        abort: &DataAbort,
        ipa: Ipa,
        far: u32,
    ) -> Result<Self, Refused> {
        let instruction = opcode.decode().ok_or(Refused::Unsupported)?;
        let registers: [u32; MOST] =
            core::array::from_fn(|number| Rt::new(number as u32).map_or(0, |rt| guest_registers::read(context, rt)));
        let register = |rt: Rt| registers.get(rt.index()).copied().unwrap_or(0);
        let placed = instruction.place(register, context.pc, guest_registers::cpsr(context));
        let bytes = instruction.accesses().count() as u32 * instruction.size.bytes();
        // The registers are the vCPU's own, so if it is not this that aborted, it is because the memory has changed.
        let before = far.wrapping_sub(placed.address);
        if instruction.load == abort.write || before >= bytes {
            return Err(Refused::Changed);
        }
        let offset = ipa.page_offset().checked_sub(before as usize).ok_or(Refused::Unsupported)?;
        if offset + bytes as usize > PAGE_SIZE {
            return Err(Refused::Unsupported);
        }
        let mut values = [0; MOST];
        if !instruction.load {
            for (value, access) in values.iter_mut().zip(instruction.accesses()) {
                *value = register(access.rt);
            }
        }
        Ok(Self {
            instruction,
            start: Ipa::new(ipa.page().get() + offset as u64),
            values,
            done: 0,
            writeback: placed.writeback,
            big_endian: guest_registers::is_big_endian(context),
            length: opcode.length(),
        })
    }

    /// The access that comes next, as if it were an instruction's own. `None`: all are done.
    pub fn access(&self) -> Option<Pending> {
        let Access { rt, offset } = self.instruction.accesses().nth(self.done.into())?;
        let direction = if self.instruction.load {
            Direction::Read { rt, sign_extend: self.instruction.sign_extend }
        } else {
            Direction::Write { value: self.values.get(usize::from(self.done)).copied().unwrap_or(0) }
        };
        Some(Pending {
            ipa: self.start.checked_add(offset.into())?,
            size: self.instruction.size,
            direction,
            big_endian: self.big_endian,
            length: self.length,
        })
    }

    /// Carries `access`, which is the next, out, with what the device answered. The one after it; `None`: it was the
    /// last, the guest's registers are what the instruction makes of them, and it is stepped over.
    pub fn advance(&mut self, access: &Pending, bytes: [u8; 8], context: &mut VcpuContext) -> Option<Pending> {
        if let (Some(value), Some(place)) = (access.loaded(bytes), self.values.get_mut(usize::from(self.done))) {
            *place = value;
        }
        self.done = self.done.saturating_add(1);
        let next = self.access();
        if next.is_none() {
            self.retire(context);
        }
        next
    }

    fn retire(&self, context: &mut VcpuContext) {
        if self.instruction.load {
            for (value, access) in self.values.into_iter().zip(self.instruction.accesses()) {
                guest_registers::write(context, access.rt, value);
            }
        }
        if let Some((rn, value)) = self.writeback {
            guest_registers::write(context, rn, value);
        }
        guest_registers::skip_instruction(context, self.length);
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
