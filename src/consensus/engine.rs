//! The engine: openraft, set up as this store needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{Batch, LogId, LogState, LogStorage, Membership, NodeId, RaftIndex, Term};
use etcd_projections::Outcome;
use openraft::error::{ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::{BasicNode, ChangeMembers, Config, Raft, RaftMetrics, ServerState, SnapshotPolicy};
use tokio::sync::mpsc;

use super::contact::Contact;
use super::election::{self, Hints};
use super::in_flight::InFlight;
use super::log_store::LogStore;
use super::network::Network;
use super::received::{self, Received};
use super::state_machine::StateMachine;
use super::timing::Timing;
use super::types::{TypeConfig, to_membership};
use super::unsynced::Unsynced;
use crate::checkpoint::{CheckpointFile, CheckpointStore};
use crate::clock::Clock;
use crate::one_line::OneLine;
use crate::peers::Peers;

/// How long sending a snapshot may take, in milliseconds. Ours have limits of
/// their own.
const SNAPSHOT_MS: u64 = 10_000;

/// The consensus of this machine with the others. Cloning gives another handle.
#[derive(Clone)]
pub struct Consensus {
    pub(super) raft: Raft<TypeConfig>,
    pub(super) me: NodeId,
    pub(super) peers: Peers,
    pub(super) contact: Contact,
    pub(super) timing: Timing,
    pub(super) received: Received,
    pub(super) log_state: Arc<dyn Fn() -> LogState + Send + Sync>,
    /// Tells the log of the checkpoints that there are.
    pub(super) note_checkpoints: Arc<dyn Fn() + Send + Sync>,
    in_flight: InFlight,
    pub(super) unsynced: Unsynced,
}

/// How to start.
#[derive(Debug)]
pub struct ConsensusOptions<L> {
    /// Who this machine is.
    pub me: NodeId,
    /// Where the other machines reach it: `host:port`.
    pub address: String,
    /// Whether it founds a cluster, if its log is empty; or else waits to be let in.
    pub founds: bool,
    /// Its log.
    pub log: L,
    /// Up to where Raft need not look at it.
    pub settled: Option<LogId>,
    /// Its state machine.
    pub state_machine: StateMachine,
    /// What is not on its disk yet; the state machine waits for it.
    pub unsynced: Unsynced,
    /// Where its checkpoints lie.
    pub checkpoints: CheckpointStore,
    /// The checkpoints that are written.
    pub written: mpsc::UnboundedReceiver<CheckpointFile>,
    /// The way to the other machines.
    pub peers: Peers,
    /// Where other machines may be found that have moved.
    pub hints: Vec<String>,
    /// How long to wait for each other.
    pub timing: Timing,
    /// The time.
    pub clock: Clock,
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

/// How this machine stands to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads, and a majority has said so lately.
    Leader,
    /// It led when it heard of the others last, which is too long ago.
    Cut,
    /// It hears this leader.
    Follower(NodeId),
    /// It hears no leader.
    Lost,
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
    /// Starts the engine: applies what is known to be committed. A founder of a
    /// group begins it if the log is empty; whoever has a vote stands for election
    /// when no leader is heard.
    ///
    /// # Errors
    ///
    /// If the log or a checkpoint cannot be read.
    pub async fn start<L: LogStorage>(
        options: ConsensusOptions<L>,
    ) -> Result<Self, ConsensusError> {
        let ConsensusOptions { me, log, peers, timing, clock, checkpoints, .. } = options;
        let (in_flight, contact) = (InFlight::default(), Contact::default());
        let received = Received::new(checkpoints.clone());
        let store = LogStore::new(log.clone(), me).settled(options.settled);
        let unsynced = options.unsynced;
        let store = store.with(in_flight.clone(), received.clone(), unsynced.clone());
        let network = Network {
            peers: peers.clone(),
            contact: contact.clone(),
            unsynced: unsynced.clone(),
            clock,
            encoded: Arc::default(),
        };
        let config = Arc::new(config(&timing));
        let raft = Raft::new(me.0, config, network, store, options.state_machine).await;
        let raft = raft.map_err(|error| failed("start", error))?;
        let noted = log.clone();
        let note_checkpoints = Arc::new(move || received::note(&checkpoints, &noted));
        let log_state = Arc::new(move || log.state());
        let consensus = Self {
            raft,
            me,
            peers,
            contact,
            timing,
            received,
            log_state,
            note_checkpoints,
            in_flight,
            unsynced,
        };
        if options.founds {
            consensus.found(options.address.clone()).await?;
        }
        for (node, address) in &consensus.membership().nodes {
            consensus.peers.learn(*node, address);
        }
        tokio::spawn(consensus.clone().settle(options.written));
        let hints = Hints { address: options.address.into(), others: options.hints };
        tokio::spawn(election::run(consensus.clone(), hints));
        Ok(consensus)
    }

    /// Founds a group of one, if there is none.
    async fn found(&self, address: String) -> Result<(), ConsensusError> {
        let founder = BTreeMap::from([(self.me.0, BasicNode { addr: address })]);
        match self.raft.initialize(founder).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(failed("found a group", error)),
        }
    }

    /// Tells openraft of each checkpoint that is written, and lets it forget the
    /// entries up to the one before: who is so far behind gets the checkpoint.
    async fn settle(self, mut written: mpsc::UnboundedReceiver<CheckpointFile>) {
        let mut before: Option<CheckpointFile> = None;
        while let Some(file) = written.recv().await {
            // It fails only where openraft has, which others notice.
            let _told = self.raft.trigger().snapshot().await;
            if let Some(before) = before.replace(file) {
                let _purged = self.raft.trigger().purge_log(before.raft_index.0).await;
            }
        }
    }

    /// Proposes a batch, and returns where it stands and the outcomes of its
    /// commands once it is committed, and applied on this machine. Only one may be
    /// under way.
    ///
    /// # Errors
    ///
    /// If this machine does not lead, or the engine stops meanwhile.
    pub async fn propose(&self, batch: Arc<Batch>) -> Result<Applied, ProposeError> {
        self.in_flight.begin(&batch);
        let written = self.raft.client_write(batch).await;
        let appended = self.in_flight.end();
        match written {
            Ok(response) => Ok(Applied {
                entry: RaftIndex(response.log_id.index),
                outcomes: response.data.outcomes,
            }),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) if !appended => {
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

    /// Returns how this machine stands to the others.
    pub fn role(&self) -> Role {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        if metrics.state == ServerState::Leader {
            let membership = metrics.membership_config.membership();
            let within = self.timing.election.1;
            let heard = self.contact.has_majority(self.me, membership, within);
            return if heard { Role::Leader } else { Role::Cut };
        }
        match self.contact.leader(self.timing.election.1) {
            Some(leader) => Role::Follower(leader),
            None => Role::Lost,
        }
    }

    /// Returns whether the others are a majority of themselves, as far as this leader
    /// has heard lately.
    pub fn can_do_without(&self, node: NodeId) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        self.contact.is_near_without(self.me, membership, self.timing.election.1, Some(node))
    }

    /// Returns the machine that leads, as far as this one knows.
    pub fn leader(&self) -> Option<NodeId> {
        match self.role() {
            Role::Leader => Some(self.me),
            Role::Follower(leader) => Some(leader),
            Role::Cut | Role::Lost => None,
        }
    }

    /// Returns whether this machine leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.role() == Role::Leader
    }

    /// Returns the term in which this machine leads, or thinks that it does.
    pub fn leads_in(&self) -> Option<Term> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        (metrics.state == ServerState::Leader).then_some(Term(metrics.vote.leader_id.term))
    }

    /// Returns the times of Raft.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Returns the term that this machine has seen last.
    pub fn term(&self) -> Term {
        Term(self.raft.server_metrics().borrow().vote.leader_id.term)
    }

    /// Returns the members of the group, as this machine has them in its log.
    pub fn membership(&self) -> Membership {
        to_membership(self.raft.server_metrics().borrow().membership_config.membership())
    }

    /// Returns up to which entry each other member's log agrees with this one's; only
    /// the leader knows.
    pub fn matched(&self) -> BTreeMap<NodeId, RaftIndex> {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow();
        let matched = metrics.replication.iter().flatten();
        let matched =
            matched.filter_map(|(node, id)| Some((NodeId(*node), RaftIndex((*id)?.index))));
        matched.collect()
    }

    /// Returns the last entry of this machine's log.
    pub fn last_entry(&self) -> Option<LogId> {
        (self.log_state)().last
    }

    /// Finishes a change of the group that was cut short.
    ///
    /// # Errors
    ///
    /// As [`Self::add_learner`].
    pub async fn settle_membership(&self) -> Result<(), ConsensusError> {
        let change = ChangeMembers::AddVoterIds(BTreeSet::new());
        self.change("settle the members", change, false).await
    }

    /// Lets a machine into the group, without a vote at first.
    ///
    /// # Errors
    ///
    /// If this machine does not lead, or another change is under way.
    pub async fn add_learner(&self, node: NodeId, address: &str) -> Result<(), ConsensusError> {
        let learner = BTreeMap::from([(node.0, BasicNode::new(address))]);
        self.change("add a learner", ChangeMembers::AddNodes(learner), true).await
    }

    /// Gives a learner its vote.
    ///
    /// # Errors
    ///
    /// As [`Self::add_learner`].
    pub async fn promote(&self, node: NodeId) -> Result<(), ConsensusError> {
        let voter = BTreeSet::from([node.0]);
        self.change("add a voter", ChangeMembers::AddVoterIds(voter), true).await
    }

    /// Removes a machine from the group.
    ///
    /// # Errors
    ///
    /// As [`Self::add_learner`].
    pub async fn remove(&self, node: NodeId) -> Result<(), ConsensusError> {
        let nodes = BTreeSet::from([node.0]);
        let votes = self.membership().voters.iter().any(|voters| voters.contains(&node));
        let change = if votes {
            ChangeMembers::RemoveVoters(nodes)
        } else {
            ChangeMembers::RemoveNodes(nodes)
        };
        self.change("remove a member", change, false).await
    }

    /// Notes where a member is reached by now.
    ///
    /// # Errors
    ///
    /// As [`Self::add_learner`].
    pub async fn set_address(&self, node: NodeId, address: &str) -> Result<(), ConsensusError> {
        let moved = BTreeMap::from([(node.0, BasicNode::new(address))]);
        self.change("move a member", ChangeMembers::SetNodes(moved), true).await
    }

    async fn change(
        &self,
        action: &'static str,
        change: ChangeMembers<u64, BasicNode>,
        retain: bool,
    ) -> Result<(), ConsensusError> {
        let changed = self.raft.change_membership(change, retain).await;
        changed.map(drop).map_err(|error| failed(action, error))
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

fn config(timing: &Timing) -> Config {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    // openraft's own election timer is off. What it takes from these times is for how
    // long a follower refuses its vote after it has heard a leader.
    let lease = millis(timing.election.0);
    let config = Config {
        cluster_name: "etcd".to_owned(),
        // openraft gives up on an append after this time, too.
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: lease.saturating_sub(1),
        election_timeout_max: lease,
        install_snapshot_timeout: SNAPSHOT_MS,
        // Checkpoints are written by bytes of log, and no entry is let go before
        // history can be read from elsewhere.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_elect: false,
        ..Config::default()
    };
    config.validate().expect("the times were checked when they were given")
}

pub(super) fn failed<E>(action: &'static str, error: E) -> ConsensusError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    ConsensusError { action, source: error.into() }
}
