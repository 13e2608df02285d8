//! The format of a log: what may be said in it.
//!
//! ```text
//! format 1   set, testAndSet, delete, deleteDir, sync, join, leave; checks that name an entry
//! format 2   create, testAndDelete, restore, upgrade; a sync that says its format
//! format 3   as: a command under the id of a request
//! ```
//!
//! A machine stops at a command that it cannot read. So nothing of a later format is
//! proposed before all members read it: the *format in force* is in the log itself, where
//! a `sync` begins it and an `upgrade` raises it.
//!
//! Deliberately not here: how entries lie on the disk (`segments`), which has a version of
//! its own.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// What may be said in a log. Each format can say all that those before it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "NonZeroU32")]
pub struct LogFormat(
    /// Its number, from 1.
    pub u32,
);

impl LogFormat {
    /// The first one, in force where none is named.
    pub const FIRST: Self = Self(1);

    /// The newest one that this version reads.
    pub const NEWEST: Self = Self(3);

    /// Returns whether it is the first one.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    pub(crate) fn is_first(&self) -> bool {
        *self == Self::FIRST
    }
}

impl Default for LogFormat {
    fn default() -> Self {
        Self::FIRST
    }
}

impl From<NonZeroU32> for LogFormat {
    fn from(number: NonZeroU32) -> Self {
        Self(number.get())
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
