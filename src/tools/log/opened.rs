//! A stopped machine's log, opened for reading.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use etcd_log::{Entry, LogError, LogReader, RaftIndex, Recovered};
use etcd_projections::State;
use tokio_stream::Stream;

use super::ToolError;
use crate::state::replay::Replay;
use crate::storage::checkpoint::{self, Checkpoint, CheckpointStore};
use crate::storage::data_dir::DataDir;

/// Entries, as a stream.
pub(super) trait Entries: Stream<Item = Result<Arc<Entry>, LogError>> + Unpin {}

impl<S: Stream<Item = Result<Arc<Entry>, LogError>> + Unpin> Entries for S {}

/// A stopped machine's log.
pub(super) struct Opened {
    pub(super) log: LogReader,
    pub(super) recovered: Recovered,
    /// The entries that are certain.
    pub(super) settled: Range<RaftIndex>,
    /// How many entries follow that are not known to be on a majority.
    pub(super) unsettled: u64,
    pub(super) dir: DataDir,
}

impl Opened {
    /// Checks the log of a directory, and says what is remarkable about it.
    pub(super) fn open(path: &Path) -> Result<Self, ToolError> {
        let dir = DataDir::take_to_read(path)?;
        let (log, recovered, settled) = LogReader::open_settled(&dir.wal(), &dir.archive())?;
        if recovered.node.is_none() && dir.identity()?.is_some() {
            // Not a copy of an archive, but a machine that has lost its segments.
            return Err(LogError::Missing(dir.wal()).into());
        }
        let unsettled = log.end(log.state().last).0 - settled.end.0;
        let opened = Self { log, recovered, settled, unsettled, dir };
        opened.remark();
        Ok(opened)
    }

    /// Replays the entries that are certain, with a ring of so many events: from
    /// the beginning, or from the oldest checkpoint if the beginning is no longer
    /// kept.
    pub(super) fn replay(&self, ring_capacity: usize) -> Result<Replay<impl Entries>, ToolError> {
        let start = self.start(ring_capacity)?;
        let from = start.applied.map_or(RaftIndex(0), |id| id.index.next());
        Ok(Replay::new(start.state, self.log.read(from..self.settled.end)))
    }

    fn start(&self, ring_capacity: usize) -> Result<Checkpoint, ToolError> {
        let first = self.log.first();
        if first == RaftIndex(0) {
            return Ok(Checkpoint::empty(State::new(ring_capacity)));
        }
        let store = CheckpointStore::new(self.dir.checkpoints(), ring_capacity);
        let oldest = store.oldest(|file| checkpoint::leads_into(file, first))?;
        let Some(oldest) = oldest else { return Err(ToolError::NoStart(first)) };
        let index = oldest.state.position().index;
        tracing::warn!("history begins with {first}: starting from the checkpoint at {index}");
        Ok(oldest)
    }

    fn remark(&self) {
        if let Some(path) = &self.recovered.unreadable_high_water {
            tracing::warn!("{} cannot be read: a lost last write goes unnoticed", path.display());
        }
        if let Some(torn) = &self.recovered.torn {
            tracing::warn!("{torn}, at the next start");
        }
        if self.unsettled > 0 {
            tracing::warn!(
                "{} entries at the end are not known to be committed, and left out",
                self.unsettled
            );
        }
    }
}
