// SPDX-License-Identifier: GPL-2.0-only
//! Events that are interrupts (KVM_IRQFD).
//!
//! A plain one is an edge: each time that the event comes, the input that its GSI leads to goes up and down again. One that
//! *resamples* is for level-sensitive interrupts: the event raises the line, and the line stays up until the guest ends the interrupt.
//! Then it falls, and the process is told by a second event, so that it looks at its device again and, if that still wants an interrupt,
//! lets the first event come once more. All that resample one GSI share its line: whoever raised it, the end of the interrupt lowers
//! it once and tells all.
//!
//! The line falls under the interrupt controller's lock, in the same step in which the end becomes known
//! ([`Vgic::resampled`](crate::vgic::Vgic)), so that nobody finds it up still: neither this vCPU, nor another one that the interrupt
//! goes to from now on. After that the process is told.
//!
//! [`Vm::irqfd_event`] runs wherever the event is made to come, interrupt handlers included. All else runs in a thread that may sleep,
//! under the lock of the list. An end of an interrupt is noted with interrupts off ([`VcpuState::ended`]) and told when they are on
//! again, before the vCPU enters its guest once more.
//!
//! [`VcpuState::ended`]: crate::vcpu::VcpuState::ended
//!
//! Source: Documentation/virt/kvm/api.rst of Linux 5.6 (KVM_IRQFD).

use crate::host::{EventFd, Host, Lock, OutOfMemory, Watch};
use crate::trace::{Event, Kind, note};
use crate::vgic::Queue;
use crate::vm::Vm;
use arch::gic::PRIVATE_IRQS;

/// Why an irqfd is not assigned. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqfdError {
    /// The event is an interrupt of this VM already (EBUSY).
    Busy,
    /// No memory (ENOMEM).
    OutOfMemory,
}

impl From<OutOfMemory> for IrqfdError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// An event that is an interrupt.
pub struct Irqfd<H: Host> {
    /// The event.
    pub event: H::EventFd,
    /// Which interrupt.
    pub gsi: u32,
    /// What tells the process that the interrupt has ended, if it is one that resamples.
    pub resample: Option<H::EventFd>,
    /// What sees the event come: made for this `gsi`, and for `resample` or none.
    pub watch: H::Watch,
}

/// Places for irqfds, of which some are empty.
struct Places<H: Host>(Option<H::Array<Option<Irqfd<H>>>>);

impl<H: Host> Places<H> {
    fn all(&self) -> &[Option<Irqfd<H>>] {
        self.0.as_deref().unwrap_or_default()
    }

    fn all_mut(&mut self) -> &mut [Option<Irqfd<H>>] {
        self.0.as_deref_mut().unwrap_or_default()
    }

    /// The GSIs that somebody resamples, some of them more than once.
    fn resampled(&self) -> impl Iterator<Item = u32> + '_ {
        self.all().iter().flatten().filter(|irqfd| irqfd.resample.is_some()).map(|irqfd| irqfd.gsi)
    }

    /// The events that tell of the end of a GSI's interrupt.
    fn resamplers(&self, gsi: u32) -> impl Iterator<Item = &H::EventFd> {
        self.all().iter().flatten().filter(move |irqfd| irqfd.gsi == gsi).filter_map(|irqfd| irqfd.resample.as_ref())
    }

    /// An empty place. May sleep.
    fn empty(&mut self, host: &H) -> Result<&mut Option<Irqfd<H>>, OutOfMemory> {
        let len = self.all().len();
        if self.all().iter().all(Option::is_some) {
            let mut before = self.all_mut().iter_mut();
            let longer = host.array(len.saturating_mul(2).max(4), |_| before.next().and_then(Option::take))?;
            self.0 = Some(longer);
        }
        self.all_mut().iter_mut().find(|place| place.is_none()).ok_or(OutOfMemory)
    }
}

/// A VM's irqfds.
pub struct Irqfds<H: Host> {
    places: H::Mutex<Places<H>>,
}

impl<H: Host> Default for Irqfds<H> {
    fn default() -> Self {
        Self { places: Lock::new(Places(None)) }
    }
}

impl<H: Host> Vm<H> {
    /// From now on an event is an interrupt; if it has come already, it is one now. The interrupt controller is made. May sleep.
    pub fn assign_irqfd(&self, host: &H, irqfd: Irqfd<H>) -> Result<(), IrqfdError> {
        let mut places = self.irqfds.places.lock();
        if places.all().iter().flatten().any(|other| other.event == irqfd.event) {
            return Err(IrqfdError::Busy);
        }
        let place = places.empty(host)?;
        let Irqfd { gsi, watch, resample, .. } = place.insert(irqfd);
        let resamples = resample.is_some();
        if resamples {
            self.set_resampled(*gsi, true);
        }
        if watch.start() {
            self.irqfd_event(*gsi, resamples);
        }
        Ok(())
    }

    /// From now on an event is no interrupt, if it is one by this GSI. May sleep.
    pub fn deassign_irqfd(&self, event: &H::EventFd, gsi: u32) {
        self.take_out(|irqfd| irqfd.event == *event && irqfd.gsi == gsi);
    }

    /// Nobody can make an event come any more. May sleep.
    pub fn irqfd_closed(&self, event: &H::EventFd) {
        self.take_out(|irqfd| irqfd.event == *event);
    }

    /// From now on no event is an interrupt. May sleep.
    pub fn release_irqfds(&self) {
        while self.take_out(|_| true) {}
    }

    /// Takes one irqfd out that is meant. False: there is none.
    fn take_out(&self, is_meant: impl Fn(&Irqfd<H>) -> bool) -> bool {
        let taken = {
            let mut places = self.irqfds.places.lock();
            places.all_mut().iter_mut().find_map(|place| place.take_if(|irqfd| is_meant(irqfd)))
        };
        let Some(Irqfd { gsi, resample, watch, .. }) = taken else { return false };
        // Not under the lock, since this waits for calls that may want it.
        drop(watch);
        if resample.is_some() {
            let places = self.irqfds.places.lock();
            if places.resamplers(gsi).next().is_none() {
                // Nobody is left who would be told to look at it again.
                self.set_resampled(gsi, false);
                self.drive_gsi(gsi, &[false]);
            }
        }
        true
    }

    /// An event has come that is the interrupt `gsi`. Never sleeps; callable in interrupt handlers.
    pub fn irqfd_event(&self, gsi: u32, resamples: bool) {
        self.drive_gsi(gsi, if resamples { &[true] } else { &[true, false] });
    }

    /// Does something with the GSIs that somebody resamples, some of which come more than once. Nobody begins or ends to
    /// resample one meanwhile. May sleep.
    pub(crate) fn with_resampled(&self, work: impl FnOnce(&mut dyn Iterator<Item = u32>)) {
        work(&mut self.irqfds.places.lock().resampled());
    }

    /// Tells of interrupts that the guest has ended, and whose lines are low. May sleep.
    pub(crate) fn resample(&self, ended: &Queue) {
        let places = self.irqfds.places.lock();
        for (intid, gsi) in ended.iter().filter_map(|intid| Some((intid, self.gsi_of(intid)?))) {
            let mut told = places.resamplers(gsi).peekable();
            if told.peek().is_some() {
                note(self.memory.host(), Kind::AckIrq, || Event::AckIrq {
                    irqchip: 0,
                    pin: intid.saturating_sub(PRIVATE_IRQS as u32).into(),
                });
                self.note_line(gsi, intid, false);
            }
            told.for_each(EventFd::signal);
        }
    }
}

#[cfg(test)]
#[path = "irqfd_tests.rs"]
mod tests;
