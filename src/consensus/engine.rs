//! The engine: openraft, set up as this store needs it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use etcd_log::{Batch, LogState, NodeId, RaftIndex};
use etcd_projections::Outcome;
use openraft::error::{ClientWriteError, Fatal, RaftError};
use openraft::{BasicNode, Raft, RaftMetrics};
use tokio::sync::Semaphore;

use super::doubt::Doubts;
use super::in_flight::InFlight;
use super::incoming_checkpoints::IncomingCheckpoints;
use super::judge::Judge;
use super::liveness::Liveness;
use super::timing::Timing;
use super::types::TypeConfig;
use super::unsynced::Unsynced;
use crate::peers::{Peers, ProposalError};
use crate::storage::checkpoint::CheckpointError;
use crate::util::clock::Clock;
use crate::util::error_chain::ErrorChain;

/// How many appends may wait for the disk at a time. A leader that gets no answer in
/// time sends again, and every one of them is held in memory.
pub(super) const APPENDS: usize = 8;

/// How many heartbeats may wait behind them.
pub(super) const HEARTBEATS: usize = 16;

/// The consensus of this machine with the others. Cloning gives another handle.
#[derive(Clone)]
pub struct Consensus {
    pub(super) parts: Arc<Parts>,
}

/// What it consists of.
pub struct Parts {
    pub(super) raft: Raft<TypeConfig>,
    pub(super) me: NodeId,
    /// Where the other machines reach it.
    pub(super) address: Arc<str>,
    pub(super) peers: Peers,
    pub(super) liveness: Liveness,
    pub(super) timing: Timing,
    pub(super) clock: Clock,
    pub(super) incoming_checkpoints: IncomingCheckpoints,
    pub(super) log_state: Box<dyn Fn() -> LogState + Send + Sync>,
    /// Tells the log of the checkpoints that there are.
    pub(super) note_checkpoints: Box<dyn Fn() -> Result<(), CheckpointError> + Send + Sync>,
    pub(super) judge: Judge,
    /// How many more appends may wait for the disk.
    pub(super) appends: Arc<Semaphore>,
    /// How many more heartbeats may wait behind them.
    pub(super) heartbeats: Arc<Semaphore>,
    pub(super) in_flight: InFlight,
    pub(super) unsynced: Unsynced,
    pub(super) doubts: Doubts,
}

/// Why the engine failed. All such failures stop the machine.
#[derive(Debug, thiserror::Error)]
#[error("consensus failed to {action}")]
pub struct ConsensusError {
    action: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Commands that have been applied, and where they stand in the log.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The entry that carries them.
    pub entry: RaftIndex,
    /// What came of them, in their order.
    pub outcomes: Vec<Outcome>,
}

impl Consensus {
    /// Proposes a batch, and returns where it stands and the outcomes of its
    /// commands once it is committed, and applied on this machine. Only one may be
    /// under way.
    ///
    /// # Errors
    ///
    /// If this machine does not lead, or the engine stops meanwhile.
    pub async fn propose(&self, batch: Arc<Batch>) -> Result<Applied, ProposalError> {
        self.in_flight.begin(&batch);
        let written = self.raft.client_write(batch).await;
        let appended = self.in_flight.end();
        match written {
            Ok(response) => Ok(Applied {
                entry: RaftIndex(response.log_id.index),
                outcomes: response.data.outcomes,
            }),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) if !appended => {
                Err(ProposalError::NotLeader)
            }
            Err(_) => Err(ProposalError::Unknown),
        }
    }

    /// Makes sure that this machine leads now, and returns which entry must be
    /// applied before a read that was asked for earlier may be answered.
    ///
    /// # Errors
    ///
    /// If this machine does not lead, or cannot prove it.
    pub async fn read_barrier(&self) -> Result<Option<RaftIndex>, ProposalError> {
        match self.raft.get_read_log_id().await {
            Ok((read, _)) => Ok(read.map(|id| RaftIndex(id.index))),
            Err(_) => Err(ProposalError::NotLeader),
        }
    }

    /// Waits until the engine fails. It does not go on then, and neither may the
    /// machine. Waits for ever if it is shut down.
    pub async fn failure(&self) -> ConsensusError {
        let mut metrics = self.raft.metrics();
        let has_failed = |metrics: &RaftMetrics<u64, BasicNode>| {
            metrics.running_state.as_ref().is_err_and(|fatal| *fatal != Fatal::Stopped)
        };
        if let Ok(metrics) = metrics.wait_for(has_failed).await
            && let Err(fatal) = &metrics.running_state
        {
            return failed("go on", fatal.clone());
        }
        std::future::pending().await
    }

    /// Stops the engine. What it was doing is finished or given up.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!("consensus did not stop cleanly: {}", ErrorChain(&error));
        }
    }
}

impl Deref for Consensus {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl fmt::Debug for Consensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consensus").field("me", &self.me).finish_non_exhaustive()
    }
}

pub(super) fn failed<E>(action: &'static str, error: E) -> ConsensusError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    ConsensusError { action, source: error.into() }
}
