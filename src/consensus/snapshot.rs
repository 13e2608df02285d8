//! Snapshots, as openraft calls them: the checkpoints that are there already.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::{
    BasicNode, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError, StorageIOError,
};

use super::types::{SnapshotData, TypeConfig, from_log_id, from_stored};
use crate::storage::checkpoint::{Checkpoint, CheckpointFile, CheckpointStore};
use crate::util::blocking::blocking;

/// What openraft wants to know of a checkpoint.
pub(super) type Meta = SnapshotMeta<u64, BasicNode>;

/// The checkpoints, and the newest one that can be sent to another machine. Cloning
/// gives another handle.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    store: CheckpointStore,
    current: Arc<Mutex<Option<(Meta, SnapshotData)>>>,
    /// Whether openraft does not know of it yet.
    is_news: Arc<AtomicBool>,
}

/// Makes the checkpoint that openraft asks for, beside the apply path.
#[derive(Debug)]
pub struct CheckpointBuilder {
    checkpoint: Checkpoint,
    checkpoints: Checkpoints,
}

impl CheckpointBuilder {
    pub(super) fn new(checkpoint: Checkpoint, checkpoints: Checkpoints) -> Self {
        Self { checkpoint, checkpoints }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for CheckpointBuilder {
    /// Returns the checkpoint that was written last, if openraft has not been told of
    /// it. Only otherwise one is written; and if that fails, the last one has to do: a
    /// build that fails would be openraft's end.
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
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

    /// Returns where they lie.
    pub(super) fn store(&self) -> &CheckpointStore {
        &self.store
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

    /// Returns the newest checkpoint.
    pub(super) fn current(&self) -> Option<Snapshot<TypeConfig>> {
        let current = self.lock();
        current.clone().map(|(meta, image)| Snapshot { meta, snapshot: Box::new(image) })
    }

    /// Takes a checkpoint for the current one, unless a later one has come.
    pub(super) fn set_current(&self, meta: Meta, image: SnapshotData) {
        let mut current = self.lock();
        if current.as_ref().is_none_or(|(_, before)| before.applied <= image.applied) {
            *current = Some((meta, image));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Meta, SnapshotData)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn image(checkpoint: &Checkpoint, file: &CheckpointFile) -> SnapshotData {
    let applied = checkpoint.applied.unwrap_or_default();
    SnapshotData { file: file.clone(), applied, checkpoint: None }
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
