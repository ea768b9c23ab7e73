// SPDX-License-Identifier: GPL-2.0-only
//! What all processes of a run did, counted in memory that they share.

use std::fmt::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use crate::grammar::{CALLS, Call};

/// Error numbers that are counted; all others count as the last.
const NUMBERS: usize = 140;

/// How often a call was made, how often it succeeded, and how often it answered each error.
struct Row {
    made: AtomicU32,
    succeeded: AtomicU32,
    errors: [AtomicU32; NUMBERS],
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

/// A call that was made so often should have answered all that it can: the rarest of its answers comes one time in two hundred.
const ENOUGH: u32 = 3000;

/// Errors that a number that is no call's may answer: those of KVM's calls, and what a descriptor that is none or another's does.
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
            Err(error) => self.errors[(error as usize).min(NUMBERS - 1)].fetch_add(1, Ordering::Relaxed),
        };
    }

    /// The errors that there were, and how often.
    fn errors(&self) -> impl Iterator<Item = (Errno, u32)> {
        let counts = self.errors.iter().map(|count| count.load(Ordering::Relaxed));
        (0..).zip(counts).filter(|(_, count)| *count > 0).map(|(number, count)| (Errno::from_raw(number), count))
    }

    fn answered(&self, error: Errno) -> bool {
        self.errors().any(|(answered, _)| answered == error)
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

    /// A line for each call: how often, how often with success, how often with which error.
    pub fn table(&self) -> String {
        let mut table = String::new();
        for (name, row) in self.all() {
            let errors: Vec<String> = row.errors().map(|(error, count)| format!("{error:?} {count}")).collect();
            let (made, succeeded) = (row.made.load(Ordering::Relaxed), row.succeeded.load(Ordering::Relaxed));
            let _ = writeln!(table, "# {name:28} {made:>9} {succeeded:>9}  {}", errors.join(", "));
        }
        table
    }

    fn calls_with_rows(&self) -> impl Iterator<Item = (&'static Call, &Row)> {
        CALLS.iter().zip(&self.rows)
    }

    /// The first call that answered what it does not answer; `has` says which capabilities the host has.
    pub fn unexpected_answer(&self, has: impl Fn(u32) -> bool) -> Option<String> {
        let strange = self.strange.errors().find(|(error, _)| !ERRORS.contains(error));
        if let Some((error, _)) = strange {
            return Some(format!("a number that is no call's answered {error:?} ({})", error as i32));
        }
        self.calls_with_rows().find_map(|(call, row)| {
            if !call.is_offered(&has) && row.succeeded.load(Ordering::Relaxed) > 0 {
                return Some(format!("{} succeeded, which the host refuses", call.name));
            }
            let (error, _) = row.errors().find(|(error, _)| !call.may_answer(*error))?;
            Some(format!("{} answered {error:?} ({})", call.name, error as i32))
        })
    }

    /// What calls have never answered, of what each must answer sometimes: those that were made often enough, and all.
    pub fn never_answered(&self, has: impl Fn(u32) -> bool) -> (Vec<String>, usize) {
        let mut missing = Vec::new();
        let mut open = 0;
        for (call, row) in self.calls_with_rows() {
            let offered = call.is_offered(&has);
            let mut want = |answered: bool, what: String| {
                if !answered {
                    open += 1;
                    if row.made.load(Ordering::Relaxed) >= ENOUGH {
                        missing.push(format!("{} never {what}", call.name));
                    }
                }
            };
            if offered {
                want(row.succeeded.load(Ordering::Relaxed) > 0, "succeeds".to_owned());
            }
            if offered || call.refused {
                call.errors.iter().for_each(|error| want(row.answered(*error), format!("answers {error:?}")));
            }
        }
        (missing, open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_and_judged() {
        let tally = Tally::shared().expect("memory");
        let has = |_| true;
        tally.count(Some(0), Ok(12));
        tally.count(Some(1), Err(Errno::EINVAL));
        tally.count(None, Err(Errno::ENOTTY));
        assert_eq!(tally.calls(), 3);
        assert_eq!(tally.unexpected_answer(has), None);
        assert!(
            tally.table().contains("CREATE_VM                            1         0  EINVAL 1"),
            "{}",
            tally.table()
        );
        assert_eq!(tally.never_answered(has).0, [""; 0]);
        (0..ENOUGH).for_each(|_| tally.count(Some(1), Err(Errno::EINVAL)));
        assert_eq!(tally.never_answered(has).0, ["CREATE_VM never succeeds"]);
        let open = tally.never_answered(has).1;
        tally.count(Some(1), Ok(3));
        assert_eq!(tally.never_answered(has), (Vec::new(), open - 1));
        (0..ENOUGH).for_each(|_| tally.count(Some(0), Ok(12)));
        assert_eq!(tally.never_answered(has).0, ["GET_API_VERSION never answers EINVAL"]);
        tally.count(Some(1), Err(Errno::EEXIST));
        assert_eq!(tally.unexpected_answer(has), Some("CREATE_VM answered EEXIST (17)".to_owned()));
    }

    #[test]
    fn what_is_refused_or_not_offered_never_succeeds() {
        let index = |name| CALLS.iter().position(|call| call.name == name);
        for (name, answer) in [("TRACE_PAUSE", Some("TRACE_PAUSE succeeded, which the host refuses")), ("IRQFD", None)]
        {
            let tally = Tally::shared().expect("memory");
            tally.count(index(name), Ok(0));
            assert_eq!(tally.unexpected_answer(|_| true).as_deref(), answer);
        }
        let tally = Tally::shared().expect("memory");
        tally.count(index("IRQFD"), Ok(0));
        assert!(tally.unexpected_answer(|_| false).is_some_and(|answer| answer.starts_with("IRQFD succeeded")));
    }
}
