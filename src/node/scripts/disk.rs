//! The log of a scripted machine: the in-memory one, whose disk can hang, and whose
//! oldest entries can go.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_log::{
    Done, Entry, Index, LogError, LogId, LogState, LogStorage, MemoryLog, RaftIndex, Write,
};

/// A log in memory. Cloning gives another handle; it stays while its machine is stopped.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    memory: MemoryLog,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Whom to tell that his write is safe, while the disk hangs.
    waiting: Option<Vec<Done>>,
    /// The first entry that is kept as history.
    first: RaftIndex,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("first", &self.first).finish_non_exhaustive()
    }
}

impl Disk {
    /// Makes a log that holds some entries.
    pub(super) fn with(entries: Vec<Arc<Entry>>) -> Self {
        let disk = Self { memory: MemoryLog::new(), state: Arc::default() };
        disk.write(Write::Append(entries), Box::new(drop));
        disk
    }

    /// Lets nothing become safe from now on.
    pub(super) fn pause(&self) {
        self.state().waiting.get_or_insert_default();
    }

    /// Makes safe what was written meanwhile.
    pub(super) fn resume(&self) {
        let waiting = self.state().waiting.take();
        for done in waiting.into_iter().flatten() {
            done(Ok(()));
        }
    }

    /// Drops the history before an entry.
    pub(super) fn keep_from(&self, first: RaftIndex) {
        self.state().first = first;
    }

    /// Returns the entries from one on, as far as they are here.
    pub(super) fn since(&self, first: RaftIndex) -> Vec<Arc<Entry>> {
        let first = first.max(LogStorage::first(&self.memory));
        self.memory.entries(first..RaftIndex(u64::MAX), usize::MAX).unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogStorage for Disk {
    fn state(&self) -> LogState {
        let first = LogStorage::first(self);
        let state = self.memory.state();
        let Ok(before) = self.memory.entries(RaftIndex(0)..first, usize::MAX) else {
            return state;
        };
        let before = Index(before.iter().map(|entry| entry.commands()).sum());
        LogState { oldest: (first, before), ..state }
    }

    fn entries(
        &self,
        range: Range<RaftIndex>,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, LogError> {
        let first = LogStorage::first(self);
        if range.start < first {
            return Err(LogError::NoLongerKept { wanted: range.start, first });
        }
        self.memory.entries(range, max_bytes)
    }

    fn write(&self, write: Write, done: Done) {
        self.memory.write(write, Box::new(drop));
        if let Some(waiting) = &mut self.state().waiting {
            return waiting.push(done);
        }
        done(Ok(()));
    }

    fn first(&self) -> RaftIndex {
        let first = self.state().first;
        // Behind a checkpoint that has come from another machine, the rest is there.
        self.memory.state().missing.map_or(first, |missing| first.max(missing.index.next()))
    }

    fn note_checkpoints(&self, newest: Option<RaftIndex>, all: Option<RaftIndex>) {
        self.memory.note_checkpoints(newest, all);
    }

    fn note_committed(&self, upto: LogId) {
        self.memory.note_committed(upto);
    }
}
