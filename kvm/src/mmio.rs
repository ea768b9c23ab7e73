// SPDX-License-Identifier: GPL-2.0-only
//! Accesses to devices: from a data abort to a value for the device, and from its answer to the guest's register.
//!
//! Where no memory slot is, stage 2 maps nothing and a load or store aborts. The syndrome says which register it moves and how
//! wide; [`decode`] makes a [`Pending`] access of it, for the vGIC or for the process. Where it says nothing, the instruction is
//! read and becomes several accesses, one after the other: [`transfer`]. What is transferred are *bytes*, in the
//! order in which they lie in the guest's address space: a big-endian guest's word arrives with its most significant byte
//! first, and a device model treats all guests alike. [`Pending::finish`] gives a load its value and steps over the instruction,
//! which is at fault until then: whoever refuses the access instead injects an abort and forgets it.
//!
//! Source: ARM DDI 0406C.d, B3.13.6 (syndrome of data aborts), A3.3 (endianness); Documentation/virt/kvm/api.rst of Linux 5.6
//! (KVM_EXIT_MMIO).

pub mod transfer;

use crate::guest_registers;
use arch::addr::Ipa;
use arch::condition::InstructionLength;
use arch::syndrome::{AccessSize, AccessSyndrome, DataAbort, Rt};
use hyp_abi::context::VcpuContext;
use transfer::Transfer;
use uapi::run::Mmio;

/// An instruction that waits for the process to answer an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// It makes this access and no other.
    Plain(Pending),
    /// It may make more.
    Transfer(Transfer),
}

impl Instruction {
    /// The access that waits for its answer.
    #[inline]
    pub fn access(&self) -> Option<Pending> {
        match self {
            Self::Plain(pending) => Some(*pending),
            Self::Transfer(transfer) => transfer.access(),
        }
    }

    /// Gives it the process's answer. The access that it makes next; `None`: it is done and stepped over.
    #[inline(always)]
    pub fn answer(&mut self, context: &mut VcpuContext, bytes: [u8; 8]) -> Option<Pending> {
        match self {
            Self::Plain(pending) => {
                pending.finish(context, bytes);
                None
            }
            Self::Transfer(transfer) => transfer.advance(&transfer.access()?, bytes, context),
        }
    }
}

/// A load or store of one register, under way to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Where.
    pub ipa: Ipa,
    /// How wide.
    pub size: AccessSize,
    /// Which way.
    pub direction: Direction,
    /// The guest's data accesses were big-endian.
    pub big_endian: bool,
    /// How long the instruction is.
    pub length: InstructionLength,
}

/// Load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A load.
    Read {
        /// The register that receives the value.
        rt: Rt,
        /// It is sign-extended to 32 bits, not zero-extended.
        sign_extend: bool,
    },
    /// A store.
    Write {
        /// The register's value; the low bytes, as many as the access is wide, are stored.
        value: u32,
    },
}

/// What an access outside of memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A load or store for a device.
    Access(Pending),
    /// Cache maintenance by address where nothing can be cached: to be stepped over.
    CacheMaintenance,
    /// The guest's own translation tables are said to lie there: it gets an external abort.
    Stage1Walk,
    /// The syndrome does not say what the instruction was: it is to be read.
    Undescribed,
}

/// A page where the process has devices, and when it had: with another [`slots_generation`] there may be memory.
///
/// [`slots_generation`]: crate::guest_memory::GuestMemory::slots_generation
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevicePage {
    /// Which page, as HPFAR tells it.
    pub hpfar: u32,
    /// As of which generation.
    pub slots: u32,
}

/// Makes sense of a data abort at `ipa`, where there is no memory.
pub fn decode(context: &mut VcpuContext, abort: &DataAbort, ipa: Ipa, length: InstructionLength) -> Decoded {
    if abort.cache_maintenance {
        return Decoded::CacheMaintenance;
    }
    if abort.stage1_walk {
        return Decoded::Stage1Walk;
    }
    let Some(access) = abort.access else {
        return Decoded::Undescribed;
    };
    Decoded::Access(Pending::new(context, access, abort.write, ipa, length))
}

impl Pending {
    /// The access that a syndrome describes.
    #[inline(always)]
    pub fn new(
        context: &mut VcpuContext,
        access: AccessSyndrome,
        write: bool,
        ipa: Ipa,
        length: InstructionLength,
    ) -> Self {
        let direction = if write {
            Direction::Write { value: guest_registers::read(context, access.rt) }
        } else {
            Direction::Read { rt: access.rt, sign_extend: access.sign_extend }
        };
        Self { ipa, size: access.size, direction, big_endian: guest_registers::is_big_endian(context), length }
    }

    /// How many bytes: 1, 2 or 4.
    pub const fn bytes(&self) -> u32 {
        self.size.bytes()
    }

    /// The bytes of a store as the device sees them, zeros behind them. `None`: a load.
    pub fn written(&self) -> Option<[u8; 8]> {
        match self.direction {
            Direction::Write { value } => Some(self.in_memory_order(value)),
            Direction::Read { .. } => None,
        }
    }

    /// What the process is told of it.
    #[inline(always)]
    pub fn for_process(&self) -> Mmio {
        let written = self.written();
        Mmio {
            phys_addr: self.ipa.get(),
            data: written.unwrap_or([0; 8]),
            len: self.size.bytes(),
            is_write: written.is_some(),
        }
    }

    /// The number that a store writes to a little-endian device, such as the GIC. `None`: a load.
    pub fn written_value(&self) -> Option<u32> {
        let [a, b, c, d, ..] = self.written()?;
        Some(u32::from_le_bytes([a, b, c, d]))
    }

    /// Carries the access out: a load's register gets what `bytes` hold, of which as many count as the access is wide;
    /// the instruction is stepped over.
    #[inline(always)]
    pub fn finish(&self, context: &mut VcpuContext, bytes: [u8; 8]) {
        if let (Some(value), Direction::Read { rt, .. }) = (self.loaded(bytes), self.direction) {
            guest_registers::write(context, rt, value);
        }
        guest_registers::skip_instruction(context, self.length);
    }

    /// As many of an answer's bytes as the access is wide, the first in the low byte.
    pub fn answer(&self, bytes: [u8; 8]) -> u64 {
        u64::from_le_bytes(bytes) & (u64::MAX >> (64 - 8 * self.bytes()))
    }

    /// What a load's register gets of these bytes. `None`: a store.
    #[inline(always)]
    fn loaded(&self, bytes: [u8; 8]) -> Option<u32> {
        let Direction::Read { sign_extend, .. } = self.direction else { return None };
        let value = self.value_of(bytes);
        Some(match (self.size, sign_extend) {
            (AccessSize::Byte, true) => value as u8 as i8 as u32,
            (AccessSize::Halfword, true) => value as u16 as i16 as u32,
            _ => value,
        })
    }

    /// [`Self::finish`] with the answer of a little-endian device, such as the GIC.
    pub fn finish_with_value(&self, context: &mut VcpuContext, value: u32) {
        self.finish(context, u64::from(value).to_le_bytes());
    }

    /// The bytes in the order of their addresses.
    fn in_memory_order(&self, value: u32) -> [u8; 8] {
        let value = match (self.size, self.big_endian) {
            (AccessSize::Byte, _) => value & 0xff,
            (AccessSize::Halfword, false) => value & 0xffff,
            (AccessSize::Halfword, true) => u32::from((value as u16).swap_bytes()),
            (AccessSize::Word, false) => value,
            (AccessSize::Word, true) => value.swap_bytes(),
        };
        u64::from(value).to_le_bytes()
    }

    /// The number that bytes in the order of their addresses make, zero-extended.
    fn value_of(&self, [a, b, c, d, ..]: [u8; 8]) -> u32 {
        match (self.size, self.big_endian) {
            (AccessSize::Byte, _) => a.into(),
            (AccessSize::Halfword, false) => u16::from_le_bytes([a, b]).into(),
            (AccessSize::Halfword, true) => u16::from_be_bytes([a, b]).into(),
            (AccessSize::Word, false) => u32::from_le_bytes([a, b, c, d]),
            (AccessSize::Word, true) => u32::from_be_bytes([a, b, c, d]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::condition::InstructionLength::{Halfword, Word};
    use arch::psr::{Mode, Psr};
    use arch::syndrome::Trap;
    use proptest::prelude::*;

    const IPA: Ipa = Ipa::new(0x0900_0004);

    fn decoded(context: &mut VcpuContext, hsr: u32) -> Decoded {
        match Trap::from_hsr(hsr) {
            Some(Trap::DataAbort(abort)) => decode(context, &abort, IPA, InstructionLength::from_hsr(hsr)),
            other => panic!("{hsr:#x} is {other:?}"),
        }
    }

    fn guest(big_endian: bool) -> VcpuContext {
        let mut psr = Psr::in_mode(Mode::Svc);
        psr.set(Psr::E, big_endian);
        VcpuContext { pc: 0x8000, cpsr: psr.bits(), ..Default::default() }
    }

    /// A data abort with a valid syndrome: IL and ISV, SAS, SSE, SRT, WnR, translation fault of level 3.
    fn hsr(sas: u32, sse: bool, srt: u32, write: bool) -> u32 {
        0x24 << 26 | 1 << 25 | 1 << 24 | sas << 22 | u32::from(sse) << 21 | srt << 16 | u32::from(write) << 6 | 0x07
    }

    #[test]
    fn stores_arrive_as_bytes_in_memory_order() {
        for (sas, big_endian, expected) in [
            (0, false, [0x78, 0, 0, 0]),
            (0, true, [0x78, 0, 0, 0]),
            (1, false, [0x78, 0x56, 0, 0]),
            (1, true, [0x56, 0x78, 0, 0]),
            (2, false, [0x78, 0x56, 0x34, 0x12]),
            (2, true, [0x12, 0x34, 0x56, 0x78]),
        ] {
            let mut context = guest(big_endian);
            context.r[3] = 0x1234_5678;
            let Decoded::Access(access) = decoded(&mut context, hsr(sas, false, 3, true)) else { panic!() };
            assert_eq!(access.written().unwrap()[..4], expected, "SAS {sas} {big_endian}");
            assert_eq!(access.written_value(), Some(u32::from_le_bytes(expected)));
            assert_eq!((access.ipa, access.bytes()), (IPA, 1 << sas));
            access.finish(&mut context, [0xff; 8]);
            assert_eq!((context.pc, context.r[3]), (0x8004, 0x1234_5678));
        }
    }

    #[test]
    fn loads_extend_the_sign_after_the_bytes_are_in_order() {
        let bytes = [0x80, 0x91, 0x22, 0x33, 0xee, 0xee, 0xee, 0xee];
        for (sas, sign_extend, big_endian, expected) in [
            (0, false, false, 0x80),
            (0, true, true, 0xffff_ff80),
            (1, false, false, 0x9180),
            (1, true, false, 0xffff_9180),
            (1, true, true, 0xffff_8091),
            (2, true, false, 0x3322_9180),
            (2, false, true, 0x8091_2233),
        ] {
            let mut context = guest(big_endian);
            context.r[7] = 0xaaaa_aaaa;
            let Decoded::Access(access) = decoded(&mut context, hsr(sas, sign_extend, 7, false)) else { panic!() };
            assert_eq!((access.written(), access.written_value()), (None, None));
            access.finish(&mut context, bytes);
            assert_eq!((context.r[7], context.pc), (expected, 0x8004), "SAS {sas} {sign_extend} {big_endian}");
        }
    }

    #[test]
    fn what_is_no_plain_access_is_told_apart() {
        let plain = hsr(2, false, 0, false);
        let (isv, cache_maintenance, stage1_walk) = (1 << 24, 1 << 8, 1 << 7);
        let context = &mut guest(false);
        assert_eq!(decoded(context, plain & !isv), Decoded::Undescribed);
        assert_eq!(decoded(context, plain & !isv | cache_maintenance | 1 << 6), Decoded::CacheMaintenance);
        assert_eq!(decoded(context, plain & !isv | stage1_walk), Decoded::Stage1Walk);
        assert_eq!(decoded(context, hsr(3, false, 0, false)), Decoded::Undescribed); // SAS is reserved
        assert_eq!(decoded(context, hsr(2, false, 15, false)), Decoded::Undescribed); // a load to PC
    }

    #[test]
    fn the_instructions_length_counts() {
        let mut context = guest(false);
        context.cpsr |= Psr::T.bits();
        let Decoded::Access(access) = decoded(&mut context, hsr(2, false, 1, false) & !(1 << 25)) else { panic!() };
        assert_eq!(access.length, Halfword);
        access.finish_with_value(&mut context, 5);
        assert_eq!((context.r[1], context.pc), (5, 0x8002));
    }

    proptest! {
        #[test]
        fn what_is_stored_is_loaded_back(value: u32, sas in 0..3u32, big_endian: bool, sign_extend: bool, rt in 0..15u32) {
            let mut context = guest(big_endian);
            guest_registers::write(&mut context, Rt::new(rt).unwrap(), value);
            let Decoded::Access(store) = decoded(&mut context, hsr(sas, false, rt, true)) else { panic!() };
            let Decoded::Access(load) = decoded(&mut context, hsr(sas, sign_extend, rt, false)) else { panic!() };
            load.finish(&mut context, store.written().unwrap());
            let shift = 32 - (8 << sas);
            let expected = if sign_extend { ((value << shift) as i32 >> shift) as u32 } else { value << shift >> shift };
            prop_assert_eq!(guest_registers::read(&mut context, Rt::new(rt).unwrap()), expected);
            prop_assert_eq!(load.length, Word);
        }

        #[test]
        fn no_syndrome_panics(iss in 0..1u32 << 26, cpsr: u32, bytes: [u8; 8]) {
            let mut context = VcpuContext { cpsr, ..Default::default() };
            if let Decoded::Access(access) = decoded(&mut context, 0x24 << 26 | iss) {
                access.finish(&mut context, bytes);
            }
        }
    }
}
