//! The checkpoint writer: writes beside the apply path, one at a time.
//!
//! A checkpoint that cannot be written is reported and forgotten: it is a cache,
//! and the next one comes.

use tokio::sync::mpsc;

use super::{Checkpoint, CheckpointStore};
use crate::one_line::OneLine;

/// Takes checkpoints to be written. Its task ends with it.
#[derive(Debug)]
pub struct CheckpointWriter {
    queue: mpsc::Sender<Checkpoint>,
}

impl CheckpointWriter {
    /// Starts the writer's task.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn start(store: CheckpointStore) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Checkpoint>(1);
        tokio::spawn(async move {
            while let Some(checkpoint) = waiting.recv().await {
                let store = store.clone();
                let written = tokio::task::spawn_blocking(move || store.write(&checkpoint)).await;
                match written {
                    Ok(Ok(file)) => tracing::debug!("checkpoint at {} written", file.index),
                    Ok(Err(error)) => tracing::warn!("no checkpoint written: {}", OneLine(&error)),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                }
            }
        });
        Self { queue }
    }

    /// Hands a checkpoint over, if the writer is free: returns whether it was.
    /// Never waits.
    pub fn offer(&self, checkpoint: impl FnOnce() -> Checkpoint) -> bool {
        match self.queue.try_reserve() {
            Ok(place) => {
                place.send(checkpoint());
                true
            }
            Err(_) => false,
        }
    }
}
