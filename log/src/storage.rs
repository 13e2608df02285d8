//! What a Raft engine needs of a log, whichever log it is: the write-ahead log
//! on disk, or its in-memory twin.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::error::LogError;
use crate::types::{Entry, Index, LogId, RaftIndex, Vote};

/// The most entries that may be appended at a time.
pub const WRITE_ENTRIES: usize = 50_000;

/// What the log holds besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// This machine's vote, if it ever voted.
    pub vote: Option<Vote>,
    /// The last entry that may be forgotten.
    pub purged: Option<LogId>,
    /// The last entry whose history is no longer kept.
    pub forgotten: Option<LogId>,
    /// The last entry that came in a checkpoint, while the history up to there has
    /// still to be fetched.
    pub missing: Option<LogId>,
    /// The last entry known to be committed; it may lag.
    pub committed: Option<LogId>,
    /// The first entry that Raft may ask for; if there is none, the one that would
    /// come. History may be kept from before it.
    pub first: RaftIndex,
    /// The last entry; if there is none, the one before: archived, or purged.
    pub last: Option<LogId>,
    /// The first entry that is kept as history, and the last command before it.
    pub oldest: (RaftIndex, Index),
}

/// Something to be written.
#[derive(Clone, Debug)]
pub enum Write {
    /// Add entries, which follow the last one and each other.
    Append(Vec<Arc<Entry>>),
    /// Remember a vote.
    Vote(Vote),
    /// Drop the entries from here on.
    Truncate {
        /// The first to go.
        since: RaftIndex,
    },
    /// Allow Raft to forget the entries up to here. As history they stay.
    Purge {
        /// The last that may be; there is such an entry.
        upto: LogId,
    },
    /// Go on behind a checkpoint that came from another machine, which knows more
    /// than this log. The history up to there is missing.
    Install {
        /// The last entry that the checkpoint contains.
        upto: LogId,
        /// The last command.
        index: Index,
    },
    /// The history that was missing has come.
    Backfill {
        /// The last entry that it was missing up to.
        upto: LogId,
    },
    /// The history up to here is no longer kept.
    Forget {
        /// The last entry that goes.
        upto: LogId,
    },
}

/// Called once what was written is safe on disk, or cannot be written any more.
/// Dropped without a call if the disk fails: that is told to
/// [`OnFatal`](crate::notice::OnFatal).
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// A log that a Raft engine can run on.
pub trait LogStorage: Clone + Send + Sync + 'static {
    /// Returns what the log holds besides its entries.
    fn state(&self) -> LogState;

    /// Returns the entries of a range, in order, as far as they go together with
    /// about `max_bytes`, or not as far; at least one if there is one.
    ///
    /// # Errors
    ///
    /// If an entry cannot be read back as it was written.
    fn entries(
        &self,
        range: Range<RaftIndex>,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, LogError>;

    /// Writes. When this returns, what was written can be read; when `done` is
    /// called, it is safe. Writes become safe in the order of these calls.
    ///
    /// # Panics
    ///
    /// If appended entries leave a hole.
    fn write(&self, write: Write, done: Done);

    /// Writes, and waits until it is safe: up to `limit`, and [`Duration::MAX`] has no end.
    /// Blocks the thread.
    ///
    /// # Errors
    ///
    /// If the log is closed, the disk fails, or the time is over: then it may be written yet.
    ///
    /// # Panics
    ///
    /// As [`Self::write`].
    fn write_and_wait(&self, write: Write, limit: Duration) -> Result<(), LogError> {
        let (sender, written) = mpsc::channel();
        self.write(write, Box::new(move |result| drop(sender.send(result))));
        written.recv_timeout(limit).unwrap_or_else(|none| match none {
            RecvTimeoutError::Timeout => Err(LogError::NotSafeYet { seconds: limit.as_secs() }),
            RecvTimeoutError::Disconnected => Err(LogError::Closed),
        })
    }

    /// Returns the first entry that is kept as history.
    fn first(&self) -> RaftIndex;

    /// Notes which entries are in checkpoints that are safe on disk: those up to
    /// `newest` in the newest one, so that they may be sealed; and those up to
    /// `all` in each of the last few, so that they may be dropped when there is
    /// more history than is to be kept.
    fn note_checkpoints(&self, newest: Option<RaftIndex>, all: Option<RaftIndex>);

    /// Notes that entries are committed. It is written with the next write, and
    /// may be lost before.
    fn note_committed(&self, upto: LogId);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log whose disk never says that anything is safe.
    #[derive(Clone, Default)]
    struct Hanging(Arc<std::sync::Mutex<Vec<Done>>>);

    impl LogStorage for Hanging {
        fn state(&self) -> LogState {
            LogState::default()
        }

        fn entries(&self, _: Range<RaftIndex>, _: usize) -> Result<Vec<Arc<Entry>>, LogError> {
            Ok(Vec::new())
        }

        fn write(&self, _: Write, done: Done) {
            self.0.lock().unwrap().push(done);
        }

        fn first(&self) -> RaftIndex {
            RaftIndex(0)
        }

        fn note_checkpoints(&self, _: Option<RaftIndex>, _: Option<RaftIndex>) {}

        fn note_committed(&self, _: LogId) {}
    }

    #[test]
    fn who_gives_up_waiting_does_not_hear_that_the_log_is_closed() {
        let waited = Hanging::default().write_and_wait(Write::Append(Vec::new()), Duration::ZERO);
        assert!(matches!(waited, Err(LogError::NotSafeYet { seconds: 0 })), "{waited:?}");
    }
}
