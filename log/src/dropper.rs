//! The dropper: lets go of history that is not kept any longer, and of its files.
//!
//! ```text
//! the log says that it is forgotten ─▶ durable ─▶ no reader finds it ─▶ its files go
//! ```
//!
//! In this order what is missing is always known to be. Files that a crash leaves in
//! between go at the next start.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::disk::Disk;
use crate::wal::Submitter;
use crate::{
    IoError, LogError, LogId, LogReader, LogTime, Notice, OnNotice, RaftIndex, Retain, Write,
};

/// Drops the oldest history. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Dropper {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) reader: LogReader,
    pub(crate) submitter: Submitter,
    pub(crate) retain: Retain,
    pub(crate) on_notice: OnNotice,
}

impl Dropper {
    /// Forgets the history up to an entry. Returns how many files it was.
    ///
    /// # Errors
    ///
    /// If the log cannot be written, or a file not be removed.
    pub(crate) fn forget(&self, upto: LogId) -> Result<usize, LogError> {
        self.submitter.write_and_wait(Write::Forget { upto })?;
        let archive = self.reader.archive();
        let forgotten = archive.forget(upto);
        for file in &forgotten {
            self.disk.remove(&file.path).map_err(IoError::at("remove", &file.path))?;
        }
        let dir = archive.dir();
        self.disk.sync_dir(dir).map_err(IoError::at("sync", dir))?;
        Ok(forgotten.len())
    }

    /// Drops the oldest files while there are more than is wanted, as far as nothing
    /// behind an entry is needed. The newest stays: the next one follows it.
    ///
    /// # Errors
    ///
    /// As [`Self::forget`].
    pub(crate) fn drop_excess(&self, superfluous: RaftIndex) -> Result<(), LogError> {
        let files = self.reader.archive().sealed();
        let kept: Vec<_> = files.iter().map(|file| (file.bytes, file.footer.time)).collect();
        let excess = self.retain.excess(&kept, now()).min(files.len().saturating_sub(1));
        let excess = files[..excess].iter();
        let excess = excess.take_while(|file| file.footer.last.index <= superfluous);
        let Some(newest) = excess.last() else { return Ok(()) };
        let files = self.forget(newest.footer.last)?;
        (self.on_notice)(Notice::Dropped { files, last: newest.footer.index });
        Ok(())
    }
}

fn now() -> LogTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    LogTime(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
