//! The checkpoint writer: writes beside the apply path, one at a time, and thins
//! out the old ones.
//!
//! A checkpoint that cannot be written is reported and forgotten: it is a cache,
//! and the next one comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_log::{IoError, LogStorage};
use tokio::sync::mpsc;

use super::{Checkpoint, CheckpointError, CheckpointFile};
use crate::storage::disk_space::DiskRoom;
use crate::storage::stored::Stored;
use crate::util::blocking::blocking;
use crate::util::error_chain::ErrorChain;

/// How much room must be left besides.
const MARGIN: u64 = 16 << 20;

/// Takes checkpoints to be written. Its task ends with it.
#[derive(Debug)]
pub struct CheckpointWriter {
    queue: mpsc::Sender<Checkpoint>,
    disk: DiskRoom,
    /// How long the last one was; zero, if there is none.
    last_bytes: Arc<AtomicU64>,
}

impl CheckpointWriter {
    /// Starts the writer's task, which tells what it has `written`. While there is no
    /// room on the disk for another checkpoint it takes none.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn start<L: LogStorage>(
        stored: Stored<L>,
        written: impl Fn(&Checkpoint, &CheckpointFile) + Send + 'static,
    ) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Checkpoint>(1);
        let last_bytes = Arc::new(AtomicU64::new(newest_bytes(&stored)));
        let bytes = Arc::clone(&last_bytes);
        let disk = stored.disk.clone();
        tokio::spawn(async move {
            while let Some(checkpoint) = waiting.recv().await {
                let (stored, state) = (stored.clone(), checkpoint.clone());
                match blocking(move || write(&stored, &state)).await {
                    Ok((file, length)) => {
                        written(&checkpoint, &file);
                        bytes.store(length, Ordering::Relaxed);
                        tracing::debug!("checkpoint at {} written", file.index);
                    }
                    Err(error) => tracing::warn!("no checkpoint written: {}", ErrorChain(&error)),
                }
            }
        });
        Self { queue, disk, last_bytes }
    }

    /// How much room the next one may take: somewhat more than the last.
    fn room_needed(&self) -> u64 {
        self.last_bytes.load(Ordering::Relaxed).saturating_mul(2).saturating_add(MARGIN)
    }

    /// Hands a checkpoint over, if the writer is free: returns whether it was.
    /// Never waits.
    pub fn offer(&self, checkpoint: impl FnOnce() -> Checkpoint) -> bool {
        match self.queue.try_reserve() {
            Ok(_) if !self.disk.has_room_for(self.room_needed()) => false,
            Ok(place) => {
                place.send(checkpoint());
                true
            }
            Err(_) => false,
        }
    }
}

/// Returns how long the newest checkpoint is that is there already.
fn newest_bytes<L>(stored: &Stored<L>) -> u64 {
    let newest = stored.checkpoints.list().ok().and_then(|files| files.into_iter().next_back());
    let length = newest.and_then(|file| std::fs::metadata(file.path).ok());
    length.map_or(0, |metadata| metadata.len())
}

fn write(
    stored: &Stored<impl LogStorage>,
    checkpoint: &Checkpoint,
) -> Result<(CheckpointFile, u64), CheckpointError> {
    let file = stored.checkpoints.write(checkpoint)?;
    if let Err(error) = stored.checkpoints.thin_out(stored.log.first()) {
        // What is too much costs room; what is not noted would stop the log from sealing.
        tracing::warn!("old checkpoints cannot be removed: {}", ErrorChain(&error));
    }
    stored.note_checkpoints(|_| true)?;
    let length = std::fs::metadata(&file.path).map_err(IoError::at("read", &file.path))?.len();
    Ok((file, length))
}

#[cfg(test)]
mod tests {
    use etcd_log::MemoryLog;
    use etcd_projections::State;
    use tempfile::TempDir;

    use super::*;
    use crate::storage::checkpoint::CheckpointStore;
    use crate::util::limit;

    #[tokio::test]
    async fn room_is_wanted_for_one_like_the_last_of_the_process_before() {
        limit::begin();
        let dir = TempDir::new().unwrap();
        let checkpoints = CheckpointStore::new(dir.path().to_owned(), 10);
        let stored = Stored { log: MemoryLog::new(), checkpoints, disk: DiskRoom::default() };
        let none = CheckpointWriter::start(stored.clone(), |_, _| {});
        assert_eq!(none.room_needed(), MARGIN);
        let file = stored.checkpoints.write(&Checkpoint::empty(State::new(10))).unwrap();
        let length = std::fs::metadata(file.path).unwrap().len();
        let writer = CheckpointWriter::start(stored, |_, _| {});
        assert_eq!(writer.room_needed(), 2 * length + MARGIN);
    }
}
