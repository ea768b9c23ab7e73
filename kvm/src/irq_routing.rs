// SPDX-License-Identifier: GPL-2.0-only
//! From the numbers that a process gives to interrupts (GSIs) to pins of the interrupt controller, and back.
//!
//! Until a process says otherwise, GSI n is pin n, which is SPI n, interrupt n + 32. With KVM_SET_GSI_ROUTING it gives a table of
//! its own. As there is one interrupt controller, a GSI leads to one pin at most; several may lead to the same pin, and the last of
//! them in the process's order is the one that counts on the way back, from the end of an interrupt to its GSI. A GSI may also lead to
//! a message, which goes nowhere, for a GICv2 takes no messages.
//!
//! Source: Documentation/virt/kvm/api.rst of Linux 5.6 (KVM_SET_GSI_ROUTING).

use crate::host::{Host, OutOfMemory};
use arch::gic::PRIVATE_IRQS;
use uapi::irq::{IrqRoutingEntry, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID};

/// How many GSIs there can be, and entries in a process's table: what KVM_CAP_IRQ_ROUTING answers.
pub const GSIS: usize = 4096;
/// How many pins an interrupt controller can have: all SPIs of a GICv2.
pub const PINS: usize = 1020 - PRIVATE_IRQS;

/// A GSI that leads nowhere, or a pin that none leads to.
const NOTHING: u16 = u16::MAX;
/// A GSI that leads to a message.
const MESSAGE: u16 = u16::MAX - 1;

/// Why there is no such table. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingError {
    /// An entry makes no sense, or says something else of a GSI that another entry has (EINVAL).
    Invalid,
    /// No memory (ENOMEM).
    OutOfMemory,
}

impl From<OutOfMemory> for RoutingError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// A process's table.
pub struct Routing<H: Host> {
    /// Where each GSI leads.
    pins: H::Array<u16>,
    /// Which GSI each pin stands for.
    gsis: H::Array<u16>,
}

impl<H: Host> Routing<H> {
    /// The table that a process gives. May sleep.
    pub fn new(host: &H, entries: &[IrqRoutingEntry]) -> Result<Self, RoutingError> {
        if entries.len() > GSIS {
            return Err(RoutingError::Invalid);
        }
        let mut routing = Self { pins: host.array(GSIS, |_| NOTHING)?, gsis: host.array(PINS, |_| NOTHING)? };
        entries.iter().try_for_each(|entry| routing.add(entry)).ok_or(RoutingError::Invalid)?;
        Ok(routing)
    }

    fn add(&mut self, entry: &IrqRoutingEntry) -> Option<()> {
        let place = self.pins.get_mut(entry.gsi as usize).filter(|place| **place == NOTHING)?;
        *place = match entry.route_type {
            KVM_IRQ_ROUTING_IRQCHIP => {
                let [irqchip, pin, ..] = entry.route;
                let gsi = self.gsis.get_mut(pin as usize).filter(|_| irqchip == 0 && entry.flags == 0)?;
                *gsi = entry.gsi as u16;
                pin as u16
            }
            KVM_IRQ_ROUTING_MSI if entry.flags & !KVM_MSI_VALID_DEVID == 0 => MESSAGE,
            _ => return None,
        };
        Some(())
    }

    fn pin(&self, gsi: u32) -> Option<u32> {
        self.pins.get(gsi as usize).filter(|pin| !matches!(**pin, NOTHING | MESSAGE)).map(|pin| (*pin).into())
    }

    fn gsi(&self, pin: u32) -> Option<u32> {
        self.gsis.get(pin as usize).filter(|gsi| **gsi != NOTHING).map(|gsi| (*gsi).into())
    }

    /// The interrupt that a GSI leads to by a process's table, or, where it gave none, by KVM's.
    pub fn interrupt(routing: &Option<Self>, gsi: u32) -> Option<u32> {
        let pin = match routing {
            Some(routing) => routing.pin(gsi)?,
            None => gsi,
        };
        pin.checked_add(PRIVATE_IRQS as u32)
    }

    /// The GSI that an interrupt stands for.
    pub fn gsi_of(routing: &Option<Self>, intid: u32) -> Option<u32> {
        let pin = intid.checked_sub(PRIVATE_IRQS as u32)?;
        match routing {
            Some(routing) => routing.gsi(pin),
            None => Some(pin),
        }
    }

    /// The interrupt that a GSI leads to, if that stands for it in turn.
    pub fn both_ways(routing: &Option<Self>, gsi: u32) -> Option<u32> {
        Self::interrupt(routing, gsi).filter(|intid| Self::gsi_of(routing, *intid) == Some(gsi))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    type Table = Routing<fake::Host>;

    fn pin(gsi: u32, irqchip: u32, pin: u32) -> IrqRoutingEntry {
        let route = [irqchip, pin, 0, 0, 0, 0, 0, 0];
        IrqRoutingEntry { gsi, route_type: KVM_IRQ_ROUTING_IRQCHIP, route, ..Default::default() }
    }

    fn message(gsi: u32, flags: u32) -> IrqRoutingEntry {
        IrqRoutingEntry { gsi, route_type: KVM_IRQ_ROUTING_MSI, flags, ..Default::default() }
    }

    fn table(entries: &[IrqRoutingEntry]) -> Option<Table> {
        Some(Table::new(&fake::Host::new(), entries).unwrap())
    }

    #[test]
    fn without_a_table_each_gsi_is_the_spi_of_its_number() {
        for gsi in [0, 1, 987, 988, 4095] {
            assert_eq!(Table::interrupt(&None, gsi), Some(gsi + 32));
            assert_eq!(Table::gsi_of(&None, gsi + 32), Some(gsi));
        }
        assert_eq!(Table::interrupt(&None, u32::MAX), None);
        assert_eq!(Table::gsi_of(&None, 31), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn a_table_says_all_and_its_last_word_counts_on_the_way_back() {
        let routing = table(&[pin(4095, 0, 987), pin(0, 0, 7), message(3, 1), pin(9, 0, 7), pin(8, 0, 0)]);
        for (gsi, intid) in
            [(4095, Some(1019)), (0, Some(39)), (9, Some(39)), (8, Some(32)), (3, None), (7, None), (4096, None)]
        {
            assert_eq!(Table::interrupt(&routing, gsi), intid, "GSI {gsi}");
        }
        for (intid, gsi) in [(1019, Some(4095)), (39, Some(9)), (32, Some(8)), (33, None), (1020, None), (31, None)] {
            assert_eq!(Table::gsi_of(&routing, intid), gsi, "interrupt {intid}");
        }
        for (gsi, intid) in [(4095, Some(1019)), (9, Some(39)), (0, None), (3, None), (7, None)] {
            assert_eq!(Table::both_ways(&routing, gsi), intid, "GSI {gsi}");
        }
        let nothing = table(&[]);
        assert_eq!((Table::interrupt(&nothing, 0), Table::gsi_of(&nothing, 32)), (None, None));
    }

    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn entries_that_make_no_sense_are_refused() {
        let flagged = IrqRoutingEntry { flags: 1, ..pin(1, 0, 1) };
        let adapter = IrqRoutingEntry { route_type: 3, ..pin(1, 0, 1) };
        let typeless = IrqRoutingEntry { route_type: 0, ..pin(1, 0, 1) };
        let alone = [
            pin(4096, 0, 1),
            pin(u32::MAX, 0, 1),
            pin(1, 1, 1),
            pin(1, 0, 988),
            flagged,
            adapter,
            typeless,
            message(1, 2),
        ];
        for entry in alone {
            let made = Table::new(&fake::Host::new(), &[pin(2, 0, 2), entry]);
            assert_eq!(made.err(), Some(RoutingError::Invalid), "{entry:?}");
        }
        for pair in [[pin(1, 0, 1), pin(1, 0, 2)], [pin(1, 0, 1), message(1, 0)], [message(1, 0), message(1, 0)]] {
            assert_eq!(Table::new(&fake::Host::new(), &pair).err(), Some(RoutingError::Invalid), "{pair:?}");
        }
        let many: std::vec::Vec<_> = (0..4097).map(|gsi| pin(gsi, 0, 0)).collect();
        assert_eq!(Table::new(&fake::Host::new(), &many).err(), Some(RoutingError::Invalid));
        assert!(Table::new(&fake::Host::new(), &many[..4096]).is_ok());
    }

    #[test]
    #[cfg_attr(miri, ignore = "it would take Miri minutes")]
    fn memory_may_be_short() {
        let host = fake::Host::new();
        for allowed in 0..2 {
            host.allow_allocations(Some(allowed));
            assert_eq!(Table::new(&host, &[pin(0, 0, 0)]).err(), Some(RoutingError::OutOfMemory));
        }
    }
}
