//! A recorded log on its way into another one: read a batch at a time, replayed, and compared
//! with what it says of itself.
//!
//! ```text
//! lines ─▶ each follows ─▶ up to the moment ─▶ waits, while it may be too late ─▶ replayed
//! ```
//!
//! All of it is read, whatever part of it is wanted: whether it has an end is known there only.
//! How long before the end a moment is, as well. So what happened in so long a time, and no
//! more, waits in memory: it is dropped, if the end comes before it is old enough.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;

use etcd_log::{Batch, Command, Index, IndexedBatch, IoError, LogTime, RecordingReader};
use etcd_projections::{ReplayError, State};

use super::ToolError;
use super::import::Import;
use crate::util::moment::Moment;

/// A recorded log, as far as it has been read.
pub(super) struct Recorded {
    path: PathBuf,
    lines: RecordingReader<Box<dyn BufRead>>,
    without_end: bool,
    to: Option<Moment>,
    /// The newest logged time of what has been read.
    newest: LogTime,
    /// What was read, and not given out; and the logged time there.
    waiting: VecDeque<(LogTime, Arc<Batch>)>,
    /// What has come of the batches that were given out.
    state: State,
    first_name: Option<Arc<str>>,
}

impl Recorded {
    /// Opens what is to be imported.
    pub(super) fn open(import: &Import) -> Result<Self, ToolError> {
        let path = import.file.clone();
        let lines: Box<dyn BufRead> = if path.as_os_str() == "-" {
            Box::new(BufReader::new(io::stdin()))
        } else {
            Box::new(BufReader::new(File::open(&path).map_err(IoError::at("read", &path))?))
        };
        Ok(Self {
            path,
            lines: RecordingReader::new(lines),
            without_end: import.without_end,
            to: import.to,
            newest: LogTime(0),
            waiting: VecDeque::new(),
            state: State::new(1),
            first_name: None,
        })
    }

    /// Returns the next batch up to the moment; nothing, once all has been read, and was found
    /// to be as it says.
    pub(super) fn next(&mut self) -> Result<Option<Arc<Batch>>, ToolError> {
        loop {
            if let Some(batch) = self.next_early_enough() {
                return self.take(batch).map(Some);
            }
            let read = self.lines.next().transpose();
            let failed = |source| ToolError::Recording { path: self.path.clone(), source };
            let Some(IndexedBatch { batch, .. }) = read.map_err(failed)? else {
                return self.check_end().map(|()| None);
            };
            self.newest = self.newest.max(batch.time);
            if self.may_be_wanted() {
                self.waiting.push_back((self.newest, batch));
            }
        }
    }

    /// Returns what has come of all that was given out.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Returns the name of the first machine of what was given out.
    pub(super) fn first_name(&self) -> Option<Arc<str>> {
        self.first_name.clone()
    }

    /// Returns whether what was read last may lie before the moment.
    fn may_be_wanted(&self) -> bool {
        match self.to {
            Some(Moment::Index(to)) => self.state.position().index < to,
            Some(Moment::Time(to)) => self.newest <= to,
            Some(Moment::Ago(_)) | None => true,
        }
    }

    /// Returns the first batch that waits, if it lies before the moment, wherever the end is.
    fn next_early_enough(&mut self) -> Option<Arc<Batch>> {
        let latest = self.to.and_then(|to| to.time(self.newest)).unwrap_or(LogTime::MAX);
        self.waiting.front().filter(|(time, _)| *time <= latest)?;
        self.waiting.pop_front().map(|(_, batch)| batch)
    }

    /// Replays a batch, or what of it lies before the moment.
    fn take(&mut self, batch: Arc<Batch>) -> Result<Arc<Batch>, ToolError> {
        let index = self.state.position().index;
        let room = match self.to {
            Some(Moment::Index(to)) => usize::try_from(to.0 - index.0).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let is_whole = batch.commands.len() <= room;
        let batch = if is_whole { batch } else { Arc::new(batch.part(0, room)) };
        if self.first_name.is_none() {
            self.first_name = batch.commands.iter().find_map(name_of);
        }
        let next = IndexedBatch { index: index.next(), entry: None, batch: Arc::clone(&batch) };
        self.state.replay(&next).map_err(|error| self.differs(error))?;
        Ok(batch)
    }

    fn check_end(&self) -> Result<(), ToolError> {
        let (path, last) = (self.path.clone(), self.lines.last_command());
        if last == Index(0) {
            return Err(ToolError::Nothing(path));
        }
        let end = self.lines.end();
        if end.is_none() && !self.without_end {
            return Err(ToolError::NoEnd { path, last });
        }
        let Some(moment) = self.to else {
            let compared = end.map_or(Ok(()), |end| self.state.compare_end(&end));
            return compared.map_err(|error| self.differs(error));
        };
        let is_reached = match moment {
            Moment::Index(to) => to <= last,
            Moment::Time(to) => to <= self.newest,
            Moment::Ago(_) => true,
        };
        if is_reached { Ok(()) } else { Err(ToolError::NotReached { moment, newest: last }) }
    }

    fn differs(&self, error: ReplayError) -> ToolError {
        let path = self.path.clone();
        match error {
            ReplayError::Diverged { source, .. } => ToolError::Elsewhere { path, source },
            source => ToolError::Inconsistent { path, source },
        }
    }
}

/// Returns the name of a machine that joins.
fn name_of(command: &Command) -> Option<Arc<str>> {
    match command {
        Command::Join(machine) => Some(Arc::clone(&machine.name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use etcd_log::{KeyPath, RecordedBatch};
    use tempfile::NamedTempFile;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// A recording of so many batches, of two commands each, one a second.
    fn recording(batches: u64) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        let delete = Command::Delete { key: KeyPath::clean("/a").unwrap() };
        for number in 0..batches {
            let time = LogTime((number + 1) * SECOND);
            let batch = Batch::new(time, vec![delete.clone(); 2]);
            let line = RecordedBatch::new(Index(2 * number + 1), &batch);
            writeln!(file, "{}", serde_json::to_string(&line).unwrap()).unwrap();
        }
        file
    }

    fn open(file: &NamedTempFile, to: Option<Moment>) -> Recorded {
        let file = file.path().to_owned();
        Recorded::open(&Import { file, name: None, without_end: true, to }).unwrap()
    }

    #[test]
    fn recording_is_taken_up_to_a_moment() {
        let file = recording(10);
        for (to, last) in [
            (None, 20),
            (Some(Moment::Index(Index(20))), 20),
            (Some(Moment::Index(Index(7))), 7),
            (Some(Moment::Time(LogTime(10 * SECOND))), 20),
            (Some(Moment::Time(LogTime(4 * SECOND + 1))), 8),
            (Some(Moment::Ago(0)), 20),
            (Some(Moment::Ago(3 * SECOND)), 14),
            (Some(Moment::Ago(30 * SECOND)), 0),
        ] {
            let mut recorded = open(&file, to);
            while recorded.next().unwrap().is_some() {}
            assert_eq!(recorded.state().position().index, Index(last), "{to:?}");
        }
        for to in [Moment::Index(Index(21)), Moment::Time(LogTime(11 * SECOND))] {
            let mut recorded = open(&file, Some(to));
            let late = std::iter::from_fn(|| recorded.next().transpose()).find_map(Result::err);
            assert!(
                matches!(late, Some(ToolError::NotReached { newest: Index(20), .. })),
                "{late:?}"
            );
        }
    }

    /// However long it is, and wherever it is cut.
    #[test]
    fn no_more_waits_in_memory_than_happened_since_the_moment() {
        let file = recording(1000);
        for (to, most) in [
            (None, 1),
            (Some(Moment::Index(Index(7))), 1),
            (Some(Moment::Time(LogTime(4 * SECOND))), 1),
            (Some(Moment::Ago(5 * SECOND)), 6),
        ] {
            let mut recorded = open(&file, to);
            while recorded.next().unwrap().is_some() {
                assert!(recorded.waiting.len() < most, "{to:?}: {}", recorded.waiting.len());
            }
        }
    }
}
