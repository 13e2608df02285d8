//! `etcd log verify`: every byte of the log, and every checkpoint against it; save
//! the one that it has to start from, if the beginning is no longer kept.

use std::io::Write;
use std::path::Path;

use etcd_log::Index;
use etcd_projections::{Position, State, WatchRing};

use super::ToolError;
use super::opened::Opened;
use crate::state::replay::ReplayedEntry;
use crate::storage::checkpoint::{Checkpoint, CheckpointFile, CheckpointStore};

/// Checks frames, chain and continuity, replays the log, and compares the state
/// with each checkpoint where it was written.
///
/// # Errors
///
/// With the first fault: where it is, what is there and what should be.
pub async fn verify(dir: &Path, out: &mut dyn Write) -> Result<(), ToolError> {
    let opened = Opened::open(dir)?;
    let ring = WatchRing::DEFAULT_CAPACITY;
    let store = CheckpointStore::new(opened.dir.checkpoints(), ring);
    opened.log.verify_archive()?;
    let checkpoints = store.list()?;
    let mut replay = opened.replay(ring)?;
    let start = replay.state().position().index;
    let mut ahead = checkpoints.iter().filter(|file| file.index > start).peekable();
    while let Some(ReplayedEntry { entry, .. }) = replay.next().await? {
        while let Some(file) = ahead.next_if(|file| file.raft_index == entry.id.index) {
            compare(file, &store.read(&file.path)?, replay.state())?;
        }
    }
    if let Some(file) = ahead.next() {
        let (path, raft_index) = (file.path.clone(), file.raft_index);
        return Err(ToolError::Ahead { path, raft_index, end: opened.settled.end });
    }
    let state = replay.state();
    let recovered = &opened.recovered;
    let position = state.position();
    if position.index == Index(0) {
        return Err(ToolError::Nothing(dir.to_owned()));
    }
    let (files, bytes) = opened.log.archived();
    writeln!(
        out,
        "good: {} entries, {} commands, {} events; the last command is {} at {}; \
         {bytes} bytes in {files} sealed files, {} bytes in {} segments, {} frames; {} checkpoints",
        opened.settled.end.0 - opened.settled.start.0,
        position.index.0,
        position.event.0,
        position.index,
        position.time,
        recovered.bytes,
        recovered.segments,
        recovered.frames,
        checkpoints.len(),
    )?;
    writeln!(out, "digest: {}", state.digest())?;
    Ok(())
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
    // The ring's length is a machine's own business: only the tree is compared.
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
