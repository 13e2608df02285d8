//! The tools for a stopped machine's log: show, replay, verify, export, import.
//!
//! All but `import` read a directory, and change nothing in it.

mod export;
mod import;
mod opened;
mod replay;
mod show;
mod verify;

use std::io;
use std::path::PathBuf;

use etcd_log::{IoError, LogError, RecordingError};

use crate::checkpoint::CheckpointError;
use crate::data_dir::DataDirError;
use crate::replay::ReplayError;

pub use export::export;
pub use import::import;
pub use replay::replay;
pub use show::{Selection, show};
pub use verify::verify;

/// Why a tool gives up.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log cannot be replayed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint is not what the log says.
    #[error("{}: {what} at {index} is {found}, the log says {expected}", path.display())]
    Differs {
        /// The checkpoint.
        path: PathBuf,
        /// The last command that it contains.
        index: etcd_log::Index,
        /// What differs.
        what: &'static str,
        /// What the checkpoint says.
        found: String,
        /// What the log says.
        expected: String,
    },
    /// A checkpoint is ahead of the log.
    #[error("{}: written at {raft_index}, the log ends before {end}", path.display())]
    Ahead {
        /// The checkpoint.
        path: PathBuf,
        /// The last entry that it contains.
        raft_index: etcd_log::RaftIndex,
        /// The entry that the log would go on with.
        end: etcd_log::RaftIndex,
    },
    /// The beginning of history is gone, and no checkpoint stands in for it.
    #[error("history before {0} is no longer kept, and there is no good checkpoint to start from")]
    NoStart(etcd_log::RaftIndex),
    /// A recorded log cannot be read.
    #[error("{}", path.display())]
    Recording {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: RecordingError,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] IoError),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}
