//! The log, as openraft wants it: a translation, and no more.
#![expect(clippy::result_large_err, reason = "openraft's error is what its traits return")]

use std::fmt::Debug;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use etcd_log::{Entry, Index, LogError, LogId, LogStorage, NodeId, RaftIndex, Write};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, RaftLogReader, StorageError, StorageIOError};
use tokio::sync::oneshot;

use super::in_flight::InFlight;
use super::incoming_checkpoints::IncomingCheckpoints;
use super::types::{TypeConfig, from_entry, from_log_id, from_vote, to_entry, to_log_id, to_vote};
use super::unsynced::Unsynced;

/// How many bytes of entries go to another machine in one message.
const MESSAGE_BYTES: usize = 1 << 20;

type StorageResult<T> = Result<T, StorageError<u64>>;

/// A log for openraft to run on.
#[derive(Clone, Debug)]
pub struct LogStore<L> {
    log: L,
    me: NodeId,
    /// What Raft need not look at, if that is not what it has purged.
    starts_behind: Option<Start>,
    in_flight: InFlight,
    incoming_checkpoints: IncomingCheckpoints,
    unsynced: Unsynced,
}

/// The entries up to here are in the checkpoint that the machine starts from.
#[derive(Clone, Copy, Debug)]
struct Start(Option<LogId>);

impl<L: LogStorage> LogStore<L> {
    /// Wraps the log of this machine.
    pub fn new(log: L, me: NodeId) -> Self {
        let (in_flight, incoming_checkpoints) =
            (InFlight::default(), IncomingCheckpoints::default());
        Self {
            log,
            me,
            starts_behind: None,
            in_flight,
            incoming_checkpoints,
            unsynced: Unsynced::default(),
        }
    }

    /// Says what Raft need not look at: the entries up to one that is in the checkpoint
    /// which the machine starts from. So a start depends on no older history; and if
    /// newer checkpoints are damaged, entries count that had been purged already.
    pub fn starting_behind(self, entry: Option<LogId>) -> Self {
        Self { starts_behind: Some(Start(entry)), ..self }
    }

    /// Returns the last entry that Raft cannot have.
    fn purged(&self) -> Option<LogId> {
        let state = self.log.state();
        let purged = self.starts_behind.map_or(state.purged, |Start(upto)| upto.max(state.missing));
        // History that is gone cannot be had by Raft either.
        [purged, state.forgotten].into_iter().flatten().max_by_key(|id| id.index)
    }

    /// Tells these which batches are appended, behind which checkpoints the log goes
    /// on, and which entries are not on disk yet.
    pub(crate) fn with(
        self,
        in_flight: InFlight,
        incoming_checkpoints: IncomingCheckpoints,
        unsynced: Unsynced,
    ) -> Self {
        Self { in_flight, incoming_checkpoints, unsynced, ..self }
    }

    /// Returns the entry, if this is the batch that this leader proposes.
    fn proposed(&self, entries: &[Arc<Entry>]) -> Option<RaftIndex> {
        match entries {
            [entry] if self.in_flight.appended(entry.batch()?) => Some(entry.id.index),
            _ => None,
        }
    }

    /// Writes, and waits until it is safe.
    async fn write(&self, write: Write) -> Result<(), LogError> {
        let (sender, receiver) = oneshot::channel();
        let _writing = self.unsynced.writing();
        self.log.write(write, Box::new(move |result| drop(sender.send(result))));
        receiver.await.unwrap_or(Err(LogError::Closed))
    }

    fn read(
        &self,
        range: Range<u64>,
        max_bytes: usize,
    ) -> StorageResult<Vec<openraft::Entry<TypeConfig>>> {
        let range = RaftIndex(range.start)..RaftIndex(range.end);
        let entries = self.log.entries(range.clone(), max_bytes);
        let entries =
            entries.map_err(|error| StorageIOError::read_log_at_index(range.start.0, &error))?;
        Ok(entries.iter().map(|entry| from_entry(entry)).collect())
    }
}

impl<L: LogStorage> RaftLogReader<TypeConfig> for LogStore<L> {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> StorageResult<Vec<openraft::Entry<TypeConfig>>> {
        // What is not kept any longer is "not found" here, and no error.
        let first = self.purged().map_or(0, |id| id.index.0 + 1).max(self.log.first().0);
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let mut entries = Vec::new();
        let mut next = start.max(first);
        while next < end {
            let chunk = self.read(next..end, usize::MAX)?;
            if chunk.is_empty() {
                break;
            }
            next += chunk.len() as u64;
            entries.extend(chunk);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> StorageResult<Vec<openraft::Entry<TypeConfig>>> {
        let mut entries = self.read(start..end, MESSAGE_BYTES)?;
        // What JSON makes longer is counted as it is sent; mostly there is one entry.
        if entries.len() > 1 {
            let mut bytes = 0;
            let fits = |entry: &openraft::Entry<TypeConfig>| {
                bytes += to_entry(entry.clone()).written_size();
                bytes <= MESSAGE_BYTES
            };
            let count = entries.iter().map(fits).take_while(|fits| *fits).count();
            entries.truncate(count.max(1));
        }
        Ok(entries)
    }
}

impl<L: LogStorage> RaftLogStorage<TypeConfig> for LogStore<L> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> StorageResult<LogState<TypeConfig>> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: self.purged().map(from_log_id),
            last_log_id: state.last.map(from_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &openraft::Vote<u64>) -> StorageResult<()> {
        let written = self.write(Write::Vote(to_vote(*vote))).await;
        written.map_err(|error| StorageIOError::write_vote(&error).into())
    }

    /// Reads the vote back. A machine that led before it stopped must stand for
    /// election again: leading on would skip the proof that nobody else does.
    async fn read_vote(&mut self) -> StorageResult<Option<openraft::Vote<u64>>> {
        let mut vote = self.log.state().vote;
        if let Some(vote) = vote.as_mut().filter(|vote| vote.node == self.me) {
            vote.committed = false;
        }
        Ok(vote.map(from_vote))
    }

    async fn save_committed(
        &mut self,
        committed: Option<openraft::LogId<u64>>,
    ) -> StorageResult<()> {
        if let Some(upto) = committed {
            self.log.note_committed(to_log_id(upto));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> StorageResult<Option<openraft::LogId<u64>>> {
        Ok(self.log.state().committed.map(from_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> StorageResult<()>
    where
        I: IntoIterator<Item = openraft::Entry<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let state = self.log.state();
        // openraft's suite appends entries that have been purged, and such that
        // are there already. The first need not be written, the second take the
        // place of those that are there.
        let purged = state.purged.map(|id| id.index);
        let entries = entries.into_iter().map(|entry| Arc::new(to_entry(entry)));
        let entries: Vec<_> = entries.filter(|entry| Some(entry.id.index) > purged).collect();
        let proposed = self.proposed(&entries);
        let since = entries.first().map(|entry| entry.id.index);
        let last = state.last.map(|id| id.index);
        if let Some(since) = since.filter(|since| Some(*since) <= last) {
            self.log.write(Write::Truncate { since }, Box::new(drop));
        }
        let Some(entry) = proposed else {
            let writing = self.unsynced.writing();
            let done = move |result: Result<(), LogError>| {
                drop(writing);
                callback.log_io_completed(result.map_err(std::io::Error::other));
            };
            self.log.write(Write::Append(entries), Box::new(done));
            return Ok(());
        };
        let unsynced = self.unsynced.clone();
        unsynced.begin(entry);
        // A log that cannot be written ends the process, or is being closed: then
        // nothing that waits for this entry may go on.
        let done = move |result: Result<(), LogError>| {
            if result.is_ok() {
                unsynced.end();
            }
        };
        self.log.write(Write::Append(entries), Box::new(done));
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: openraft::LogId<u64>) -> StorageResult<()> {
        let written = self.write(Write::Truncate { since: RaftIndex(log_id.index) }).await;
        written.map_err(|error| StorageIOError::write_logs(&error).into())
    }

    async fn purge(&mut self, log_id: openraft::LogId<u64>) -> StorageResult<()> {
        let upto = to_log_id(log_id);
        let last = self.log.state().last;
        let write = if last.is_some_and(|last| last.index > upto.index || last == upto) {
            Write::Purge { upto }
        } else {
            let index = match self.incoming_checkpoints.index(upto) {
                Some(index) => index,
                // openraft's suite does this without a checkpoint, and without commands.
                None if self.starts_behind.is_none() => Index(0),
                None => {
                    let error = AnyError::error(format!("no checkpoint came for {upto}"));
                    return Err(StorageIOError::write_logs(error).into());
                }
            };
            Write::Install { upto, index }
        };
        self.write(write).await.map_err(|error| StorageIOError::write_logs(&error))?;
        self.incoming_checkpoints.covered(upto).await;
        Ok(())
    }
}
