//! `etcd log bisect DIR1 DIR2`: the first command behind which two histories differ.
//!
//! A digest is a hash over all outcomes so far, so that two logs which have parted never
//! meet again. They are compared behind commands, not entries: a fork, or an import, has
//! the same commands in other entries.
//!
//! ```text
//! #1 ────────────────────────────────── #90    the whole of one
//!                  #41 ──────────────── #90    the other, from a checkpoint at #40 on
//!                  └ the same here, and so before; or parted, here or before
//! ```

use std::io::Write;

use etcd_log::{Digest, Index};
use serde::Serialize;

use super::ToolError;
use super::bisect::{usable, walk_from};
use super::look::Look;
use super::progress::Progress;
use super::show::told;
use super::source::{Bound, LogPath, Source};
use super::text::write_json;
use super::walk::Walk;
use crate::storage::checkpoint::CheckpointFile;

/// Where two histories part.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Parting {
    /// The first command behind which they are known to differ; none, if one is the beginning
    /// of the other.
    index: Option<Index>,
    /// Whether they may have parted before: it is the first behind which both are known.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    or_before: bool,
    /// The last commands of both.
    last: [Index; 2],
    /// Their digests there.
    #[serde(skip_serializing_if = "Option::is_none")]
    digests: Option<[Digest; 2]>,
    /// How many commands were replayed, in both together.
    replayed: u64,
    /// How many checkpoints were looked into.
    checkpoints: u64,
}

/// Finds where two histories part, and shows what came of the command on both sides.
///
/// # Errors
///
/// If one of the logs cannot be read, if one ends before the other begins, or if the output
/// cannot be written.
pub fn parting(
    logs: [&LogPath; 2],
    (json, look): (bool, Look),
    out: &mut dyn Write,
) -> Result<(), ToolError> {
    let sources = [Source::open(logs[0])?, Source::open(logs[1])?];
    let mut search = Search::of(&sources)?;
    let parting = search.search()?;
    if json {
        return write_json(out, &parting);
    }
    let Parting { index, or_before, last, replayed, checkpoints, .. } = parting;
    match index {
        Some(index) if or_before => {
            writeln!(out, "they part at command {index}, the first that both keep, or before")?;
        }
        None => {
            let (end, longer) = (last[0].min(last[1]), usize::from(last[0] < last[1]));
            writeln!(out, "the same up to command {end}")?;
            if last[longer] > end {
                let (path, last) = (sources[longer].path().display(), last[longer]);
                writeln!(out, "{path} goes on to command {last}")?;
            }
        }
        Some(index) => {
            writeln!(out, "the same up to command {}", Index(index.0 - 1))?;
            for (source, walk) in sources.iter().zip(search.before_parting()?) {
                let title = look.title();
                writeln!(out, "{title}{}{title:#}", source.path().display())?;
                show_next(walk, index, look, out)?;
            }
        }
    }
    let aside = look.aside();
    writeln!(out, "{aside}{replayed} commands replayed, {checkpoints} checkpoints read{aside:#}")?;
    Ok(())
}

fn show_next(
    mut walk: Walk,
    index: Index,
    look: Look,
    out: &mut dyn Write,
) -> Result<(), ToolError> {
    let mut before = walk.position();
    while let Some(step) = walk.next(Some(Bound::Index(index)))? {
        if let etcd_log::Payload::Batch(batch) = &step.payload {
            told(batch, before, &step.outcomes).try_for_each(|told| told.write_text(look, out))?;
        }
        before = walk.position();
    }
    Ok(())
}

/// The search by halves, over the checkpoints of both.
struct Search<'a> {
    sources: &'a [Source; 2],
    files: [Vec<CheckpointFile>; 2],
    last: [Index; 2],
    /// The last command behind which they were found to be the same.
    same: Index,
    replayed: u64,
    checkpoints: u64,
}

impl<'a> Search<'a> {
    fn of(sources: &'a [Source; 2]) -> Result<Self, ToolError> {
        let files = [usable(&sources[0])?, usable(&sources[1])?];
        let last = [sources[0].last()?, sources[1].last()?];
        Ok(Self { sources, files, last, same: Index(0), replayed: 0, checkpoints: 0 })
    }

    fn search(&mut self) -> Result<Parting, ToolError> {
        let end = self.last[0].min(self.last[1]);
        if let Some(parting) = self.begin(end)? {
            return Ok(parting);
        }
        // One command behind each checkpoint, where nothing lies between it and its expiries.
        let indices = self.files.iter().flatten().map(|file| file.index.next());
        let mut indices: Vec<_> =
            indices.filter(|index| *index > self.same && *index <= end).collect();
        indices.sort_unstable();
        indices.dedup();
        while !indices.is_empty() {
            let middle = indices.len() / 2;
            let digests = self.digests_at(indices[middle])?;
            if digests[0] == digests[1] {
                self.same = indices[middle];
                indices.drain(..=middle);
            } else {
                indices.truncate(middle);
            }
        }
        self.walk_on(end)
    }

    /// Compares both behind the first command that both keep, if one of them has lost its
    /// beginning: what is the same there was the same before.
    fn begin(&mut self, end: Index) -> Result<Option<Parting>, ToolError> {
        let [left, right] = self.sources;
        let starts = [left.walk(1)?.position().index, right.walk(1)?.position().index];
        let late = usize::from(starts[0] < starts[1]);
        let start = starts[late];
        if start == Index(0) {
            return Ok(None);
        }
        if start >= end {
            return Err(self.apart(late, start));
        }
        let first = start.next();
        let digests = self.digests_at(first)?;
        if digests[0] != digests[1] {
            return Ok(Some(Parting {
                or_before: true,
                ..self.parting(Some(first), Some(digests))
            }));
        }
        self.same = first;
        Ok(None)
    }

    /// Says that one of the two ends where the other begins, or before.
    fn apart(&self, late: usize, start: Index) -> ToolError {
        let [short, trimmed] = [1 - late, late].map(|which| self.sources[which].path().to_owned());
        ToolError::Apart { short, last: self.last[1 - late], trimmed, oldest: start.next() }
    }

    /// Walks on in both, command by command, from where they are the same.
    fn walk_on(&mut self, end: Index) -> Result<Parting, ToolError> {
        let [mut left, mut right] = self.before_parting()?;
        left = left.shown(Progress::new("bisect", end));
        for index in self.same.next().0..=end.0 {
            let bound = Some(Bound::Index(Index(index)));
            left.go(bound)?;
            right.go(bound)?;
            let digests = [&left, &right].map(|walk| walk.state().digest());
            self.replayed += 2;
            if digests[0] != digests[1] {
                return Ok(self.parting(Some(Index(index)), Some(digests)));
            }
            self.same = Index(index);
        }
        Ok(self.parting(None, None))
    }

    fn parting(&self, index: Option<Index>, digests: Option<[Digest; 2]>) -> Parting {
        let Self { last, replayed, checkpoints, .. } = *self;
        Parting { index, or_before: false, last, digests, replayed, checkpoints }
    }

    /// Walks both to where they were the same last.
    fn before_parting(&mut self) -> Result<[Walk; 2], ToolError> {
        let same = self.same;
        Ok([self.at(0, same)?, self.at(1, same)?])
    }

    /// Returns the digests of both behind a command.
    fn digests_at(&mut self, index: Index) -> Result<[Digest; 2], ToolError> {
        Ok([self.at(0, index)?.state().digest(), self.at(1, index)?.state().digest()])
    }

    /// Walks one of the two to a command.
    fn at(&mut self, which: usize, index: Index) -> Result<Walk, ToolError> {
        let mut walk = self.before(which, index)?;
        let start = walk.position().index;
        walk.go(Some(Bound::Index(index)))?;
        self.replayed += walk.position().index.0 - start.0;
        Ok(walk)
    }

    /// Begins a walk at the last good checkpoint before a command. One that is damaged is
    /// looked into once.
    fn before(&mut self, which: usize, index: Index) -> Result<Walk, ToolError> {
        let (source, files) = (&self.sources[which], &mut self.files[which]);
        while let Some(at) = files.iter().rposition(|file| file.index < index) {
            self.checkpoints += 1;
            match walk_from(source, &files[at])? {
                Some(walk) => return Ok(walk),
                None => files.remove(at),
            };
        }
        source.walk(1)
    }
}
