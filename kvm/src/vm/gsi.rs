// SPDX-License-Identifier: GPL-2.0-only
//! Interrupts by the numbers that the process gives to them: see [`irq_routing`](crate::irq_routing).
//!
//! The table is under the interrupt controller's lock, so that nothing is injected by a table that was replaced.

use super::Vm;
use crate::atomic::Ordering;
use crate::host::{Host, Lock};
use crate::irq_routing::{Routing, RoutingError};
use crate::trace::{Event, Kind, note};
use crate::vgic::{Kicks, Queue};
use uapi::irq::IrqRoutingEntry;

impl<H: Host> Vm<H> {
    /// Whether the interrupt controller is made.
    pub fn has_initialised_irqchip(&self) -> bool {
        self.irqchip.lock().vgic.is_some()
    }

    /// Replaces the table of GSIs. May sleep.
    ///
    /// As in KVM the interrupt controller brings its own table along when it is made, so one that comes earlier is only looked at.
    pub fn set_gsi_routing(&self, host: &H, entries: &[IrqRoutingEntry]) -> Result<(), RoutingError> {
        let mut useless = Some(Routing::new(host, entries)?);
        self.with_resampled(|gsis| {
            let mut resampled = Queue::EMPTY;
            gsis.filter_map(|gsi| Routing::both_ways(&useless, gsi)).for_each(|intid| resampled.insert(intid));
            let mut irqchip = self.irqchip.lock();
            if let Some(vgic) = irqchip.vgic() {
                *vgic.resampled() = resampled;
                core::mem::swap(&mut irqchip.routing, &mut useless);
            }
        });
        // What is freed may sleep: not under the lock.
        drop(useless);
        Ok(())
    }

    /// Drives the input that a GSI leads to, level after level. Never sleeps.
    pub(crate) fn drive_gsi(&self, gsi: u32, levels: &[bool]) {
        let mut irqchip = self.irqchip.lock();
        let Some(intid) = Routing::interrupt(&irqchip.routing, gsi) else { return };
        let Some(vgic) = irqchip.vgic() else { return };
        let mut kicks = Kicks::NONE;
        for level in levels {
            // A pin that this interrupt controller does not have is connected to nothing.
            kicks |= vgic.set_level(0, intid, *level).unwrap_or(Kicks::NONE);
        }
        self.concerned.store(vgic.concerned().bits().into(), Ordering::Relaxed);
        drop(irqchip);
        for level in levels {
            self.note_line(gsi, intid, *level);
        }
        self.kick(kicks);
    }

    /// Tells that the line `gsi`, which leads to `intid`, has been driven.
    pub(crate) fn note_line(&self, gsi: u32, intid: u32, level: bool) {
        let (gsi, irq, level) = (gsi.into(), intid.into(), level.into());
        note(self.memory.host(), Kind::SetIrq, || Event::SetIrq { gsi, level, source: 0 });
        note(self.memory.host(), Kind::UpdatePending, || Event::UpdatePending { vcpu: 0, irq, level });
    }

    /// Says whether somebody resamples a GSI. Never sleeps.
    pub(crate) fn set_resampled(&self, gsi: u32, resampled: bool) {
        let mut irqchip = self.irqchip.lock();
        let Some(intid) = Routing::both_ways(&irqchip.routing, gsi) else { return };
        let Some(vgic) = irqchip.vgic() else { return };
        if resampled { vgic.resampled().insert(intid) } else { vgic.resampled().remove(intid) }
    }

    /// The GSI that an interrupt stands for.
    pub(crate) fn gsi_of(&self, intid: u32) -> Option<u32> {
        Routing::gsi_of(&self.irqchip.lock().routing, intid)
    }
}
