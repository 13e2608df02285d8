//! What can go wrong with the log: the disk, or what it gives back.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::files::IoError;
use crate::types::{Index, NodeId, RaftIndex};

/// A failure of the log. Whoever writes stops the node; whoever reads may go on
/// without what cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The log does not hold what was written to it.
    #[error(transparent)]
    Damage(#[from] Box<Damage>),
    /// A file of the log does not go on from the one before it.
    #[error(transparent)]
    Gap(#[from] Box<Gap>),
    /// A later version wrote the log.
    #[error("{}: format {found} is newer than the {known} that this version knows", path.display())]
    NewerFormat {
        /// The segment or sealed file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that can be read.
        known: u32,
    },
    /// The log was written by another node.
    #[error("{}: log of node {found}, expected {expected}", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// Whose log it is.
        found: NodeId,
        /// Whose it should be.
        expected: NodeId,
    },
    /// A log that must be there is not.
    #[error("{}: the segments are missing, and with them what was acknowledged", .0.display())]
    Missing(PathBuf),
    /// A file in the log's directory would be taken for a segment, and is none.
    #[error("{} does not belong there: it would be taken for a part of the log", .0.display())]
    Stray(PathBuf),
    /// An entry that was asked for lies before the first one kept.
    #[error("{wanted} is no longer in the log; its first entry is {first}")]
    NoLongerKept {
        /// The entry asked for.
        wanted: RaftIndex,
        /// The oldest there is.
        first: RaftIndex,
    },
    /// The disk did not finish a write.
    #[error("{}: a write has not come to an end for {seconds} s", dir.display())]
    Stalled {
        /// The log's directory.
        dir: PathBuf,
        /// For how long.
        seconds: u64,
    },
    /// Whoever waited for a write to be safe has given up. It may be written yet.
    #[error("what was written is not safe on disk after {seconds} s")]
    NotSafeYet {
        /// After how long.
        seconds: u64,
    },
    /// The writer has stopped, by a failure before or because the log is closed.
    #[error("the log is closed")]
    Closed,
}

/// A place where the log does not hold what was written, and is not merely the
/// torn end of an unfinished write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment or sealed file.
    pub path: PathBuf,
    /// Where in it, in bytes from its start.
    pub offset: u64,
    /// The first entry that can no longer be trusted.
    pub raft_index: RaftIndex,
    /// The first command that can no longer be trusted.
    pub index: Index,
    /// What is wrong there: what was expected, what was found.
    pub what: String,
}

impl Damage {
    /// Describes damage at a place of a file. `next` is the first entry and the first
    /// command that can no longer be trusted.
    pub(crate) fn at(path: &Path, offset: u64, next: (RaftIndex, Index), what: String) -> LogError {
        let (raft_index, index) = next;
        let path = path.to_owned();
        LogError::Damage(Box::new(Self { path, offset, raft_index, index, what }))
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, offset, raft_index, index, what } = self;
        write!(f, "{} is damaged at byte {offset}", path.display())?;
        write!(f, " (entry {raft_index}, command {index}): {what}")
    }
}

impl std::error::Error for Damage {}

/// A file that does not go on from the one before it: what lies between is missing,
/// or there twice. The file itself may be as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The file.
    pub path: PathBuf,
    /// What it begins with.
    pub found: String,
    /// What should come there.
    pub expected: String,
    /// The first entry that is missing.
    pub raft_index: RaftIndex,
    /// The first command that is missing.
    pub index: Index,
}

impl Gap {
    /// Describes a gap before a file. `next` is the first entry and the first command
    /// that are missing.
    pub(crate) fn before(
        path: &Path,
        found: String,
        expected: String,
        next: (RaftIndex, Index),
    ) -> LogError {
        let (raft_index, index) = next;
        LogError::Gap(Box::new(Self { path: path.to_owned(), found, expected, raft_index, index }))
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, found, expected, raft_index, index } = self;
        write!(f, "{} begins at byte 0 with {found}, expected {expected}", path.display())?;
        write!(f, " (entry {raft_index}, command {index}):")?;
        write!(f, " what lies before it is missing, or there twice")
    }
}

impl std::error::Error for Gap {}
