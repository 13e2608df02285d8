//! The pruner: lets go of history that is not kept any longer, and of its files.
//!
//! ```text
//! the log says that it is forgotten ─▶ durable ─▶ no reader finds it ─▶ its files go
//! ```
//!
//! In this order what is missing is always known to be. Files that a crash leaves in
//! between go at the next start.

use std::fs;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::archive::retention::{Aged, Now, Retain};
use crate::archive::sealed::Sealed;
use crate::disk::Disk;
use crate::error::LogError;
use crate::files::IoError;
use crate::notice::{Notice, OnNotice};
use crate::reader::LogReader;
use crate::storage::Write;
use crate::types::{LogId, LogTime, RaftIndex};
use crate::wal::writer::Submitter;

/// This machine's time: what the clock said once, and the time since. It goes on evenly,
/// whatever happens to the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EvenClock {
    then: SystemTime,
    since: Instant,
}

/// Drops the oldest history. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Pruner {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) reader: LogReader,
    pub(crate) submitter: Submitter,
    pub(crate) retain: Retain,
    pub(crate) clock: EvenClock,
    pub(crate) on_notice: OnNotice,
}

impl Pruner {
    /// Forgets the history up to an entry. Returns how many files it was.
    ///
    /// # Errors
    ///
    /// If the log cannot be written, or a file not be removed.
    pub(crate) fn forget(&self, upto: LogId) -> Result<usize, LogError> {
        let released = self.reader.tail().released().map(|id| id.index);
        assert!(Some(upto.index) <= released, "{upto} is not in the archive, {released:?} is");
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
        let Some(newest) = files.last() else { return Ok(()) };
        let (logged, here) = (self.newest_time().max(newest.footer.time), self.clock.now());
        let kept: Vec<_> = files.iter().map(|file| self.aged(file, here)).collect();
        let now = Now { logged, here };
        let excess = self.retain.excess(&kept, now).min(files.len() - 1);
        let excess = files[..excess].iter();
        let excess = excess.take_while(|file| file.footer.last.index <= superfluous);
        let Some(newest) = excess.last() else { return Ok(()) };
        let files = self.forget(newest.footer.last)?;
        (self.on_notice)(Notice::Dropped { files, last: newest.footer.index });
        Ok(())
    }

    /// Returns the logged time of the last entry that is committed; zero, if it has none
    /// or cannot be read.
    fn newest_time(&self) -> LogTime {
        let Some(last) = self.reader.state().committed else { return LogTime::default() };
        let entries = self.reader.entries(last.index..last.index.next(), 0).unwrap_or_default();
        let batch = entries.first().and_then(|entry| entry.batch());
        batch.map_or(LogTime::default(), |batch| batch.time)
    }

    fn aged(&self, file: &Sealed, now: LogTime) -> Aged {
        let written = match self.retain {
            Retain::Age(_) => {
                fs::metadata(&file.path).and_then(|metadata| metadata.modified()).ok()
            }
            Retain::Forever | Retain::Bytes(_) => None,
        };
        // What nobody knows the age of is new.
        let written = written.map_or(now, since_epoch);
        Aged { bytes: file.bytes, logged: file.footer.time, written }
    }
}

impl EvenClock {
    /// Looks at the clock.
    pub(crate) fn start() -> Self {
        Self { then: SystemTime::now(), since: Instant::now() }
    }

    fn now(self) -> LogTime {
        since_epoch(self.then + self.since.elapsed())
    }
}

fn since_epoch(time: SystemTime) -> LogTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    LogTime(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
