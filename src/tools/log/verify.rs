//! `etcd log verify`: every byte of the log, and every checkpoint against it. If the
//! beginning is no longer kept, the checkpoint that it has to start from, and what lies
//! before that, can be read through and compared with nothing.
//!
//! *Live*, while the machine runs: what never changes below a reader's feet is looked at,
//! sealed files and checkpoints. The segments are the machine's own.

use std::io::{self, Write};
use std::sync::Arc;

use etcd_log::{Index, IoError, LogError, LogTime};
use etcd_projections::{FirstAnswer, Position, State, WatchRing};
use serde::Serialize;

use super::ToolError;
use super::opened::Opened;
use super::progress::Progress;
use super::source::{LogPath, Source};
use super::text::write_json;
use super::walk::Walk;
use crate::storage::checkpoint::{Checkpoint, CheckpointError, CheckpointFile};

/// How often a live directory is looked at anew, when what was to be read was dropped.
const LOOKS: usize = 5;

/// What was found good.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Good {
    /// Whether segments were left out, for a machine runs there.
    live: bool,
    /// Entries of the log; none in an exported one.
    entries: u64,
    commands: u64,
    events: u64,
    /// The last command.
    index: Index,
    time: LogTime,
    digest: String,
    sealed_files: usize,
    sealed_bytes: u64,
    segments: usize,
    segment_bytes: u64,
    frames: u64,
    #[serde(flatten)]
    checkpoints: Checkpoints,
}

/// The checkpoints that were found good.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Checkpoints {
    /// Those that were compared with the log.
    #[serde(rename = "checkpoints")]
    compared: usize,
    /// Those at which what was read of the log begins, or before: whole, and compared with
    /// nothing.
    #[serde(rename = "checkpointsBefore")]
    before: usize,
    /// Those that lie behind it: whole, and compared with nothing.
    #[serde(rename = "checkpointsBehind")]
    behind: usize,
}

/// Checks frames, chain and continuity, replays the log, and compares the state
/// with each checkpoint where it was written. Of a machine that runs, only if it is to be
/// `live`: its sealed files and its checkpoints.
///
/// # Errors
///
/// With the first fault: where it is, what is there and what should be.
pub fn verify(
    from: &LogPath,
    (live, json): (bool, bool),
    out: &mut dyn Write,
) -> Result<(), ToolError> {
    let good = if live { look_live(from)? } else { look(&Source::open(from)?)? };
    if good.index == Index(0) && good.checkpoints.behind == 0 {
        return Err(ToolError::Nothing(from.path.clone()));
    }
    if json { write_json(out, &good) } else { good.write(out) }
}

fn look(source: &Source) -> Result<Good, ToolError> {
    let walk = source.walk(WatchRing::DEFAULT_CAPACITY)?;
    let mut walk = walk.shown(Progress::of("verify", source));
    if let Some(opened) = source.directory() {
        return look_into(opened, walk);
    }
    walk.go(None)?;
    Ok(Good::of(walk.state()))
}

/// Looks at a machine that runs. What is dropped meanwhile was old.
fn look_live(from: &LogPath) -> Result<Good, ToolError> {
    let looked = || {
        let opened = Opened::open_sealed(&from.path)?;
        let walk = opened.walk(WatchRing::DEFAULT_CAPACITY)?;
        Ok(Good { live: true, ..look_into(&opened, walk)? })
    };
    for _ in 1..LOOKS {
        match looked() {
            Err(error) if is_gone(&error) => {}
            looked => return looked,
        }
    }
    looked()
}

fn look_into(opened: &Opened, mut walk: Walk) -> Result<Good, ToolError> {
    opened.log.verify_archive()?;
    let checkpoints = look_at_checkpoints(opened, &mut walk)?;
    let recovered = &opened.recovered;
    let (sealed_files, sealed_bytes) = opened.log.archived();
    Ok(Good {
        entries: opened.settled.end.0 - opened.settled.start.0,
        sealed_files,
        sealed_bytes,
        segments: recovered.segments,
        segment_bytes: recovered.bytes,
        frames: recovered.frames,
        checkpoints,
        ..Good::of(walk.state())
    })
}

/// Walks to the end, and reads every checkpoint on the way.
fn look_at_checkpoints(opened: &Opened, walk: &mut Walk) -> Result<Checkpoints, ToolError> {
    let store = opened.checkpoints(WatchRing::DEFAULT_CAPACITY);
    let files = store.list()?;
    let (mut ahead, mut found) = (files.iter().peekable(), Checkpoints::default());
    while let Some(step) = walk.next(None)? {
        let entry = step.id.map(|id| id.index);
        while let Some(file) = ahead.next_if(|file| Some(file.raft_index) <= entry) {
            let checkpoint = store.read(&file.path)?;
            if Some(file.raft_index) == entry {
                compare(file, &checkpoint, walk.state())?;
                found.compared += 1;
            } else {
                found.before += 1;
            }
        }
    }
    for file in ahead {
        let is_before = file.raft_index < opened.settled.end;
        if !is_before && opened.has_segments() {
            let (path, raft_index) = (file.path.clone(), file.raft_index);
            return Err(ToolError::Ahead { path, raft_index, end: opened.settled.end });
        }
        store.read(&file.path)?;
        *(if is_before { &mut found.before } else { &mut found.behind }) += 1;
    }
    Ok(found)
}

/// Whether what was to be read is there no longer.
fn is_gone(error: &ToolError) -> bool {
    match error {
        ToolError::Log(LogError::Io(error)) | ToolError::Checkpoint(CheckpointError::Io(error)) => {
            let IoError { source, .. } = error;
            source.kind() == io::ErrorKind::NotFound
        }
        _ => false,
    }
}

impl Good {
    fn of(state: &State) -> Self {
        let Position { index, event, time } = state.position();
        let (commands, events, digest) = (index.0, event.0, state.digest().to_string());
        Self { commands, events, index, time, digest, ..Self::default() }
    }

    fn write(&self, out: &mut dyn Write) -> Result<(), ToolError> {
        let Self { entries, commands, events, index, time, .. } = self;
        let Checkpoints { compared, before, behind } = self.checkpoints;
        let last = format_args!(
            "{commands} commands, {events} events; the last command is {index} at {time}"
        );
        if self.sealed_files + self.segments + compared + before + behind == 0 {
            writeln!(out, "good: {last}")?;
        } else {
            let (sealed, files) = (self.sealed_bytes, self.sealed_files);
            write!(
                out,
                "good: {entries} entries, {last}; {sealed} bytes in {files} sealed files, "
            )?;
            if !self.live {
                let (bytes, segments, frames) = (self.segment_bytes, self.segments, self.frames);
                write!(out, "{bytes} bytes in {segments} segments, {frames} frames; ")?;
            }
            writeln!(out, "{compared} checkpoints")?;
        }
        writeln!(out, "digest: {}", self.digest)?;
        if self.live {
            writeln!(out, "looked at: archive/, read through; checkpoints/")?;
        }
        if before > 0 {
            writeln!(out, "whole, but where the log begins, or before: {before} checkpoints")?;
        }
        if behind > 0 {
            writeln!(out, "whole, but behind what is sealed: {behind} checkpoints")?;
        }
        if self.live {
            writeln!(out, "not looked at: wal/, which a machine may be writing")?;
        }
        Ok(())
    }
}

fn compare(file: &CheckpointFile, found: &Checkpoint, expected: &State) -> Result<(), ToolError> {
    let (summary, truth) = (found.state.snapshot_header(), expected.snapshot_header());
    if summary.position != truth.position {
        let (found, expected) = (shown(summary.position), shown(truth.position));
        return Err(differs(file, "position", found, expected));
    }
    if summary.digest != truth.digest {
        let (found, expected) = (summary.digest.to_string(), truth.digest.to_string());
        return Err(differs(file, "digest", found, expected));
    }
    let (mut requests, mut truth) = (found.state.requests().iter(), expected.requests().iter());
    loop {
        let (found, expected) = (requests.next(), truth.next());
        if found != expected {
            return Err(differs(file, "request", told(found), told(expected)));
        }
        if expected.is_none() {
            break;
        }
    }
    // The ring's length is a machine's own business: it is not compared.
    let mut truth = expected.tree().iter();
    for (key, node) in found.state.tree().iter() {
        let expected = truth.next();
        if expected.as_ref() != Some(&(key.clone(), node)) {
            let expected =
                expected.map_or("nothing there".to_owned(), |(key, _)| format!("another at {key}"));
            return Err(differs(file, "node", format!("at {key}"), expected));
        }
    }
    match truth.next() {
        None => Ok(()),
        Some((key, _)) => Err(differs(file, "node", "missing".to_owned(), format!("one at {key}"))),
    }
}

fn told(first: Option<&Arc<FirstAnswer>>) -> String {
    first.map_or("none".to_owned(), |first| format!("{} by {}", first.requested.id, first.index))
}

fn shown(position: Position) -> String {
    format!("{}, {}, {}", position.index, position.event, position.time)
}

fn differs(
    file: &CheckpointFile,
    what: &'static str,
    found: String,
    expected: String,
) -> ToolError {
    let (path, index) = (file.path.clone(), file.index);
    ToolError::Differs { path, index, what, found, expected }
}
