//! The write-ahead log: a Raft log in okaywal segments, and the guard around
//! okaywal.
//!
//! ```text
//! write(…) ─▶ tail, in memory ─▶ writer's thread ─▶ okaywal ─▶ fsync ─▶ done(…)
//!                  ▲
//! entries(…) ──────┘ or the segments
//! ```
//!
//! Opening reads and checks all segments before okaywal may touch one (`scan`).
//! Full segments stay: okaywal asks to let one go, and the answer is to wait.
//!
//! *Limits*: a full segment stays for ever, keeps a file open, and is read again
//! at every start. Once sealed archives hold what is settled, a segment can go.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use okaywal::{Configuration, EntryId, LogManager, SegmentReader, WriteAheadLog};

use crate::scan::{self, Scanned};
use crate::segment;
use crate::storage::{Done, LogState, LogStorage, Write};
use crate::watchdog::Watchdog;
use crate::writer::{ALLOCATED_BYTES, Request, SEGMENT_BYTES, Writer, Written};
use crate::{Entry, IoError, LogError, LogId, LogReader, NodeId, RaftIndex, Recovered};

/// How much the writer gathers before it calls the operating system. A segment
/// keeps its buffer, so it is small.
const BUFFER_BYTES: usize = 16 << 10;

/// Called with the error that ended the log, on the writer's thread. Whoever
/// opens a log for good ends the process here.
pub type OnFatal = Arc<dyn Fn(LogError) + Send + Sync>;

/// How to open a log.
#[derive(Clone)]
pub struct WalOptions {
    /// Where the segments lie; created if it is not there.
    pub dir: PathBuf,
    /// Whose log it is.
    pub node: NodeId,
    /// Whether the log must hold something already. A log that was ever opened
    /// does; an empty one has been lost.
    pub must_exist: bool,
    /// How many bytes of recent entries to keep in memory.
    pub cache_bytes: usize,
    /// What to do when the disk fails.
    pub on_fatal: OnFatal,
}

/// A Raft log in okaywal segments. Cloning gives another handle on the same log;
/// it is closed with [`Wal::close`], or when the last handle goes.
#[derive(Clone)]
pub struct Wal {
    reader: LogReader,
    writer: Arc<Mutex<WriterHandle>>,
}

struct WriterHandle {
    requests: Sender<Request>,
    thread: Option<JoinHandle<()>>,
}

impl Wal {
    /// Opens a log: checks every segment, cuts off a torn tail, and starts the
    /// writer.
    ///
    /// # Errors
    ///
    /// If the log is damaged, another node's or a later version's, or if the
    /// operating system refuses.
    pub fn open(options: &WalOptions) -> Result<(Self, Recovered), LogError> {
        let dir = &options.dir;
        let scanned = scan::scan(dir, options.cache_bytes, None)?;
        if options.must_exist && scanned.recovered.node.is_none() {
            return Err(LogError::Missing(dir.clone()));
        }
        if let Some(found) = scanned.recovered.node.filter(|node| *node != options.node) {
            return Err(LogError::Foreign { dir: dir.clone(), found, expected: options.node });
        }
        std::fs::create_dir_all(dir).map_err(IoError::at("create", dir))?;
        scan::repair(dir, &scanned)?;
        let recovered = scanned.recovered.clone();
        let keeper = Keeper::default();
        let wal = open_okaywal(dir, keeper.clone())?;
        Ok((Self::start(options, scanned, wal, keeper)?, recovered))
    }

    fn start(
        options: &WalOptions,
        scanned: Scanned,
        wal: WriteAheadLog,
        keeper: Keeper,
    ) -> Result<Self, LogError> {
        let (requests, receiver) = mpsc::channel();
        let written = Written { state: scanned.tail.state(), index: scanned.tail.index() };
        let active = scanned.active.map(|active| active.first_commit);
        let reader = LogReader::new(&options.dir, scanned.tail);
        let mut writer = Writer {
            wal,
            keeper,
            requests: receiver,
            reader: reader.clone(),
            dir: options.dir.clone(),
            node: options.node,
            chain: scanned.chain,
            salt: scanned.salt,
            commit: scanned.commit,
            segment: active.map(|first_commit| (first_commit, scanned.active_length as u64)),
            written,
            buffer: Vec::new(),
            watchdog: Watchdog::start(options.dir.clone(), Arc::clone(&options.on_fatal))?,
            on_fatal: Arc::clone(&options.on_fatal),
        };
        writer.watchdog.begin();
        writer.begin()?;
        writer.watchdog.end();
        let thread = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(IoError::at("start a writer for", &options.dir))?;
        let writer = WriterHandle { requests, thread: Some(thread) };
        Ok(Self { reader, writer: Arc::new(Mutex::new(writer)) })
    }

    /// Returns a reader of this log.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// Writes what waits, and closes the log. Later writes fail.
    ///
    /// # Errors
    ///
    /// If the writer has failed before.
    pub fn close(&self) -> Result<(), LogError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.close()
    }
}

impl WriterHandle {
    fn close(&mut self) -> Result<(), LogError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let (sender, closed) = mpsc::channel();
        let done = Box::new(move |result| drop(sender.send(result)));
        self.requests.send(Request::Close(done)).map_err(|_| LogError::Closed)?;
        let result = closed.recv().unwrap_or(Err(LogError::Closed));
        thread.join().map_err(|_| LogError::Closed)?;
        result
    }
}

impl Drop for WriterHandle {
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
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tail = self.reader.tail();
        tail.apply(&write);
        let after = Written { state: tail.state(), index: tail.index() };
        // Sent while the tail is locked: the disk sees writes in the tail's order.
        let sent = writer.requests.send(Request::Write { write, after, done });
        drop(tail);
        if let Err(mpsc::SendError(Request::Write { done, .. })) = sent {
            done(Err(LogError::Closed));
        }
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

fn open_okaywal(dir: &Path, keeper: Keeper) -> Result<WriteAheadLog, LogError> {
    let mut configuration = Configuration::default_for(dir)
        .preallocate_bytes(ALLOCATED_BYTES)
        .checkpoint_after_bytes(SEGMENT_BYTES)
        .buffer_bytes(BUFFER_BYTES);
    configuration.version_info = Arc::new(segment::VERSION.to_vec());
    Ok(configuration.open(keeper).map_err(IoError::at("open the segments of", dir))?)
}

/// Keeps full segments: okaywal calls [`LogManager::checkpoint_to`] to let one
/// go, and that call returns only when the log closes. Writers go on meanwhile.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keeper {
    closed: Arc<(Mutex<bool>, Condvar)>,
}

impl Keeper {
    pub(crate) fn close(&self) {
        let (closed, changed) = &*self.closed;
        *closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}

impl LogManager for Keeper {
    fn recover(&mut self, entry: &mut okaywal::Entry<'_>) -> io::Result<()> {
        // The scan has read it already, but a chunk that nobody reads makes
        // okaywal skip four bytes too many, and take the next entry for the end.
        match entry.read_all_chunks()? {
            Some(_) => Ok(()),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "an entry was cut short")),
        }
    }

    fn checkpoint_to(
        &mut self,
        _last: EntryId,
        _entries: &mut SegmentReader,
        _wal: &WriteAheadLog,
    ) -> io::Result<()> {
        let (closed, changed) = &*self.closed;
        let guard = closed.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = changed.wait_while(guard, |closed| !*closed);
        drop(closed.unwrap_or_else(PoisonError::into_inner));
        // Success would let okaywal write over the segment.
        Err(io::Error::new(io::ErrorKind::Interrupted, "the log is closing"))
    }
}
