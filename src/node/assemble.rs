//! A machine, put together from its parts: the same for a process that serves and
//! for one of many in a simulation.

use std::sync::Arc;

use etcd_log::{LogId, LogStorage};
use tokio::sync::mpsc;

use super::{Node, NodeOptions};
use crate::consensus::snapshot::Checkpoints;
use crate::consensus::state_machine::StateMachine;
use crate::consensus::{
    Consensus, ConsensusError, ConsensusOptions, Doubts, Oneself, Surroundings, Unsynced,
};
use crate::peers::Peers;
use crate::state::log_clock::LogClock;
use crate::state::published;
use crate::state::recent_outcomes::RecentOutcomes;
use crate::storage::backfill::BackfillSource;
use crate::storage::checkpoint::{Checkpoint, CheckpointFile, CheckpointWriter};
use crate::storage::disk_space::DiskRoom;
use crate::storage::events::{EventStore, EventWriter};
use crate::storage::log_stream::LogSource;
use crate::storage::stored::Stored;
use crate::util::error_chain::ErrorChain;

/// What a machine is made of.
#[derive(Debug)]
pub struct Parts<L> {
    /// Who it is.
    pub oneself: Oneself,
    /// What is around it.
    pub surroundings: Surroundings,
    /// What it keeps.
    pub stored: Stored<L>,
    /// Where it starts.
    pub start: StartPoint,
    /// What fills in history that is missing from the log.
    pub backfill: BackfillSource,
    /// After how many bytes of batches another checkpoint is written.
    pub checkpoint_bytes: usize,
    /// What it has stored of what happened; none, if it stores nothing.
    pub events: Option<EventStore>,
    /// How many events its ring holds.
    pub ring_capacity: usize,
}

/// Where a machine starts.
#[derive(Debug)]
pub struct StartPoint {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The file that this comes from; none, if it is the beginning of all.
    pub file: Option<CheckpointFile>,
    /// Up to where Raft need not look at the log.
    pub behind: Option<LogId>,
}

/// Puts a machine together, and starts it. Whoever does so lets others ask it.
///
/// # Errors
///
/// If its log or its checkpoints cannot be used.
pub async fn start<L: LogStorage>(parts: Parts<L>) -> Result<(Node, Consensus), ConsensusError> {
    let Parts { oneself, surroundings, stored, start, .. } = parts;
    let network = Arc::clone(&surroundings.network);
    let peers = Peers::new(oneself.machine.node, oneself.cluster, network);
    let StartPoint { checkpoint, file, behind } = start;
    let (publisher, reader) = published::channel(checkpoint.state.clone(), checkpoint.applied);
    let recording = parts.events.as_ref().and_then(|events| record(events, &stored.disk));
    let publisher = publisher.storing(recording.clone());
    let log_clock = LogClock::new(surroundings.clock.clone());
    let (outcomes, unsynced) = (RecentOutcomes::default(), Unsynced::default());
    let current = Checkpoints::new(stored.checkpoints.clone(), &checkpoint, file.as_ref());
    let (sender, written) = mpsc::unbounded_channel();
    let (noted, kept) = (current.clone(), LogSource::new(stored.log.clone()));
    let writer = CheckpointWriter::start(stored.clone(), move |checkpoint, file| {
        noted.written(checkpoint, file);
        if let Some(recording) = &recording {
            // The next start begins here: what came before does not come again.
            recording.flush(kept.oldest().1);
        }
        // Nobody listens any more when the engine has stopped.
        let _heard = sender.send(file.clone());
    });
    let state_machine = StateMachine::new(
        checkpoint.membership,
        publisher,
        outcomes.clone(),
        unsynced.clone(),
        current,
        writer,
        parts.checkpoint_bytes,
    )
    .reading(oneself.reads);
    let consensus = Consensus::start(ConsensusOptions {
        oneself: oneself.clone(),
        surroundings: surroundings.clone(),
        stored: stored.clone(),
        starts_behind: behind,
        state_machine,
        unsynced,
        written,
        peers: peers.clone(),
        doubts: Doubts::new(log_clock.clone(), reader.clone()),
    })
    .await?;
    let node = Node::start(NodeOptions {
        oneself,
        surroundings,
        stored,
        consensus: consensus.clone(),
        peers,
        published: reader,
        outcomes,
        log_clock,
        backfill: parts.backfill,
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
