//! The log of a stopped machine, or of an archive, opened for reading.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use etcd_log::{IoError, LogError, LogReader, RaftIndex, Recovered};
use etcd_projections::State;

use super::ToolError;
use super::walk::{Read, Reads, Walk};
use crate::storage::checkpoint::{self, Checkpoint, CheckpointStore};
use crate::storage::data_dir::{DataDir, DataDirError};

/// A log that nobody writes.
pub(super) struct Opened {
    pub(super) log: LogReader,
    pub(super) recovered: Recovered,
    /// The entries that are certain.
    pub(super) settled: Range<RaftIndex>,
    /// How many entries follow that are not known to be on a majority.
    pub(super) unsettled: u64,
    /// Where it lies.
    pub(super) path: PathBuf,
    /// Keeps a machine from starting there. An archive alone has none.
    _dir: Option<DataDir>,
}

impl Opened {
    /// Checks the log of a directory, and says what is remarkable about it.
    pub(super) fn open(path: &Path) -> Result<Self, ToolError> {
        if is_archive(path)? {
            return Self::read(path, &path.join("wal"), path, None);
        }
        let dir = DataDir::take_to_read(path).map_err(|error| match error {
            DataDirError::InUse(dir) => ToolError::InUse(dir),
            other => other.into(),
        })?;
        let is_machine = dir.identity()?.is_some();
        let (wal, archive) = (dir.wal(), dir.archive());
        let opened = Self::read(path, &wal, &archive, Some(dir))?;
        if opened.recovered.node.is_none() && is_machine {
            // Not a copy of an archive, but a machine that has lost its segments.
            return Err(LogError::Missing(wal).into());
        }
        opened.remark();
        Ok(opened)
    }

    /// Reads the sealed files of a directory alone, which may grow meanwhile: what a machine
    /// that runs there has written since is left out.
    pub(super) fn open_sealed(path: &Path) -> Result<Self, ToolError> {
        let archive = if is_archive(path)? { path.to_owned() } else { path.join("archive") };
        Self::read(path, &path.join("no-segments"), &archive, None)
    }

    fn read(
        path: &Path,
        wal: &Path,
        archive: &Path,
        dir: Option<DataDir>,
    ) -> Result<Self, ToolError> {
        let (log, recovered, settled) = LogReader::open_settled(wal, archive)?;
        let unsettled = log.end(log.state().last).0.saturating_sub(settled.end.0);
        Ok(Self { log, recovered, settled, unsettled, path: path.to_owned(), _dir: dir })
    }

    /// Returns the checkpoints; states read from them get a ring of so many events.
    pub(super) fn checkpoints(&self, ring: usize) -> CheckpointStore {
        CheckpointStore::new(self.path.join("checkpoints"), ring)
    }

    /// Returns the state to start from: that of the beginning, or of the oldest checkpoint
    /// if the beginning is no longer kept.
    fn start(&self, ring: usize) -> Result<Checkpoint, ToolError> {
        let first = self.log.first();
        if first == RaftIndex(0) {
            return Ok(Checkpoint::empty(State::new(ring)));
        }
        let oldest = self.checkpoints(ring).oldest(|file| checkpoint::leads_into(file, first))?;
        let Some(oldest) = oldest else { return Err(ToolError::NoStart(first)) };
        let index = oldest.state.position().index;
        tracing::warn!("history begins with {first}: starting from the checkpoint at {index}");
        Ok(oldest)
    }

    /// Walks through what is certain, with a ring of so many events.
    pub(super) fn walk(&self, ring: usize) -> Result<Walk, ToolError> {
        let start = self.start(ring)?;
        let next = start.applied.map_or(RaftIndex(0), |id| id.index.next());
        Ok(Walk::new(start.state, self.reads(next)))
    }

    /// Reads the entries that are certain, from one on.
    pub(super) fn reads(&self, from: RaftIndex) -> Reads {
        let entries = self.log.iter(from..self.settled.end);
        Box::new(entries.map(|entry| {
            let entry = entry?;
            Ok(Read::Entry { id: Some(entry.id), payload: entry.payload.clone() })
        }))
    }

    /// Returns whether the segments were read, and the log does not end with the archive.
    pub(super) fn has_segments(&self) -> bool {
        self.recovered.node.is_some()
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

/// Returns whether a directory holds sealed files, and no machine's data.
fn is_archive(path: &Path) -> Result<bool, ToolError> {
    let listed = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        listed => listed.map_err(IoError::at("list", path))?,
    };
    let mut is_archive = false;
    for entry in listed {
        let name = entry.map_err(IoError::at("list", path))?.file_name();
        if name == "node.json" || name == "wal" || name == "archive" {
            return Ok(false);
        }
        is_archive |= Path::new(&name).extension().is_some_and(|end| end == "sealed");
    }
    Ok(is_archive)
}
