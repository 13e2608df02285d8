//! The checkpoint writer: writes beside the apply path, one at a time.
//!
//! A checkpoint that cannot be written is reported and forgotten: it is a cache,
//! and the next one comes.

use tokio::sync::mpsc;

use super::{Checkpoint, CheckpointStore};
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
    /// Starts the writer's task. While the disk is short of room it takes nothing.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn start(store: CheckpointStore, disk: DiskRoom) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Checkpoint>(1);
        tokio::spawn(async move {
            while let Some(checkpoint) = waiting.recv().await {
                let store = store.clone();
                match blocking(move || store.write(&checkpoint)).await {
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
