//! The state machine: committed entries in, the published state out.
//!
//! The apply path reads no clock, no environment and no file. It publishes a
//! state before anybody is told that a command of it was applied.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_log::{LogId, Membership, RaftIndex};
use etcd_projections::Diverged;
use openraft::storage::RaftStateMachine;
use openraft::{
    BasicNode, EntryPayload, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError,
    StorageIOError, StoredMembership,
};

use super::types::{Reply, TypeConfig, from_log_id, from_stored, to_log_id, to_membership};
use super::unsynced::Unsynced;
use crate::blocking::blocking;
use crate::checkpoint::{Checkpoint, CheckpointFile, CheckpointStore, CheckpointWriter};
use crate::outcomes::Outcomes;
use crate::published::Publisher;

type StorageResult<T> = Result<T, StorageError<u64>>;
type Meta = SnapshotMeta<u64, BasicNode>;

/// A checkpoint, as openraft passes it around: a file; and what it holds, if it has
/// just come from another machine.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The file.
    pub file: CheckpointFile,
    /// The last entry that it contains.
    pub applied: LogId,
    /// What it holds, read and checked.
    pub checkpoint: Option<Arc<Checkpoint>>,
}

/// Applies what is committed.
#[derive(Debug)]
pub struct StateMachine {
    membership: (Option<LogId>, Membership),
    publisher: Publisher,
    outcomes: Outcomes,
    unsynced: Unsynced,
    checkpoints: Checkpoints,
    /// How many bytes of batches were applied since the last checkpoint.
    uncovered_bytes: usize,
    /// After how many such bytes the next checkpoint is due.
    checkpoint_bytes: usize,
    writer: CheckpointWriter,
}

/// The checkpoints, and the newest one that can be sent to another machine. Cloning
/// gives another handle.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    store: CheckpointStore,
    current: Arc<Mutex<Option<(Meta, Image)>>>,
    /// Whether openraft does not know of it yet.
    is_news: Arc<AtomicBool>,
}

impl StateMachine {
    /// Makes the state machine of the state that the publisher shows. A checkpoint is
    /// written after so many bytes of batches.
    pub fn new(
        membership: (Option<LogId>, Membership),
        publisher: Publisher,
        outcomes: Outcomes,
        unsynced: Unsynced,
        checkpoints: Checkpoints,
        writer: CheckpointWriter,
        checkpoint_bytes: usize,
    ) -> Self {
        Self {
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

    fn checkpoint(&self) -> Checkpoint {
        let now = self.publisher.now();
        Checkpoint {
            applied: now.applied,
            membership: self.membership.clone(),
            state: now.state.clone(),
        }
    }

    /// Applies an entry.
    fn apply_entry(&mut self, entry: &openraft::Entry<TypeConfig>) -> Result<Reply, Diverged> {
        let id = to_log_id(entry.log_id);
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.membership = (Some(id), to_membership(membership));
        }
        let mut reply = Reply::default();
        let EntryPayload::Normal(batch) = &entry.payload else {
            self.publisher.apply(id, |_| Vec::new());
            return Ok(reply);
        };
        if let Some(check) = &batch.check {
            self.publisher.now().state.compare(check)?;
        }
        self.uncovered_bytes += batch.size();
        self.publisher.apply(id, |state| {
            let outcomes = state.apply(batch);
            // The commands' outcomes are the last ones, one each.
            reply.outcomes = outcomes[outcomes.len() - batch.commands.len()..].to_vec();
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
            self.unsynced.wait_for(RaftIndex(entry.log_id.index)).await;
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
        CheckpointBuilder { checkpoint: self.checkpoint(), checkpoints: self.checkpoints.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> StorageResult<Box<Image>> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Box<Image>) -> StorageResult<()> {
        let checkpoint = if let Some(checkpoint) = &snapshot.checkpoint {
            Checkpoint::clone(checkpoint)
        } else {
            // openraft's suite installs what it has built. Whoever receives one from
            // another machine has read it: the apply path reads no file.
            let (store, path) = (self.checkpoints.store.clone(), snapshot.file.path.clone());
            let read = blocking(move || store.read(&path)).await;
            read.map_err(|error| StorageIOError::read_snapshot(Some(meta.signature()), &error))?
        };
        let Checkpoint { applied, membership, state } = checkpoint;
        self.membership = membership;
        self.uncovered_bytes = 0;
        self.publisher.jump(state, applied);
        let mut image = Image { checkpoint: None, ..*snapshot };
        // By this name it is known once the log goes on behind it.
        image.file.path = self.checkpoints.store.path_of(&image.file);
        self.checkpoints.set_current(meta.clone(), image);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> StorageResult<Option<Snapshot<TypeConfig>>> {
        Ok(self.checkpoints.current())
    }
}

/// Makes the checkpoint that openraft asks for, beside the apply path.
#[derive(Debug)]
pub struct CheckpointBuilder {
    checkpoint: Checkpoint,
    checkpoints: Checkpoints,
}

impl RaftSnapshotBuilder<TypeConfig> for CheckpointBuilder {
    /// Returns the checkpoint that was written last, if openraft has not been told of
    /// it. Only otherwise one is written; and if that fails, the last one has to do: a
    /// build that fails would be openraft's end.
    async fn build_snapshot(&mut self) -> StorageResult<Snapshot<TypeConfig>> {
        if let Some(news) = self.checkpoints.news() {
            return Ok(news);
        }
        let meta = meta_of(&self.checkpoint);
        let (store, checkpoint) = (self.checkpoints.store.clone(), self.checkpoint.clone());
        let file = match blocking(move || store.write(&checkpoint)).await {
            Ok(file) => file,
            Err(error) => {
                let failed = StorageIOError::write_snapshot(Some(meta.signature()), &error);
                return self.checkpoints.current().ok_or_else(|| failed.into());
            }
        };
        let image = image(&self.checkpoint, &file);
        self.checkpoints.set_current(meta.clone(), image.clone());
        Ok(Snapshot { meta, snapshot: Box::new(image) })
    }
}

impl Checkpoints {
    /// Wraps a directory of checkpoints, and the one that the machine starts from.
    pub fn new(store: CheckpointStore, start: &Checkpoint, file: Option<&CheckpointFile>) -> Self {
        // openraft would write another one at every start if it did not know of it.
        let current = file.map(|file| (meta_of(start), image(start, file)));
        Self { store, current: Arc::new(Mutex::new(current)), is_news: Arc::default() }
    }

    /// Notes that a checkpoint has been written.
    pub fn written(&self, checkpoint: &Checkpoint, file: &CheckpointFile) {
        self.set_current(meta_of(checkpoint), image(checkpoint, file));
        self.is_news.store(true, Ordering::Release);
    }

    /// Returns the checkpoint that was written last, once.
    fn news(&self) -> Option<Snapshot<TypeConfig>> {
        if self.is_news.swap(false, Ordering::AcqRel) { self.current() } else { None }
    }

    fn current(&self) -> Option<Snapshot<TypeConfig>> {
        let current = self.lock();
        current.clone().map(|(meta, image)| Snapshot { meta, snapshot: Box::new(image) })
    }

    /// Takes a checkpoint for the current one, unless a later one has come.
    fn set_current(&self, meta: Meta, image: Image) {
        let mut current = self.lock();
        if current.as_ref().is_none_or(|(_, before)| before.applied <= image.applied) {
            *current = Some((meta, image));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Meta, Image)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn image(checkpoint: &Checkpoint, file: &CheckpointFile) -> Image {
    let applied = checkpoint.applied.unwrap_or_default();
    Image { file: file.clone(), applied, checkpoint: None }
}

/// What openraft wants to know of a checkpoint.
pub(super) fn meta_of(checkpoint: &Checkpoint) -> Meta {
    let (at, membership) = &checkpoint.membership;
    let applied = checkpoint.applied;
    SnapshotMeta {
        last_log_id: applied.map(from_log_id),
        last_membership: from_stored(*at, membership),
        snapshot_id: applied.map(|id| id.to_string()).unwrap_or_default(),
    }
}
