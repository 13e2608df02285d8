//! Replay: a stream of committed entries in, outcomes out.
//!
//! Start-up, watches older than the ring, and the log's tools all read the log
//! this way; the live machine calls the same [`State::apply`].

use std::sync::Arc;

use etcd_log::{Entry, LogError, RaftIndex};
use etcd_projections::{Outcome, State};
use tokio_stream::{Stream, StreamExt as _};

/// A state on its way through the log.
#[derive(Debug)]
pub struct Replay<S> {
    state: State,
    entries: S,
}

/// What an entry came to.
#[derive(Debug)]
pub struct Step {
    /// The entry.
    pub raft_index: RaftIndex,
    /// The outcomes of its batch; none if it carries no batch.
    pub outcomes: Vec<Outcome>,
}

impl<S: Stream<Item = Result<Arc<Entry>, LogError>> + Unpin> Replay<S> {
    /// Replays the entries on top of a state, which must be that before the first
    /// of them.
    pub fn new(state: State, entries: S) -> Self {
        Self { state, entries }
    }

    /// Applies the next entry; nothing, at the end of the stream.
    ///
    /// # Errors
    ///
    /// If the log cannot be read.
    pub async fn next(&mut self) -> Result<Option<Step>, LogError> {
        let Some(entry) = self.entries.next().await.transpose()? else { return Ok(None) };
        let outcomes = entry.batch().map(|batch| self.state.apply(batch)).unwrap_or_default();
        Ok(Some(Step { raft_index: entry.id.index, outcomes }))
    }

    /// Returns the state so far.
    pub fn state(&self) -> &State {
        &self.state
    }
}
