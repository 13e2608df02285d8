//! Replay: a stream of committed entries in, outcomes out.
//!
//! Watches older than the ring read the log this way, and so does a recovery; the
//! live machine, at its start too, calls the same [`State::apply_entry`] from Raft's
//! apply.

use std::sync::Arc;

use etcd_log::{Entry, LogError, RaftIndex};
use etcd_projections::{Diverged, Outcome, State};
use tokio_stream::{Stream, StreamExt as _};

/// A state on its way through the log.
#[derive(Debug)]
pub struct Replay<S> {
    state: State,
    entries: S,
}

/// Why a replay cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log does not lead to the state that its proposer had.
    #[error("the log leads elsewhere at entry {raft_index}")]
    Diverged {
        /// The entry that says so.
        raft_index: RaftIndex,
        /// Where, and what the two digests are.
        source: Diverged,
    },
}

/// What an entry came to.
#[derive(Debug)]
pub struct ReplayedEntry {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The outcomes of its batch; none if it carries no batch.
    pub outcomes: Vec<Outcome>,
}

impl<S: Stream<Item = Result<Arc<Entry>, LogError>> + Unpin> Replay<S> {
    /// Replays the entries on top of a state, which must be that before the first
    /// of them.
    pub fn new(state: State, entries: S) -> Self {
        Self { state, entries }
    }

    /// Applies the next entry; nothing, at the end.
    ///
    /// # Errors
    ///
    /// If the log cannot be read, or if the state is not what the log says it was.
    pub async fn next(&mut self) -> Result<Option<ReplayedEntry>, ReplayError> {
        let Some(entry) = self.entries.next().await.transpose()? else { return Ok(None) };
        let raft_index = entry.id.index;
        if let Some(check) = entry.batch().and_then(|batch| batch.check.as_ref()) {
            let compared = self.state.compare(check);
            compared.map_err(|source| ReplayError::Diverged { raft_index, source })?;
        }
        let batch = entry.batch().map(|batch| &**batch);
        let outcomes = self.state.apply_entry(raft_index, batch);
        Ok(Some(ReplayedEntry { entry, outcomes }))
    }

    /// Returns the state so far, to go on from.
    pub fn into_state(self) -> State {
        self.state
    }

    /// Returns the state so far.
    pub fn state(&self) -> &State {
        &self.state
    }
}
