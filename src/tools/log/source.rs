//! A log to be read: that of a stopped machine, of a copy, of an archive, or an exported one.
//!
//! ```text
//! directory ─▶ entries that are certain ─┐
//! archive/  ─▶ entries in sealed files  ─┼─▶ walk: state, and what came of each batch
//! log.jsonl ─▶ lines, checked           ─┘
//! ```
//!
//! The tools see batches and what came of them; that an exported log has no entries, and so
//! does not say who proposed, is all that differs.

use std::path::{Path, PathBuf};

use etcd_log::{History, Index, IndexedBatch, LogTime, Payload, RaftIndex};
use etcd_projections::State;

use super::ToolError;
use super::opened::Opened;
use super::walk::{Read, Reads, Walk};
use crate::storage::checkpoint::{Checkpoint, CheckpointFile, leads_into};
use crate::util::moment::Moment;

/// Where a log lies.
#[derive(Clone, Debug)]
pub struct LogPath {
    /// A data directory, a copy of one, an archive, or an exported log.
    pub path: PathBuf,
    /// Whether an exported log may be without an end.
    pub without_end: bool,
}

/// Up to where a log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// Up to a command.
    Index(Index),
    /// Up to a logged time.
    Time(LogTime),
}

/// A log to be read.
pub(super) enum Source {
    Directory(Box<Opened>),
    Exported(LogPath),
}

impl Source {
    /// Opens a log, and says what is remarkable about it.
    pub(super) fn open(from: &LogPath) -> Result<Self, ToolError> {
        if from.path.is_file() {
            return Ok(Self::Exported(from.clone()));
        }
        Ok(Self::Directory(Box::new(Opened::open(&from.path)?)))
    }

    /// Returns where it lies.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Directory(opened) => &opened.path,
            Self::Exported(from) => &from.path,
        }
    }

    /// Returns the directory, if it is one.
    pub(super) fn directory(&self) -> Option<&Opened> {
        match self {
            Self::Directory(opened) => Some(opened),
            Self::Exported(_) => None,
        }
    }

    /// Returns the last command that is certain.
    pub(super) fn last(&self) -> Result<Index, ToolError> {
        let Self::Directory(opened) = self else { return Ok(self.end()?.0) };
        let all = opened.log.last_command();
        if opened.unsettled == 0 {
            return Ok(all);
        }
        let unsettled = opened.log.iter(opened.settled.end..RaftIndex(u64::MAX));
        let unsettled = unsettled.map(|entry| entry.map(|entry| entry.commands()));
        Ok(Index(all.0 - unsettled.sum::<Result<u64, _>>()?))
    }

    /// Walks through the log, with a ring of so many events: from the beginning, or from
    /// the oldest checkpoint if the beginning is no longer kept.
    pub(super) fn walk(&self, ring: usize) -> Result<Walk, ToolError> {
        match self {
            Self::Directory(opened) => opened.walk(ring),
            Self::Exported(_) => Ok(Walk::new(State::new(ring), self.reads()?)),
        }
    }

    /// Walks on from a checkpoint.
    pub(super) fn walk_from(&self, file: &CheckpointFile) -> Result<Walk, ToolError> {
        let Self::Directory(opened) = self else { return self.walk(1) };
        let checkpoint = opened.checkpoints(1).read(&file.path)?;
        let next = checkpoint.applied.map_or(RaftIndex(0), |id| id.index.next());
        Ok(Walk::new(checkpoint.state, opened.reads(next)))
    }

    /// Returns all batches that are kept, unfolded, and the last command before them.
    pub(super) fn unfolded(&self) -> Result<(Index, Reads), ToolError> {
        match self {
            Self::Directory(opened) => {
                Ok((opened.log.state().oldest.1, opened.reads(opened.settled.start)))
            }
            Self::Exported(_) => Ok((Index(0), self.reads()?)),
        }
    }

    /// Returns where a moment is.
    pub(super) fn bound(&self, moment: Moment) -> Result<Bound, ToolError> {
        match moment {
            Moment::Index(index) => Ok(Bound::Index(index)),
            Moment::Time(time) => Ok(Bound::Time(time)),
            Moment::Ago(_) => {
                let newest = self.newest_time()?;
                Ok(moment.time(newest).map_or(Bound::Index(Index(0)), Bound::Time))
            }
        }
    }

    /// Returns the newest logged time.
    fn newest_time(&self) -> Result<LogTime, ToolError> {
        let Self::Directory(opened) = self else { return Ok(self.end()?.1) };
        // A clock that went back does not count: a checkpoint knows the newest before it.
        let (first, end) = (opened.settled.start, opened.settled.end);
        let fits = |file: &CheckpointFile| leads_into(file, first) && file.raft_index < end;
        let newest = opened.checkpoints(1).newest(fits)?.map(|(checkpoint, _)| checkpoint);
        let (mut time, mut next) = (LogTime(0), first);
        if let Some(Checkpoint { state, applied, .. }) = newest {
            time = state.position().time;
            next = applied.map_or(first, |id| id.index.next()).max(first);
        }
        for entry in opened.log.iter(next..end) {
            time = time.max(entry?.batch().map_or(LogTime(0), |batch| batch.time));
        }
        Ok(time)
    }

    /// Returns the last command of an exported log, and the newest time.
    fn end(&self) -> Result<(Index, LogTime), ToolError> {
        let mut end = (Index(0), LogTime(0));
        for read in self.reads()? {
            if let Read::Entry { payload: Payload::Batch(batch), .. } = read? {
                end.0 = Index(end.0.0 + batch.commands.len() as u64);
                end.1 = end.1.max(batch.time);
            }
        }
        Ok(end)
    }

    /// Reads an exported log.
    fn reads(&self) -> Result<Reads, ToolError> {
        let Self::Exported(from) = self else { unreachable!("a directory has entries") };
        let history = History::open(&from.path)?;
        let history = if from.without_end { history.without_end() } else { history };
        let mut batches = history.into_iter();
        let mut is_over = false;
        Ok(Box::new(std::iter::from_fn(move || {
            if is_over {
                return None;
            }
            let read = batches.next();
            is_over = !matches!(read, Some(Ok(_)));
            match read {
                Some(Ok(IndexedBatch { batch, .. })) => {
                    Some(Ok(Read::Entry { id: None, payload: Payload::Batch(batch) }))
                }
                Some(Err(error)) => Some(Err(error.into())),
                None => batches.end().map(|end| Ok(Read::End(end))),
            }
        })))
    }
}
