// SPDX-License-Identifier: GPL-2.0-only
//! VMIDs: which VM a TLB entry belongs to.
//!
//! The hardware tags entries with the eight bits of VTTBR.VMID. VMID 0 is the host's; the other 255 are handed out to VMs in
//! the order in which they first run, one a VM as the architecture demands, and never taken back one by one. When none is
//! left, a new *generation* begins: every VMID of the old one loses its meaning, every TLB is emptied, and VMs get new ones
//! as they next run. A [`VmidSlot`] therefore holds a VMID together with its generation.
//!
//! The roll-over races with vCPUs that are about to enter. A vCPU, interrupts off, first marks itself as in the guest, then
//! checks its VM's generation with [`Vmids::vttbr`], then enters. The roll-over first makes the new generation visible,
//! then has all CPUs leave their guests and waits for each, then empties the TLBs, and only then gives out the first VMID.
//! So a vCPU either checked before the change, and then it is marked and gets pushed out before TLBs are emptied; or it
//! checks after, fails, and comes here, where the lock lets it wait for the end of the roll-over. At no time can two VMs of
//! one generation have the same VMID, or one run with a VMID of the old generation once the TLBs have been emptied. Waiting
//! for other CPUs needs interrupts on and may sleep, so the lock is one that sleeps; the check takes none.
//!
//! Guests tag entries further, with ASIDs, but each vCPU of a VM has its own idea of them: a guest that uses an ASID for
//! one process on one vCPU and for another on the next expects TLBs apart. Where two vCPUs of a VM take turns on one CPU, that
//! CPU's entries of the VMID are dropped in between: [`LastRan`] tells when.
//!
//! `vmid_tests.rs` tries all this against CPUs with tagged TLBs under random schedules; `vmid_loom_tests.rs` tries a few entries under
//! every schedule with up to three preemptions, and every order of memory.
//!
//! Source: ARM DDI 0406C.d, B3.9 and B3.10 (TLBs, VMID), B4.1 (VTTBR).

use crate::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use crate::host::{Cpus, Host, Lock, OutOfMemory};
use arch::addr::HostPhys;
use arch::hyp_registers::{Vmid, Vttbr};

/// How many VMIDs there are, the host's included.
const VMIDS: u16 = 256;
/// Where a slot has the generation.
const GENERATION_SHIFT: u32 = 8;

/// A VM's VMID and the generation that it is of.
///
/// One word: the generation above, the VMID in the low eight bits. Zero while the VM has never run.
#[derive(Debug, Default)]
pub struct VmidSlot(AtomicU64);

impl VmidSlot {
    /// The slot of a VM that has never run.
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The generation that the VMID is of; 0 while the VM has never run.
    pub fn generation(&self) -> u64 {
        self.0.load(Ordering::SeqCst) >> GENERATION_SHIFT
    }

    /// VTTBR for stage-2 tables at `base`.
    ///
    /// `None` while the VM has never run. To enter the guest, ask [`Vmids::vttbr`].
    pub fn vttbr(&self, base: HostPhys) -> Option<Vttbr> {
        vttbr(self.0.load(Ordering::SeqCst), base)
    }

    /// VTTBR to flush after a change of the stage-2 tables at `base`. `None`: no TLB has an entry of the VM.
    ///
    /// A VMID of an old generation is flushed like any: until the roll-over is complete TLBs may hold what it tagged, and dropping another
    /// VM's entries does no harm. Whoever enters with a VMID that this did not see finds the tables as they are after the change.
    pub fn vttbr_to_flush(&self, base: HostPhys) -> Option<Vttbr> {
        // The change comes before the look at the VMID, in the one order that all CPUs agree on, as an entry's mark (`Vcpu::set_in_guest`)
        // comes before its own look: who sees no VMID here is followed by an entry that sees the change.
        fence(Ordering::SeqCst);
        self.vttbr(base)
    }
}

/// VTTBR of what a slot holds. `None`: no VMID.
fn vttbr(slot: u64, base: HostPhys) -> Option<Vttbr> {
    match slot as u8 {
        0 => None,
        vmid => Vttbr::new(base, Vmid::new(vmid)),
    }
}

/// The VMIDs of a machine. One, shared by all VMs.
pub struct Vmids<H: Cpus> {
    /// The current generation, from 1.
    generation: AtomicU64,
    /// The next VMID to give out; [`Self::limit`] when none is left.
    next: H::Mutex<u16>,
    limit: u16,
    host: H,
}

impl<H: Cpus> Vmids<H> {
    /// All VMIDs free. The TLBs hold no entry with a VMID other than 0.
    pub fn new(host: H) -> Self {
        Self::with_limit(host, VMIDS)
    }

    fn with_limit(host: H, limit: u16) -> Self {
        Self { generation: AtomicU64::new(1), next: Lock::new(1), limit, host }
    }

    /// VTTBR for stage-2 tables at `base`, if the VM may run with the VMID that it has. Takes no lock.
    ///
    /// The answer lasts only where [`Cpus::exit_all_guests`] would notice: the caller has interrupts off and has marked its CPU
    /// as in the guest.
    pub fn vttbr(&self, slot: &VmidSlot, base: HostPhys) -> Option<Vttbr> {
        // SeqCst: the caller's mark comes before, in the one order that all CPUs agree on. See `begin_generation`.
        let slot = slot.0.load(Ordering::SeqCst);
        let current = slot >> GENERATION_SHIFT == self.generation.load(Ordering::SeqCst);
        if current { vttbr(slot, base) } else { None }
    }

    /// Whether the VM may run with the VMID that it has: as [`Self::vttbr`].
    pub fn is_current(&self, slot: &VmidSlot) -> bool {
        slot.generation() == self.generation.load(Ordering::SeqCst)
    }

    /// Gives the VM a VMID of the current generation, if it has none. May sleep; interrupts are on.
    ///
    /// Another VM may use up the generation before the caller enters: check again.
    pub fn assign(&self, slot: &VmidSlot) {
        let mut next = self.next.lock();
        if self.is_current(slot) {
            return; // Another vCPU of the VM was first.
        }
        if *next >= self.limit {
            self.begin_generation();
            *next = 1;
        }
        let vmid = u64::from(*next);
        *next = next.wrapping_add(1);
        let generation = self.generation.load(Ordering::SeqCst);
        slot.0.store(generation << GENERATION_SHIFT | vmid, Ordering::SeqCst);
    }

    /// Takes all VMIDs back. The order is what the head of this file argues from.
    fn begin_generation(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.host.exit_all_guests();
        self.host.flush_all();
        self.host.complete_flush();
    }
}

/// Which vCPU of a VM ran last on each CPU.
pub struct LastRan<H: Host>(H::Array<AtomicU32>);

impl<H: Host> LastRan<H> {
    /// No vCPU ran anywhere yet.
    pub fn new(host: &H) -> Result<Self, OutOfMemory> {
        Ok(Self(host.array(host.cpus(), |_| AtomicU32::new(0))?))
    }

    /// Notes that vCPU `vcpu` is about to run on `cpu`. True: another one ran there before, so this CPU's entries of the VMID
    /// must go first ([`Host::flush_vmid_local`]). The caller cannot be preempted between this and entering the guest.
    pub fn note(&self, cpu: usize, vcpu: u32) -> bool {
        let Some(last) = self.0.get(cpu) else { return true };
        let this = vcpu.wrapping_add(1);
        let before = last.load(Ordering::Relaxed);
        last.store(this, Ordering::Relaxed);
        before != 0 && before != this
    }
}

#[cfg(all(test, not(loom)))]
#[path = "vmid_tests.rs"]
mod tests;

#[cfg(all(test, loom))]
#[path = "vmid_loom_tests.rs"]
mod loom_tests;
