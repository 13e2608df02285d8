//! Checkpoints that come from the leader: how they get from the network into the
//! state machine, and into the directory.
//!
//! ```text
//! pieces ─▶ a file that does not count ─▶ read, checked ─▶ openraft ─▶ state
//!                                                             │
//!                         a checkpoint like any other ◀─ the log goes on behind it
//! ```
//!
//! The order matters where the process may be killed in between: a checkpoint that
//! the log does not lead to would be taken for damage.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_log::{EventNumber, Index, IoError, LogId, sync_dir};

use super::network::PIECE_LIMIT;
use super::state_machine::Image;
use crate::blocking::blocking;
use crate::checkpoint::{self, CheckpointError, CheckpointFile, CheckpointStore};
use crate::one_line::OneLine;
use crate::peers::{Asked, FrameError};

/// The checkpoints that came last. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    last: Arc<Mutex<BTreeMap<LogId, CheckpointFile>>>,
    store: Option<CheckpointStore>,
}

/// How many checkpoints are kept that the log has not gone on behind.
const KEPT: usize = 3;

/// Why a checkpoint did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the connection broke")]
    Connection(#[from] FrameError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("it is one of entry {found:?}, not of {expected}")]
    Other { found: Option<LogId>, expected: LogId },
}

impl Received {
    pub(crate) fn new(store: CheckpointStore) -> Self {
        Self { last: Arc::default(), store: Some(store) }
    }

    /// Takes a checkpoint in, piece by piece.
    pub(crate) async fn take(
        &self,
        asked: &mut Asked<'_>,
        applied: LogId,
        index: Index,
        event: EventNumber,
    ) -> Result<CheckpointFile, ReceiveError> {
        let store = self.store();
        let file = blocking(move || store.place_for(applied.index, index, event)).await?;
        write(asked, file.path.clone()).await.inspect_err(|_| discard(&file.path))?;
        Ok(file)
    }

    /// Reads and checks what has come, and keeps it.
    pub(crate) async fn check(
        &self,
        file: CheckpointFile,
        applied: LogId,
    ) -> Result<Image, ReceiveError> {
        let (store, path) = (self.store(), file.path.clone());
        let read = blocking(move || store.read(&path).inspect_err(|_| discard(&path)));
        let checkpoint = read.await?;
        let position = checkpoint.state.position();
        let found = (checkpoint.applied, position.index, position.event);
        if found != (Some(applied), file.index, file.event) {
            discard(&file.path);
            return Err(ReceiveError::Other { found: checkpoint.applied, expected: applied });
        }
        self.keep(applied, file.clone());
        Ok(Image { file, applied, checkpoint: Some(Arc::new(checkpoint)) })
    }

    fn store(&self) -> CheckpointStore {
        self.store.clone().expect("whoever receives has a directory")
    }

    /// Keeps a checkpoint until the log goes on behind it. Of those to which that never
    /// happens, the last few are kept.
    fn keep(&self, applied: LogId, file: CheckpointFile) {
        let mut last = self.lock();
        if let Some(replaced) = last.insert(applied, file) {
            discard(&replaced.path);
        }
        while last.len() > KEPT {
            if let Some((_, oldest)) = last.pop_first() {
                discard(&oldest.path);
            }
        }
    }

    /// Returns the last command that a checkpoint contains.
    pub(crate) fn index(&self, applied: LogId) -> Option<Index> {
        self.lock().get(&applied).map(|file| file.index)
    }

    /// Notes that the log goes on behind an entry: the checkpoint that ends there
    /// counts from here on.
    pub(crate) async fn covered(&self, upto: LogId) {
        let received = self.lock().remove(&upto);
        let (Some(file), Some(store)) = (received, self.store.clone()) else { return };
        if let Err(error) = blocking(move || store.promote(&file)).await {
            // The next start sees to it; this one goes on from memory.
            tracing::warn!("a checkpoint keeps its first name: {}", OneLine(&error));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LogId, CheckpointFile>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what comes into a file, durably.
async fn write(asked: &mut Asked<'_>, path: PathBuf) -> Result<(), ReceiveError> {
    let created = path.clone();
    let failed =
        |action, path| move |error| CheckpointError::from(IoError::at(action, path)(error));
    let created = blocking(move || File::create(&created)).await;
    let mut file = created.map_err(failed("create", &path))?;
    loop {
        let piece = tokio::time::timeout(PIECE_LIMIT, asked.next_piece()).await;
        let piece = piece.map_err(|_| FrameError::Io(io::ErrorKind::TimedOut.into()))??;
        let Some(piece) = piece else { break };
        let written = blocking(move || -> io::Result<File> {
            file.write_all(&piece)?;
            // A disk that is told to write all of it at once keeps the log waiting.
            file.sync_data()?;
            Ok(file)
        });
        file = written.await.map_err(failed("write", &path))?;
    }
    blocking(move || file.sync_all()).await.map_err(failed("sync", &path))?;
    // Its name, too: the log is about to go on behind it.
    let dir = path.parent().map(Path::to_owned).unwrap_or_default();
    blocking(move || sync_dir(&dir)).await.map_err(CheckpointError::from)?;
    Ok(())
}

fn discard(path: &Path) {
    // What stays is removed at the next start.
    let _removed = std::fs::remove_file(path);
}

/// Tells the log which checkpoints there are.
pub(crate) fn note(store: &CheckpointStore, log: &impl etcd_log::LogStorage) {
    match store.list() {
        Ok(files) => checkpoint::note(log, &files),
        Err(error) => tracing::warn!("the checkpoints cannot be listed: {}", OneLine(&error)),
    }
}
