//! The write-ahead log: a Raft log in okaywal segments, with the archive behind
//! it.
//!
//! ```text
//! write(…) ─▶ tail, in memory ─▶ writer's thread ─▶ segments ─▶ fsync ─▶ done(…)
//!                  ▲                                   │ full, committed, in a checkpoint
//! entries(…) ──────┴ or the segments, or the archive ◀─┘ the archivist's thread
//! ```
//!
//! Opening reads and checks all segments before okaywal may touch one (`scan`),
//! and the footers of all sealed files (`archive`).

mod archiver;
pub(crate) mod backfill;
mod pruner;
mod watchdog;
mod writer;

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::archive::retention::Retain;
use crate::disk::{Disk, RealDisk, SegmentSize};
use crate::error::LogError;
use crate::files::IoError;
use crate::notice::Notice;
use crate::reader::LogReader;
use crate::recovery::high_water::Witness;
use crate::recovery::repair::repair;
use crate::recovery::scan::{self, Recovered, Scanned};
use crate::segments::full_segments::{Covered, Keeper};
use crate::storage::{Done, LogState, LogStorage, Write};
use crate::types::{Entry, LogId, NodeId, RaftIndex};
use crate::wal::archiver::Archivist;
use crate::wal::backfill::Filler;
use crate::wal::pruner::{Dropper, EvenClock};
use crate::wal::watchdog::Watchdog;
use crate::wal::writer::{Request, Writer, Written};

/// Called with the error that ended the log, on a thread of the log's. Whoever
/// opens a log for good ends the process here.
pub type OnFatal = Arc<dyn Fn(LogError) + Send + Sync>;

/// Called with what happens in the log, on a thread of the log's.
pub type OnNotice = Arc<dyn Fn(Notice) + Send + Sync>;

/// How to open a log.
#[derive(Clone)]
pub struct WalOptions {
    /// Where the segments lie; created if it is not there.
    pub dir: PathBuf,
    /// Where the sealed files lie; created if it is not there.
    pub archive: PathBuf,
    /// Whose log it is.
    pub node: NodeId,
    /// Whether the log must hold something already. A log that was ever opened
    /// does; an empty one has been lost.
    pub must_exist: bool,
    /// How many bytes of recent entries to keep in memory.
    pub cache_bytes: usize,
    /// How many bytes to allocate for a segment: from 1 KiB to 256 MiB.
    pub segment_bytes: u32,
    /// How much of history to keep.
    pub retain: Retain,
    /// What to do when the disk fails.
    pub on_fatal: OnFatal,
    /// Whom to tell of what happens.
    pub on_notice: OnNotice,
}

impl WalOptions {
    /// How many bytes of recent entries are kept in memory unless somebody wants
    /// it otherwise.
    pub const CACHE_BYTES: usize = 4 << 20;

    /// How long a segment is unless somebody wants it otherwise. To make one stalls
    /// the commit that needs it, for longer the longer it is: 64 MiB take 50 ms, 16
    /// MiB 12 ms, and twice that while a checkpoint is written.
    pub const SEGMENT_BYTES: u32 = 8 << 20;

    /// The ordinary way to open a node's log, in these two directories.
    pub fn new(dir: PathBuf, archive: PathBuf, node: NodeId, on_fatal: OnFatal) -> Self {
        Self {
            dir,
            archive,
            node,
            must_exist: false,
            cache_bytes: Self::CACHE_BYTES,
            segment_bytes: Self::SEGMENT_BYTES,
            retain: Retain::DEFAULT,
            on_fatal,
            on_notice: Arc::new(drop),
        }
    }

    fn segment_size(&self) -> SegmentSize {
        SegmentSize { allocated: self.segment_bytes.clamp(1 << 10, 256 << 20) }
    }
}

/// A Raft log in okaywal segments, and its archive. Cloning gives another handle
/// on the same log; it is closed with [`Wal::close`], or when the last handle goes.
#[derive(Clone)]
pub struct Wal {
    reader: LogReader,
    keeper: Keeper,
    submitter: Submitter,
    dropper: Dropper,
    threads: Arc<Threads>,
}

/// Hands what is to be written to the writer. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Submitter {
    reader: LogReader,
    requests: Arc<Mutex<Sender<Request>>>,
}

/// The threads of a log.
struct Threads {
    keeper: Keeper,
    submitter: Submitter,
    writer: Mutex<Option<JoinHandle<()>>>,
    archivist: Mutex<Option<JoinHandle<()>>>,
}

impl Wal {
    /// Opens a log: checks every segment and the archive, cuts off a torn tail, and
    /// starts the writer and the archivist.
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
        Ok((Self::start(options, disk, &scanned, reader)?, recovered))
    }

    fn start(
        options: &WalOptions,
        disk: Arc<dyn Disk>,
        scanned: &Scanned,
        reader: LogReader,
    ) -> Result<Self, LogError> {
        let keeper = Keeper::default();
        scanned.full().for_each(|segment| keeper.filled(segment));
        let (requests, receiver) = mpsc::channel();
        let requests = Arc::new(Mutex::new(requests));
        let submitter = Submitter { reader: reader.clone(), requests };
        let dropper = Dropper {
            disk: Arc::clone(&disk),
            reader: reader.clone(),
            submitter: submitter.clone(),
            retain: options.retain,
            clock: EvenClock::start(),
            on_notice: Arc::clone(&options.on_notice),
        };
        let archivist = Archivist {
            disk: Arc::clone(&disk),
            reader: reader.clone(),
            keeper: keeper.clone(),
            dropper: dropper.clone(),
            on_fatal: Arc::clone(&options.on_fatal),
            on_notice: Arc::clone(&options.on_notice),
        };
        let mut writer = open_writer(options, disk, scanned, &reader, &keeper, receiver)?;
        writer.watchdog.begin();
        writer.begin().inspect_err(|_| keeper.close())?;
        writer.watchdog.end();
        let threads = Threads {
            keeper: keeper.clone(),
            submitter: submitter.clone(),
            writer: spawn("log-writer", options, &keeper, move || writer.run())?,
            archivist: spawn("log-archivist", options, &keeper, move || archivist.run())?,
        };
        Ok(Self { reader, keeper, submitter, dropper, threads: Arc::new(threads) })
    }

    /// Returns a reader of this log.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// Returns what fills in the history that is missing; nothing, if none is.
    pub fn filler(&self) -> Option<Filler> {
        Filler::new(self.dropper.clone(), self.submitter.clone())
    }

    /// Waits until all is sealed that can be.
    #[cfg(test)]
    pub(crate) fn wait_for_archivist(&self) {
        self.keeper.wait_for_archivist();
    }

    /// Returns the commit up to which segments have been let go, once none is left
    /// that can be.
    #[cfg(test)]
    pub(crate) fn released(&self) -> Option<u64> {
        self.keeper.full().is_empty().then(|| self.keeper.released())
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

/// Makes the state of the writer's thread.
fn open_writer(
    options: &WalOptions,
    disk: Arc<dyn Disk>,
    scanned: &Scanned,
    reader: &LogReader,
    keeper: &Keeper,
    requests: Receiver<Request>,
) -> Result<Writer, LogError> {
    let (dir, size) = (&options.dir, options.segment_size());
    let segments = disk.segments(dir, size, keeper.clone());
    let active = scanned.active();
    Ok(Writer {
        segments: segments.map_err(IoError::at("open the segments of", dir))?,
        size,
        witness: Witness::open(&*disk, dir)?,
        disk,
        keeper: keeper.clone(),
        requests,
        written: Written::of(&reader.tail()),
        reader: reader.clone(),
        dir: dir.clone(),
        node: options.node,
        chain: scanned.chain,
        salt: scanned.salt,
        commit: scanned.commit,
        segment: active.map(|active| (active.file.first_commit, active.length as u64)),
        full: None,
        buffer: Vec::new(),
        watchdog: Watchdog::start(
            dir.clone(),
            Arc::clone(&options.on_fatal),
            Arc::clone(&options.on_notice),
        )?,
        on_fatal: Arc::clone(&options.on_fatal),
    })
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
    keeper: &Keeper,
    work: impl FnOnce() + Send + 'static,
) -> Result<Mutex<Option<JoinHandle<()>>>, LogError> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    // okaywal's thread would wait for ever.
    let thread = thread.inspect_err(|_| keeper.close());
    Ok(Mutex::new(Some(thread.map_err(IoError::at("start a thread for", &options.dir))?)))
}

impl Submitter {
    pub(crate) fn write(&self, write: Write, done: Done) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tail = self.reader.tail();
        tail.apply(&write);
        let after = Box::new(Written::of(&tail));
        // Sent while the tail is locked: the disk sees writes in the tail's order.
        let sent = requests.send(Request::Write { write, after, done });
        drop(tail);
        if let Err(mpsc::SendError(Request::Write { done, .. })) = sent {
            done(Err(LogError::Closed));
        }
    }

    /// Writes, and waits until it is on disk.
    ///
    /// # Errors
    ///
    /// If the log is closed, or fails.
    pub(crate) fn write_and_wait(&self, write: Write) -> Result<(), LogError> {
        let (sender, written) = mpsc::channel();
        self.write(write, Box::new(move |result| drop(sender.send(result))));
        written.recv().unwrap_or(Err(LogError::Closed))
    }

    fn send(&self, request: Request) -> Result<(), LogError> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.send(request).map_err(|_| LogError::Closed)
    }
}

impl Threads {
    fn close(&self) -> Result<(), LogError> {
        self.keeper.stop();
        // The archivist may wait for the writer, and never the other way round.
        if let Some(archivist) = take(&self.archivist) {
            archivist.join().map_err(|_| LogError::Closed)?;
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
        self.keeper.cover(Covered { newest, all });
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
