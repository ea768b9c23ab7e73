// SPDX-License-Identifier: GPL-2.0-only
//! The state of one interrupt.
//!
//! Pending has three roots, kept apart because they end apart: the *latch* (an edge, or a write to GICD_ISPENDR) ends when
//! the guest acknowledges; the *line* of a level-sensitive input ends when the device lowers it; the *sources* of an SGI end
//! one by one as each CPU's request is acknowledged (ARM IHI 0048B, 4.3.7, 4.3.15).
//!
//! While a vCPU runs with the interrupt in one of its list registers, the hardware knows better than this struct what has
//! become of it. [`Loaded`] then says which part of the state went into the register, and what others have ordered in the
//! meantime; both meet when the vCPU leaves the guest.

/// Priority bits that a list register can hold: the upper five.
pub(super) const PRIORITY_MASK: u8 = 0xf8;

/// One interrupt of a VM: an SPI, or one vCPU's SGI or PPI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupt {
    /// In group 1 by GICD_IGROUPR.
    pub(super) group1: bool,
    /// Edge-triggered by GICD_ICFGR; level-sensitive otherwise.
    pub(super) edge: bool,
    /// An edge came in, or software set it pending; not yet acknowledged. Not for SGIs.
    pub(super) latch: bool,
    /// The input's level. Only followed while level-sensitive.
    pub(super) line: bool,
    /// Acknowledged, not yet deactivated.
    pub(super) active: bool,
    /// The vCPU whose interface it is active in.
    pub(super) active_on: u8,
    /// The priority at which it was acknowledged: its place in the order of ends. 0xff where software made it active.
    pub(super) active_priority: u8,
    /// The sending vCPU of the active SGI.
    pub(super) active_source: u8,
    /// vCPUs whose request for this SGI waits, one bit each.
    pub(super) sources: u8,
    /// Priority; lower is more urgent. Only the upper five bits are implemented.
    pub(super) priority: u8,
    /// vCPUs that an SPI may go to, one bit each.
    pub(super) targets: u8,
    /// The physical interrupt that the guest's deactivation also deactivates.
    pub(super) hardware: Option<u16>,
    /// The vCPU whose queue it stands in.
    pub(super) queued: Option<u8>,
    /// Its stay in a list register, while a vCPU is in the guest with it.
    pub(super) loaded: Option<Loaded>,
}

/// An interrupt's stay in a list register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    /// Whose list register.
    pub vcpu: u8,
    /// The pending bit there stands for a latch (or for an SGI's source), which returns if it is not acknowledged. Cleared
    /// from outside by GICD_ICPENDR.
    pub latch: bool,
    /// What GICD_ISACTIVER or GICD_ICACTIVER ordered from outside.
    pub active: Option<bool>,
}

impl Interrupt {
    /// An SGI of a vCPU after reset: always edge-triggered.
    pub(super) const fn sgi(vcpu: u8) -> Self {
        Self { edge: true, ..Self::ppi(vcpu) }
    }

    /// A PPI of a vCPU after reset: level-sensitive.
    pub(super) const fn ppi(vcpu: u8) -> Self {
        Self { targets: 1 << (vcpu & 7), ..Self::spi() }
    }

    /// An SPI after reset: level-sensitive, going nowhere.
    pub(super) const fn spi() -> Self {
        Self {
            group1: false,
            edge: false,
            latch: false,
            line: false,
            active: false,
            active_on: 0,
            active_priority: 0,
            active_source: 0,
            sources: 0,
            priority: 0,
            targets: 0,
            hardware: None,
            queued: None,
            loaded: None,
        }
    }

    /// Waits for somebody to acknowledge it, as far as is known outside of list registers.
    pub(super) fn pending(&self) -> bool {
        self.latch || self.sources != 0 || (self.line && !self.edge)
    }

    /// What GICD_ISPENDR reads: also what waits in a list register.
    pub(super) fn reads_pending(&self) -> bool {
        self.pending() || self.loaded.is_some_and(|loaded| loaded.latch)
    }

    /// Could be signalled if it is enabled and the distributor forwards its group.
    pub(super) fn waits(&self) -> bool {
        self.pending() && !self.active
    }

    /// What GICD_ISACTIVER reads: as of the last exit of the vCPU that has it loaded, or as ordered since.
    pub(super) fn reads_active(&self) -> bool {
        self.loaded.and_then(|loaded| loaded.active).unwrap_or(self.active)
    }

    /// Whether [`Self::order_active`] would change something, as far as is known: what is loaded may be either by now.
    pub(super) fn needs_order(&self, active: bool) -> bool {
        self.loaded.is_some() || self.active != active
    }

    /// Makes it active on vCPU `on`, or inactive: at once, or when the vCPU that has it loaded comes out.
    pub(super) fn order_active(&mut self, active: bool, on: u8) {
        match &mut self.loaded {
            Some(loaded) => loaded.active = Some(active),
            None => {
                if active && !self.active {
                    self.active_on = on;
                    self.active_source = on;
                    self.active_priority = u8::MAX;
                }
                self.active = active;
            }
        }
    }
}
