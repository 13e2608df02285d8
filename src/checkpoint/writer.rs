//! The checkpoint writer: writes beside the apply path, one at a time, and thins
//! out the old ones.
//!
//! A checkpoint that cannot be written is reported and forgotten: it is a cache,
//! and the next one comes.

use etcd_log::LogStorage;
use tokio::sync::mpsc;

use super::{Checkpoint, CheckpointError, CheckpointFile, CheckpointStore, NEWEST};
use crate::blocking::blocking;
use crate::disk::DiskRoom;
use crate::one_line::OneLine;

/// Takes checkpoints to be written. Its task ends with it.
#[derive(Debug)]
pub struct CheckpointWriter {
    queue: mpsc::Sender<Checkpoint>,
    disk: DiskRoom,
}

impl CheckpointWriter {
    /// Starts the writer's task. While there is no room on the disk for another
    /// checkpoint it takes none.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn start<L: LogStorage>(store: CheckpointStore, disk: DiskRoom, log: L) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Checkpoint>(1);
        tokio::spawn(async move {
            while let Some(checkpoint) = waiting.recv().await {
                let (store, log) = (store.clone(), log.clone());
                match blocking(move || write(&store, &checkpoint, &log)).await {
                    Ok(file) => tracing::debug!("checkpoint at {} written", file.index),
                    Err(error) => tracing::warn!("no checkpoint written: {}", OneLine(&error)),
                }
            }
        });
        Self { queue, disk }
    }

    /// Hands a checkpoint over, if the writer is free: returns whether it was.
    /// Never waits.
    pub fn offer(&self, checkpoint: impl FnOnce() -> Checkpoint) -> bool {
        match self.queue.try_reserve() {
            Ok(_) if self.disk.is_short() => false,
            Ok(place) => {
                place.send(checkpoint());
                true
            }
            Err(_) => false,
        }
    }
}

fn write(
    store: &CheckpointStore,
    checkpoint: &Checkpoint,
    log: &impl LogStorage,
) -> Result<CheckpointFile, CheckpointError> {
    let file = store.write(checkpoint)?;
    note(log, &store.thin_out(log.first())?);
    Ok(file)
}

/// Tells the log which checkpoints there are, so that it can settle what they
/// contain.
pub fn note(log: &impl LogStorage, checkpoints: &[CheckpointFile]) {
    let newest = checkpoints.last().map(|file| file.raft_index);
    let all = checkpoints.iter().rev().nth(NEWEST - 1).map(|file| file.raft_index);
    log.note_checkpoints(newest, all);
}
