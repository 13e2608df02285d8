//! Recovery: the log and the state that a machine starts from.
//!
//! ```text
//! the log, checked ─▶ newest good checkpoint that leads into it ─▶ the log after it
//! ```

use std::sync::Arc;
use std::time::Instant;

use etcd_log::{Index, LogError, LogStorage as _, Notice, RaftIndex, Recovered, Wal, WalOptions};
use etcd_projections::State;

use crate::node::Node;
use crate::server::{Options, ServeError, end_process};
use crate::storage::checkpoint::{self, Checkpoint, CheckpointFile, CheckpointStore};
use crate::storage::data_dir::{DataDir, Identity};
use crate::util::error_chain::OneLine;

/// Opens the log, and reports what it had to cut off.
pub(crate) fn open_log(
    data_dir: &DataDir,
    identity: &Identity,
    options: &Options,
    must_exist: bool,
) -> Result<(Wal, Recovered), ServeError> {
    let on_fatal = Arc::new(|error| end_process(&error));
    let (wal, recovered) = Wal::open(&WalOptions {
        must_exist,
        segment_bytes: options.segment_bytes,
        retain: options.retain,
        on_notice: Arc::new(|notice| tell(&notice)),
        ..WalOptions::new(data_dir.wal(), data_dir.archive(), identity.node, on_fatal)
    })?;
    if let Some(path) = &recovered.unreadable_high_water {
        tracing::warn!("{} cannot be read: a lost last write would go unnoticed", path.display());
    }
    if let Some(torn) = &recovered.torn {
        tracing::warn!("{torn}; the last good command is {}", wal.reader().last_command());
    }
    Ok((wal, recovered))
}

/// Returns the newest good checkpoint that leads into the log, or the beginning.
///
/// Every checkpoint was made of committed entries of this log. So one that is
/// ahead of the log, or does not agree with its entries, proves that the log is
/// not what it was.
pub(crate) fn start_state(
    data_dir: &DataDir,
    checkpoints: &CheckpointStore,
    wal: &Wal,
    ring_capacity: usize,
) -> Result<(Checkpoint, Option<CheckpointFile>), ServeError> {
    checkpoints.remove_drafts()?;
    let (last, committed) = (wal.reader().state().last, wal.reader().state().committed);
    checkpoints.settle_received(committed.map(|id| id.index))?;
    let last = last.map(|id| id.index);
    if let Some(file) = checkpoints.list()?.into_iter().find(|file| Some(file.raft_index) > last) {
        let CheckpointFile { path, index, .. } = file;
        return Err(ServeError::Behind { path, index, last: wal.reader().last_command() });
    }
    let first = wal.first();
    let newest = checkpoints.newest(|file| checkpoint::leads_into(file, first))?;
    let Some((checkpoint, file)) = newest else {
        if first > RaftIndex(0) {
            return Err(ServeError::NoStart { dir: data_dir.checkpoints(), first });
        }
        return Ok((Checkpoint::empty(State::new(ring_capacity)), None));
    };
    if !agrees(&checkpoint, wal)? {
        let index = checkpoint.state.position().index;
        return Err(ServeError::OtherLog { dir: wal.reader().dir().to_owned(), index });
    }
    Ok((checkpoint, Some(file)))
}

/// Tells the log which checkpoints there are: those up to the one that the machine
/// has started from, for what is damaged may not be relied on.
pub(crate) fn note_checkpoints(
    checkpoints: &CheckpointStore,
    applied: Option<RaftIndex>,
    wal: &Wal,
) -> Result<(), ServeError> {
    let good = checkpoints.list()?.into_iter().filter(|file| Some(file.raft_index) <= applied);
    checkpoint::note(wal, &good.collect::<Vec<_>>());
    Ok(())
}

/// Returns whether a checkpoint ends with an entry of the log, or right before it.
fn agrees(checkpoint: &Checkpoint, wal: &Wal) -> Result<bool, LogError> {
    let Some(applied) = checkpoint.applied else { return Ok(true) };
    if applied.index < wal.first() {
        return Ok(true);
    }
    let entry = wal.entries(applied.index..applied.index.next(), 0)?;
    Ok(entry.first().is_some_and(|entry| entry.id == applied))
}

/// What a start has recovered, to be told once the machine is ready.
pub(crate) struct Recovery {
    pub(crate) recovered: Recovered,
    /// The last command in the checkpoint.
    pub(crate) from: Index,
    pub(crate) started: Instant,
}

impl Recovery {
    /// Says what the machine has recovered.
    pub(crate) fn report(&self, archived: (usize, u64), node: &Node) {
        let Self { recovered, from, started } = self;
        let now = node.now();
        let (index, keys) = (now.state.position().index, now.state.tree().len());
        let took = started.elapsed().as_millis();
        if recovered.node.is_none() {
            let others = now.state.machines().iter().count().saturating_sub(1);
            let what = match others {
                0 => "a new cluster".to_owned(),
                1 => format!("joined 1 other machine at command {index}"),
                _ => format!("joined {others} other machines at command {index}"),
            };
            tracing::info!("{what}; ready in {took} ms");
            return;
        }
        let (bytes, segments) = (recovered.bytes, recovered.segments);
        let (files, _) = archived;
        let checkpoint =
            if from.0 == 0 { "no checkpoint".to_owned() } else { format!("checkpoint {from}") };
        let (segments, files) = (counted(segments, "segment"), counted(files, "sealed file"));
        tracing::info!(
            "recovered up to command {index}, {keys} keys and directories, from {checkpoint} and {bytes} bytes of log \
             in {segments} behind {files}; ready in {took} ms"
        );
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Says what happens in the log.
fn tell(notice: &Notice) {
    match notice {
        Notice::Stalled { took, count } => {
            let took = took.as_millis();
            tracing::warn!(
                "the disk is slow: a commit has taken {took} ms until now ({count} slow ones since the start)"
            );
        }
        Notice::Sealed { path, bytes, last } => {
            tracing::debug!("sealed up to command {last}: {}, {bytes} bytes", path.display());
        }
        Notice::Dropped { files, last } => {
            let files = counted(*files, "sealed file");
            tracing::info!("history up to command {last} is dropped, {files}");
        }
        Notice::Damaged(error) => {
            tracing::error!("old history is damaged; the state is not: {}", OneLine(error));
        }
        Notice::NoRoomToSeal(error) => {
            tracing::warn!("nothing is sealed for want of room: {}", OneLine(error));
        }
    }
}
