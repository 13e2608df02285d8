//! A machine, put together from its parts: the same for a process that serves and
//! for one of many in a simulation.

use std::sync::Arc;

use etcd_log::{ClusterId, LogId, LogStorage, Machine};
use tokio::sync::mpsc;

use super::{Node, NodeOptions};
use crate::consensus::snapshot::Checkpoints;
use crate::consensus::state_machine::StateMachine;
use crate::consensus::{Consensus, ConsensusError, ConsensusOptions, Doubts, Timing, Unsynced};
use crate::peers::{Connect, Peers};
use crate::state::log_clock::LogClock;
use crate::state::published;
use crate::state::recent_outcomes::RecentOutcomes;
use crate::storage::backfill::BackfillSource;
use crate::storage::checkpoint::{Checkpoint, CheckpointFile, CheckpointStore, CheckpointWriter};
use crate::storage::disk_space::DiskRoom;
use crate::storage::events::{EventStore, EventWriter};
use crate::storage::log_stream::LogSource;
use crate::util::clock::Clock;
use crate::util::error_chain::ErrorChain;

/// What a machine is made of.
#[derive(Debug)]
pub struct Parts<L> {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// How the others and the clients know it.
    pub machine: Machine,
    /// Whether it founds the cluster, if its log is empty.
    pub founds: bool,
    /// Its log.
    pub log: L,
    /// What fills in history that is missing from it.
    pub backfill: BackfillSource,
    /// Up to where Raft need not look at the log.
    pub starts_behind: Option<LogId>,
    /// Where its checkpoints lie.
    pub checkpoints: CheckpointStore,
    /// The one that it starts from.
    pub start: Checkpoint,
    /// The file that this comes from.
    pub file: Option<CheckpointFile>,
    /// After how many bytes of batches another one is written.
    pub checkpoint_bytes: usize,
    /// What it has stored of what happened; none, if it stores nothing.
    pub events: Option<EventStore>,
    /// How many events its ring holds.
    pub ring_capacity: usize,
    /// The room on its disk.
    pub disk: DiskRoom,
    /// How it reaches the others.
    pub network: Arc<dyn Connect>,
    /// Where others may be found that have moved.
    pub hints: Vec<String>,
    /// How long they wait for each other.
    pub timing: Timing,
    /// The time.
    pub clock: Clock,
}

/// Puts a machine together, and starts it. Whoever does so lets others ask it.
///
/// # Errors
///
/// If its log or its checkpoints cannot be used.
pub async fn start<L: LogStorage>(parts: Parts<L>) -> Result<(Node, Consensus), ConsensusError> {
    let Parts { cluster, machine, log, checkpoints, start, file, disk, clock, .. } = parts;
    let peers = Peers::new(machine.node, cluster, parts.network);
    let (publisher, reader) = published::channel(start.state.clone(), start.applied);
    let recording = parts.events.as_ref().and_then(|events| record(events, &disk));
    let publisher = publisher.storing(recording.clone());
    let log_clock = LogClock::new(clock.clone());
    let (outcomes, unsynced) = (RecentOutcomes::default(), Unsynced::default());
    let current = Checkpoints::new(checkpoints.clone(), &start, file.as_ref());
    let (sender, written) = mpsc::unbounded_channel();
    let (noted, source) = (current.clone(), LogSource::new(log.clone()));
    let kept = source.clone();
    let writer = CheckpointWriter::start(
        checkpoints.clone(),
        disk.clone(),
        log.clone(),
        move |checkpoint, file| {
            noted.written(checkpoint, file);
            if let Some(recording) = &recording {
                // The next start begins here: what came before does not come again.
                recording.flush(kept.oldest().1);
            }
            // Nobody listens any more when the engine has stopped.
            let _heard = sender.send(file.clone());
        },
    );
    let state_machine = StateMachine::new(
        start.membership,
        publisher,
        outcomes.clone(),
        unsynced.clone(),
        current,
        writer,
        parts.checkpoint_bytes,
    );
    let consensus = Consensus::start(ConsensusOptions {
        me: machine.node,
        address: machine.peer_address().to_owned(),
        founds: parts.founds,
        log: log.clone(),
        starts_behind: parts.starts_behind,
        state_machine,
        unsynced,
        checkpoints: checkpoints.clone(),
        disk: disk.clone(),
        written,
        peers: peers.clone(),
        hints: parts.hints.clone(),
        timing: parts.timing,
        clock: clock.clone(),
        doubts: Doubts::new(log_clock.clone(), reader.clone()),
    })
    .await?;
    let node = Node::start(NodeOptions {
        cluster,
        machine,
        consensus: consensus.clone(),
        peers,
        hints: parts.hints,
        published: reader,
        outcomes,
        clock,
        log_clock,
        disk,
        log: source,
        backfill: parts.backfill,
        checkpoints,
        events: parts.events,
        ring_capacity: parts.ring_capacity,
    });
    Ok((node, consensus))
}

/// Begins to store events. Without, a machine is slower where the past is concerned.
fn record(events: &EventStore, disk: &DiskRoom) -> Option<Arc<EventWriter>> {
    match EventWriter::start(events.clone(), disk.clone()) {
        Ok(writer) => Some(Arc::new(writer)),
        Err(error) => {
            tracing::warn!("events are not stored: {}", ErrorChain(&error));
            None
        }
    }
}
