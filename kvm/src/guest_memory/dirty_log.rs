// SPDX-License-Identifier: GPL-2.0-only
//! The dirty log: which pages of a slot the guest has written, for a process that copies its memory while it runs.
//!
//! A slot that logs has a bit for each page, and one thing always holds: a page that the guest can write to without a fault has its
//! bit set. So when a slot begins to log, the guest loses the right to write to all of it; a fault that gives the right back for a page
//! sets its bit, both under one taking of the lock; and where bits are cleared, the right goes again, and is out of all TLBs before
//! the process is told. What the guest writes after that faults, and is in the next answer. While a slot logs, its memory is mapped by
//! 4 KiB pages: the first write to a 2 MiB block splits it, so that one page is noted and not 512. When it no longer logs, the pages of
//! such blocks are unmapped, and the guest's next access finds a block again where the process still has one.
//!
//! A process reads a log in one of two ways. By default reading clears it. With manual clearing (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)
//! reading changes nothing, and the process names the pages that it is about to copy in a call of its own: the guest then takes one
//! fault for each page that it writes after its copy began, not one for each that it writes after the log was read.
//!
//! The hypervisor itself writes to no guest memory; what did would have to set bits as a fault does.
//!
//! Source: Documentation/virt/kvm/api.rst of Linux 5.6, KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG.

use super::{GuestMemory, Settings, State};
use crate::host::{Host, Lock, OutOfMemory};
use crate::memslots::NoLog;
use crate::stage2::{Flush, IpaRange};
use arch::addr::{Ipa, PAGE_SIZE};

/// How many words of a log one taking of the lock deals with: 16 MiB of the guest's memory.
const CHUNK: usize = 128;
const BITS: usize = u32::BITS as usize;
const PAGE: u64 = PAGE_SIZE as u64;

/// Why a log cannot be read or cleared. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogError {
    /// No slot can have the number, or the pages to clear are not such as can be named (EINVAL).
    Invalid,
    /// There is no such slot, or it keeps no log (ENOENT).
    Off,
    /// No memory for a copy of what is to be cleared (ENOMEM).
    OutOfMemory,
}

impl From<NoLog> for LogError {
    fn from(why: NoLog) -> Self {
        match why {
            NoLog::Number => Self::Invalid,
            NoLog::Off => Self::Off,
        }
    }
}

impl From<OutOfMemory> for LogError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl<H: Host> GuestMemory<H> {
    /// Whether reading a log leaves it as it is, for [`Self::clear_dirty_log`] to clear. May sleep.
    pub fn set_manual_clear(&self, manual: bool) {
        *self.changes.lock() = Settings { manual_clear: manual };
    }

    /// Reads the log of a slot, and clears what was read unless clearing is manual. `copy` gets it piece by piece: the number of a
    /// piece's first word, and its words, of which page n is bit n % 32 of word n / 32. It may sleep. If it fails, the piece
    /// that it was given stays in the log.
    pub fn read_dirty_log<E: From<LogError>>(
        &self,
        slot: u32,
        mut copy: impl FnMut(usize, &[u32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let settings = self.changes.lock();
        // The slot stays as it is from here on.
        let words = self.state.lock().slots.dirty_log(slot).map_err(LogError::from)?.bitmap.len();
        let mut buffer = [0; CHUNK];
        for first in (0..words).step_by(CHUNK) {
            let piece = &mut buffer[..words.saturating_sub(first).min(CHUNK)];
            if settings.manual_clear {
                self.with_words(slot, first, |words| {
                    piece.iter_mut().zip(words).for_each(|(copy, word)| *copy = *word)
                });
                copy(first, piece)?;
                continue;
            }
            piece.fill(u32::MAX);
            self.take(slot, first, piece);
            copy(first, piece).inspect_err(|_| {
                self.with_words(slot, first, |words| {
                    words.iter_mut().zip(&*piece).for_each(|(word, taken)| *word |= taken)
                });
            })?;
        }
        Ok(())
    }

    /// Clears pages of a slot's log: of the `pages` from `first` on, those that are named by the bits that `fetch` puts into the words
    /// it is given, as [`Self::read_dirty_log`] hands them out; it may sleep. `first` is a multiple of 64, and so is `pages` unless it goes
    /// to the end of the slot.
    pub fn clear_dirty_log<E: From<LogError>>(
        &self,
        slot: u32,
        first: u64,
        pages: u32,
        fetch: impl FnOnce(&mut [u32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let _slots_stay = self.changes.lock();
        if !first.is_multiple_of(64) {
            return Err(LogError::Invalid.into());
        }
        let all = self.state.lock().slots.dirty_log(slot).map_err(LogError::from)?.pages;
        let left = all.checked_sub(first).ok_or(LogError::Invalid)?;
        if u64::from(pages) > left || (u64::from(pages) < left && !pages.is_multiple_of(64)) {
            return Err(LogError::Invalid.into());
        }
        let mut named = self.host.array((pages as usize).div_ceil(BITS), |_| 0).map_err(LogError::from)?;
        fetch(&mut named)?;
        let first = (first / BITS as u64) as usize;
        for (index, piece) in named.chunks_mut(CHUNK).enumerate() {
            self.take(slot, first.saturating_add(index.saturating_mul(CHUNK)), piece);
        }
        Ok(())
    }

    /// Takes the bits that are set in `piece` out of the log, from word `first` on, and the right to write from the pages whose bits it
    /// found set: they are what is left in `piece`.
    fn take(&self, slot: u32, first: usize, piece: &mut [u32]) {
        let mut state = self.state.lock();
        let State { slots, stage2, .. } = &mut *state;
        let Ok(log) = slots.dirty_log(slot) else { return };
        for (wanted, word) in piece.iter_mut().zip(log.bitmap.iter_mut().skip(first)) {
            *wanted &= *word;
            *word &= !*wanted;
        }
        if piece.iter().all(|word| *word == 0) {
            return;
        }
        let bytes = |pages: usize| (pages as u64).saturating_mul(PAGE);
        let start = log.ipa.get().saturating_add(bytes(first.saturating_mul(BITS)));
        let mut range = IpaRange::new(Ipa::new(start), bytes(piece.len().saturating_mul(BITS)));
        // One call is enough: a piece's pages are those of nine entries of level 2 at most.
        let flush = stage2.write_protect_some(&mut range, |page| {
            let page = (page.get().wrapping_sub(start) / PAGE) as usize;
            piece.get(page / BITS).is_some_and(|word| word >> (page % BITS) & 1 != 0)
        });
        let unfinished = stage2.flush(flush, &self.vmid);
        drop(state);
        unfinished.finish();
        if flush == Flush::NONE {
            // Whoever took the right before may not be through with its flush.
            self.host.complete_flush();
        }
    }

    /// Does `work` to the words of a log from `first` on, under the lock.
    fn with_words(&self, slot: u32, first: usize, work: impl FnOnce(&mut [u32])) {
        if let Ok(log) = self.state.lock().slots.dirty_log(slot)
            && let Some(words) = log.bitmap.get_mut(first..)
        {
            work(words);
        }
    }
}

#[cfg(test)]
#[path = "dirty_log_tests.rs"]
mod tests;
