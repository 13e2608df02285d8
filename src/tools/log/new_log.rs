//! The log of a new machine, written as its batches come: whole, or not at all.
//!
//! ```text
//! the group is this machine │ batch  batch  batch …
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_log::{
    Batch, Entry, IoError, LogId, LogStorage as _, Membership, NodeId, Payload, RaftIndex, Term,
    Vote, WRITE_ENTRIES, Wal, WalOptions, Write as LogWrite,
};

use super::ToolError;
use crate::storage::data_dir::DataDir;

/// How many bytes of batches are written with one fsync, about: one batch more may
/// go over.
const CHUNK_BYTES: usize = 4 << 20;

/// How long a write may take. The log itself gives up before.
const WRITE_LIMIT: Duration = Duration::from_mins(2);

/// Writes a log, whole or not at all.
pub(super) fn write_log(
    data_dir: &DataDir,
    node: NodeId,
    batches: impl Iterator<Item = Result<Arc<Batch>, ToolError>>,
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
    batches: impl Iterator<Item = Result<Arc<Batch>, ToolError>>,
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

fn entries(
    node: NodeId,
    batches: impl Iterator<Item = Result<Arc<Batch>, ToolError>>,
) -> impl Iterator<Item = Made> {
    let membership = Membership {
        voters: vec![BTreeSet::from([node])],
        nodes: BTreeMap::from([(node, Arc::from("127.0.0.1:7001"))]),
    };
    let batches = batches.map(|batch| batch.map(Payload::Batch));
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
    use etcd_log::LogTime;

    use super::*;

    /// A log at rest for months is nothing but ticks.
    #[test]
    fn ticks_without_end_are_written_in_parts() {
        let ticks = (0..140_000).map(|time| Ok(Arc::new(Batch::new(LogTime(time), Vec::new()))));
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
