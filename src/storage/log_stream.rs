//! A log to be read as a stream, whichever log it is.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use etcd_log::{Entry, EntryStream, Index, LogError, LogId, LogState, LogStorage, RaftIndex};

use crate::util::blocking::blocking;

/// How many bytes of entries are read at once. Bounds what a reader holds.
const CHUNK_BYTES: usize = 1 << 20;

/// A log to be read. Cloning gives another handle.
#[derive(Clone)]
pub struct LogSource {
    log: Arc<dyn Read>,
}

/// What reading needs of a log.
trait Read: Send + Sync {
    fn state(&self) -> LogState;
    fn first(&self) -> RaftIndex;
    fn entries(&self, range: Range<RaftIndex>) -> Result<Vec<Arc<Entry>>, LogError>;
}

impl<L: LogStorage> Read for L {
    fn state(&self) -> LogState {
        LogStorage::state(self)
    }

    fn first(&self) -> RaftIndex {
        LogStorage::first(self)
    }

    fn entries(&self, range: Range<RaftIndex>) -> Result<Vec<Arc<Entry>>, LogError> {
        LogStorage::entries(self, range, CHUNK_BYTES)
    }
}

impl LogSource {
    /// Wraps a log.
    pub fn new(log: impl LogStorage) -> Self {
        Self { log: Arc::new(log) }
    }

    /// Returns the first entry that is kept.
    pub fn first(&self) -> RaftIndex {
        self.log.first()
    }

    /// Returns the first entry that is kept, and the last command before it.
    pub fn oldest(&self) -> (RaftIndex, Index) {
        self.log.state().oldest
    }

    /// Returns the last entry before the first one that is here, while what lies
    /// before is still to be fetched from another machine.
    pub fn missing(&self) -> Option<LogId> {
        self.log.state().missing
    }

    /// Streams the entries of a range, and ends early where the log does.
    pub fn read(&self, range: Range<RaftIndex>) -> EntryStream {
        let log = Arc::clone(&self.log);
        EntryStream::new(range, move |range| {
            let log = Arc::clone(&log);
            blocking(move || log.entries(range))
        })
    }
}

impl fmt::Debug for LogSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSource").field("first", &self.first()).finish_non_exhaustive()
    }
}
