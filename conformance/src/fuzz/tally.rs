// SPDX-License-Identifier: GPL-2.0-only
//! What all processes of a run did, counted in memory that they share.

use std::fmt::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use crate::grammar::CALLS;

/// How often a call was made, how often it succeeded, and which errors it answered (a bit each).
#[derive(Default)]
struct Row {
    made: AtomicU32,
    succeeded: AtomicU32,
    errors: [AtomicU32; 5],
}

/// The counts.
pub struct Tally {
    rows: [Row; CALLS.len()],
    strange: Row,
    /// What else was done with descriptors and memory.
    pub others: AtomicU32,
    /// Returns of KVM_RUN to wild guests' processes.
    pub exits: AtomicU32,
}

/// A call that was made so often should have succeeded: the rarest of them do one time in two hundred.
const ENOUGH: u32 = 3000;

/// Errors that KVM's calls answer: Documentation/virt/kvm/api.rst, and what a descriptor that is none or another's does.
const ERRORS: [Errno; 22] = [
    Errno::EINTR,
    Errno::EIO,
    Errno::ENXIO,
    Errno::E2BIG,
    Errno::ENOEXEC,
    Errno::EBADF,
    Errno::EAGAIN,
    Errno::ENOMEM,
    Errno::EFAULT,
    Errno::EBUSY,
    Errno::EEXIST,
    Errno::ENODEV,
    Errno::EINVAL,
    Errno::EMFILE,
    Errno::ENFILE,
    Errno::ENOTTY,
    Errno::ENOSPC,
    Errno::ENOSYS,
    Errno::EOPNOTSUPP,
    Errno::EHWPOISON,
    Errno::ENOENT,
    Errno::EPERM,
];

impl Row {
    fn count(&self, answer: Result<i32, Errno>) {
        self.made.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(_) => self.succeeded.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                let bit = (error as u32).min(159);
                self.errors[bit as usize / 32].fetch_or(1 << (bit % 32), Ordering::Relaxed)
            }
        };
    }

    fn errors(&self) -> impl Iterator<Item = Errno> {
        (1..160)
            .filter(|bit| self.errors[bit / 32].load(Ordering::Relaxed) >> (bit % 32) & 1 == 1)
            .map(|bit| Errno::from_raw(bit as i32))
    }
}

impl Tally {
    /// One that all processes forked from this one share.
    pub fn shared() -> Result<&'static Self, Errno> {
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Self>(), rights, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // SAFETY: large enough, aligned to a page, never unmapped; zeros are a `Tally`, and all its fields are atomic.
        Ok(unsafe { &*at.cast::<Self>() })
    }

    /// Counts a call: one of [`CALLS`], or one that is nobody's.
    pub fn count(&self, call: Option<usize>, answer: Result<i32, Errno>) {
        call.map_or(&self.strange, |call| &self.rows[call]).count(answer);
    }

    fn all(&self) -> impl Iterator<Item = (&'static str, &Row)> {
        let named = CALLS.iter().zip(&self.rows).map(|(call, row)| (call.name, row));
        named.chain([("numbers that are no call's", &self.strange)])
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.all().map(|(_, row)| u64::from(row.made.load(Ordering::Relaxed))).sum()
    }

    /// A line for each call: how often, how often with success, which errors.
    pub fn table(&self) -> String {
        let mut table = String::new();
        for (name, row) in self.all() {
            let errors: Vec<String> = row.errors().map(|error| format!("{error:?}")).collect();
            let (made, succeeded) = (row.made.load(Ordering::Relaxed), row.succeeded.load(Ordering::Relaxed));
            let _ = writeln!(table, "# {name:28} {made:>9} {succeeded:>9}  {}", errors.join(" "));
        }
        table
    }

    /// The first call that answered what no call answers.
    pub fn unexpected_error(&self) -> Option<String> {
        self.all().find_map(|(name, row)| {
            let error = row.errors().find(|error| !ERRORS.contains(error))?;
            Some(format!("{name} answered {error:?} ({})", error as i32))
        })
    }

    /// The first call that was made often enough and never succeeded, of those that must sometimes; `has` says which capabilities the
    /// host has.
    pub fn never_succeeded(&self, has: impl Fn(u32) -> bool) -> Option<&'static str> {
        let offered = |capability: Option<u32>| capability.is_none_or(&has);
        let mut rows = CALLS.iter().zip(&self.rows);
        let (call, _) = rows.find(|(call, row)| {
            let (made, succeeded) = (row.made.load(Ordering::Relaxed), row.succeeded.load(Ordering::Relaxed));
            call.must_succeed && offered(call.capability) && made >= ENOUGH && succeeded == 0
        })?;
        Some(call.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_and_judged() {
        let tally = Tally::shared().expect("memory");
        tally.count(Some(0), Ok(12));
        tally.count(Some(1), Err(Errno::EINVAL));
        tally.count(None, Err(Errno::ENOTTY));
        assert_eq!(tally.calls(), 3);
        assert_eq!(tally.unexpected_error(), None);
        assert!(
            tally.table().contains("CREATE_VM                            1         0  EINVAL"),
            "{}",
            tally.table()
        );
        assert_eq!(tally.never_succeeded(|_| false), None);
        (0..ENOUGH).for_each(|_| tally.count(Some(1), Err(Errno::EINVAL)));
        assert_eq!(tally.never_succeeded(|_| false), Some("CREATE_VM"));
        tally.count(Some(1), Ok(3));
        assert_eq!(tally.never_succeeded(|_| false), None);
        tally.count(Some(2), Err(Errno::ESRCH));
        assert!(tally.unexpected_error().expect("one").contains("ESRCH"));
    }
}
