//! `etcd log export`: a log as lines of JSON, one batch a line, and a last one that says
//! that it is the last.
//!
//! A part that does not begin with the first command has a first line that says so: nobody
//! can fold it, and `import` refuses it. One that goes up to a command ends right behind it.

use std::io::Write;

use etcd_log::{
    Batch, Digest, End, Index, LogTime, Part, Payload, RaftIndex, RecordedBatch, RecordedEnd,
    RecordedPart,
};
use etcd_projections::Position;
use serde::Serialize;

use super::ToolError;
use super::progress::Progress;
use super::source::{Bound, LogPath, Source};
use super::span::{self, Span};
use super::walk::Read;
use crate::util::moment::Moment;

/// Writes a log as a recorded one: all of it, or from one moment up to another.
///
/// # Errors
///
/// If the log cannot be read, holds no command there, does not add up, or does not come by
/// both moments in this order; or if the output cannot be written. What has been written by
/// then has no end.
pub fn export(
    log: &LogPath,
    (from, to): (Option<Moment>, Option<Moment>),
    out: &mut dyn Write,
) -> Result<(), ToolError> {
    let source = Source::open(log)?;
    let is_begun = source.directory().is_none_or(|opened| opened.log.first() == RaftIndex(0));
    let from = from.filter(|from| !is_begun || !matches!(from, Moment::Index(Index(0 | 1))));
    let (last, time) = (Index(0), LogTime(0));
    let mut lines = Lines { out, last, time, is_empty: true, is_part: false };
    let digest = if from.is_none() && is_begun {
        Some(whole(&source, to, &mut lines)?)
    } else {
        // Without the beginning nobody knows the state, save at a checkpoint.
        part(&source, (from, to), &mut lines)?;
        None
    };
    if lines.is_empty {
        return Err(ToolError::Nothing(source.path().to_owned()));
    }
    lines.end(digest)
}

/// Writes a log from its beginning on. Returns the digest at the end.
fn whole(source: &Source, to: Option<Moment>, lines: &mut Lines<'_>) -> Result<Digest, ToolError> {
    let bound = span::up_to(source, to)?;
    let mut walk = source.walk(1)?.shown(Progress::of("export", source));
    while let Some(step) = walk.next(bound)? {
        if let Payload::Batch(batch) = &step.payload {
            lines.batch(batch)?;
        }
    }
    walk.check_end(to, bound)?;
    Ok(walk.state().digest())
}

/// Writes a part of a log, without folding it.
fn part(
    source: &Source,
    (from, to): (Option<Moment>, Option<Moment>),
    lines: &mut Lines<'_>,
) -> Result<(), ToolError> {
    let span = Span::of(source, from, to)?;
    let (before, reads) = source.unfolded()?;
    let mut reached = Position { index: before, ..Position::default() };
    let (mut has_begun, mut goes_on) = (false, false);
    for read in reads {
        let Read::Entry { payload: Payload::Batch(batch), .. } = read? else { continue };
        let next = Position { time: reached.time.max(batch.time), ..reached };
        if !has_begun {
            // What is no longer kept may be as late as the first that is.
            span.check_start(if before == Index(0) { reached } else { next })?;
            has_begun = true;
        }
        goes_on = match span.to {
            Some(Bound::Index(to)) => to <= next.index,
            Some(Bound::Time(to)) => to < next.time,
            None => false,
        };
        if goes_on {
            break;
        }
        let taken = lines.part_of(&span, next, &batch)?;
        reached = Position { index: Index(next.index.0 + taken), ..next };
    }
    span.check_end(reached, goes_on)
}

/// The lines that have been written.
struct Lines<'a> {
    out: &'a mut dyn Write,
    /// The last command.
    last: Index,
    /// The logged time.
    time: LogTime,
    /// Whether there was no command so far.
    is_empty: bool,
    /// Whether it has been said that it is a part.
    is_part: bool,
}

impl Lines<'_> {
    /// Says with which command a part begins, unless that has been said.
    fn begin_part(&mut self, before: Index) -> Result<(), ToolError> {
        if !self.is_part {
            (self.last, self.is_part) = (before, true);
            self.write(&RecordedPart { part: Part { from: before.next() } })?;
        }
        Ok(())
    }

    /// Writes what of a batch lies in a span, given where the clock has led to before its first
    /// command. Returns up to how many of its commands the span goes.
    fn part_of(&mut self, span: &Span, before: Position, batch: &Batch) -> Result<u64, ToolError> {
        let Position { index, time, .. } = before;
        let skipped = match span.from {
            Some(Bound::Index(from)) => from.0.saturating_sub(index.next().0),
            Some(Bound::Time(from)) if time < from => u64::MAX,
            Some(Bound::Time(_)) | None => 0,
        };
        let room = match span.to {
            Some(Bound::Index(to)) => to.0.saturating_sub(index.0),
            Some(Bound::Time(_)) | None => u64::MAX,
        };
        let taken = room.min(batch.commands.len() as u64);
        if skipped < taken.max(1) {
            self.begin_part(Index(index.0 + skipped))?;
            let count = |count| usize::try_from(count).unwrap_or(usize::MAX);
            self.batch(&batch.part(count(skipped), count(taken - skipped)))?;
        }
        Ok(taken)
    }

    fn batch(&mut self, batch: &Batch) -> Result<(), ToolError> {
        self.write(&RecordedBatch::new(self.last.next(), batch))?;
        self.last = Index(self.last.0 + batch.commands.len() as u64);
        self.time = self.time.max(batch.time);
        self.is_empty &= batch.commands.is_empty();
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
