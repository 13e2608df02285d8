//! A stopped machine's log, opened for reading.

use std::ops::Range;
use std::path::Path;

use etcd_log::{LogReader, Payload, RaftIndex, Record, Recovered};

use super::ToolError;
use crate::data_dir::DataDir;

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
        let (dir, _) = DataDir::take_to_read(path)?;
        let mut voters = 0;
        let (log, recovered) = LogReader::open(&dir.wal(), &mut |visit| {
            if let Record::Entry(entry) = visit.record
                && let Payload::Membership(membership) = &entry.payload
            {
                voters = membership.voters.iter().flatten().count();
            }
        })?;
        let state = log.state();
        let end = |id: Option<etcd_log::LogId>| id.map_or(log.first(), |id| id.index.next());
        // What a group of one has synced is committed, noted or not.
        let settled = if voters == 1 { end(state.last) } else { end(state.committed) };
        let unsettled = end(state.last).0 - settled.0;
        let opened = Self { settled: log.first()..settled, log, recovered, unsettled, dir };
        opened.remark();
        Ok(opened)
    }

    fn remark(&self) {
        if let Some(torn) = &self.recovered.torn {
            tracing::warn!(
                "{}: a write was cut short at byte {}; its {} bytes were never acknowledged, and the next start cuts them off ({})",
                torn.path.display(),
                torn.offset,
                torn.bytes,
                torn.what
            );
        }
        if self.unsettled > 0 {
            tracing::warn!(
                "{} entries at the end are not known to be committed, and left out",
                self.unsettled
            );
        }
    }
}
