// SPDX-License-Identifier: GPL-2.0-only
//! What a guest's writes may end at other than memory, the interrupt controller and an exit to the process.
//!
//! *Doorbells* (KVM_IOEVENTFD): a write to the address, of the length and with the value that the process names, tells it by an
//! [`EventFd`], and the guest goes on. *Zones* of coalesced MMIO: a write that lies in one is put into a [`ring`] that the process
//! empties when it likes, and the guest goes on; if the ring is full, the process gets the write as an exit.
//!
//! Both may be at the same place. The order is that of KVM's bus, which asks what is at the lowest address first, and of what begins at
//! the same address the shorter: zones that begin below the write's address, doorbells at it, zones that begin at it. The first that
//! takes the write has it alone.
//!
//! The process may also name ports, and an s390 instruction. Arm has neither, so those are noted, in case they are named again or taken
//! back, and no write ever finds them.
//!
//! Source: Documentation/virt/kvm/api.rst of Linux 5.6 (KVM_IOEVENTFD, KVM_REGISTER_COALESCED_MMIO).

mod ring;

use crate::host::{EventFd, Host, OutOfMemory};
use crate::read_mostly::{ReadMostly, find};
use uapi::irq::{
    Ioeventfd, KVM_IOEVENTFD_FLAG_DATAMATCH, KVM_IOEVENTFD_FLAG_PIO, KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY,
    KVM_IOEVENTFD_VALID_FLAG_MASK,
};
use uapi::memory::CoalescedMmioZone;

/// How many zones of each [`Space`] there are at most, as many devices as a bus of KVM's has.
const ZONES: usize = 1000;

/// Why the bus is not as asked. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusError {
    /// The request makes no sense (EINVAL).
    Invalid,
    /// There is one that would take the same writes (EEXIST).
    Exists,
    /// There is none such (ENOENT).
    Missing,
    /// There are too many (ENOSPC).
    Full,
    /// No memory (ENOMEM).
    OutOfMemory,
}

impl From<OutOfMemory> for BusError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Where an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Space {
    Memory,
    Ports,
    VirtioCcw,
}

/// Which writes ring. No two are equal: they would ring for the same.
///
/// In the order that they are searched in, one for any length comes before all others at its address, and one for any value before all
/// others of its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bell {
    space: Space,
    addr: u64,
    /// Bytes; 0: any.
    len: u32,
    /// The value; `None`: any.
    value: Option<u64>,
}

impl Bell {
    /// What a process asks to be told of.
    pub fn new(request: &Ioeventfd) -> Result<Self, BusError> {
        let matches = request.flags & KVM_IOEVENTFD_FLAG_DATAMATCH != 0;
        let sound = matches!(request.len, 0 | 1 | 2 | 4 | 8)
            && request.addr.checked_add(request.len.into()).is_some()
            && request.flags & !KVM_IOEVENTFD_VALID_FLAG_MASK == 0
            && !(request.len == 0 && matches);
        if sound { Ok(Self::existing(request)) } else { Err(BusError::Invalid) }
    }

    /// What it asks to be told of no more. What makes no sense is not there.
    pub fn existing(request: &Ioeventfd) -> Self {
        let has = |flag| request.flags & flag != 0;
        let space = if has(KVM_IOEVENTFD_FLAG_PIO) {
            Space::Ports
        } else if has(KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY) {
            Space::VirtioCcw
        } else {
            Space::Memory
        };
        let value = has(KVM_IOEVENTFD_FLAG_DATAMATCH).then_some(request.datamatch);
        Self { space, addr: request.addr, len: request.len, value }
    }

    /// Whether a write may be meant by both.
    fn collides(&self, other: &Self) -> bool {
        let same_value = self.value.zip(other.value).is_none_or(|(one, other)| one == other);
        self.space == other.space
            && self.addr == other.addr
            && (self.len == 0 || other.len == 0 || self.len == other.len && same_value)
    }

    /// What rings for all that this one rings for: one for any length, one for any value, and itself. At most one of them is there, since
    /// they collide.
    fn for_the_same(&self) -> [Self; 3] {
        let any_value = Self { value: None, ..*self };
        [Self { len: 0, ..any_value }, any_value, *self]
    }
}

/// Addresses that writes are collected of.
#[derive(Clone, Copy)]
struct Zone {
    space: Space,
    addr: u64,
    size: u32,
}

impl Zone {
    fn new(request: &CoalescedMmioZone) -> Result<Self, BusError> {
        let space = match request.pio {
            0 => Space::Memory,
            1 => Space::Ports,
            _ => return Err(BusError::Invalid),
        };
        Ok(Self { space, addr: request.addr, size: request.size })
    }

    /// Whether `len` bytes at `addr` lie in it. Nothing lies in one that goes over the end of addresses.
    fn contains(&self, addr: u64, len: u32) -> bool {
        let ends = addr.checked_add(len.into()).zip(self.addr.checked_add(self.size.into()));
        self.addr <= addr && ends.is_some_and(|(end, own)| end <= own)
    }
}

/// A VM's doorbells and zones.
pub struct IoBus<H: Host> {
    /// Who hears which.
    doorbells: ReadMostly<H, Bell, H::EventFd>,
    /// By the address that they begin at.
    zones: ReadMostly<H, u64, Zone>,
    /// The page of the ring. Written while the zones are looked at.
    ring: H::ProcessPage,
}

impl<H: Host> IoBus<H> {
    /// One without anything. May sleep.
    pub fn new(host: &H) -> Result<Self, OutOfMemory> {
        Ok(Self { doorbells: ReadMostly::new(), zones: ReadMostly::new(), ring: host.process_page()? })
    }

    /// The page of the ring, which the process maps.
    pub fn ring(&self) -> &H::ProcessPage {
        &self.ring
    }

    /// Has `bell` tell `event`. May sleep.
    pub fn add_bell(&self, host: &H, bell: Bell, event: H::EventFd) -> Result<(), BusError> {
        let change = self.doorbells.change();
        // One that collides is one of those three, or the next after one.
        let first = bell.for_the_same().map(|from| change.first_key(&from));
        if first.iter().flatten().any(|other| other.collides(&bell)) {
            return Err(BusError::Exists);
        }
        Ok(change.add(host, bell, event)?)
    }

    /// Undoes [`Self::add_bell`]. May sleep.
    pub fn remove_bell(&self, bell: &Bell, event: &H::EventFd) -> Result<(), BusError> {
        let removed = self.doorbells.change().remove_at(bell, |other| other == event);
        removed.map(|_| ()).ok_or(BusError::Missing)
    }

    /// Has writes collected. May sleep.
    pub fn add_zone(&self, host: &H, request: &CoalescedMmioZone) -> Result<(), BusError> {
        let zone = Zone::new(request)?;
        let change = self.zones.change();
        let count = self.zones.look(|places| {
            let zones = places.iter().filter_map(|place| place.value.as_ref());
            zones.filter(|other| other.space == zone.space).count()
        });
        if count >= ZONES {
            return Err(BusError::Full);
        }
        Ok(change.add(host, zone.addr, zone)?)
    }

    /// Has the writes of all zones that this one lies in collected no more. May sleep.
    pub fn remove_zones(&self, request: &CoalescedMmioZone) -> Result<(), BusError> {
        let zone = Zone::new(request)?;
        // KVM takes the size for a signed number here.
        if i32::try_from(zone.size).is_err() {
            return Ok(());
        }
        let change = self.zones.change();
        let lies_in = |other: &Zone| other.space == zone.space && other.contains(zone.addr, zone.size);
        while change.remove(lies_in).is_some() {}
        Ok(())
    }

    /// A guest writes `len` bytes to memory that it does not have. False: that is the process's.
    ///
    /// `bytes` are zero from `len` on. Wakes threads: no spin lock is held, and the guest was left.
    pub fn write(&self, addr: u64, len: u32, bytes: [u8; 8]) -> bool {
        if self.doorbells.is_empty() && self.zones.is_empty() {
            return false;
        }
        self.write_to_some(addr, len, bytes)
    }

    #[inline(never)]
    fn write_to_some(&self, addr: u64, len: u32, bytes: [u8; 8]) -> bool {
        self.collect(|begin| begin < addr, addr, len, bytes)
            || self.ring_at(addr, len, bytes)
            || self.collect(|begin| begin == addr, addr, len, bytes)
    }

    /// Puts the write into the ring, if one of the zones that begin where they should has it.
    fn collect(&self, begins: impl Fn(u64) -> bool, addr: u64, len: u32, bytes: [u8; 8]) -> bool {
        if self.zones.is_empty() {
            return false;
        }
        self.zones.look(|places| {
            let zones = places.iter().take_while(|place| place.key <= addr).filter(|place| begins(place.key));
            let mut zones = zones.filter_map(|place| place.value.as_ref());
            let has = zones.any(|zone| zone.space == Space::Memory && zone.contains(addr, len));
            has && ring::push(&self.ring, addr, len, bytes)
        })
    }

    /// Tells who is to hear of it.
    fn ring_at(&self, addr: u64, len: u32, bytes: [u8; 8]) -> bool {
        if self.doorbells.is_empty() {
            return false;
        }
        let bell = Bell { space: Space::Memory, addr, len, value: Some(u64::from_le_bytes(bytes)) };
        // There may be thousands, at one address too.
        let event =
            self.doorbells.look(|places| bell.for_the_same().iter().find_map(|bell| find(places, bell)).cloned());
        // Out of the lock: it may make an interrupt, and it is to be told even if the bell is removed just now.
        event.inspect(EventFd::signal).is_some()
    }
}

#[cfg(test)]
#[path = "io_bus/tests.rs"]
mod tests;
