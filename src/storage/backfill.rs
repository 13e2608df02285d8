//! Filling in history that a log is missing.

use std::fmt;
use std::sync::Arc;

use etcd_log::{Backfill, BackfillError, Index, RaftIndex};

/// Makes what fills in missing history; nothing, if none is missing.
#[derive(Clone)]
pub struct BackfillSource(pub Arc<dyn Fn() -> Option<Box<dyn FillHistory>> + Send + Sync>);

/// What fills in missing history: see [`Backfill`], which does so in a log on disk.
#[expect(clippy::missing_errors_doc, reason = "they are those of the filler of the log")]
pub trait FillHistory: Send {
    /// Returns the entries that are still wanted: the first, and the last.
    fn wanted(&self) -> (RaftIndex, RaftIndex);

    /// Begins with a later entry than was wanted.
    fn skip_to(&mut self, next: RaftIndex, before: Index) -> Result<(), BackfillError>;

    /// Takes the next entry. Returns whether it was the last one.
    fn push(&mut self, entry: Vec<u8>) -> Result<bool, BackfillError>;

    /// Notes that there is nothing more to come.
    fn give_up(&mut self) -> Result<(), BackfillError>;
}

impl FillHistory for Backfill {
    fn wanted(&self) -> (RaftIndex, RaftIndex) {
        Self::wanted(self)
    }

    fn skip_to(&mut self, next: RaftIndex, before: Index) -> Result<(), BackfillError> {
        Self::skip_to(self, next, before)
    }

    fn push(&mut self, entry: Vec<u8>) -> Result<bool, BackfillError> {
        Self::push(self, entry)
    }

    fn give_up(&mut self) -> Result<(), BackfillError> {
        Self::give_up(self)
    }
}

impl fmt::Debug for BackfillSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackfillSource")
    }
}
