//! Where a machine keeps what it has: its log, the checkpoints of it, and the disk that
//! both lie on.

use etcd_log::LogStorage;

use super::checkpoint::{CheckpointError, CheckpointFile, CheckpointStore, NEWEST};
use super::disk_space::DiskRoom;

/// What a machine keeps. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Stored<L> {
    /// Its log.
    pub log: L,
    /// Its checkpoints.
    pub checkpoints: CheckpointStore,
    /// The room on the disk.
    pub disk: DiskRoom,
}

impl<L: LogStorage> Stored<L> {
    /// Tells the log which checkpoints there are, of those that `count`: it settles what
    /// they contain.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    pub fn note_checkpoints(
        &self,
        count: impl Fn(&CheckpointFile) -> bool,
    ) -> Result<(), CheckpointError> {
        let mut files = self.checkpoints.list()?;
        files.retain(count);
        let newest = files.last().map(|file| file.raft_index);
        let all = files.iter().rev().nth(NEWEST - 1).map(|file| file.raft_index);
        self.log.note_checkpoints(newest, all);
        Ok(())
    }
}
