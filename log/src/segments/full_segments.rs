//! The full segments: what is known about them, and which of them may go.
//!
//! ```text
//! writer: segment 7 is full ─▶ full segments ◀─ shell: a checkpoint covers entry 900
//!                                    │
//!            archiver: seals what both allow, and releases the segment
//!                                    │
//!            okaywal's thread ◀──────┘ waits here, then writes over it
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::types::RaftIndex;

/// A segment that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FullSegment {
    /// The number in its name: that of its first commit.
    pub(crate) first_commit: u64,
    /// The number of its last commit.
    pub(crate) last_commit: u64,
}

/// What the newest checkpoints make superfluous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Covered {
    /// The entries up to here are in the newest checkpoint.
    pub(crate) newest: Option<RaftIndex>,
    /// The entries up to here are in all of the last few.
    pub(crate) all: Option<RaftIndex>,
}

/// The segments that are full. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct FullSegments {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    full: VecDeque<FullSegment>,
    covered: Covered,
    /// The segments up to this commit may go.
    released: u64,
    /// Whether there is something that the archiver has not looked at yet.
    news: bool,
    /// Whether the archiver is to end.
    stopped: bool,
    /// Whether nothing is let go any more. Later than `stopped`: while the writer
    /// writes, okaywal's thread must live.
    closed: bool,
    /// How often the archiver has found nothing more to do.
    #[cfg(test)]
    rounds: u64,
}

impl FullSegments {
    /// Notes that a segment is full.
    pub(crate) fn push(&self, segment: FullSegment) {
        self.change(|state| {
            let before = state.full.back().map_or(state.released, |last| last.last_commit);
            assert!(before < segment.first_commit, "{segment:?} is full behind {before}");
            assert!(segment.first_commit <= segment.last_commit, "{segment:?} holds nothing");
            state.full.push_back(segment);
        });
    }

    /// Notes what the checkpoints contain.
    pub(crate) fn cover(&self, covered: Covered) {
        self.change(|state| state.covered = covered);
    }

    /// Returns the full segments, oldest first.
    pub(crate) fn all(&self) -> Vec<FullSegment> {
        self.lock().full.iter().copied().collect()
    }

    /// Returns what the checkpoints contain.
    pub(crate) fn covered(&self) -> Covered {
        self.lock().covered
    }

    /// Lets the segments up to this one go.
    pub(crate) fn release(&self, segment: FullSegment) {
        self.change(|state| {
            state.released = state.released.max(segment.last_commit);
            state.full.retain(|full| full.last_commit > segment.last_commit);
        });
    }

    /// Returns the last commit that is in a segment which may go.
    #[cfg(test)]
    pub(crate) fn released(&self) -> u64 {
        self.lock().released
    }

    /// Waits until the segment that ends with this commit may go. Returns whether
    /// it may: it may not if the log closes.
    pub(crate) fn wait_until_released(&self, last_commit: u64) -> bool {
        let (_, changed) = &*self.shared;
        let waits = |state: &mut State| state.released < last_commit && !state.closed;
        let state = changed.wait_while(self.lock(), waits);
        state.unwrap_or_else(PoisonError::into_inner).released >= last_commit
    }

    /// Waits until something changed, but for no longer than this.
    pub(crate) fn wait_for_news(&self, limit: Duration) {
        let (_, changed) = &*self.shared;
        let waits = |state: &mut State| !state.news && !state.stopped;
        #[cfg(test)]
        {
            self.lock().rounds += 1;
        }
        let waited = changed.wait_timeout_while(self.lock(), limit, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.news = false;
    }

    /// Returns how often the archiver has found nothing more to do.
    #[cfg(test)]
    pub(crate) fn rounds(&self) -> u64 {
        self.lock().rounds
    }

    /// Asks the archiver to end.
    pub(crate) fn stop(&self) {
        self.change(|state| state.stopped = true);
    }

    /// Returns whether the archiver is to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Ends all waiting: the log is closed.
    pub(crate) fn close(&self) {
        self.change(|state| (state.stopped, state.closed) = (true, true));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        state.news = true;
        drop(state);
        self.shared.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
