//! `etcd log import`: a data directory out of a recorded log.
//!
//! The directory gets a machine of its own: a new node id, the name and the
//! cluster that the recording begins with. A machine that starts there goes on
//! where the recording ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use etcd_log::{
    Batch, Command, Entry, IoError, LogError, LogId, LogStorage as _, Membership, NodeId, Payload,
    RaftIndex, RecordedBatch, Term, Vote, Wal, WalOptions, Write as LogWrite,
};

use super::ToolError;
use crate::data_dir::{DataDir, DataDirError, Identity};

/// How many bytes of batches are written with one fsync, about: one batch more may
/// go over.
const CHUNK_BYTES: usize = 4 << 20;

/// How long a write may take. The log itself gives up before.
const WRITE_LIMIT: Duration = Duration::from_mins(2);

/// Makes a data directory out of a recorded log.
///
/// # Errors
///
/// If the recording cannot be read, or the directory is in use or not empty.
pub fn import(file: &Path, dir: &Path, out: &mut dyn Write) -> Result<(), ToolError> {
    let data_dir = DataDir::take(dir)?;
    if data_dir.identity()?.is_some() || data_dir.wal().exists() || data_dir.archive().exists() {
        return Err(DataDirError::NotEmpty(dir.to_owned()).into());
    }
    let batches = read(file)?;
    let identity = identity(&batches);
    let failure = Arc::new(Mutex::new(None));
    let failed = Arc::clone(&failure);
    let on_fatal = Arc::new(move |error| *lock(&failed) = Some(error));
    let (wal, _) = Wal::open(&WalOptions {
        cache_bytes: 0,
        ..WalOptions::new(data_dir.wal(), data_dir.archive(), identity.node, on_fatal)
    })?;
    if let Err(error) = write_all(&wal, identity.node, batches) {
        // Half a log is nobody's. Why it was closed says more than that it was.
        for half in [data_dir.wal(), data_dir.archive()] {
            fs::remove_dir_all(&half).map_err(IoError::at("remove", &half))?;
        }
        return Err(lock(&failure).take().unwrap_or(error).into());
    }
    let last = wal.reader().last_command().0;
    wal.close()?;
    // Only a directory that is whole belongs to somebody.
    data_dir.claim(&identity)?;
    let Identity { name, cluster, .. } = identity;
    writeln!(out, "imported {last} commands; machine {name} of cluster {cluster}")?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<Batch>, ToolError> {
    let lines: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(path).map_err(IoError::at("read", path))?))
    };
    RecordedBatch::read_all(lines)
        .map_err(|source| ToolError::Recording { path: path.to_owned(), source })
}

fn write_all(wal: &Wal, node: NodeId, batches: Vec<Batch>) -> Result<(), LogError> {
    write(wal, LogWrite::Vote(Vote { term: Term(1), node, committed: true }))?;
    let entries: Vec<_> = entries(node, batches).collect();
    let mut bytes = 0;
    let chunks = entries.chunk_by(|entry, _| {
        bytes += entry.size();
        let fits = bytes < CHUNK_BYTES;
        bytes = if fits { bytes } else { 0 };
        fits
    });
    chunks.into_iter().try_for_each(|chunk| write(wal, LogWrite::Append(chunk.to_vec())))?;
    if let Some(last) = entries.last() {
        wal.note_committed(last.id);
    }
    Ok(())
}

/// The recording's own cluster and first machine, with a new node id.
fn identity(batches: &[Batch]) -> Identity {
    let mut identity = Identity::founder("imported");
    let mut named = false;
    for command in batches.iter().flat_map(|batch| &batch.commands) {
        match command {
            Command::Sync { cluster } => identity.cluster = *cluster,
            Command::Join(machine) if !named => {
                identity.name = Arc::clone(&machine.name);
                named = true;
            }
            _ => {}
        }
    }
    identity
}

fn entries(node: NodeId, batches: Vec<Batch>) -> impl Iterator<Item = Arc<Entry>> {
    let membership = Membership {
        voters: vec![BTreeSet::from([node])],
        nodes: BTreeMap::from([(node, Arc::from("127.0.0.1:7001"))]),
    };
    let batches = batches.into_iter().map(|batch| Payload::Batch(Arc::new(batch)));
    std::iter::once(Payload::Membership(membership)).chain(batches).zip(0..).map(
        move |(payload, index)| {
            let id = LogId { term: Term(1), node, index: RaftIndex(index) };
            Arc::new(Entry { id, payload })
        },
    )
}

/// Writes, and waits until it is safe.
fn write(wal: &Wal, write: LogWrite) -> Result<(), LogError> {
    let (sender, written) = mpsc::channel();
    wal.write(write, Box::new(move |result| drop(sender.send(result))));
    written.recv_timeout(WRITE_LIMIT).unwrap_or(Err(LogError::Closed))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
