//! The in-memory twin of the write-ahead log: the same words, no disk.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::LogError;
use crate::segments::tail::{Found, Tail};
use crate::storage::{Done, LogState, LogStorage, Write};
use crate::types::{Entry, LogId, RaftIndex};

/// A Raft log in memory. What is written to it is safe at once, and gone with
/// the last handle.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    tail: Arc<Mutex<Tail>>,
}

impl MemoryLog {
    /// Makes an empty log.
    pub fn new() -> Self {
        // Nothing of it is anywhere else, so nothing may leave the cache.
        Self { tail: Arc::new(Mutex::new(Tail::new(usize::MAX))) }
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl LogStorage for MemoryLog {
    fn state(&self) -> LogState {
        self.tail().state()
    }

    fn entries(
        &self,
        range: Range<RaftIndex>,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, LogError> {
        let tail = self.tail();
        if range.start < tail.first() {
            return Err(LogError::NoLongerKept { wanted: range.start, first: tail.first() });
        }
        let mut bytes = 0;
        let entries = (range.start.0..range.end.0)
            .map_while(|index| match tail.get(RaftIndex(index))? {
                Found::Cached(entry) => Some(entry),
                Found::OnDisk(..) => unreachable!("there is no disk"),
            })
            .take_while(|entry| {
                let first = bytes == 0;
                bytes += entry.size();
                first || bytes <= max_bytes
            });
        Ok(entries.collect())
    }

    fn write(&self, write: Write, done: Done) {
        let mut tail = self.tail();
        tail.apply(&write);
        drop(tail);
        done(Ok(()));
    }

    fn first(&self) -> RaftIndex {
        self.tail().first()
    }

    fn note_checkpoints(&self, _newest: Option<RaftIndex>, _all: Option<RaftIndex>) {}

    fn note_committed(&self, upto: LogId) {
        self.tail().set_committed(upto);
    }
}
