//! The directory of checkpoints: writing one, finding the newest good one.
//!
//! ```text
//! checkpoints/00000000000000000512-1042-977.checkpoint
//!             └ Raft index         │    └ event number
//!                                  └ index
//! ```
//!
//! A checkpoint is written under a temporary name, synced, and renamed: under
//! its name there is a whole one or none. A damaged one is skipped; the log makes
//! up for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_log::{EventNumber, Index, IoError, RaftIndex, sync_dir, write_durably};

use super::file::{self, Checkpoint, CheckpointError};
use super::name::{CheckpointFile, parse_name};
use super::thinning::superfluous;
use crate::util::error_chain::ErrorChain;

/// What the name of a checkpoint ends with that has come from another machine, and
/// does not count yet.
const RECEIVED: &str = "received";

/// How many have come to this process.
static RECEIVED_COUNT: AtomicU64 = AtomicU64::new(0);

/// The directory of checkpoints.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    dir: PathBuf,
    ring_capacity: usize,
}

impl CheckpointStore {
    /// Uses a directory, which is made with the first checkpoint. States read
    /// from it get a ring of so many events.
    pub fn new(dir: PathBuf, ring_capacity: usize) -> Self {
        Self { dir, ring_capacity }
    }

    /// Removes what a process left that was stopped while it wrote one.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn remove_drafts(&self) -> Result<(), CheckpointError> {
        for path in self.entries()? {
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(IoError::at("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Returns where a checkpoint of this position is put that comes from another
    /// machine: under a name that does not count, until the log goes on behind it.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn place_for(
        &self,
        raft_index: RaftIndex,
        index: Index,
        event: EventNumber,
    ) -> Result<CheckpointFile, CheckpointError> {
        self.make()?;
        // Another one of the same position may be on its way.
        let number = RECEIVED_COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{number}.{RECEIVED}", name(raft_index, index, event));
        let path = self.dir.join(name);
        Ok(CheckpointFile { raft_index, index, event, path })
    }

    /// Makes a checkpoint count that came from another machine: by now the log goes
    /// on behind it. Returns it under its new name.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn promote(&self, file: &CheckpointFile) -> Result<CheckpointFile, CheckpointError> {
        let path = self.path_of(file);
        fs::rename(&file.path, &path).map_err(IoError::at("rename", &file.path))?;
        sync_dir(&self.dir)?;
        Ok(CheckpointFile { path, ..file.clone() })
    }

    /// Sees to what a process left that was stopped while a checkpoint came from
    /// another machine: it counts if the log goes on behind it, and is of no use
    /// otherwise.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn settle_received(&self, committed: Option<RaftIndex>) -> Result<(), CheckpointError> {
        for path in self.entries()? {
            if path.extension().is_none_or(|extension| extension != RECEIVED) {
                continue;
            }
            // name.checkpoint.number.received
            let file = parse_name(&path.with_extension("").with_extension(""));
            let counts = |file: &CheckpointFile| {
                Some(file.raft_index) <= committed && self.read(&path).is_ok()
            };
            match file.filter(counts) {
                Some(file) => drop(self.promote(&CheckpointFile { path, ..file })?),
                None => fs::remove_file(&path).map_err(IoError::at("remove", &path))?,
            }
        }
        Ok(())
    }

    /// Lists the checkpoints, oldest first.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<CheckpointFile>, CheckpointError> {
        let mut files: Vec<_> =
            self.entries()?.iter().filter_map(|path| parse_name(path)).collect();
        files.sort_by_key(|file| file.raft_index);
        Ok(files)
    }

    fn entries(&self) -> Result<Vec<PathBuf>, IoError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(IoError::at("list", &self.dir)(error)),
        };
        let paths = entries.map(|entry| Ok(entry?.path()));
        paths.collect::<io::Result<_>>().map_err(IoError::at("list", &self.dir))
    }

    /// Reads the newest good checkpoint that `fits`, and says which file it is;
    /// nothing, if there is none. Reports which ones it had to skip.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read, or a later version wrote a checkpoint.
    pub fn newest(
        &self,
        fits: impl Fn(&CheckpointFile) -> bool,
    ) -> Result<Option<(Checkpoint, CheckpointFile)>, CheckpointError> {
        self.first_good(self.list()?.into_iter().rev().filter(fits))
    }

    /// Reads the oldest good checkpoint that `fits`, as [`Self::newest`] does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn oldest(
        &self,
        fits: impl Fn(&CheckpointFile) -> bool,
    ) -> Result<Option<Checkpoint>, CheckpointError> {
        let oldest = self.first_good(self.list()?.into_iter().filter(fits))?;
        Ok(oldest.map(|(checkpoint, _)| checkpoint))
    }

    fn first_good(
        &self,
        files: impl Iterator<Item = CheckpointFile>,
    ) -> Result<Option<(Checkpoint, CheckpointFile)>, CheckpointError> {
        for file in files {
            match self.read(&file.path) {
                Ok(checkpoint) => return Ok(Some((checkpoint, file))),
                Err(error @ CheckpointError::NewerFormat { .. }) => return Err(error),
                Err(error) => tracing::warn!("checkpoint skipped: {}", ErrorChain(&error)),
            }
        }
        Ok(None)
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    ///
    /// If it is damaged, or cannot be read.
    pub fn read(&self, path: &Path) -> Result<Checkpoint, CheckpointError> {
        file::read(path, self.ring_capacity)
    }

    /// Writes a checkpoint durably.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn write(&self, checkpoint: &Checkpoint) -> Result<CheckpointFile, CheckpointError> {
        self.make()?;
        let file = self.name(checkpoint);
        write_durably(&file.path, |out| file::write(out, checkpoint))?;
        Ok(file)
    }

    /// Returns where a checkpoint lies, or will lie once it counts.
    pub fn path_of(&self, file: &CheckpointFile) -> PathBuf {
        self.dir.join(name(file.raft_index, file.index, file.event))
    }

    /// Makes the directory, unless it is there.
    fn make(&self) -> Result<(), CheckpointError> {
        if !self.dir.exists() {
            fs::create_dir_all(&self.dir).map_err(IoError::at("create", &self.dir))?;
            self.dir.parent().map_or(Ok(()), sync_dir)?;
        }
        Ok(())
    }

    fn name(&self, checkpoint: &Checkpoint) -> CheckpointFile {
        let raft_index = checkpoint.applied.map(|id| id.index).unwrap_or_default();
        let position = checkpoint.state.position();
        let (index, event) = (position.index, position.event);
        CheckpointFile {
            raft_index,
            index,
            event,
            path: self.dir.join(name(raft_index, index, event)),
        }
    }

    /// Drops the checkpoints that are not worth keeping, given the first entry of
    /// the log. Returns those that stay, oldest first.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn thin_out(&self, first: RaftIndex) -> Result<Vec<CheckpointFile>, CheckpointError> {
        let mut files = self.list()?;
        let gone: Vec<_> = superfluous(&files, first).into_iter().cloned().collect();
        for file in &gone {
            fs::remove_file(&file.path).map_err(IoError::at("remove", &file.path))?;
        }
        files.retain(|file| !gone.contains(file));
        Ok(files)
    }
}

fn name(raft_index: RaftIndex, index: Index, event: EventNumber) -> String {
    format!("{:020}-{}-{}.checkpoint", raft_index.0, index.0, event.0)
}
