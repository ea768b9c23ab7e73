// SPDX-License-Identifier: GPL-2.0-only
//! Descriptors of the long-descriptor format, as stage 2 and Hyp mode's own stage 1 use it.
//!
//! A table is a page of 512 64-bit descriptors. Bit 0 says whether a descriptor is valid; bit 1, at levels 1 and 2, whether it
//! names a table or a block of memory (1 GiB, 2 MiB), and at level 3 must be set: a 4 KiB page. Stage 2 translates 40 bits
//! and begins at level 1 with two tables that lie one after the other, so its first index runs from 0 to 1023. Hyp mode's
//! stage 1 translates 32 bits and begins at level 1 with four entries.
//!
//! The two formats differ where they matter: stage 2 carries the memory type itself (MemAttr) and what the guest may do
//! (S2AP); Hyp's stage 1 names a type by its index in HMAIR and has one read-only bit. So they are two types.
//!
//! A live entry must not be changed to another that maps differently in one step, since a TLB may then hold both:
//! [`needs_break`](Stage2Descriptor::needs_break) says when the entry must be made invalid and the TLB told in between.
//!
//! Source: ARM DDI 0406C.d, B3.6 (format), B3.6.2 (attributes), B3.10.1 (changing live entries).

use crate::addr::{HostPhys, HypVirt, IPA_BITS, Ipa, PAGE_SIZE};
use crate::hyp_registers::HypMemory;

/// Descriptors in one table.
pub const ENTRIES: usize = 512;
/// Descriptors in the first level of stage 2: two concatenated tables.
pub const STAGE2_LEVEL1_ENTRIES: usize = 2 * ENTRIES;
/// Bytes that the first level of stage 2 takes, and its alignment.
pub const STAGE2_LEVEL1_SIZE: usize = 2 * PAGE_SIZE;

/// Output address bits of any descriptor, before alignment to the size of what it maps.
const ADDRESS: u64 = ((1 << 40) - 1) & !(PAGE_SIZE as u64 - 1);

const VALID: u64 = 1 << 0;
/// Table (levels 1 and 2) or page (level 3).
const TABLE_OR_PAGE: u64 = 1 << 1;
const SH: u64 = 0b11 << 8;
const SH_OUTER: u64 = 0b10 << 8;
const SH_INNER: u64 = 0b11 << 8;
const AF: u64 = 1 << 10;
const CONTIGUOUS: u64 = 1 << 52;
const XN: u64 = 1 << 54;
/// Bits that hardware ignores and software may use.
const SOFTWARE: u64 = 0xf << 55;

/// A level of translation. Level 0 does not exist in this format's 40 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    /// Level 1: entries of 1 GiB.
    One = 1,
    /// Level 2: entries of 2 MiB.
    Two = 2,
    /// Level 3: entries of 4 KiB.
    Three = 3,
}

impl Level {
    /// The level with this number, 1 to 3.
    pub const fn new(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::One),
            2 => Some(Self::Two),
            3 => Some(Self::Three),
            _ => None,
        }
    }

    /// How many low address bits one entry covers: 30, 21 or 12.
    pub const fn shift(self) -> u32 {
        match self {
            Self::One => 30,
            Self::Two => 21,
            Self::Three => 12,
        }
    }

    /// How many bytes one entry covers.
    pub const fn size(self) -> u64 {
        1 << self.shift()
    }

    /// The level below, or `None` at level 3.
    pub const fn next(self) -> Option<Self> {
        match self {
            Self::One => Some(Self::Two),
            Self::Two => Some(Self::Three),
            Self::Three => None,
        }
    }

    /// Which descriptor of this level's table stage 2 uses for `ipa`: below 1024 at level 1 (both concatenated tables
    /// counted through), below 512 elsewhere. Bits above the 40 of an IPA are ignored.
    pub const fn stage2_index(self, ipa: Ipa) -> usize {
        let ipa = ipa.get() & ((1 << IPA_BITS) - 1);
        let index = (ipa >> self.shift()) as usize;
        match self {
            Self::One => index & (STAGE2_LEVEL1_ENTRIES - 1),
            Self::Two | Self::Three => index & (ENTRIES - 1),
        }
    }

    /// Which descriptor of this level's table Hyp mode's stage 1 uses: below 4 at level 1, below 512 elsewhere.
    pub const fn hyp_index(self, address: HypVirt) -> usize {
        (address.get() >> self.shift()) as usize & (ENTRIES - 1)
    }
}

/// What a descriptor of either kind stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// Nothing: an access faults. Hardware ignores all other bits.
    Invalid,
    /// The table of the next level.
    Table(HostPhys),
    /// Memory: a block at levels 1 and 2, a page at level 3.
    Leaf(HostPhys),
    /// Valid, but reserved: a block at level 3. Hardware takes it as invalid.
    Reserved,
}

const fn decode(bits: u64, level: Level) -> Decoded {
    if bits & VALID == 0 {
        return Decoded::Invalid;
    }
    let upper = bits & TABLE_OR_PAGE != 0;
    match level {
        Level::Three if !upper => Decoded::Reserved,
        Level::One | Level::Two if upper => Decoded::Table(HostPhys::new(bits & ADDRESS)),
        _ => Decoded::Leaf(HostPhys::new(bits & ADDRESS & !(level.size() - 1))),
    }
}

/// The bits of a leaf that say block or page at a level, or `None` if `address` is not aligned to it or beyond 40 bits.
const fn leaf(address: HostPhys, level: Level) -> Option<u64> {
    let address = address.get();
    if address & !(ADDRESS & !(level.size() - 1)) != 0 {
        return None;
    }
    let kind = match level {
        Level::One | Level::Two => VALID,
        Level::Three => VALID | TABLE_OR_PAGE,
    };
    Some(address | kind)
}

const fn table(address: HostPhys) -> Option<u64> {
    if address.get() & !ADDRESS != 0 {
        return None;
    }
    Some(address.get() | VALID | TABLE_OR_PAGE)
}

/// Whether one valid entry may become another only by way of an invalid one, given the attribute bits that say what memory
/// it is. Rights, the access flag and software bits may change in place (with TLB maintenance after, where rights shrink).
const fn needs_break(old: u64, new: u64, level: Level, memory: u64) -> bool {
    match (decode(old, level), decode(new, level)) {
        (Decoded::Invalid | Decoded::Reserved, _) | (_, Decoded::Invalid | Decoded::Reserved) => false,
        (Decoded::Table(a), Decoded::Table(b)) => a.get() != b.get(),
        // The manual spares an address change between two read-only copies of the same bytes; that is not known here.
        (Decoded::Leaf(a), Decoded::Leaf(b)) => a.get() != b.get() || (old ^ new) & (memory | SH | CONTIGUOUS) != 0,
        (Decoded::Table(_), Decoded::Leaf(_)) | (Decoded::Leaf(_), Decoded::Table(_)) => true,
    }
}

/// Memory types that stage 2 gives out (MemAttr, B3.6.2). The guest gets the stricter of this and its own stage 1's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Stage2Memory {
    /// Strongly-ordered.
    StronglyOrdered = 0b0000,
    /// Device.
    Device = 0b0001,
    /// Normal, Non-cacheable in inner and outer caches.
    NonCacheable = 0b0101,
    /// Normal, Write-Back in inner and outer caches.
    WriteBack = 0b1111,
}

/// What a guest may do with a page (S2AP, named HAP in the manual, and XN).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stage2Access {
    /// Reads succeed.
    pub read: bool,
    /// Writes succeed.
    pub write: bool,
    /// Instructions may be fetched.
    pub execute: bool,
}

impl Stage2Access {
    /// Memory that a guest does with as it likes.
    pub const ALL: Self = Self { read: true, write: true, execute: true };
    /// Memory whose first write is of interest (dirty log, copy on write, read-only slots).
    pub const READ_EXECUTE: Self = Self { read: true, write: false, execute: true };
    /// Registers of a device.
    pub const READ_WRITE: Self = Self { read: true, write: true, execute: false };
}

/// One entry of a stage 2 table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Stage2Descriptor(u64);

impl Stage2Descriptor {
    const MEM_ATTR: u64 = 0xf << 2;
    const S2AP_READ: u64 = 1 << 6;
    const S2AP_WRITE: u64 = 1 << 7;

    /// No mapping.
    pub const INVALID: Self = Self(0);

    /// The entry with these bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The entry's 64 bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// An entry of level 1 or 2 that leads to the next level's table. `None`: not page aligned, or beyond 40 bits.
    pub const fn table(next: HostPhys) -> Option<Self> {
        match table(next) {
            Some(bits) => Some(Self(bits)),
            None => None,
        }
    }

    /// A block (levels 1 and 2) or page (level 3) with the access flag set. Normal memory is Inner Shareable, which the
    /// guest cannot weaken; Device and Strongly-ordered memory Outer Shareable, as it always is.
    ///
    /// `None`: not aligned to [`Level::size`], or beyond 40 bits.
    pub const fn leaf(to: HostPhys, level: Level, memory: Stage2Memory, access: Stage2Access) -> Option<Self> {
        let Some(bits) = leaf(to, level) else {
            return None;
        };
        let shareability = match memory {
            Stage2Memory::WriteBack | Stage2Memory::NonCacheable => SH_INNER,
            Stage2Memory::Device | Stage2Memory::StronglyOrdered => SH_OUTER,
        };
        let bits = bits | (memory as u64) << 2 | shareability | AF;
        Some(Self(bits).with_access(access))
    }

    /// A 4 KiB page of level 3.
    pub const fn page(to: HostPhys, memory: Stage2Memory, access: Stage2Access) -> Option<Self> {
        Self::leaf(to, Level::Three, memory, access)
    }

    /// A 2 MiB block of level 2.
    pub const fn block(to: HostPhys, memory: Stage2Memory, access: Stage2Access) -> Option<Self> {
        Self::leaf(to, Level::Two, memory, access)
    }

    /// What the entry means at `level`.
    pub const fn decode(self, level: Level) -> Decoded {
        decode(self.0, level)
    }

    /// Whether hardware looks at it at all.
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// What the guest may do, if the entry is a leaf.
    pub const fn access(self) -> Stage2Access {
        Stage2Access {
            read: self.0 & Self::S2AP_READ != 0,
            write: self.0 & Self::S2AP_WRITE != 0,
            execute: self.0 & XN == 0,
        }
    }

    /// The same leaf with other rights.
    pub const fn with_access(self, access: Stage2Access) -> Self {
        let mut bits = self.0 & !(Self::S2AP_READ | Self::S2AP_WRITE | XN);
        if access.read {
            bits |= Self::S2AP_READ;
        }
        if access.write {
            bits |= Self::S2AP_WRITE;
        }
        if !access.execute {
            bits |= XN;
        }
        Self(bits)
    }

    /// The leaf's memory type. `None`: a type that nothing here makes.
    pub const fn memory(self) -> Option<Stage2Memory> {
        Some(match (self.0 & Self::MEM_ATTR) >> 2 {
            0b0000 => Stage2Memory::StronglyOrdered,
            0b0001 => Stage2Memory::Device,
            0b0101 => Stage2Memory::NonCacheable,
            0b1111 => Stage2Memory::WriteBack,
            _ => return None,
        })
    }

    /// Whether the page was touched since the flag was last cleared; with it clear an access faults (access flag fault).
    pub const fn accessed(self) -> bool {
        self.0 & AF != 0
    }

    /// The same leaf with the access flag set or clear.
    pub const fn with_accessed(self, accessed: bool) -> Self {
        Self(if accessed { self.0 | AF } else { self.0 & !AF })
    }

    /// The four bits that hardware leaves to software.
    pub const fn software(self) -> u8 {
        ((self.0 & SOFTWARE) >> 55) as u8
    }

    /// The same entry with other software bits (the low four of `value`).
    pub const fn with_software(self, value: u8) -> Self {
        Self(self.0 & !SOFTWARE | (value as u64 & 0xf) << 55)
    }

    /// The entry that maps part `index` (0 to 511) of this block with the same attributes, for splitting it into a table
    /// of the next level. `None`: this is no block, or the index is too large.
    pub const fn part(self, level: Level, index: usize) -> Option<Self> {
        let (Decoded::Leaf(base), Some(below)) = (self.decode(level), level.next()) else {
            return None;
        };
        if index >= ENTRIES {
            return None;
        }
        let attributes = self.0 & !(ADDRESS | VALID | TABLE_OR_PAGE);
        match leaf(HostPhys::new(base.get() | (index as u64) << below.shift()), below) {
            Some(bits) => Some(Self(bits | attributes)),
            None => None,
        }
    }

    /// Whether a live table of `level` may go from this entry to `new` only by way of [`INVALID`](Self::INVALID) and TLB
    /// maintenance (break before make).
    pub const fn needs_break(self, new: Self, level: Level) -> bool {
        needs_break(self.0, new.0, level, Self::MEM_ATTR)
    }
}

/// What Hyp mode may do with a page of its own. Nothing is writable and executable; HSCTLR.WXN enforces it once more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HypAccess {
    /// Text.
    ReadExecute,
    /// Constants.
    Read,
    /// Data, stacks, devices.
    ReadWrite,
}

/// One entry of Hyp mode's own stage 1 tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct HypDescriptor(u64);

impl HypDescriptor {
    const ATTR_INDX: u64 = 0x7 << 2;
    /// AP\[1\]: SBO in the PL2 regime, which has no unprivileged side.
    const AP1: u64 = 1 << 6;
    const READ_ONLY: u64 = 1 << 7;

    /// No mapping.
    pub const INVALID: Self = Self(0);

    /// The entry with these bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The entry's 64 bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// An entry of level 1 or 2 that leads to the next level's table. `None`: not page aligned, or beyond 40 bits.
    pub const fn table(next: HostPhys) -> Option<Self> {
        match table(next) {
            Some(bits) => Some(Self(bits)),
            None => None,
        }
    }

    /// A block (levels 1 and 2) or page (level 3) with the access flag set, Inner Shareable if Normal. Device memory is
    /// never executable, whatever `access` says. `None`: not aligned to [`Level::size`], or beyond 40 bits.
    pub const fn leaf(to: HostPhys, level: Level, memory: HypMemory, access: HypAccess) -> Option<Self> {
        let Some(mut bits) = leaf(to, level) else {
            return None;
        };
        bits |= (memory as u64) << 2 | AF | Self::AP1;
        bits |= match memory {
            HypMemory::Normal | HypMemory::NonCacheable => SH_INNER,
            HypMemory::Device => SH_OUTER,
        };
        if !matches!(access, HypAccess::ReadWrite) {
            bits |= Self::READ_ONLY;
        }
        if !matches!(access, HypAccess::ReadExecute) || matches!(memory, HypMemory::Device) {
            bits |= XN;
        }
        Some(Self(bits))
    }

    /// A 4 KiB page of level 3.
    pub const fn page(to: HostPhys, memory: HypMemory, access: HypAccess) -> Option<Self> {
        Self::leaf(to, Level::Three, memory, access)
    }

    /// What the entry means at `level`.
    pub const fn decode(self, level: Level) -> Decoded {
        decode(self.0, level)
    }

    /// Whether hardware looks at it at all.
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// Whether Hyp mode may write, if the entry is a leaf.
    pub const fn is_writable(self) -> bool {
        self.0 & Self::READ_ONLY == 0
    }

    /// Whether Hyp mode may fetch instructions, if the entry is a leaf.
    pub const fn is_executable(self) -> bool {
        self.0 & XN == 0
    }

    /// Whether a live table of `level` may go from this entry to `new` only by way of [`INVALID`](Self::INVALID) and TLB
    /// maintenance (break before make).
    pub const fn needs_break(self, new: Self, level: Level) -> bool {
        needs_break(self.0, new.0, level, Self::ATTR_INDX)
    }
}

#[cfg(test)]
mod tests;
