//! The state machine: committed entries in, the published state out.
//!
//! The apply path reads no clock, no environment and no file. It publishes a
//! state before anybody is told that a command of it was applied.

use etcd_log::{LogFormat, LogId, Membership, RaftIndex};
use etcd_projections::{Diverged, of_commands};
use openraft::storage::RaftStateMachine;
use openraft::{BasicNode, EntryPayload, Snapshot, StorageError, StorageIOError, StoredMembership};

use super::snapshot::{CheckpointBuilder, Checkpoints, Meta};
use super::types::{
    Reply, SnapshotData, TypeConfig, from_log_id, from_stored, to_log_id, to_membership,
};
use super::unsynced::Unsynced;
use crate::state::published::Publisher;
use crate::state::recent_outcomes::RecentOutcomes;
use crate::storage::checkpoint::{Checkpoint, CheckpointWriter};
use crate::util::blocking::blocking;

type StorageResult<T> = Result<T, StorageError<u64>>;

/// An entry of more outcomes than this takes long to apply: about a millisecond.
const LONG: usize = 512;

/// Why an entry cannot be applied.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    /// This machine, or the proposer, is not what the log says.
    #[error(transparent)]
    Diverged(#[from] Diverged),
    /// It says what this machine cannot read.
    #[error("a command is of log format {found}, and this machine reads {reads} at most")]
    Format { found: LogFormat, reads: LogFormat },
}

/// Applies what is committed.
#[derive(Debug)]
pub struct StateMachine {
    /// The newest format of a log that it reads.
    reads: LogFormat,
    membership: (Option<LogId>, Membership),
    publisher: Publisher,
    outcomes: RecentOutcomes,
    unsynced: Unsynced,
    checkpoints: Checkpoints,
    /// How many bytes of batches were applied since the last checkpoint.
    uncovered_bytes: usize,
    /// After how many such bytes the next checkpoint is due.
    checkpoint_bytes: usize,
    writer: CheckpointWriter,
}

impl StateMachine {
    /// Makes the state machine of the state that the publisher shows. A checkpoint is
    /// written after so many bytes of batches.
    pub fn new(
        membership: (Option<LogId>, Membership),
        publisher: Publisher,
        outcomes: RecentOutcomes,
        unsynced: Unsynced,
        checkpoints: Checkpoints,
        writer: CheckpointWriter,
        checkpoint_bytes: usize,
    ) -> Self {
        Self {
            reads: LogFormat::NEWEST,
            membership,
            publisher,
            outcomes,
            unsynced,
            writer,
            checkpoints,
            uncovered_bytes: 0,
            checkpoint_bytes,
        }
    }

    /// Reads no format of a log beyond this one, as an earlier version does.
    #[must_use]
    pub fn reading(self, reads: LogFormat) -> Self {
        Self { reads, ..self }
    }

    fn checkpoint(&self) -> Checkpoint {
        let now = self.publisher.now();
        Checkpoint {
            applied: now.applied,
            membership: self.membership.clone(),
            state: now.state.clone(),
        }
    }

    /// Applies an entry.
    fn apply_entry(&mut self, entry: &openraft::Entry<TypeConfig>) -> Result<Reply, ApplyError> {
        let id = to_log_id(entry.log_id);
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.membership = (Some(id), to_membership(membership));
        }
        let mut reply = Reply::default();
        let EntryPayload::Normal(batch) = &entry.payload else {
            self.publisher.apply(id, false, |state| state.apply_entry(id.index, None));
            return Ok(reply);
        };
        let (found, reads) = (batch.format(), self.reads);
        if found > reads {
            return Err(ApplyError::Format { found, reads });
        }
        let takes_long = {
            let now = self.publisher.now();
            if let Some(check) = &batch.check {
                now.state.compare(check).inspect_err(|_| self.publisher.distrust())?;
            }
            batch.changes() + now.state.expiry().due(batch.time, LONG) > LONG
        };
        self.uncovered_bytes += batch.size();
        self.publisher.apply(id, takes_long, |state| {
            let last = state.position().index;
            let outcomes = state.apply_entry(id.index, Some(batch));
            reply.outcomes = Vec::with_capacity(batch.commands.len());
            reply.outcomes.extend(of_commands(last, &outcomes).cloned());
            // Before anybody can see that the entry is applied.
            self.outcomes.note(id.index, &reply.outcomes);
            outcomes
        });
        Ok(reply)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = CheckpointBuilder;

    async fn applied_state(
        &mut self,
    ) -> StorageResult<(Option<openraft::LogId<u64>>, StoredMembership<u64, BasicNode>)> {
        let (at, membership) = &self.membership;
        let applied = self.publisher.now().applied;
        Ok((applied.map(from_log_id), from_stored(*at, membership)))
    }

    async fn apply<I>(&mut self, entries: I) -> StorageResult<Vec<Reply>>
    where
        I: IntoIterator<Item = openraft::Entry<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let mut replies = Vec::new();
        for entry in entries {
            self.unsynced.wait_to_apply(RaftIndex(entry.log_id.index)).await;
            let applied = self.apply_entry(&entry);
            replies.push(applied.map_err(|error| StorageIOError::apply(entry.log_id, &error))?);
        }
        if self.uncovered_bytes >= self.checkpoint_bytes && self.writer.offer(|| self.checkpoint())
        {
            self.uncovered_bytes = 0;
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> CheckpointBuilder {
        CheckpointBuilder::new(self.checkpoint(), self.checkpoints.clone())
    }

    async fn begin_receiving_snapshot(&mut self) -> StorageResult<Box<SnapshotData>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<SnapshotData>,
    ) -> StorageResult<()> {
        let checkpoint = if let Some(checkpoint) = &snapshot.checkpoint {
            Checkpoint::clone(checkpoint)
        } else {
            // openraft's suite installs what it has built. Whoever receives one from
            // another machine has read it: the apply path reads no file.
            let (store, path) = (self.checkpoints.store().clone(), snapshot.file.path.clone());
            let read = blocking(move || store.read(&path)).await;
            read.map_err(|error| StorageIOError::read_snapshot(Some(meta.signature()), &error))?
        };
        let Checkpoint { applied, membership, state } = checkpoint;
        self.membership = membership;
        self.uncovered_bytes = 0;
        self.publisher.jump(state, applied);
        let mut image = SnapshotData { checkpoint: None, ..*snapshot };
        // By this name it is known once the log goes on behind it.
        image.file.path = self.checkpoints.store().path_of(&image.file);
        self.checkpoints.set_current(meta.clone(), image);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> StorageResult<Option<Snapshot<TypeConfig>>> {
        Ok(self.checkpoints.current())
    }
}
