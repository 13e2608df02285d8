//! The write-ahead log: a Raft log in okaywal segments, with the archive behind
//! it.
//!
//! ```text
//! write(…) ─▶ tail, in memory ─▶ writer's thread ─▶ segments ─▶ fsync ─▶ done(…)
//!                  ▲                                   │ full, committed, in a checkpoint
//! entries(…) ──────┴ or the segments, or the archive ◀─┘ the archiver's thread
//! ```
//!
//! Opening reads and checks all segments before okaywal may touch one (`scan`),
//! and the footers of all sealed files (`archive`).

mod archiver;
pub(crate) mod backfill;
mod group;
pub(crate) mod options;
mod pruner;
mod watchdog;
mod writer;

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use self::archiver::Archiver;
use self::backfill::Backfill;
use self::options::WalOptions;
use self::pruner::{EvenClock, Pruner};
use self::writer::{Request, Submitter, Writer};
use crate::disk::Disk;
use crate::disk::real::RealDisk;
use crate::error::LogError;
use crate::files::IoError;
use crate::reader::LogReader;
use crate::recovery::repair::repair;
use crate::recovery::scan;
use crate::recovery::scanned::{Recovered, Scanned};
use crate::segments::full_segments::{Covered, FullSegments};
use crate::storage::{Done, LogState, LogStorage, Write};
use crate::types::{Entry, LogId, RaftIndex};

/// A Raft log in okaywal segments, and its archive. Cloning gives another handle
/// on the same log; it is closed with [`Wal::close`], or when the last handle goes.
#[derive(Clone)]
pub struct Wal {
    reader: LogReader,
    full_segments: FullSegments,
    submitter: Submitter,
    pruner: Pruner,
    threads: Arc<Threads>,
}

/// The threads of a log.
struct Threads {
    full_segments: FullSegments,
    submitter: Submitter,
    writer: Mutex<Option<JoinHandle<()>>>,
    archiver: Mutex<Option<JoinHandle<()>>>,
}

impl Wal {
    /// Opens a log: checks every segment and the archive, cuts off a torn tail, and
    /// starts the writer and the archiver.
    ///
    /// # Errors
    ///
    /// If the log is damaged, another node's or a later version's, or if the
    /// operating system refuses.
    pub fn open(options: &WalOptions) -> Result<(Self, Recovered), LogError> {
        Self::open_on(&Arc::new(RealDisk), options)
    }

    pub(crate) fn open_on<D: Disk + 'static>(
        disk: &Arc<D>,
        options: &WalOptions,
    ) -> Result<(Self, Recovered), LogError> {
        let dir = &options.dir;
        let mut scanned = scan::scan(dir, options.cache_bytes, None)?;
        if options.must_exist && scanned.recovered.node.is_none() {
            return Err(LogError::Missing(dir.clone()));
        }
        if let Some(found) = scanned.recovered.node.filter(|node| *node != options.node) {
            return Err(LogError::Foreign { dir: dir.clone(), found, expected: options.node });
        }
        let archive = scanned.join(&options.archive)?;
        make_dir(&**disk, dir)?;
        make_dir(&**disk, &options.archive)?;
        repair(&**disk, dir, &scanned)?;
        archive.clear_up(&**disk)?;
        let recovered = scanned.recovered.clone();
        let tail = std::mem::take(&mut scanned.tail);
        let reader = LogReader::new(dir, archive, tail);
        let disk: Arc<dyn Disk> = Arc::<D>::clone(disk);
        Ok((Self::start(options, &disk, &scanned, reader)?, recovered))
    }

    fn start(
        options: &WalOptions,
        disk: &Arc<dyn Disk>,
        scanned: &Scanned,
        reader: LogReader,
    ) -> Result<Self, LogError> {
        let full_segments = FullSegments::default();
        scanned.full().for_each(|segment| full_segments.push(segment));
        let (submitter, receiver) = Submitter::new(&reader);
        let pruner = Pruner {
            disk: Arc::clone(disk),
            reader: reader.clone(),
            submitter: submitter.clone(),
            retain: options.retain,
            clock: EvenClock::start(),
            on_notice: Arc::clone(&options.on_notice),
        };
        let archiver = Archiver {
            disk: Arc::clone(disk),
            reader: reader.clone(),
            full_segments: full_segments.clone(),
            pruner: pruner.clone(),
            on_fatal: Arc::clone(&options.on_fatal),
            on_notice: Arc::clone(&options.on_notice),
        };
        let mut writer = Writer::new(options, disk, scanned, &reader, &full_segments, receiver)?;
        writer.begin().inspect_err(|_| full_segments.close())?;
        let threads = Threads {
            full_segments: full_segments.clone(),
            submitter: submitter.clone(),
            writer: spawn("log-writer", options, &full_segments, move || writer.run())?,
            archiver: spawn("log-archiver", options, &full_segments, move || archiver.run())?,
        };
        Ok(Self { reader, full_segments, submitter, pruner, threads: Arc::new(threads) })
    }

    /// Returns a reader of this log.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// Returns what fills in the history that is missing; nothing, if none is.
    pub fn backfill(&self) -> Option<Backfill> {
        Backfill::new(self.pruner.clone(), self.submitter.clone())
    }

    /// Returns how often the archiver has found nothing more to do.
    #[cfg(test)]
    pub(crate) fn archiver_rounds(&self) -> u64 {
        self.full_segments.rounds()
    }

    /// Returns the commit up to which segments have been let go, once none is left
    /// that can be.
    #[cfg(test)]
    pub(crate) fn released(&self) -> Option<u64> {
        self.full_segments.all().is_empty().then(|| self.full_segments.released())
    }

    /// Writes what waits, and closes the log. Later writes fail.
    ///
    /// # Errors
    ///
    /// If the writer has failed before.
    pub fn close(&self) -> Result<(), LogError> {
        self.threads.close()
    }
}

fn make_dir(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    if dir.exists() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(IoError::at("create", dir))?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    Ok(disk.sync_dir(parent).map_err(IoError::at("sync", parent))?)
}

fn spawn(
    name: &str,
    options: &WalOptions,
    full_segments: &FullSegments,
    work: impl FnOnce() + Send + 'static,
) -> Result<Mutex<Option<JoinHandle<()>>>, LogError> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    // okaywal's thread would wait for ever.
    let thread = thread.inspect_err(|_| full_segments.close());
    Ok(Mutex::new(Some(thread.map_err(IoError::at("start a thread for", &options.dir))?)))
}

impl Threads {
    fn close(&self) -> Result<(), LogError> {
        self.full_segments.stop();
        // The archiver may wait for the writer, and never the other way round.
        if let Some(archiver) = take(&self.archiver) {
            archiver.join().map_err(|_| LogError::Closed)?;
        }
        let Some(writer) = take(&self.writer) else { return Ok(()) };
        let (sender, closed) = mpsc::channel();
        let done = Box::new(move |result| drop(sender.send(result)));
        self.submitter.send(Request::Close(done))?;
        let result = closed.recv().unwrap_or(Err(LogError::Closed));
        writer.join().map_err(|_| LogError::Closed)?;
        result
    }
}

fn take(thread: &Mutex<Option<JoinHandle<()>>>) -> Option<JoinHandle<()>> {
    thread.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Nobody is left to tell of a failure, and nothing waits for an answer.
        let _closed = self.close();
    }
}

impl LogStorage for Wal {
    fn state(&self) -> LogState {
        self.reader.state()
    }

    fn entries(
        &self,
        range: Range<RaftIndex>,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, LogError> {
        self.reader.entries(range, max_bytes)
    }

    fn write(&self, write: Write, done: Done) {
        self.submitter.write(write, done);
    }

    fn first(&self) -> RaftIndex {
        self.reader.first()
    }

    fn note_checkpoints(&self, newest: Option<RaftIndex>, all: Option<RaftIndex>) {
        self.full_segments.cover(Covered { newest, all });
    }

    fn note_committed(&self, upto: LogId) {
        self.reader.tail().set_committed(upto);
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").field("reader", &self.reader).finish_non_exhaustive()
    }
}
