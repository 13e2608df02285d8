//! Starting the engine: a founder begins a group, and nobody runs twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{LogId, LogStorage};
use openraft::error::{InitializeError, RaftError};
use openraft::{BasicNode, Config, Raft, SnapshotPolicy};
use tokio::sync::{Semaphore, mpsc};

use super::connection::Connections;
use super::doubt::Doubts;
use super::election::{self, Hints};
use super::engine::{APPENDS, Consensus, ConsensusError, HEARTBEATS, Parts, failed};
use super::in_flight::InFlight;
use super::incoming_checkpoints::IncomingCheckpoints;
use super::judge::{Judge, judge_own_vote};
use super::liveness::Liveness;
use super::log_store::LogStore;
use super::network::Network;
use super::pulse;
use super::state_machine::StateMachine;
use super::surroundings::{Oneself, Surroundings};
use super::timing::Timing;
use super::unsynced::Unsynced;
use crate::peers::Peers;
use crate::storage::checkpoint::CheckpointFile;
use crate::storage::stored::Stored;

/// How to start.
#[derive(Debug)]
pub struct ConsensusOptions<L> {
    /// Who this machine is.
    pub oneself: Oneself,
    /// What is around it.
    pub surroundings: Surroundings,
    /// Its log and its checkpoints.
    pub stored: Stored<L>,
    /// Up to where Raft need not look at the log.
    pub starts_behind: Option<LogId>,
    /// Its state machine.
    pub state_machine: StateMachine,
    /// What is not on its disk yet; the state machine waits for it.
    pub unsynced: Unsynced,
    /// The checkpoints that are written.
    pub written: mpsc::UnboundedReceiver<CheckpointFile>,
    /// The way to the other machines.
    pub peers: Peers,
    /// What it thinks of leaders.
    pub doubts: Doubts,
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
        let ConsensusOptions { oneself, stored, peers, unsynced, .. } = options;
        let Surroundings { hints, timing, clock, .. } = options.surroundings;
        let (me, address) = (oneself.machine.node, oneself.machine.peer_address());
        let log = stored.log.clone();
        let (in_flight, liveness) = (InFlight::default(), Liveness::default());
        judge_own_vote(&log.state()).map_err(|error| failed("go on from its own vote", error))?;
        let incoming_checkpoints =
            IncomingCheckpoints::new(stored.checkpoints.clone(), stored.disk.clone());
        let store = LogStore::new(log.clone(), me).starting_behind(options.starts_behind);
        let store = store.with(in_flight.clone(), incoming_checkpoints.clone(), unsynced.clone());
        let network =
            Network::new(peers.clone(), liveness.clone(), unsynced.clone(), clock.clone());
        let config = Arc::new(config(&timing));
        let connections = Connections(Arc::new(network));
        let raft = Raft::new(me.0, config, connections, store, options.state_machine).await;
        let raft = raft.map_err(|error| failed("start", error))?;
        let note_checkpoints = Box::new(move || stored.note_checkpoints(|_| true));
        let compared = log.clone();
        // What cannot be read is not compared; who needs it says so.
        let judge =
            Judge::new(move |range, most| compared.entries(range, most).unwrap_or_default());
        let log_state = Box::new(move || log.state());
        let parts = Parts {
            raft,
            me,
            address: Arc::from(address),
            peers,
            liveness,
            timing,
            clock,
            incoming_checkpoints,
            log_state,
            note_checkpoints,
            judge,
            appends: Arc::new(Semaphore::new(APPENDS)),
            heartbeats: Arc::new(Semaphore::new(HEARTBEATS)),
            in_flight,
            unsynced,
            doubts: options.doubts,
        };
        let consensus = Self { parts: Arc::new(parts) };
        if oneself.founds {
            consensus.found(address.to_owned()).await?;
        }
        // Once it answers, it has said who the members are.
        let answered = consensus.raft.is_initialized().await;
        answered.map_err(|error| failed("start", error))?;
        for (node, address) in &consensus.membership().nodes {
            consensus.peers.learn(*node, address);
        }
        consensus.make_sure_of_being_alone(address).await?;
        tokio::spawn(consensus.clone().purge_behind_checkpoints(options.written));
        let hints = Hints { address: address.into(), others: hints };
        tokio::spawn(election::run(consensus.clone(), hints));
        tokio::spawn(pulse::run(consensus.clone()));
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

    /// Makes sure that, if this machine has moved, it does not run at its old address as
    /// well, on the directory that this one is a copy of: they would share one vote.
    ///
    /// It has to be found before this machine votes, so by what its own log says. What only
    /// the others know of where it is, they are asked later (`node::twin`).
    async fn make_sure_of_being_alone(&self, address: &str) -> Result<(), ConsensusError> {
        match self.membership().nodes.get(&self.me) {
            Some(known) if **known != *address && self.peers.has_twin_at(known).await => {
                let twin = format!("this machine runs at {known} as well, in another process");
                Err(failed("start", twin))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Tells openraft of each checkpoint that is written, and lets it forget the
    /// entries up to the one before: who is so far behind gets the checkpoint.
    async fn purge_behind_checkpoints(self, mut written: mpsc::UnboundedReceiver<CheckpointFile>) {
        let mut before: Option<CheckpointFile> = None;
        while let Some(file) = written.recv().await {
            // It fails only where openraft has, which others notice.
            let _told = self.raft.trigger().snapshot().await;
            if let Some(before) = before.replace(file) {
                let _purged = self.raft.trigger().purge_log(before.raft_index.0).await;
            }
        }
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
        // Checkpoints are written by bytes of log, and no entry is let go before
        // history can be read from elsewhere.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_elect: false,
        ..Config::default()
    };
    config.validate().expect("the times were checked when they were given")
}
