//! `etcd log import`: a data directory out of a recorded log.
//!
//! The directory gets a machine of its own, the only one of a cluster of its own. The
//! recorded history stays as it is; behind it the log says what has become of it:
//!
//! ```text
//! the group is this machine │ recorded history … │ sync of a new cluster, leaves
//! ```
//!
//! For the cluster that was recorded may still run: under its name, this machine would
//! take its members for its own, and they what it says for their leader's word.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_log::{
    Batch, Command, Entry, Index, IoError, LogId, LogStorage as _, LogTime, Membership, NodeId,
    Payload, RaftIndex, Recording, Term, Vote, WRITE_ENTRIES, Wal, WalOptions, Write as LogWrite,
};
use etcd_projections::{Position, ReplayError, State, replay_with};

use super::ToolError;
use crate::storage::data_dir::{DataDir, DataDirError, Identity};
use crate::tools::force_new_cluster::begin_anew;
use crate::util::moment::Moment;
use crate::util::printable::Printable;

/// How many bytes of batches are written with one fsync, about: one batch more may
/// go over.
const CHUNK_BYTES: usize = 4 << 20;

/// How long a write may take. The log itself gives up before.
const WRITE_LIMIT: Duration = Duration::from_mins(2);

/// What to import, and as whom.
#[derive(Clone, Debug)]
pub struct Import {
    /// The recording; `-` for the standard input.
    pub file: PathBuf,
    /// The machine's name, if not that of the recording's first.
    pub name: Option<String>,
    /// Whether the recording may be without an end.
    pub without_end: bool,
    /// Up to when it is taken; all of it, if nothing is said.
    pub to: Option<Moment>,
}

/// Makes a data directory out of a recorded log.
///
/// # Errors
///
/// If the recording cannot be read, has no end or does not add up, or if the directory
/// is in use or not empty. Then nothing is left in it.
pub fn import(import: &Import, dir: &Path, out: &mut dyn Write) -> Result<(), ToolError> {
    let data_dir = DataDir::take(dir)?;
    match import_into(&data_dir, import) {
        Ok((identity, recorded)) => {
            let Position { index, time, .. } = recorded;
            let Identity { name, cluster, .. } = identity;
            writeln!(out, "imported {} commands, the last is {index} at {time}", index.0)?;
            let what = "is now a cluster of its own";
            let name = Printable(name);
            Ok(writeln!(out, "machine {name} {what}, {cluster}, which others can join")?)
        }
        Err(error) => {
            data_dir.leave();
            Err(error)
        }
    }
}

/// Returns who the directory belongs to by then, and where the recording ended.
fn import_into(data_dir: &DataDir, import: &Import) -> Result<(Identity, Position), ToolError> {
    if data_dir.identity()?.is_some() || data_dir.wal().exists() || data_dir.archive().exists() {
        return Err(DataDirError::NotEmpty(data_dir.path().to_owned()).into());
    }
    let recording = up_to(read(import)?, import.to)?;
    let state = replay(&import.file, &recording)?;
    let recorded = state.position();
    let identity = identity(&recording.batches, import.name.as_deref());
    let mut batches = recording.batches;
    // At the recording's own time: an import lets nothing expire.
    batches.push(Batch::new(recorded.time, begin_anew(&state, identity.node, identity.cluster)));
    write_log(data_dir, identity.node, batches.into_iter().map(Ok))?;
    // Only a directory that is whole belongs to somebody.
    data_dir.claim(&identity)?;
    Ok((identity, recorded))
}

/// Reads a recording to its end.
fn read(import: &Import) -> Result<Recording, ToolError> {
    let path = &import.file;
    let lines: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(path).map_err(IoError::at("read", path))?))
    };
    let recording = Recording::read(lines)
        .map_err(|source| ToolError::Recording { path: path.clone(), source })?;
    if recording.last == Index(0) {
        return Err(ToolError::Nothing(path.clone()));
    }
    if recording.end.is_none() && !import.without_end {
        return Err(ToolError::NoEnd { path: path.clone(), last: recording.last });
    }
    Ok(recording)
}

/// Takes a recording up to a moment.
fn up_to(mut recording: Recording, to: Option<Moment>) -> Result<Recording, ToolError> {
    let Some(moment) = to else { return Ok(recording) };
    let newest = recording.batches.iter().map(|batch| batch.time).max().unwrap_or_default();
    let (index, time) = match moment {
        Moment::Index(index) => (index, LogTime::MAX),
        Moment::Time(_) | Moment::Ago(_) => (recording.last, moment.time(newest).unwrap_or(newest)),
    };
    if index > recording.last || (time > newest && time != LogTime::MAX) {
        return Err(ToolError::NotReached { moment, newest: recording.last });
    }
    let (mut last, mut latest, mut batches) = (Index(0), LogTime(0), Vec::new());
    for batch in recording.batches {
        latest = latest.max(batch.time);
        let room = usize::try_from(index.0 - last.0).unwrap_or(usize::MAX);
        if latest > time || room == 0 && time == LogTime::MAX {
            break;
        }
        let batch = batch.part(0, room);
        last = Index(last.0 + batch.commands.len() as u64);
        batches.push(batch);
    }
    (recording.batches, recording.last, recording.end) = (batches, last, None);
    Ok(recording)
}

/// Replays a recording, and compares what comes of it with what it says.
fn replay(path: &Path, recording: &Recording) -> Result<State, ToolError> {
    let path = path.to_owned();
    replay_with(recording, |_| {}).map_err(|error| match error {
        ReplayError::Diverged { source, .. } => ToolError::Elsewhere { path, source },
        source => ToolError::Inconsistent { path, source },
    })
}

/// Writes a log, whole or not at all.
pub(super) fn write_log(
    data_dir: &DataDir,
    node: NodeId,
    batches: impl Iterator<Item = Result<Batch, ToolError>>,
) -> Result<(), ToolError> {
    let failure = Arc::new(Mutex::new(None));
    let failed = Arc::clone(&failure);
    let on_fatal = Arc::new(move |error| *lock(&failed) = Some(error));
    let opened = Wal::open(&WalOptions {
        cache_bytes: 0,
        ..WalOptions::new(data_dir.wal(), data_dir.archive(), node, on_fatal)
    });
    let written = opened.map_err(ToolError::from).and_then(|(wal, _)| {
        write_all(&wal, node, batches)?;
        Ok(wal.close()?)
    });
    let Err(error) = written else { return Ok(()) };
    // Half a log is nobody's. Why it was closed says more than that it was.
    for half in [data_dir.wal(), data_dir.archive()].iter().filter(|half| half.exists()) {
        fs::remove_dir_all(half).map_err(IoError::at("remove", half))?;
    }
    Err(lock(&failure).take().map_or(error, ToolError::Log))
}

fn write_all(
    wal: &Wal,
    node: NodeId,
    batches: impl Iterator<Item = Result<Batch, ToolError>>,
) -> Result<(), ToolError> {
    wal.write_and_wait(LogWrite::Vote(Vote { term: Term(1), node, committed: true }), WRITE_LIMIT)?;
    let mut last = None;
    for chunk in chunks(entries(node, batches)) {
        let chunk = chunk?;
        last = chunk.last().map(|entry| entry.id);
        wal.write_and_wait(LogWrite::Append(chunk), WRITE_LIMIT)?;
    }
    if let Some(last) = last {
        wal.note_committed(last);
    }
    Ok(())
}

/// An entry to be written.
type Made = Result<Arc<Entry>, ToolError>;

/// Divides entries into as many as may be written at a time, and as go together in memory.
fn chunks(
    mut entries: impl Iterator<Item = Made>,
) -> impl Iterator<Item = Result<Vec<Arc<Entry>>, ToolError>> {
    std::iter::from_fn(move || {
        let (mut bytes, mut chunk) = (0, Vec::new());
        while bytes < CHUNK_BYTES && chunk.len() < WRITE_ENTRIES {
            match entries.next() {
                Some(Ok(entry)) => {
                    bytes += entry.size();
                    chunk.push(entry);
                }
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        (!chunk.is_empty()).then_some(Ok(chunk))
    })
}

/// A new machine of a new cluster, under this name or that of the recording's first.
fn identity(batches: &[Batch], name: Option<&str>) -> Identity {
    let commands = batches.iter().flat_map(|batch| &batch.commands);
    let first = commands.into_iter().find_map(|command| match command {
        Command::Join(machine) => Some(&*machine.name),
        _ => None,
    });
    Identity::founder(name.or(first).unwrap_or("imported"))
}

fn entries(
    node: NodeId,
    batches: impl Iterator<Item = Result<Batch, ToolError>>,
) -> impl Iterator<Item = Made> {
    let membership = Membership {
        voters: vec![BTreeSet::from([node])],
        nodes: BTreeMap::from([(node, Arc::from("127.0.0.1:7001"))]),
    };
    let batches = batches.map(|batch| batch.map(|batch| Payload::Batch(Arc::new(batch))));
    std::iter::once(Ok(Payload::Membership(membership))).chain(batches).zip(0..).map(
        move |(payload, index)| {
            let id = LogId { term: Term(1), node, index: RaftIndex(index) };
            Ok(Arc::new(Entry { id, payload: payload? }))
        },
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log at rest for months is nothing but ticks.
    #[test]
    fn ticks_without_end_are_written_in_parts() {
        let ticks = (0..140_000).map(|time| Ok(Batch::new(LogTime(time), Vec::new())));
        let chunks: Vec<_> = chunks(entries(NodeId(1), ticks)).map(Result::unwrap).collect();
        let sizes: Vec<_> = chunks.iter().map(Vec::len).collect();
        let last = chunks.last().and_then(|chunk| chunk.last()).map(|entry| entry.id);
        assert_eq!(sizes.iter().sum::<usize>(), 140_001);
        assert!(sizes.iter().all(|size| *size <= WRITE_ENTRIES), "{sizes:?}");
        let dir = tempfile::TempDir::new().unwrap();
        let (wal, archive) = (dir.path().join("wal"), dir.path().join("archive"));
        let options = WalOptions::new(wal, archive, NodeId(1), Arc::new(|error| panic!("{error}")));
        let (wal, _) = Wal::open(&options).unwrap();
        for chunk in chunks {
            wal.write_and_wait(LogWrite::Append(chunk), WRITE_LIMIT).unwrap();
        }
        assert_eq!(wal.reader().state().last, last);
    }
}
