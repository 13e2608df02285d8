//! `etcd log export`: a log as lines of JSON, one batch a line, and a last one that says
//! that it is the last.

use std::io::Write;
use std::path::Path;

use etcd_log::{Digest, End, Entry, Index, LogTime, RaftIndex, RecordedBatch, RecordedEnd};
use serde::Serialize;

use super::ToolError;
use super::opened::Opened;

/// Writes a log as a recorded one.
///
/// # Errors
///
/// If the log cannot be read, holds no command, does not add up, or if the output
/// cannot be written. What has been written by then has no end.
pub async fn export(dir: &Path, out: &mut dyn Write) -> Result<(), ToolError> {
    let opened = Opened::open(dir)?;
    let last = opened.log.find(Index(0))?.1;
    let mut lines = Lines { out, last, time: LogTime::default() };
    let mut digest = None;
    if opened.log.first() == RaftIndex(0) {
        let mut replay = opened.replay(1)?;
        while let Some(step) = replay.next().await? {
            lines.entry(&step.entry)?;
        }
        digest = Some(replay.state().digest());
    } else {
        // Without the beginning nobody knows the state, save at a checkpoint.
        for entry in opened.log.iter(opened.settled.clone()) {
            lines.entry(&*entry?)?;
        }
    }
    if lines.last == Index(0) {
        return Err(ToolError::Nothing(dir.to_owned()));
    }
    lines.end(digest)
}

/// The lines that have been written.
struct Lines<'a> {
    out: &'a mut dyn Write,
    /// The last command.
    last: Index,
    /// The logged time.
    time: LogTime,
}

impl Lines<'_> {
    fn entry(&mut self, entry: &Entry) -> Result<(), ToolError> {
        let Some(batch) = entry.batch() else { return Ok(()) };
        self.write(&RecordedBatch::new(self.last.next(), batch))?;
        self.last = Index(self.last.0 + entry.commands());
        self.time = self.time.max(batch.time);
        Ok(())
    }

    fn end(&mut self, digest: Option<Digest>) -> Result<(), ToolError> {
        let end = End { index: self.last, time: self.time, digest };
        self.write(&RecordedEnd { end })
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), ToolError> {
        serde_json::to_writer(&mut *self.out, line).map_err(std::io::Error::from)?;
        Ok(writeln!(self.out)?)
    }
}
