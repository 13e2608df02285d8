//! The tools for a log: to show it, go back in it, search, check, copy and fork it.
//!
//! ```text
//! source: directory, archive, export ─▶ walk ─▶ show, replay, history, diff, stats, bisect
//!                                          └──▶ export, import, fork, verify
//! remote: a running machine          ─────────▶ show, history, diff
//! ```
//!
//! All but `import` and `fork` read, and change nothing.

mod action;
mod bisect;
mod diff;
mod export;
mod fork;
mod history;
mod import;
mod look;
mod new_log;
mod opened;
mod parting;
mod progress;
mod proposers;
mod recorded;
mod remote;
mod replay;
mod serve;
mod show;
mod source;
mod span;
mod stats;
mod text;
mod verify;
mod walk;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use etcd_log::{HistoryError, Index, IoError, LogError, RecordingError};
use etcd_projections::Diverged;

use crate::storage::checkpoint::CheckpointError;
use crate::storage::data_dir::DataDirError;
use crate::tls::TlsFileError;
use crate::tools::ClientError;
use crate::util::moment::Moment;

pub use action::Action;
pub use bisect::{Condition, bisect};
pub use diff::{DiffQuery, diff};
pub use export::export;
pub use fork::{Fork, fork};
pub use history::{HistoryQuery, history};
pub use import::{Import, import};
pub use look::Look;
pub use parting::parting;
pub use remote::{Following, Remote};
pub use replay::{print, replay, write_lines};
pub use serve::serve;
pub use show::{Selection, show};
pub use source::LogPath;
pub use stats::stats;
pub use verify::verify;

/// Why a tool gives up.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// What TLS takes is not what it should be.
    #[error("no TLS")]
    Tls(#[from] TlsFileError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A machine runs there.
    #[error("{} is in use: a machine runs there. It can be asked (--url), its archive/ be read, and what it has sealed be verified (verify --live)", .0.display())]
    InUse(PathBuf),
    /// The log cannot be opened.
    #[error(transparent)]
    History(HistoryError),
    /// The log does not add up.
    #[error(transparent)]
    Replay(#[from] etcd_projections::ReplayError),
    /// The log does not say who proposed.
    #[error("{}: an exported log does not say which machine proposed", .0.display())]
    NoProposers(PathBuf),
    /// A moment lies before where the log begins.
    #[error("{moment} is no longer kept, the oldest is {oldest}")]
    NoLongerKept {
        /// What was asked for.
        moment: Moment,
        /// The oldest command behind which the state is known.
        oldest: Index,
    },
    /// A moment lies behind where the log ends.
    #[error("{moment} is not reached, the newest is {newest}")]
    NotReached {
        /// What was asked for.
        moment: Moment,
        /// The last command.
        newest: Index,
    },
    /// Two logs have no command behind which both are known.
    #[error("{}: ends with command {last}, which {} no longer keeps: the oldest there is {oldest}", short.display(), trimmed.display())]
    Apart {
        /// The log that ends too soon.
        short: PathBuf,
        /// Its last command.
        last: Index,
        /// The log that has lost its beginning.
        trimmed: PathBuf,
        /// The oldest command that it keeps.
        oldest: Index,
    },
    /// The end lies before the beginning.
    #[error("{from} is after {to}")]
    Backwards {
        /// The beginning.
        from: Moment,
        /// The end.
        to: Moment,
    },
    /// A fork needs the whole of a history.
    #[error("history before {0} is no longer kept: a fork would have none of it")]
    NoBeginning(etcd_log::RaftIndex),
    /// What was looked for is so from the beginning on.
    #[error("{what} behind command {oldest} already, the oldest that is kept")]
    HoldsAlready {
        /// What was looked for.
        what: String,
        /// The oldest command that is kept.
        oldest: Index,
    },
    /// What was looked for is never so.
    #[error("at no time up to command {last} it is so that {what}")]
    NeverHolds {
        /// What was looked for.
        what: String,
        /// The last command.
        last: Index,
    },
    /// No machine answers, or none as it should.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A machine ends what it tells before its time.
    #[error("the machine tells no more: {0}")]
    Ends(String),
    /// A cluster cannot be followed any further.
    #[error(transparent)]
    Follow(#[from] etcd_follow::FollowError),
    /// There is no asking a machine.
    #[error("cannot start threads")]
    Start(#[source] io::Error),
    /// A port cannot be listened at.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint is not what the log says.
    #[error("{}: {what} at {index} is {found}, the log says {expected}", path.display())]
    Differs {
        /// The checkpoint.
        path: PathBuf,
        /// The last command that it contains.
        index: Index,
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
    /// There is nothing that could be good.
    #[error("{}: holds no command", .0.display())]
    Nothing(PathBuf),
    /// A recorded log breaks off.
    #[error("{}: breaks off after command {last}, without a line that says that this is the end: cut off, or made by an earlier version; --without-end takes it as it is", path.display())]
    NoEnd {
        /// The file.
        path: PathBuf,
        /// Its last command.
        last: Index,
    },
    /// A recorded log does not lead to the state that its machine had.
    #[error("{}", path.display())]
    Elsewhere {
        /// The file.
        path: PathBuf,
        /// Where, and what the two digests are.
        source: Diverged,
    },
    /// A recorded log leads to another state than it says at its end.
    #[error("{}", path.display())]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// How they differ.
        source: etcd_projections::ReplayError,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] IoError),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

impl From<HistoryError> for ToolError {
    fn from(error: HistoryError) -> Self {
        match error {
            // The tools can be told to take it all the same, and say how.
            HistoryError::NoEnd { path, last } => Self::NoEnd { path, last },
            error => Self::History(error),
        }
    }
}
