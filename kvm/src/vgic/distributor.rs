// SPDX-License-Identifier: GPL-2.0-only
//! The distributor's registers.
//!
//! Most are arrays with a field for each interrupt: one bit, two, or a byte. The table [`BLOCKS`] says where each array
//! stands, how wide its fields are and which accesses reach it; an access is cut into fields, and [`read_field`] and
//! [`Vgic::write_field`] say what one means. What the table does not know (holes, identification registers, accesses of
//! another width or alignment) reads as zero and ignores writes, and so do fields of interrupts that the VM does not have.
//!
//! Source: ARM IHI 0048B, 4.1.4 (access widths) and 4.3.

use super::queue::bits;
use super::{Interrupt, Kicks, Vgic};
use crate::vgic::interrupt::{Flags, PRIORITY_MASK};
use arch::gic::{PRIVATE_IRQS, SGIS, gicd};
use core::ops::DerefMut;

/// A register, or an array of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Control,
    Type,
    Implementer,
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
    Priority,
    Targets,
    Configuration,
    SendSgi,
    ClearSgiPending,
    SetSgiPending,
}

/// Where a register stands and how it is reached.
#[derive(Clone, Copy)]
struct Block {
    register: Register,
    /// First byte.
    base: u32,
    /// Bits of an interrupt's field as a power of two: 1, 2 or 8, or 32 where the register is not about interrupts.
    log2_bits: u32,
    /// Can be reached by bytes; always by words.
    bytes: bool,
}

const fn word(register: Register, base: u32) -> Block {
    Block { register, base, log2_bits: 5, bytes: false }
}

const fn array(register: Register, base: u32, log2_bits: u32) -> Block {
    Block { register, base, log2_bits, bytes: log2_bits == 3 }
}

const fn sgi_array(register: Register, base: u32) -> Block {
    Block { register, base, log2_bits: 3, bytes: true }
}

const CONTROL: Block = word(Register::Control, gicd::CTLR);
const TYPE: Block = word(Register::Type, gicd::TYPER);
const IMPLEMENTER: Block = word(Register::Implementer, gicd::IIDR);
const GROUP: Block = array(Register::Group, gicd::IGROUPR, 0);
const SET_ENABLE: Block = array(Register::SetEnable, gicd::ISENABLER, 0);
const CLEAR_ENABLE: Block = array(Register::ClearEnable, gicd::ICENABLER, 0);
const SET_PENDING: Block = array(Register::SetPending, gicd::ISPENDR, 0);
const CLEAR_PENDING: Block = array(Register::ClearPending, gicd::ICPENDR, 0);
const SET_ACTIVE: Block = array(Register::SetActive, gicd::ISACTIVER, 0);
const CLEAR_ACTIVE: Block = array(Register::ClearActive, gicd::ICACTIVER, 0);
const PRIORITY: Block = array(Register::Priority, gicd::IPRIORITYR, 3);
const TARGETS: Block = array(Register::Targets, gicd::ITARGETSR, 3);
const CONFIGURATION: Block = array(Register::Configuration, gicd::ICFGR, 1);
const SEND_SGI: Block = word(Register::SendSgi, gicd::SGIR);
const CLEAR_SGI_PENDING: Block = sgi_array(Register::ClearSgiPending, gicd::CPENDSGIR);
const SET_SGI_PENDING: Block = sgi_array(Register::SetSgiPending, gicd::SPENDSGIR);

impl Block {
    /// The block that an access of `len` bytes at `offset` reaches.
    fn reached(offset: u32, len: u32) -> Option<&'static Self> {
        if !matches!(len, 1 | 4) || offset & (len - 1) != 0 {
            return None;
        }
        Self::at(offset).filter(|block| len == 4 || block.bytes)
    }

    /// The first interrupt whose field is at an offset of an array.
    fn first_field(&self, offset: u32) -> u32 {
        ((offset - self.base) * 8) >> self.log2_bits
    }

    /// What an access reaches that was found to reach the block.
    fn access(&self, offset: u32, len: u32) -> Access {
        let count = (len * 8) >> self.log2_bits;
        Access { register: self.register, first: self.first_field(offset), count, log2_bits: self.log2_bits }
    }

    /// The block that an offset is in. Arrays are a multiple of 128 bytes, and begin at one.
    #[inline(always)]
    fn at(offset: u32) -> Option<&'static Self> {
        match offset / 0x80 {
            0 => match offset & !3 {
                gicd::CTLR => Some(&CONTROL),
                gicd::TYPER => Some(&TYPE),
                gicd::IIDR => Some(&IMPLEMENTER),
                _ => None,
            },
            30 => match offset & !0xf {
                gicd::SGIR if offset & !3 == gicd::SGIR => Some(&SEND_SGI),
                gicd::CPENDSGIR => Some(&CLEAR_SGI_PENDING),
                gicd::SPENDSGIR => Some(&SET_SGI_PENDING),
                _ => None,
            },
            stretch => ARRAYS.get(stretch as usize),
        }
    }
}

/// The arrays by stretches of 128 bytes, the first of which is not theirs.
static ARRAYS: [Block; 26] = {
    let mut arrays = [GROUP; 26];
    let mut stretch = 0;
    while stretch < arrays.len() {
        arrays[stretch] = match stretch as u32 * 0x80 {
            ..gicd::ISENABLER => GROUP,
            gicd::ISENABLER..gicd::ICENABLER => SET_ENABLE,
            gicd::ICENABLER..gicd::ISPENDR => CLEAR_ENABLE,
            gicd::ISPENDR..gicd::ICPENDR => SET_PENDING,
            gicd::ICPENDR..gicd::ISACTIVER => CLEAR_PENDING,
            gicd::ISACTIVER..gicd::ICACTIVER => SET_ACTIVE,
            gicd::ICACTIVER..gicd::IPRIORITYR => CLEAR_ACTIVE,
            gicd::IPRIORITYR..gicd::ITARGETSR => PRIORITY,
            gicd::ITARGETSR..gicd::ICFGR => TARGETS,
            _ => CONFIGURATION,
        };
        stretch += 1;
    }
    arrays
};

/// An access that reaches a register: `count` fields from number `first` on.
struct Access {
    register: Register,
    first: u32,
    count: u32,
    log2_bits: u32,
}

impl Access {
    /// The interrupts' numbers, each with the place of its field in the value.
    fn fields(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let (first, log2_bits) = (self.first, self.log2_bits);
        (0..self.count).map(move |index| (first + index, index << log2_bits))
    }

    fn field_mask(&self) -> u32 {
        u32::MAX >> (32 - (1 << self.log2_bits))
    }
}

/// GICD_IIDR as KVM has it: Arm's implementer code, product 'K', revision 2 (groups can be written).
const IIDR: u32 = 0x4b00_243b;

impl<S: DerefMut<Target = [Interrupt]>> Vgic<S> {
    /// Whether an access to the distributor at this offset is about state that may be in the list registers of *other* vCPUs:
    /// pending and active state of SPIs. For an exact answer the caller makes the VM's vCPUs leave the guest, and be taken in
    /// by [`Self::exit`], before it emulates the access; they may enter again at once, for what they brought out is the state
    /// at a moment within the access. Without that, reads tell what was known at an earlier exit. Writes take effect when the
    /// vCPU comes out in either case, which the kick sees to.
    ///
    /// A guest that waits for another CPU's handler to end (Linux, in `synchronize_irq`) needs the exact answer.
    pub fn needs_others_out(offset: u32) -> bool {
        (gicd::ISPENDR..gicd::IPRIORITYR).contains(&offset) && offset % 0x80 >= PRIVATE_IRQS as u32 / 8
    }

    /// Whether a register's value depends on more than the distributor: on other vCPUs ([`Self::needs_others_out`]), or on lines that
    /// are sampled before they are looked at (GICD_ISPENDR, GICD_ICPENDR).
    pub fn shows_more(offset: u32) -> bool {
        (gicd::ISPENDR..gicd::ISACTIVER).contains(&offset) || Self::needs_others_out(offset)
    }

    /// A vCPU's read of `len` bytes at `offset` of the distributor. The value stands in the lower bits.
    pub fn dist_read(&self, vcpu: usize, offset: u32, len: u32) -> u32 {
        let Some(block) = Block::reached(offset, len) else { return 0 };
        match block.register {
            Register::Control => self.ctlr,
            Register::Type => (self.nr_irqs as u32 / 32 - 1) | (self.nr_vcpus as u32 - 1) << 5,
            Register::Implementer => IIDR,
            Register::SendSgi => 0,
            // Words of interrupts that the VM does not have are never changed from zero.
            Register::SetEnable | Register::ClearEnable => self.enabled.word(vcpu, (offset & 0x7f) * 8),
            _ => self.read_fields(vcpu, &block.access(offset, len)),
        }
    }

    fn read_fields(&self, vcpu: usize, access: &Access) -> u32 {
        access.fields().fold(0, |value, (intid, shift)| {
            let field = self
                .interrupt(vcpu, intid)
                .map_or(0, |interrupt| read_field(access.register, interrupt, intid, self.all_vcpus));
            value | field << shift
        })
    }

    /// [`Self::dist_write`] of a word, which is what guests do most.
    #[inline(never)]
    pub fn dist_write_word(&mut self, vcpu: usize, offset: u32, value: u32) -> Kicks {
        self.dist_write(vcpu, offset, 4, value)
    }

    /// A vCPU's write of `len` bytes at `offset` of the distributor.
    #[inline(always)]
    pub fn dist_write(&mut self, vcpu: usize, offset: u32, len: u32, value: u32) -> Kicks {
        if vcpu >= self.nr_vcpus {
            return Kicks::NONE;
        }
        // What guests write most often is found without the table.
        if len == 4 {
            match offset & !0x7c {
                _ if offset == gicd::SGIR => return self.write_sgir(vcpu, value),
                gicd::ISENABLER => return self.change_enabled(vcpu, (offset & 0x7f) * 8, |word| word | value),
                gicd::ICENABLER => return self.change_enabled(vcpu, (offset & 0x7f) * 8, |word| word & !value),
                _ => {}
            }
        }
        let Some(block) = Block::reached(offset, len) else { return Kicks::NONE };
        match block.register {
            Register::Control => {
                let ctlr = value & 3;
                if core::mem::replace(&mut self.ctlr, ctlr) == ctlr { Kicks::NONE } else { self.concerned() }
            }
            // Those that are not read-only take words only, which are answered above.
            Register::Type
            | Register::Implementer
            | Register::SendSgi
            | Register::SetEnable
            | Register::ClearEnable => Kicks::NONE,
            _ => self.write_fields(vcpu, &block.access(offset, len), value),
        }
    }

    fn write_fields(&mut self, vcpu: usize, access: &Access, value: u32) -> Kicks {
        match access.register {
            // Zeros change nothing.
            register
            @ (Register::SetPending | Register::ClearPending | Register::SetActive | Register::ClearActive) => {
                bits(value)
                    .fold(Kicks::NONE, |kicks, bit| kicks | self.write_field(register, vcpu, access.first + bit, 1))
            }
            register => {
                let mask = access.field_mask();
                access.fields().fold(Kicks::NONE, |kicks, (intid, shift)| {
                    kicks | self.write_field(register, vcpu, intid, value >> shift & mask)
                })
            }
        }
    }

    /// A write to a word of GICD_ISENABLER or GICD_ICENABLER.
    fn change_enabled(&mut self, vcpu: usize, first: u32, change: impl FnOnce(u32) -> u32) -> Kicks {
        if first as usize >= self.nr_irqs {
            return Kicks::NONE;
        }
        let changed = self.enabled.change(vcpu, first, change);
        bits(changed).fold(Kicks::NONE, |kicks, bit| kicks | self.settle(vcpu, first + bit))
    }

    /// A write to one interrupt's field.
    fn write_field(&mut self, register: Register, vcpu: usize, intid: u32, value: u32) -> Kicks {
        let sgi = (intid as usize) < SGIS;
        let private = (intid as usize) < PRIVATE_IRQS;
        let all = self.all_vcpus;
        let Some(interrupt) = self.interrupt_mut(vcpu, intid) else { return Kicks::NONE };
        let before = *interrupt;
        match register {
            Register::Group => interrupt.flags.set(Flags::GROUP1, value != 0),
            // SGIs have registers of their own for this, which know about sources.
            Register::SetPending if !sgi && value != 0 => interrupt.flags |= Flags::LATCH,
            Register::ClearPending if !sgi && value != 0 => {
                interrupt.flags.remove(Flags::LATCH.union(Flags::LOADED_LATCH));
            }
            Register::SetActive | Register::ClearActive if value != 0 => {
                let active = register == Register::SetActive;
                let on = if private { vcpu } else { self.home_of(vcpu, intid) };
                if let Some(interrupt) = self.interrupt_mut(vcpu, intid)
                    && interrupt.needs_order(active)
                {
                    interrupt.order_active(active, on as u8);
                    return self.settle(vcpu, intid);
                }
                return Kicks::NONE;
            }
            // Takes effect when it is next loaded: changing the priority of a pending interrupt may take its time (3.3).
            Register::Priority => interrupt.priority = value as u8 & PRIORITY_MASK,
            Register::Targets if !private => interrupt.targets = value as u8 & all,
            // The upper bit of two; the lower is reserved. SGIs are edge-triggered for good, PPIs here level-sensitive.
            Register::Configuration if !private => interrupt.flags.set(Flags::EDGE, value & 2 != 0),
            Register::ClearSgiPending => return self.clear_sources(vcpu, intid, value as u8),
            Register::SetSgiPending => return self.set_sources(vcpu, intid, value as u8),
            _ => return Kicks::NONE,
        }
        if *interrupt == before || register == Register::Priority { Kicks::NONE } else { self.settle(vcpu, intid) }
    }

    /// Where an SPI that software makes active is taken to be active: where it would go, or else here.
    fn home_of(&self, vcpu: usize, intid: u32) -> usize {
        self.interrupt(vcpu, intid).and_then(|interrupt| self.target(interrupt)).unwrap_or(vcpu)
    }
}

/// Whether a register can be reached by a word at `offset`, in a GIC of `nr_irqs` interrupts.
pub fn has_state_word(offset: u32, nr_irqs: usize) -> bool {
    let first = |block: &Block| if block.log2_bits == 5 { 0 } else { block.first_field(offset) };
    Block::reached(offset, 4).is_some_and(|block| (first(block) as usize) < nr_irqs)
}

/// What one interrupt's field reads.
fn read_field(register: Register, interrupt: &Interrupt, intid: u32, all: u8) -> u32 {
    match register {
        Register::Group => interrupt.is(Flags::GROUP1).into(),
        Register::SetPending | Register::ClearPending => interrupt.reads_pending().into(),
        Register::SetActive | Register::ClearActive => interrupt.reads_active().into(),
        Register::Priority => interrupt.priority.into(),
        // For private interrupts, the reader's own bit: Linux learns by it which CPU interface it has.
        Register::Targets => (interrupt.targets & all).into(),
        Register::Configuration => u32::from(interrupt.is(Flags::EDGE)) << 1,
        Register::ClearSgiPending | Register::SetSgiPending if (intid as usize) < SGIS => interrupt.sources().into(),
        _ => 0,
    }
}
