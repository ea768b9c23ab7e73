// SPDX-License-Identifier: GPL-2.0-only
//! The state of one interrupt.
//!
//! Pending has three roots, kept apart because they end apart: the *latch* (an edge, or a write to GICD_ISPENDR) ends when
//! the guest acknowledges; the *line* of a level-sensitive input ends when the device lowers it; the *sources* of an SGI end
//! one by one as each CPU's request is acknowledged (ARM IHI 0048B, 4.3.7, 4.3.15).
//!
//! While a vCPU runs with the interrupt in one of its list registers, the hardware knows better than this struct what has
//! become of it. `LOADED` and the flags after it then say which part of the state went into the register, and what others
//! have ordered in the meantime; both meet when the vCPU leaves the guest.
//!
//! Each entry into a guest and each SGI looks at a few of these, so the struct is small, and questions of several parts are
//! one look at one word.

use arch::gic::SGIS;
use bitflags::bitflags;

/// Priority bits that a list register can hold: the upper five.
pub(super) const PRIORITY_MASK: u8 = 0xf8;

bitflags! {
    /// What is true of an interrupt.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Flags: u32 {
        /// In group 1 by GICD_IGROUPR.
        const GROUP1 = 1 << 0;
        /// Edge-triggered by GICD_ICFGR; level-sensitive otherwise.
        const EDGE = 1 << 1;
        /// An edge came in, or software set it pending; not yet acknowledged. Not for SGIs.
        const LATCH = 1 << 2;
        /// The input's level. Only followed while level-sensitive.
        const LINE = 1 << 3;
        /// Acknowledged, not yet deactivated.
        const ACTIVE = 1 << 4;
        /// The guest's deactivation also deactivates the physical interrupt `physical`.
        const HARDWARE = 1 << 5;
        /// The process made it active, and it was in no list register since: by whom and at which priority it was acknowledged is a
        /// guess, and an SGI's sender is not known. Says nothing unless `ACTIVE`.
        const RESTORED = 1 << 6;
        /// It is in a list register of vCPU `loaded_in`, who is in the guest with it.
        const LOADED = 1 << 8;
        /// While loaded: the pending bit there stands for a latch (or for an SGI's source), which returns if it is not
        /// acknowledged. Cleared from outside by GICD_ICPENDR.
        const LOADED_LATCH = 1 << 9;
        /// While loaded: GICD_ISACTIVER ordered it active from outside.
        const ORDERED_ACTIVE = 1 << 10;
        /// While loaded: GICD_ICACTIVER ordered it inactive from outside.
        const ORDERED_INACTIVE = 1 << 11;
        /// vCPUs whose request for this SGI waits, one bit each.
        const SOURCES = 0xff << SOURCES_SHIFT;
    }
}

const SOURCES_SHIFT: u32 = 24;

/// All that belongs to a stay in a list register.
const STAY: Flags =
    Flags::LOADED.union(Flags::LOADED_LATCH).union(Flags::ORDERED_ACTIVE).union(Flags::ORDERED_INACTIVE);

/// No vCPU.
const NOBODY: u8 = u8::MAX;

/// One interrupt of a VM: an SPI, or one vCPU's SGI or PPI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupt {
    pub(super) flags: Flags,
    /// The physical interrupt that it is tied to, if `HARDWARE`.
    physical: u16,
    /// Priority; lower is more urgent. Only the upper five bits are implemented.
    pub(super) priority: u8,
    /// vCPUs that an SPI may go to, one bit each.
    pub(super) targets: u8,
    /// The vCPU whose queue it stands in.
    queued: u8,
    /// Whose list register it is in, if `LOADED`.
    loaded_in: u8,
    /// The vCPU whose interface it is active in.
    pub(super) active_on: u8,
    /// The priority at which it was acknowledged: its place in the order of ends. 0xff where software made it active.
    pub(super) active_priority: u8,
    /// The sending vCPU of the active SGI.
    pub(super) active_source: u8,
}

impl Interrupt {
    /// An SGI of a vCPU after reset: always edge-triggered.
    pub(super) const fn sgi(vcpu: u8) -> Self {
        Self { flags: Flags::EDGE, ..Self::ppi(vcpu) }
    }

    /// A PPI of a vCPU after reset: level-sensitive.
    pub(super) const fn ppi(vcpu: u8) -> Self {
        Self { targets: 1 << (vcpu & 7), ..Self::spi() }
    }

    /// An SPI after reset: level-sensitive, going nowhere.
    pub(super) const fn spi() -> Self {
        Self {
            flags: Flags::empty(),
            physical: 0,
            priority: 0,
            targets: 0,
            queued: NOBODY,
            loaded_in: 0,
            active_on: 0,
            active_priority: 0,
            active_source: 0,
        }
    }

    /// Whether all of `flags` are true of it.
    #[inline(always)]
    pub(super) fn is(&self, flags: Flags) -> bool {
        self.flags.contains(flags)
    }

    /// Makes `flag` true or not; whether it was.
    #[inline(always)]
    pub(super) fn set(&mut self, flag: Flags, on: bool) -> bool {
        let was = self.is(flag);
        self.flags.set(flag, on);
        was
    }

    /// vCPUs whose request for this SGI waits, one bit each.
    #[inline(always)]
    pub(super) fn sources(&self) -> u8 {
        (self.flags.bits() >> SOURCES_SHIFT) as u8
    }

    /// Adds requests for this SGI.
    #[inline(always)]
    pub(super) fn add_sources(&mut self, sources: u8) {
        self.flags |= Flags::from_bits_retain(u32::from(sources) << SOURCES_SHIFT);
    }

    /// Takes requests for this SGI away.
    #[inline(always)]
    pub(super) fn remove_sources(&mut self, sources: u8) {
        self.flags.remove(Flags::from_bits_retain(u32::from(sources) << SOURCES_SHIFT));
    }

    /// The physical interrupt that the guest's deactivation also deactivates.
    pub(super) fn hardware(&self) -> Option<u16> {
        self.is(Flags::HARDWARE).then_some(self.physical)
    }

    /// Ties it to a physical interrupt, or to none.
    pub(super) fn set_hardware(&mut self, physical: Option<u16>) {
        self.flags.set(Flags::HARDWARE, physical.is_some());
        self.physical = physical.unwrap_or(0);
    }

    /// The vCPU whose queue it stands in.
    #[cfg(test)]
    pub(super) fn queued(&self) -> Option<u8> {
        (self.queued != NOBODY).then_some(self.queued)
    }

    /// Notes whose queue it stands in from now on; whose it was, as a number that is no vCPU's if it was nobody's.
    #[inline(always)]
    pub(super) fn move_to(&mut self, queue: Option<u8>) -> (usize, usize) {
        let after = queue.unwrap_or(NOBODY);
        (core::mem::replace(&mut self.queued, after).into(), after.into())
    }

    /// Whose list register it is in.
    #[inline(always)]
    pub(super) fn loaded_in(&self) -> Option<u8> {
        self.is(Flags::LOADED).then_some(self.loaded_in)
    }

    /// It went into a list register; `latch` as for [`Flags::LOADED_LATCH`].
    #[inline(always)]
    pub(super) fn load(&mut self, vcpu: u8, latch: bool) {
        self.loaded_in = vcpu;
        self.flags |= if latch { Flags::LOADED.union(Flags::LOADED_LATCH) } else { Flags::LOADED };
    }

    /// It is in no list register any more: what was true of its stay there. `None`: it was in none.
    #[inline(always)]
    pub(super) fn unload(&mut self) -> Option<Flags> {
        let stay = self.flags & STAY;
        self.flags.remove(STAY.union(Flags::RESTORED));
        stay.contains(Flags::LOADED).then_some(stay)
    }

    /// Waits for somebody to acknowledge it, as far as is known outside of list registers.
    #[inline(always)]
    pub(super) fn pending(&self) -> bool {
        self.flags.intersects(Flags::LATCH.union(Flags::SOURCES))
            || self.flags & Flags::LINE.union(Flags::EDGE) == Flags::LINE
    }

    /// What GICD_ISPENDR reads: also what waits in a list register.
    #[inline(always)]
    pub(super) fn reads_pending(&self) -> bool {
        self.is(Flags::LOADED_LATCH) || self.pending()
    }

    /// Active, with a sender that no list register could name. Its end is one of those that find no register.
    #[inline(always)]
    pub(super) fn has_lost_sender(&self, intid: u32) -> bool {
        self.is(Flags::ACTIVE.union(Flags::RESTORED)) && (intid as usize) < SGIS
    }

    /// What GICD_ISACTIVER reads: as of the last exit of the vCPU that has it loaded, or as ordered since.
    pub(super) fn reads_active(&self) -> bool {
        self.is(Flags::ORDERED_ACTIVE) || self.is(Flags::ACTIVE) && !self.is(Flags::ORDERED_INACTIVE)
    }

    /// Whether [`Self::order_active`] would change something, as far as is known: what is loaded may be either by now.
    pub(super) fn needs_order(&self, active: bool) -> bool {
        self.is(Flags::LOADED) || self.is(Flags::ACTIVE) != active
    }

    /// Makes it active on vCPU `on`, or inactive: at once, or when the vCPU that has it loaded comes out.
    pub(super) fn order_active(&mut self, active: bool, on: u8) {
        if self.is(Flags::LOADED) {
            self.flags.set(Flags::ORDERED_ACTIVE, active);
            self.flags.set(Flags::ORDERED_INACTIVE, !active);
        } else if self.set(Flags::ACTIVE, active) != active && active {
            self.flags.remove(Flags::RESTORED);
            self.active_on = on;
            self.active_source = on;
            self.active_priority = u8::MAX;
        }
    }
}
