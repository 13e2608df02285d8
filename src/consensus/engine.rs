//! The engine: openraft, set up as this store needs it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use etcd_log::{Batch, LogId, LogStorage, NodeId, RaftIndex};
use etcd_projections::Outcome;
use openraft::error::{ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::{BasicNode, Config, Raft, RaftMetrics, SnapshotPolicy};

use super::log_store::LogStore;
use super::network::Network;
use super::state_machine::StateMachine;
use super::types::TypeConfig;
use crate::one_line::OneLine;

/// How often a leader says that it leads, in milliseconds. openraft gives up on
/// an append after this time, so it is no shorter.
const HEARTBEAT_MS: u64 = 100;

/// For how long a machine that has heard a leader refuses its vote to others, in
/// milliseconds: at least and at most. openraft's own election timer is off.
const ELECTION_MS: (u64, u64) = (600, 1200);

/// How long sending a snapshot may take, in milliseconds.
const SNAPSHOT_MS: u64 = 10_000;

/// The consensus of this machine with the others. Cloning gives another handle.
#[derive(Clone)]
pub struct Consensus {
    raft: Raft<TypeConfig>,
    me: NodeId,
}

/// How to start.
#[derive(Debug)]
pub struct ConsensusOptions<L> {
    /// Who this machine is.
    pub me: NodeId,
    /// Where the other machines reach it: `host:port`.
    pub address: String,
    /// Its log.
    pub log: L,
    /// Up to where Raft need not look at it.
    pub settled: Option<LogId>,
    /// Its state machine.
    pub state_machine: StateMachine,
}

/// Why the engine failed. All such failures stop the machine.
#[derive(Debug, thiserror::Error)]
#[error("consensus failed to {action}")]
pub struct ConsensusError {
    action: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Why there is no answer to a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This machine does not lead: nothing was proposed.
    #[error("this machine does not lead")]
    NotLeader,
    /// The proposal may or may not become part of the log.
    #[error("the outcome is unknown")]
    Unknown,
}

impl Consensus {
    /// Starts the engine: applies what is known to be committed, and founds a
    /// group of one if the log is empty, or else stands for election in it.
    ///
    /// # Errors
    ///
    /// If the log or a checkpoint cannot be read.
    pub async fn start<L: LogStorage>(
        options: ConsensusOptions<L>,
    ) -> Result<Self, ConsensusError> {
        let ConsensusOptions { me, address, log, settled, state_machine } = options;
        let store = LogStore::new(log, me, settled);
        let raft = Raft::new(me.0, Arc::new(config()), Network, store, state_machine).await;
        let raft = raft.map_err(|error| failed("start", error))?;
        let consensus = Self { raft, me };
        consensus.stand(address).await?;
        Ok(consensus)
    }

    /// Founds a group of one, or stands for election in it.
    async fn stand(&self, address: String) -> Result<(), ConsensusError> {
        let founder = BTreeMap::from([(self.me.0, BasicNode { addr: address })]);
        match self.raft.initialize(founder).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => self
                .raft
                .trigger()
                .elect()
                .await
                .map_err(|error| failed("stand for election", error)),
            Err(error) => Err(failed("found a group", error)),
        }
    }

    /// Proposes a batch, and returns the outcomes of its commands once it is
    /// committed, and applied on this machine.
    ///
    /// # Errors
    ///
    /// If this machine does not lead, or the engine stops meanwhile.
    pub async fn propose(&self, batch: Arc<Batch>) -> Result<Vec<Outcome>, ProposeError> {
        match self.raft.client_write(batch).await {
            Ok(response) => Ok(response.data.outcomes),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(ProposeError::NotLeader)
            }
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Makes sure that this machine leads now, and returns which entry must be
    /// applied before a read that was asked for earlier may be answered.
    ///
    /// # Errors
    ///
    /// If this machine does not lead, or cannot prove it.
    pub async fn read_barrier(&self) -> Result<Option<RaftIndex>, ProposeError> {
        match self.raft.get_read_log_id().await {
            Ok((read, _)) => Ok(read.map(|id| RaftIndex(id.index))),
            Err(_) => Err(ProposeError::NotLeader),
        }
    }

    /// Returns the machine that leads, as far as this one knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.raft.server_metrics().borrow().current_leader.map(NodeId)
    }

    /// Returns whether this machine leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.leader() == Some(self.me)
    }

    /// Waits until the engine fails. It does not go on then, and neither may the
    /// machine. Waits for ever if it is shut down.
    pub async fn failure(&self) -> ConsensusError {
        let mut metrics = self.raft.metrics();
        let failed_for_good = |metrics: &RaftMetrics<u64, BasicNode>| matches!(&metrics.running_state, Err(fatal) if *fatal != Fatal::Stopped);
        if let Ok(metrics) = metrics.wait_for(failed_for_good).await
            && let Err(fatal) = &metrics.running_state
        {
            return failed("go on", fatal.clone());
        }
        std::future::pending().await
    }

    /// Stops the engine. What it was doing is finished or given up.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!("consensus did not stop cleanly: {}", OneLine(&error));
        }
    }
}

impl fmt::Debug for Consensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consensus").field("me", &self.me).finish_non_exhaustive()
    }
}

fn config() -> Config {
    let config = Config {
        cluster_name: "etcd".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS.0,
        election_timeout_max: ELECTION_MS.1,
        install_snapshot_timeout: SNAPSHOT_MS,
        // Checkpoints are written by bytes of log, and no entry is let go before
        // history can be read from elsewhere.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_elect: false,
        ..Config::default()
    };
    config.validate().expect("the times fit each other")
}

fn failed<E>(action: &'static str, error: E) -> ConsensusError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    ConsensusError { action, source: error.into() }
}
