//! Backfill: history from before an installed checkpoint, fetched from another
//! machine and sealed here.
//!
//! ```text
//! archive: sealed before │ missing ◀─ entries that are fetched │ segments
//!                        └── filled from the old end ──▶       upto
//! ```
//!
//! What has been filled in stays over a crash, and the next one goes on behind it. The
//! archiver waits meanwhile: what it seals must follow the last file.

use crate::archive::Archive;
use crate::archive::sealed::{self, Predecessor, SealedWriter};
use crate::error::LogError;
use crate::segments::frame::EntryHead;
use crate::storage::Write;
use crate::types::{Entry, Index, LogId, RaftIndex};
use crate::wal::pruner::Pruner;
use crate::wal::writer::Submitter;

/// How many bytes of entries go into a file.
const FILE_BYTES: usize = 8 << 20;

// A file of less than a block compresses badly.
const _: () = assert!(FILE_BYTES >= sealed::BLOCK_BYTES);

/// Fills in the history that is missing.
pub struct Backfill {
    pruner: Pruner,
    submitter: Submitter,
    upto: LogId,
    /// The last entry in the archive, which the next file goes on from.
    behind: Option<LogId>,
    /// The last command before the next entry that is wanted.
    before: Index,
    next: RaftIndex,
    /// Entries that have a command among them, and wait for more.
    ready: Vec<Vec<u8>>,
    /// Entries behind them, so far without a command: these cannot be a file, for
    /// files are named by their commands.
    trailing: Vec<Vec<u8>>,
    bytes: usize,
    /// How many bytes of entries go into a file.
    file_bytes: usize,
}

/// What comes is not what was wanted.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// It does not follow.
    #[error("entry {found} was sent, expected {expected}")]
    Order {
        /// What came.
        found: RaftIndex,
        /// What should have come.
        expected: RaftIndex,
    },
    /// It is not an entry, or not of this log.
    #[error("what was sent is not of this log: {0}")]
    Foreign(String),
    /// Another checkpoint has come meanwhile, and more is missing.
    #[error("more is missing by now")]
    Overtaken,
    /// It cannot be sealed.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Backfill {
    /// Makes what fills in the history that is missing, if any is.
    pub(crate) fn new(pruner: Pruner, submitter: Submitter) -> Option<Self> {
        let reader = &pruner.reader;
        let upto = reader.tail().missing()?;
        let newest = reader.archive().newest();
        let (next, before) = newest.as_ref().map_or_else(
            || (reader.tail().forgotten().map_or(RaftIndex(0), |id| id.index.next()), Index(0)),
            |file| (file.footer.last.index.next(), file.footer.index),
        );
        let behind = newest.map(|file| file.footer.last);
        let (ready, trailing, bytes) = (Vec::new(), Vec::new(), 0);
        let file_bytes = FILE_BYTES;
        let backfill = Self {
            pruner,
            submitter,
            upto,
            behind,
            before,
            next,
            ready,
            trailing,
            bytes,
            file_bytes,
        };
        if next > upto.index {
            // The process ended when all had come, and before the log said so. If that
            // cannot be written, the process ends again.
            let _finished = backfill.finish();
            return None;
        }
        Some(backfill)
    }

    /// Returns the entries that are still wanted: the first, and the last.
    pub fn wanted(&self) -> (RaftIndex, RaftIndex) {
        (self.next, self.upto.index)
    }

    /// Begins with a later entry than was wanted: what lies before is kept nowhere.
    /// `before` is the last command before it.
    ///
    /// # Errors
    ///
    /// If there is history here already, which it would not follow; if so many commands
    /// cannot lie before it; or if the log cannot be written.
    pub fn skip_to(&mut self, next: RaftIndex, before: Index) -> Result<(), BackfillError> {
        let most = self.pruner.reader.tail().index_before_first();
        if before > most {
            let text = format!("{before} commands before entry {next}, where {most} are installed");
            return Err(BackfillError::Foreign(text));
        }
        let is_beginning = self.behind.is_none() && self.ready.is_empty();
        if next == self.next && is_beginning {
            // An earlier try has begun here, and had sealed nothing.
            self.before = before;
        }
        if next <= self.next {
            return Ok(());
        }
        // What is here is of no use with a hole behind it.
        let archive = self.archive();
        let _sealing = archive.sealing();
        // Which term the last forgotten entry was of is not known, and not asked.
        let upto = LogId { index: RaftIndex(next.0 - 1), ..LogId::default() };
        self.pruner.forget(upto).map_err(BackfillError::Log)?;
        (self.next, self.before, self.behind) = (next, before, None);
        self.ready.clear();
        self.trailing.clear();
        self.bytes = 0;
        Ok(())
    }

    /// Takes the next entry, as [`Entry::encode`] writes it. Returns whether it was
    /// the last one.
    ///
    /// # Errors
    ///
    /// If it is not the next one, or cannot be sealed.
    pub fn push(&mut self, entry: Vec<u8>) -> Result<bool, BackfillError> {
        let found = Entry::decode(&entry).map_err(BackfillError::Foreign)?;
        if self.pruner.reader.tail().missing() != Some(self.upto) {
            return Err(BackfillError::Overtaken);
        }
        if found.id.index != self.next {
            return Err(BackfillError::Order { found: found.id.index, expected: self.next });
        }
        if found.id.index == self.upto.index && found.id != self.upto {
            return Err(BackfillError::Foreign(format!("{} instead of {}", found.id, self.upto)));
        }
        self.next = self.next.next();
        self.bytes += entry.len();
        self.trailing.push(entry);
        let has_commands = found.commands() > 0;
        if has_commands {
            // A full file can be sealed once another one is sure to follow it.
            if self.bytes >= self.file_bytes && !self.ready.is_empty() {
                self.seal()?;
            }
            self.ready.append(&mut self.trailing);
        }
        if found.id.index < self.upto.index {
            return Ok(false);
        }
        if self.ready.is_empty() {
            // There is not one command in all of it, so it cannot be a file; and what
            // lies before it cannot be kept with a hole behind it.
            self.give_up()?;
            return Ok(true);
        }
        self.ready.append(&mut self.trailing);
        self.seal()?;
        self.finish()?;
        Ok(true)
    }

    /// Notes that there is nothing more to come: what is missing is kept nowhere.
    ///
    /// # Errors
    ///
    /// If the log cannot be written.
    pub fn give_up(&mut self) -> Result<(), BackfillError> {
        // What lies before the hole is of no use.
        let archive = self.archive();
        let _sealing = archive.sealing();
        self.pruner.forget(self.upto).map_err(BackfillError::Log)?;
        self.finish()
    }

    fn finish(&self) -> Result<(), BackfillError> {
        Ok(self.submitter.write_and_wait(Write::Backfill { upto: self.upto })?)
    }

    fn archive(&self) -> Archive {
        self.pruner.reader.archive().clone()
    }

    /// Seals what is ready, and drops what is more than is to be kept.
    fn seal(&mut self) -> Result<(), BackfillError> {
        let archive = self.archive();
        let _sealing = archive.sealing();
        if archive.last() != self.behind {
            return Err(BackfillError::Overtaken);
        }
        self.write_sealed(&archive).inspect_err(|_| {
            // A draft takes room that the log may need.
            let _removed = self.pruner.disk.remove(&sealed::draft(archive.dir()));
        })?;
        // The checkpoint that was installed contains it all.
        Ok(self.pruner.drop_excess(self.upto.index)?)
    }

    fn write_sealed(&mut self, archive: &Archive) -> Result<(), LogError> {
        let from = archive.predecessor();
        let from =
            from.unwrap_or_else(|| Predecessor { before: self.before, ..Predecessor::default() });
        let mut commands = 0;
        let mut file = SealedWriter::create(&*self.pruner.disk, archive.dir(), from)?;
        for entry in self.ready.drain(..) {
            let head = EntryHead::read(&entry).expect("it was read when it came");
            commands += u64::from(head.commands);
            file.push(&entry)?;
        }
        archive.push(file.finish()?);
        self.behind = archive.last();
        self.before = Index(self.before.0 + commands);
        self.bytes = self.trailing.iter().map(Vec::len).sum();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::archive::retention::Retain;
    use crate::storage::LogStorage as _;
    use crate::testing::fixtures::{entry, options, write};
    use crate::types::Payload;
    use crate::wal::Wal;
    use crate::wal::options::WalOptions;

    /// A log that goes on behind a checkpoint of these entries.
    fn installed(upto: u64) -> (TempDir, Wal) {
        let dir = TempDir::new().unwrap();
        let (wal, _) = Wal::open(&options(dir.path(), 1024)).unwrap();
        install(&wal, upto);
        (dir, wal)
    }

    fn install(wal: &Wal, upto: u64) {
        let (upto, index) = (entry(upto, 1, "").id, Index(upto + 1));
        write(wal, Write::Install { upto, index }).unwrap();
    }

    fn encoded(index: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        entry(index, 1, "v").encode(&mut bytes);
        bytes
    }

    #[test]
    fn what_was_filled_in_is_there_after_a_restart() {
        let (dir, wal) = installed(50);
        let mut backfill = wal.backfill().unwrap();
        assert_eq!(backfill.wanted(), (RaftIndex(0), RaftIndex(50)));
        backfill.skip_to(RaftIndex(10), Index(10)).unwrap();
        for index in 10..=50 {
            assert_eq!(backfill.push(encoded(index)).unwrap(), index == 50);
        }
        write(&wal, Write::Append(vec![entry(51, 1, "v")])).unwrap();
        wal.close().unwrap();
        let (wal, _) = Wal::open(&options(dir.path(), 1024)).unwrap();
        assert!(wal.backfill().is_none());
        let reader = wal.reader();
        assert_eq!(reader.state().oldest, (RaftIndex(10), Index(10)));
        let entries = reader.iter(RaftIndex(10)..RaftIndex(u64::MAX));
        assert_eq!(entries.map(Result::unwrap).count(), 42);
    }

    /// A try that ended before anything was sealed has said where history begins: the
    /// next one numbers its commands as it would have.
    #[test]
    fn fill_that_begins_again_knows_where_it_begins() {
        let (_dir, wal) = installed(50);
        let mut backfill = wal.backfill().unwrap();
        backfill.skip_to(RaftIndex(10), Index(10)).unwrap();
        backfill.push(encoded(10)).unwrap();
        drop(backfill);
        let mut backfill = wal.backfill().unwrap();
        backfill.skip_to(RaftIndex(10), Index(10)).unwrap();
        for index in 10..=50 {
            backfill.push(encoded(index)).unwrap();
        }
        assert_eq!(wal.state().oldest, (RaftIndex(10), Index(10)));
        assert_eq!(wal.reader().archive().newest().unwrap().footer.index, Index(51));
    }

    #[test]
    fn log_with_missing_history_opens_and_says_so() {
        let (dir, wal) = installed(50);
        let mut backfill = wal.backfill().unwrap();
        backfill.push(encoded(0)).unwrap();
        wal.close().unwrap();
        let (wal, _) = Wal::open(&options(dir.path(), 1024)).unwrap();
        assert_eq!(wal.first(), RaftIndex(51));
        assert_eq!(wal.backfill().unwrap().wanted(), (RaftIndex(0), RaftIndex(50)));
    }

    /// Another checkpoint has come meanwhile: to call its history complete would leave
    /// a hole that no start gets over.
    #[test]
    fn fill_that_was_overtaken_fills_nothing() {
        let (dir, wal) = installed(50);
        let mut backfill = wal.backfill().unwrap();
        install(&wal, 80);
        assert!(matches!(backfill.push(encoded(0)), Err(BackfillError::Overtaken)));
        let upto = entry(50, 1, "").id;
        write(&wal, Write::Backfill { upto }).unwrap();
        assert_eq!(wal.state().missing, Some(entry(80, 1, "").id));
        wal.close().unwrap();
        Wal::open(&options(dir.path(), 1024)).unwrap();
    }

    /// Another machine says where its history begins, and is not believed in everything.
    #[test]
    fn more_commands_than_were_installed_cannot_lie_before() {
        let (_dir, wal) = installed(50);
        let mut backfill = wal.backfill().unwrap();
        for before in [52, u64::MAX] {
            let skipped = backfill.skip_to(RaftIndex(10), Index(before));
            assert!(matches!(skipped, Err(BackfillError::Foreign(_))), "{skipped:?}");
        }
        assert_eq!(backfill.wanted(), (RaftIndex(0), RaftIndex(50)));
        backfill.skip_to(RaftIndex(10), Index(10)).unwrap();
    }

    fn files(dir: &TempDir) -> usize {
        let files = std::fs::read_dir(options(dir.path(), 1024).archive).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some()).count()
    }

    #[test]
    fn files_of_what_is_given_up_are_gone_at_once() {
        let (dir, wal) = installed(50);
        let mut backfill = wal.backfill().unwrap();
        backfill.file_bytes = 100;
        for index in 0..20 {
            backfill.push(encoded(index)).unwrap();
        }
        assert!(files(&dir) > 2);
        backfill.give_up().unwrap();
        assert_eq!((files(&dir), wal.first()), (0, RaftIndex(51)));
    }

    #[test]
    fn no_more_is_filled_in_than_is_kept() {
        let dir = TempDir::new().unwrap();
        let options = WalOptions { retain: Retain::Bytes(2000), ..options(dir.path(), 1024) };
        let (wal, _) = Wal::open(&options).unwrap();
        install(&wal, 50);
        let mut backfill = wal.backfill().unwrap();
        backfill.file_bytes = 100;
        for index in 0..=50 {
            backfill.push(encoded(index)).unwrap();
            assert!(wal.reader().archived().1 <= 2000);
        }
        let first = wal.first();
        assert!((RaftIndex(10)..RaftIndex(50)).contains(&first), "{first}");
        wal.close().unwrap();
        assert_eq!(Wal::open(&options).unwrap().0.first(), first);
    }

    #[test]
    fn history_without_a_command_is_no_file() {
        let (_dir, wal) = installed(2);
        let mut backfill = wal.backfill().unwrap();
        for index in 0..=2 {
            let id = entry(index, 1, "").id;
            let mut bytes = Vec::new();
            Entry { id, payload: Payload::Blank }.encode(&mut bytes);
            assert_eq!(backfill.push(bytes).unwrap(), index == 2);
        }
        assert_eq!((wal.state().missing, wal.first()), (None, RaftIndex(3)));
    }

    #[test]
    fn entry_out_of_order_is_refused() {
        let (_dir, wal) = installed(50);
        let mut backfill = wal.backfill().unwrap();
        assert!(matches!(backfill.push(encoded(1)), Err(BackfillError::Order { .. })));
        assert!(matches!(backfill.push(vec![1, 2, 3]), Err(BackfillError::Foreign(_))));
    }

    #[test]
    fn history_that_is_kept_nowhere_is_given_up() {
        let (dir, wal) = installed(50);
        wal.backfill().unwrap().give_up().unwrap();
        assert!(wal.backfill().is_none());
        wal.close().unwrap();
        let (wal, _) = Wal::open(&options(dir.path(), 1024)).unwrap();
        assert_eq!(wal.first(), RaftIndex(51));
    }
}
