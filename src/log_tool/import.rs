//! `etcd log import`: a data directory out of a recorded log.
//!
//! The directory gets a machine of its own: a new node id, the name and the
//! cluster that the recording begins with. A machine that starts there goes on
//! where the recording ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Arc, mpsc};

use etcd_log::{
    Batch, Command, Entry, Index, LogError, LogId, LogStorage as _, Membership, NodeId, Payload,
    RaftIndex, RecordedBatch, Term, Vote, Wal, WalOptions, Write as LogWrite,
};

use super::ToolError;
use crate::data_dir::{DataDir, DataDirError, Identity};

/// How many batches are written with one fsync.
const CHUNK: usize = 64;

/// Makes a data directory out of a recorded log.
///
/// # Errors
///
/// If the recording cannot be read, or the directory is in use or not empty.
pub fn import(file: &Path, dir: &Path, out: &mut dyn Write) -> Result<(), ToolError> {
    let data_dir = DataDir::take(dir)?;
    if data_dir.identity()?.is_some() {
        return Err(DataDirError::NotEmpty(dir.to_owned()).into());
    }
    let batches = read(file)?;
    let identity = identity(&batches);
    let (wal, _) = Wal::open(&WalOptions {
        dir: data_dir.wal(),
        node: identity.node,
        cache_bytes: 0,
        // The write that failed says so to whoever waits for it.
        on_fatal: Arc::new(drop),
    })?;
    write(&wal, LogWrite::Vote(Vote { term: Term(1), node: identity.node, committed: true }))?;
    let entries: Vec<_> = entries(identity.node, batches).collect();
    for chunk in entries.chunks(CHUNK) {
        write(&wal, LogWrite::Append(chunk.to_vec()))?;
    }
    let last = wal.reader().last_index();
    wal.close()?;
    // Only a directory that is whole belongs to somebody.
    data_dir.found(&identity)?;
    writeln!(
        out,
        "imported {} commands; machine {} of cluster {}",
        last.0, identity.name, identity.cluster
    )?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<Batch>, ToolError> {
    let failed = |source| ToolError::Read { path: path.to_owned(), source };
    let lines: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(path).map_err(failed)?))
    };
    let mut batches = Vec::new();
    let mut next = Index(1);
    for (at, line) in lines.lines().enumerate() {
        let line = line.map_err(failed)?;
        let recorded = RecordedBatch::read(at + 1, &line, next);
        let recorded =
            recorded.map_err(|source| ToolError::Recording { path: path.to_owned(), source })?;
        if let Some(recorded) = recorded {
            next = Index(next.0 + recorded.commands.len() as u64);
            batches.push(recorded.into_batch());
        }
    }
    Ok(batches)
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
    written.recv().unwrap_or(Err(LogError::Closed))
}
