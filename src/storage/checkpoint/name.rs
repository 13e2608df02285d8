//! The name of a checkpoint says what it contains.
//!
//! ```text
//! 00000000000000000512-1042-977.checkpoint
//! └ Raft index         │    └ event number
//!                      └ index
//! ```

use std::path::{Path, PathBuf};

use etcd_log::{EventNumber, Index, RaftIndex};

/// A checkpoint on disk, by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointFile {
    /// The last entry that it contains.
    pub raft_index: RaftIndex,
    /// The last command.
    pub index: Index,
    /// The last event.
    pub event: EventNumber,
    /// Where it lies.
    pub path: PathBuf,
}

pub(super) fn parse_name(path: &Path) -> Option<CheckpointFile> {
    let name = path.file_name()?.to_str()?.strip_suffix(".checkpoint")?;
    let mut numbers = name.split('-').map(str::parse);
    let mut next = || numbers.next()?.ok();
    let (raft_index, index, event) = (RaftIndex(next()?), Index(next()?), EventNumber(next()?));
    Some(CheckpointFile { raft_index, index, event, path: path.to_owned() })
}
