// SPDX-License-Identifier: GPL-2.0-only
//! A guest's memory: the slots that a process gave it, mapped page by page as the guest touches them.
//!
//! The memory stays the process's own. Nothing is pinned: the host may swap it out, move it or take it away, and tells
//! so first ([`GuestMemory::invalidate_begin`]); when that returns, the guest can no longer reach the page. Resolving a
//! guest's fault may sleep and so happens without the lock, which leaves a gap for the host's change of mind: the answer may be
//! stale when the lock is taken to map it. Two numbers under the lock close it. `invalidations` counts the changes that are
//! going on: while there are any, nothing is mapped. `sequence` counts those that ended: if it is not what it was before
//! resolving, the answer is thrown away. Either way the guest runs on and faults again.
//!
//! A page is cleaned to the point of coherency before the guest gets it, since the guest may look past the caches (MMU off),
//! and is not executable until the guest tries to: then instruction caches are invalidated once, since they may hold what
//! the memory contained before. A page that could be written is mapped so at once, unless writes are to be noted.
//!
//! Two locks: `changes` keeps the slots as they are but for one change at a time and may be held over sleep; `state` is the spin lock
//! under which tables and slots are looked at and changed. Ranges are worked on in bounded pieces, `state` taken anew for each,
//! the TLBs flushed before it is let go and the flush completed after.
//!
//! What the guest wrote, and how the process hears of it: `dirty_log`.
//!
//! Source: ARM DDI 0406C.d, B2.2 (caches, point of coherency), B3.10.1 (TLB maintenance).

mod dirty_log;

pub use dirty_log::LogError;

use crate::atomic::{AtomicU32, Ordering};
use crate::host::{Host, Lock, OutOfMemory, Resolved, Unresolved};
use crate::memslots::{Change, Memslots, Region, SlotError, View};
use crate::stage2::{Flush, Found, IpaRange, MapError, Mapping, Size, Stage2, TableCache, Unfinished};
use crate::vmid::{VmidSlot, Vmids};
use arch::addr::{HostPhys, HostVirt, Ipa};
use arch::hyp_registers::Vttbr;
use arch::long_descriptor::Stage2Access;
use core::ops::Range;

/// What a guest tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read data.
    Read,
    /// To write data.
    Write,
    /// To fetch an instruction.
    Execute,
}

impl Access {
    fn is_allowed_by(self, access: Stage2Access) -> bool {
        match self {
            Self::Read => access.read,
            Self::Write => access.write,
            Self::Execute => access.execute,
        }
    }
}

/// How a guest's fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOutcome {
    /// The memory is there now: run the guest.
    Mapped,
    /// The host was changing the process's memory: run the guest, which will fault again.
    Again,
    /// No slot is there.
    NoSlot,
    /// A slot is there, but not for this: a write to a read-only one, or a fetch from a device.
    Mmio,
}

/// What `changes` covers besides the slots' existence.
struct Settings {
    /// Reading a dirty log does not clear it.
    manual_clear: bool,
}

struct State<H: Host> {
    slots: Memslots<H>,
    stage2: Stage2<H>,
    invalidations: usize,
    sequence: usize,
    /// The process died: nothing is mapped any more.
    released: bool,
}

/// A VM's memory.
pub struct GuestMemory<H: Host> {
    host: H,
    user_end: HostVirt,
    base: HostPhys,
    vmid: VmidSlot,
    changes: H::Mutex<Settings>,
    state: H::Spin<State<H>>,
    /// Counts changes of slots, each when it is done.
    slots_changed: AtomicU32,
}

impl<H: Host> GuestMemory<H> {
    /// No slots, nothing mapped. The process's addresses end at `user_end`. May sleep.
    pub fn new(host: H, user_end: HostVirt) -> Result<Self, OutOfMemory> {
        let stage2 = Stage2::new(host.clone())?;
        let base = stage2.base();
        let state = State { slots: Memslots::new(&host)?, stage2, invalidations: 0, sequence: 0, released: false };
        Ok(Self {
            host,
            user_end,
            base,
            vmid: VmidSlot::new(),
            changes: Lock::new(Settings { manual_clear: false }),
            state: Lock::new(state),
            slots_changed: AtomicU32::new(0),
        })
    }

    /// The kernel around it.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The VM's VMID, to check and to assign.
    pub fn vmid(&self) -> &VmidSlot {
        &self.vmid
    }

    /// VTTBR to enter a guest with, if the VM may run with the VMID that it has: [`Vmids::vttbr`].
    pub fn vttbr(&self, vmids: &Vmids<H>) -> Option<Vttbr> {
        vmids.vttbr(&self.vmid, self.base)
    }

    /// How often the VM's TLB entries were dropped on all CPUs. Never sleeps.
    pub fn tlb_flushes(&self) -> u64 {
        self.state.lock().stage2.flushes()
    }

    /// Makes, moves, changes or deletes a slot. May sleep.
    pub fn set_region(&self, region: &Region) -> Result<Change, SlotError> {
        let _one_at_a_time = self.changes.lock();
        let plan = self.state.lock().slots.check(region, self.user_end)?;
        let change = plan.change;
        if change == Change::Nothing {
            return Ok(change);
        }
        let bitmap = match plan.bitmap_words() {
            Some(words) => Some(self.host.array(words, |_| 0).map_err(|_| SlotError::OutOfMemory)?),
            None => None,
        };
        let old = {
            let mut state = self.state.lock();
            state.sequence = state.sequence.wrapping_add(1);
            state.slots.retire(&plan)
        };
        if let Some(range) = old {
            self.in_pieces(range, Stage2::unmap);
        }
        let (protect, join) = (plan.write_protect(), plan.join());
        let useless_bitmap = {
            let mut state = self.state.lock();
            // A fault that looked at the slot before must not map by what it saw.
            state.sequence = state.sequence.wrapping_add(1);
            state.slots.install(plan, bitmap)
        };
        drop(useless_bitmap);
        self.slots_changed.fetch_add(1, Ordering::Release);
        if let Some(range) = protect {
            self.in_pieces(range, Stage2::write_protect);
        }
        if let Some(range) = join {
            self.in_pieces(range, Stage2::unmap_split_blocks);
        }
        Ok(change)
    }

    /// Counts up with each change of slots. What was found out about them before it changed may no longer be so.
    ///
    /// Relaxed: it says that something is to be looked up again, which is done under the lock.
    pub fn slots_generation(&self) -> u32 {
        self.slots_changed.load(Ordering::Relaxed)
    }

    /// The process's address of what a guest has at `ipa`, and whether the guest may write there.
    pub fn host_address(&self, ipa: Ipa) -> Option<(HostVirt, bool)> {
        let view = self.state.lock().slots.find(ipa)?;
        Some((view.hva(), !view.is_read_only()))
    }

    /// Gives a guest what it faulted for, if it can have it. `cache` is the vCPU's. May sleep; runs in the process.
    pub fn fault(&self, ipa: Ipa, access: Access, cache: &mut TableCache<H>) -> Result<FaultOutcome, Unresolved> {
        let ipa = ipa.page();
        cache.top_up(&self.host).map_err(|OutOfMemory| Unresolved::OutOfMemory)?;
        let (sequence, view, previous) = {
            let mut state = self.state.lock();
            if state.released {
                return Err(Unresolved::Fault);
            }
            let Some(view) = state.slots.find(ipa) else { return Ok(FaultOutcome::NoSlot) };
            if access == Access::Write && view.is_read_only() {
                return Ok(FaultOutcome::Mmio);
            }
            let previous = state.stage2.lookup(ipa);
            if previous.is_some_and(|found| access.is_allowed_by(found.mapping.access)) {
                // Another vCPU was first, or the access flag was clear.
                state.stage2.set_accessed(ipa);
                drop(state);
                if self.host.flush_is_put_off() {
                    // Else this CPU might go on with the rights that were.
                    self.host.complete_flush();
                }
                return Ok(FaultOutcome::Mapped);
            }
            (state.sequence, view, previous)
        };
        let resolved = self.host.resolve(view.hva(), access == Access::Write)?;
        if resolved.device && access == Access::Execute {
            return Ok(FaultOutcome::Mmio);
        }
        let mapping = plan_mapping(ipa, access, &view, &resolved);
        self.maintain_caches(ipa, &mapping, previous);

        let mut state = self.state.lock();
        if state.invalidations != 0 || state.sequence != sequence {
            return Ok(FaultOutcome::Again);
        }
        let mapping = match state.stage2.lookup(ipa) {
            Some(found) if covers(&found, ipa, &mapping) => add_rights(mapping, found.mapping.access),
            _ => mapping,
        };
        if mapping.access.write && access == Access::Write {
            state.slots.mark_dirty(&view);
        }
        let result = state.stage2.map(mapping.size.base(ipa), mapping, cache, &self.vmid);
        drop(state);
        self.mapped(result)
    }

    /// Maps one page of a device that is the hardware's own, where no slot is, or has the guest come again. `cache` is the vCPU's. May sleep.
    pub fn map_device(&self, ipa: Ipa, phys: HostPhys, cache: &mut TableCache<H>) -> Result<(), Unresolved> {
        cache.top_up(&self.host).map_err(|OutOfMemory| Unresolved::OutOfMemory)?;
        let access = Stage2Access { read: true, write: true, execute: false };
        let mapping = Mapping { phys, size: Size::Page, device: true, access };
        let mut state = self.state.lock();
        if state.released {
            return Err(Unresolved::Fault);
        }
        let result = state.stage2.map(ipa.page(), mapping, cache, &self.vmid);
        drop(state);
        self.mapped(result).map(|_mapped_or_again| ())
    }

    /// What became of a fault whose page was to be mapped. May sleep.
    fn mapped(&self, result: Result<Unfinished<H>, MapError>) -> Result<FaultOutcome, Unresolved> {
        match result {
            Ok(unfinished) => {
                unfinished.finish();
                Ok(FaultOutcome::Mapped)
            }
            Err(MapError::FlushPutOff) => {
                self.host.complete_flush();
                Ok(FaultOutcome::Again)
            }
            Err(MapError::NoTable) => Err(Unresolved::OutOfMemory),
            // The host named memory that stage 2 cannot express.
            Err(MapError::Unaligned) => Err(Unresolved::Fault),
        }
    }

    /// Makes the memory that is about to be mapped the same for data, for instructions and for who uses no caches.
    fn maintain_caches(&self, ipa: Ipa, mapping: &Mapping, previous: Option<Found>) {
        if mapping.device {
            return;
        }
        if !previous.is_some_and(|found| covers(&found, ipa, mapping)) {
            self.host.clean_to_poc(mapping.phys, mapping.size.bytes());
        }
        if mapping.access.execute {
            self.host.invalidate_icache();
        }
    }

    /// The process's memory in `range` is about to change: afterwards the guest reaches none of it, and none is mapped
    /// until the matching [`Self::invalidate_end`]. Never sleeps; interrupts are on, as for all notifiers here.
    pub fn invalidate_begin(&self, range: Range<HostVirt>) {
        {
            let mut state = self.state.lock();
            state.invalidations = state.invalidations.saturating_add(1);
        }
        self.in_overlaps(range, Stage2::unmap);
    }

    /// The change is over. Never sleeps.
    pub fn invalidate_end(&self) {
        let mut state = self.state.lock();
        state.sequence = state.sequence.wrapping_add(1);
        state.invalidations = state.invalidations.saturating_sub(1);
    }

    /// Clears the access flags of `range`. True: some were set. With `flush`, the guest's next access will set them again;
    /// without, TLBs may hide it for a while. Never sleeps.
    pub fn clear_young(&self, range: Range<HostVirt>, flush: bool) -> bool {
        let mut young = false;
        self.in_overlaps(range, |stage2, part| {
            let owed = stage2.clear_accessed(part);
            young |= owed.is_owed();
            if flush { owed } else { Flush::NONE }
        });
        young
    }

    /// Whether the guest accessed any of `range` since the flags were cleared. Never sleeps.
    pub fn test_young(&self, range: Range<HostVirt>) -> bool {
        let mut young = false;
        self.in_overlaps(range, |stage2, part| {
            young |= stage2.test_accessed(part);
            Flush::NONE
        });
        young
    }

    /// The process dies: the guest loses all memory, for good. Never sleeps.
    pub fn release(&self) {
        {
            let mut state = self.state.lock();
            state.released = true;
            state.sequence = state.sequence.wrapping_add(1);
        }
        self.in_pieces(IpaRange::ALL, Stage2::unmap);
    }

    /// Cleans all memory that the guest has from the caches: what its maintenance by set and way was meant to do. What is
    /// mapped later is cleaned then. May sleep.
    pub fn flush_all_mapped(&self) {
        let mut range = IpaRange::ALL;
        loop {
            // Collected under the lock, cleaned without it: cleaning memory that is no longer the guest's does no harm.
            let mut batch = [(HostPhys::default(), 0); 16];
            let mut count = 0;
            {
                let state = self.state.lock();
                for place in &mut batch {
                    let Some(found) = state.stage2.next_leaf(&mut range) else { break };
                    if !found.mapping.device {
                        *place = (found.mapping.phys, found.mapping.size.bytes());
                    }
                    count += 1;
                }
            }
            for (phys, bytes) in batch.iter().filter(|(_, bytes)| *bytes != 0) {
                self.host.clean_to_poc(*phys, *bytes);
            }
            self.host.yield_cpu();
            if count < batch.len() {
                return;
            }
        }
    }

    /// Does `step` to all of `range`, taking the lock anew for each piece.
    fn in_pieces(&self, mut range: IpaRange, mut step: impl FnMut(&mut Stage2<H>, &mut IpaRange) -> Flush) {
        while !range.is_empty() {
            let mut state = self.state.lock();
            let flush = step(&mut state.stage2, &mut range);
            let unfinished = state.stage2.flush(flush, &self.vmid);
            drop(state);
            unfinished.finish();
        }
    }

    /// Does `step` to what the guest has of the process's `range`, taking the lock anew for each piece.
    ///
    /// Slots may come and go in between. That is no gap: what comes has nothing mapped, and a retired slot is still found.
    fn in_overlaps(&self, range: Range<HostVirt>, mut step: impl FnMut(&mut Stage2<H>, &mut IpaRange) -> Flush) {
        let (mut slot, mut start) = (0, range.start);
        loop {
            let mut state = self.state.lock();
            let found = (slot..state.slots.end()).find_map(|number| {
                let start = if number == slot { start } else { range.start };
                let (hva, part) = state.slots.overlap(number, &(start..range.end))?;
                Some((number, hva, part))
            });
            let Some((number, hva, mut part)) = found else { return };
            let before = part;
            let flush = step(&mut state.stage2, &mut part);
            let unfinished = state.stage2.flush(flush, &self.vmid);
            drop(state);
            unfinished.finish();
            (slot, start) = match hva.checked_add(part.done_since(before) as u32) {
                Some(next) if !part.is_empty() => (number, next),
                _ => (number.saturating_add(1), range.start),
            };
        }
    }
}

/// What to map for a fault at `ipa`, all by itself.
fn plan_mapping(ipa: Ipa, access: Access, view: &View, resolved: &Resolved) -> Mapping {
    let block = resolved.block
        && view.allows_block()
        && !view.logs()
        && Size::Block.offset(ipa) == Size::Block.offset(Ipa::new(resolved.phys.page().get()));
    let size = if block { Size::Block } else { Size::Page };
    let phys = HostPhys::new(resolved.phys.get() & !(size.bytes() as u64 - 1));
    let write = resolved.writable && !view.is_read_only() && (access == Access::Write || !view.logs());
    let access = Stage2Access { read: true, write, execute: access == Access::Execute };
    Mapping { phys, size, device: resolved.device, access }
}

/// Whether `found` gives the guest all the memory that `mapping` would, rights apart.
fn covers(found: &Found, ipa: Ipa, mapping: &Mapping) -> bool {
    found.mapping.size >= mapping.size
        && found.mapping.device == mapping.device
        && found.mapping.phys.get().wrapping_add(found.mapping.size.offset(ipa))
            == mapping.phys.get().wrapping_add(mapping.size.offset(ipa))
}

/// Rights that the guest has already are not taken from it by another's fault.
fn add_rights(mapping: Mapping, access: Stage2Access) -> Mapping {
    let access = Stage2Access {
        read: true,
        write: mapping.access.write || access.write,
        execute: mapping.access.execute || access.execute,
    };
    Mapping { access, ..mapping }
}

#[cfg(test)]
mod allocation_tests;
#[cfg(test)]
#[path = "guest_memory_tests.rs"]
mod tests;
