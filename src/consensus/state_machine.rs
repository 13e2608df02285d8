//! The state machine: committed entries in, the published state out.
//!
//! The apply path reads no clock, no environment and no file. It publishes a
//! state before anybody is told that a command of it was applied.

use std::sync::{Arc, Mutex, PoisonError};

use etcd_log::{LogId, Membership};
use etcd_projections::{Diverged, Outcome, State};
use openraft::storage::RaftStateMachine;
use openraft::{
    BasicNode, EntryPayload, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError,
    StorageIOError, StoredMembership,
};

use super::types::{Reply, TypeConfig, from_log_id, from_stored, to_log_id, to_membership};
use crate::blocking::blocking;
use crate::checkpoint::{
    Checkpoint, CheckpointError, CheckpointFile, CheckpointStore, CheckpointWriter,
};
use crate::published::Publisher;

type StorageResult<T> = Result<T, StorageError<u64>>;
type Meta = SnapshotMeta<u64, BasicNode>;

/// Applies what is committed.
#[derive(Debug)]
pub struct StateMachine {
    state: State,
    applied: Option<LogId>,
    membership: (Option<LogId>, Membership),
    publisher: Publisher,
    checkpoints: Checkpoints,
    /// How many bytes of batches were applied since the last checkpoint.
    uncovered_bytes: usize,
    /// After how many such bytes the next checkpoint is due.
    checkpoint_bytes: usize,
    writer: CheckpointWriter,
}

/// The checkpoints, and the newest one that openraft has been told of.
#[derive(Clone, Debug)]
struct Checkpoints {
    store: CheckpointStore,
    current: Arc<Mutex<Option<(Meta, CheckpointFile)>>>,
}

impl StateMachine {
    /// Makes the state machine, with the state that the publisher shows already, and
    /// the file that it comes from.
    pub fn new(
        start: Checkpoint,
        from: Option<CheckpointFile>,
        publisher: Publisher,
        store: CheckpointStore,
        writer: CheckpointWriter,
        checkpoint_bytes: usize,
    ) -> Self {
        // openraft would write another one at every start if it did not know of it.
        let current = from.map(|file| (meta_of(&start), file));
        Self {
            state: start.state,
            applied: start.applied,
            membership: start.membership,
            publisher,
            writer,
            checkpoints: Checkpoints { store, current: Arc::new(Mutex::new(current)) },
            uncovered_bytes: 0,
            checkpoint_bytes,
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            applied: self.applied,
            membership: self.membership.clone(),
            state: self.state.clone(),
        }
    }

    /// Applies an entry, and returns all its outcomes.
    fn apply_entry(
        &mut self,
        entry: openraft::Entry<TypeConfig>,
    ) -> Result<Vec<Outcome>, Diverged> {
        let id = to_log_id(entry.log_id);
        self.applied = Some(id);
        Ok(match entry.payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Membership(membership) => {
                self.membership = (Some(id), to_membership(&membership));
                Vec::new()
            }
            EntryPayload::Normal(batch) => {
                if let Some(check) = &batch.check {
                    self.state.compare(check)?;
                }
                self.uncovered_bytes += batch.size();
                self.state.apply(&batch)
            }
        })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = CheckpointBuilder;

    async fn applied_state(
        &mut self,
    ) -> StorageResult<(Option<openraft::LogId<u64>>, StoredMembership<u64, BasicNode>)> {
        let (at, membership) = &self.membership;
        Ok((self.applied.map(from_log_id), from_stored(*at, membership)))
    }

    async fn apply<I>(&mut self, entries: I) -> StorageResult<Vec<Reply>>
    where
        I: IntoIterator<Item = openraft::Entry<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let mut replies = Vec::new();
        let mut outcomes = Vec::new();
        for entry in entries {
            let commands = match &entry.payload {
                EntryPayload::Normal(batch) => batch.commands.len(),
                EntryPayload::Blank | EntryPayload::Membership(_) => 0,
            };
            let id = entry.log_id;
            let applied = self.apply_entry(entry);
            outcomes.extend(applied.map_err(|error| StorageIOError::apply(id, &error))?);
            // The commands' outcomes are the last ones, one each.
            let of_commands = outcomes[outcomes.len() - commands..].to_vec();
            replies.push(Reply { outcomes: of_commands });
        }
        self.publisher.publish(self.state.clone(), self.applied, &outcomes);
        if self.uncovered_bytes >= self.checkpoint_bytes && self.writer.offer(|| self.checkpoint())
        {
            self.uncovered_bytes = 0;
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> CheckpointBuilder {
        CheckpointBuilder { checkpoint: self.checkpoint(), checkpoints: self.checkpoints.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> StorageResult<Box<CheckpointFile>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<CheckpointFile>,
    ) -> StorageResult<()> {
        let store = self.checkpoints.store.clone();
        let read = move || {
            let checkpoint = store.read(&snapshot.path)?;
            let file = store.write(&checkpoint)?;
            Ok((checkpoint, file))
        };
        let (checkpoint, file) =
            blocking(read).await.map_err(|error| failed_to_read(meta, &error))?;
        let Checkpoint { applied, membership, state } = checkpoint;
        (self.applied, self.membership, self.state) = (applied, membership, state);
        self.publisher.publish(self.state.clone(), self.applied, &[]);
        self.checkpoints.set_current(meta.clone(), file);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> StorageResult<Option<Snapshot<TypeConfig>>> {
        Ok(self.checkpoints.current())
    }
}

/// Writes a checkpoint of a copy of the state, beside the apply path.
#[derive(Debug)]
pub struct CheckpointBuilder {
    checkpoint: Checkpoint,
    checkpoints: Checkpoints,
}

impl RaftSnapshotBuilder<TypeConfig> for CheckpointBuilder {
    async fn build_snapshot(&mut self) -> StorageResult<Snapshot<TypeConfig>> {
        let meta = meta_of(&self.checkpoint);
        let (store, checkpoint) = (self.checkpoints.store.clone(), self.checkpoint.clone());
        let file = blocking(move || store.write(&checkpoint)).await;
        let file =
            file.map_err(|error| StorageIOError::write_snapshot(Some(meta.signature()), &error))?;
        Ok(self.checkpoints.set_current(meta, file))
    }
}

impl Checkpoints {
    fn current(&self) -> Option<Snapshot<TypeConfig>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.clone().map(|(meta, file)| Snapshot { meta, snapshot: Box::new(file) })
    }

    fn set_current(&self, meta: Meta, file: CheckpointFile) -> Snapshot<TypeConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some((meta.clone(), file.clone()));
        Snapshot { meta, snapshot: Box::new(file) }
    }
}

fn meta_of(checkpoint: &Checkpoint) -> Meta {
    let (at, membership) = &checkpoint.membership;
    let applied = checkpoint.applied;
    SnapshotMeta {
        last_log_id: applied.map(from_log_id),
        last_membership: from_stored(*at, membership),
        snapshot_id: applied.map(|id| id.to_string()).unwrap_or_default(),
    }
}

fn failed_to_read(meta: &Meta, error: &CheckpointError) -> StorageError<u64> {
    StorageIOError::read_snapshot(Some(meta.signature()), error).into()
}
