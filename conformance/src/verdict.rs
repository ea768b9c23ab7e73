// SPDX-License-Identifier: GPL-2.0-only
//! What a case finds: nothing, or one line that says what is not as it should be.

use std::fmt::{self, Debug, Display};

use nix::errno::Errno;

/// Why a case does not pass, in one line.
pub struct Failure(String);

/// A case's end.
pub type Verdict = Result<(), Failure>;

impl Failure {
    /// Says why.
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.replace('\n', " "))
    }
}

/// What is said of a step's outcome.
pub trait Outcome<T> {
    /// The step should succeed; `what` says which it is.
    fn succeeds(self, what: impl Display) -> Result<T, Failure>;

    /// The step should fail with `error`.
    fn fails(self, error: Errno, what: impl Display) -> Verdict;
}

impl<T: Debug> Outcome<T> for Result<T, Errno> {
    fn succeeds(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure(format!("{what}: {error:?}")))
    }

    fn fails(self, error: Errno, what: impl Display) -> Verdict {
        match self {
            Err(found) if found == error => Ok(()),
            Err(found) => Err(Failure(format!("{what}: {found:?} instead of {error:?}"))),
            Ok(value) => Err(Failure(format!("{what}: {value:?} instead of {error:?}"))),
        }
    }
}

/// `found` should be `expected`.
pub fn equal<T: PartialEq + Debug>(found: T, expected: T, what: impl Display) -> Verdict {
    if found == expected { Ok(()) } else { Err(Failure(format!("{what}: {found:x?} instead of {expected:x?}"))) }
}

/// `so` should be true.
pub fn holds(so: bool, what: impl Display) -> Verdict {
    if so { Ok(()) } else { Err(Failure(format!("not so: {what}"))) }
}
