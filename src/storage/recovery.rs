//! Recovery: the state that a machine, or a tool, starts from.
//!
//! ```text
//! the log, checked ─▶ newest good checkpoint that leads into it ─▶ the log after it
//! ```

use std::path::PathBuf;

use etcd_log::{Index, LogError, LogStorage as _, RaftIndex, Wal};
use etcd_projections::State;

use super::checkpoint::{self, Checkpoint, CheckpointError, CheckpointFile, CheckpointStore};
use super::data_dir::DataDir;

/// Why there is nothing to start from.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The checkpoints cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Entries are missing at the end of the log.
    #[error("{}: written at command {index}, but the log ends at {last}: entries are missing", path.display())]
    Behind {
        /// The checkpoint that knows more than the log.
        path: PathBuf,
        /// Its last command.
        index: Index,
        /// The log's last command.
        last: Index,
    },
    /// The log begins somewhere, and no checkpoint leads there.
    #[error("{}: history before {first} is no longer kept, and there is no good checkpoint to start from", dir.display())]
    NoStart {
        /// Where the checkpoints lie.
        dir: PathBuf,
        /// The log's first entry.
        first: RaftIndex,
    },
    /// The checkpoints are those of another log.
    #[error("{}: the checkpoint at command {index} is not of this log", dir.display())]
    OtherLog {
        /// The log.
        dir: PathBuf,
        /// The checkpoint's last command.
        index: Index,
    },
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
) -> Result<(Checkpoint, Option<CheckpointFile>), RecoveryError> {
    checkpoints.remove_drafts()?;
    let (last, committed) = (wal.reader().state().last, wal.reader().state().committed);
    checkpoints.settle_received(committed.map(|id| id.index))?;
    let last = last.map(|id| id.index);
    if let Some(file) = checkpoints.list()?.into_iter().find(|file| Some(file.raft_index) > last) {
        let CheckpointFile { path, index, .. } = file;
        return Err(RecoveryError::Behind { path, index, last: wal.reader().last_command() });
    }
    let first = wal.first();
    let newest = checkpoints.newest(|file| checkpoint::leads_into(file, first))?;
    let Some((checkpoint, file)) = newest else {
        if first > RaftIndex(0) {
            return Err(RecoveryError::NoStart { dir: data_dir.checkpoints(), first });
        }
        return Ok((Checkpoint::empty(State::new(ring_capacity)), None));
    };
    if !agrees(&checkpoint, wal)? {
        let index = checkpoint.state.position().index;
        return Err(RecoveryError::OtherLog { dir: wal.reader().dir().to_owned(), index });
    }
    Ok((checkpoint, Some(file)))
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
