//! The real log on a disk that crashes, for tests of those who use the log.
//!
//! ```text
//! writes ─▶ Wal ─▶ CrashingDisk ─▶ somebody is told: so far it has come for certain
//!                       │
//!                       └─ crash somewhere behind that ─▶ another directory: all that was
//!                          synced by then, and of the rest what a seed says
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::LogError;
use crate::recovery::scanned::Recovered;
use crate::testing::crash_image::{Crash, Image};
use crate::testing::simulated_disk::RecordingDisk;
use crate::wal::Wal;
use crate::wal::options::WalOptions;

/// The disk under the log of a directory.
#[derive(Debug)]
pub struct CrashingDisk {
    dir: PathBuf,
    disk: Arc<RecordingDisk>,
    /// What the disk holds when somebody was told last.
    image: Mutex<Image>,
}

impl CrashingDisk {
    /// Takes what lies in a directory, with the log in `wal` and `archive`, for safe.
    pub fn new(dir: &Path) -> Self {
        let image = Image::of(&[&dir.join("wal"), &dir.join("archive")]);
        Self { dir: dir.to_owned(), disk: Arc::default(), image: Mutex::new(image) }
    }

    /// Opens the log: with these options, but for the directories.
    ///
    /// # Errors
    ///
    /// As [`Wal::open`].
    pub fn open(&self, options: WalOptions) -> Result<(Wal, Recovered), LogError> {
        let (dir, archive) = (self.dir.join("wal"), self.dir.join("archive"));
        Wal::open_on(&self.disk, &WalOptions { dir, archive, ..options })
    }

    /// Notes that somebody was told of what was written: a crash comes later.
    pub fn told(&self) {
        let mut image = self.image();
        self.disk.take_steps().iter().for_each(|step| image.apply(step));
    }

    /// Makes, in another directory, what a crash may leave: at some moment since somebody
    /// was told, as a seed says. What comes later has not happened.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub fn crash(&self, seed: u64, into: &Path) -> io::Result<()> {
        let mut image = self.image();
        let steps = self.disk.take_steps();
        let done = seed % (steps.len() as u64 + 1);
        steps.iter().zip(0..done).for_each(|(step, _)| image.apply(step));
        for (path, content) in image.after(Crash::KeepsSome(seed)) {
            let name = path.strip_prefix(&self.dir).map_err(io::Error::other)?;
            let path = into.join(name);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(path, content)?;
        }
        Ok(())
    }

    fn image(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
