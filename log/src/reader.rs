//! Reading the log, from any index, whoever writes it meanwhile.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_stream::wrappers::ReceiverStream;

use crate::frame::{self, HEADER};
use crate::scan::{self, Scanned};
use crate::segment;
use crate::tail::{Found, Place, Tail};
use crate::{Entry, Index, IoError, LogError, LogState, RaftIndex, Record, Recovered, Visit};

/// How many bytes of entries a stream reads at once. Bounds what a reader holds.
const CHUNK_BYTES: usize = 1 << 20;

/// How many entries are looked up at once.
const CHUNK_ENTRIES: u64 = 1024;

/// How many entries a stream is ahead of its reader: they are in memory already,
/// for they were read a chunk at a time.
const AHEAD: usize = 64;

/// How many open segments are kept at hand.
const OPEN_FILES: usize = 8;

/// A reader of the log: of one that is being written, or of a stopped node's.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    tail: Mutex<Tail>,
    /// The segments opened last, newest first.
    files: Mutex<VecDeque<(NonZeroU64, Arc<File>)>>,
}

impl LogReader {
    /// Reads and checks a stopped node's log, and changes nothing in it.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, is damaged, or of a later version.
    pub fn open(
        dir: &Path,
        visit: &mut dyn FnMut(&Visit<'_>),
    ) -> Result<(Self, Recovered), LogError> {
        // Nothing is cached: a log of any size is read within bounded memory.
        let Scanned { tail, recovered, .. } = scan::scan(dir, 0, Some(visit))?;
        Ok((Self::new(dir, tail), recovered))
    }

    pub(crate) fn new(dir: &Path, tail: Tail) -> Self {
        let shared = Shared {
            dir: dir.to_owned(),
            tail: Mutex::new(tail),
            files: Mutex::new(VecDeque::new()),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn tail(&self) -> MutexGuard<'_, Tail> {
        lock(&self.shared.tail)
    }

    /// Returns where the segments lie.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Returns what the log holds besides its entries.
    pub fn state(&self) -> LogState {
        self.tail().state()
    }

    /// Returns the first entry kept; if there is none, the one that would come.
    pub fn first(&self) -> RaftIndex {
        self.tail().first()
    }

    /// Returns the index of the last command in the log, committed or not.
    pub fn last_command(&self) -> Index {
        self.tail().index()
    }

    /// Returns the entry that holds the command `index`, or the first command
    /// after it, and the index of the last command before that entry. Beyond the
    /// last command it is the entry that would come next.
    pub fn find(&self, index: Index) -> (RaftIndex, Index) {
        self.tail().find(index)
    }

    /// Returns the entries of a range, in order, as far as they go together with
    /// about `max_bytes`; at least one if there is one.
    ///
    /// # Errors
    ///
    /// If the range begins before the first entry kept, or an entry cannot be
    /// read back as it was written.
    pub fn entries(
        &self,
        range: Range<RaftIndex>,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, LogError> {
        let found = self.look_up(range)?;
        let mut entries = Vec::with_capacity(found.len());
        let mut bytes = 0;
        for found in found {
            let entry = match found {
                Found::Cached(entry) => entry,
                Found::OnDisk(place, first) => Arc::new(self.read_entry(place, first)?),
            };
            bytes += entry.size();
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Streams the entries from `range.start` on, up to its end. The stream ends
    /// early where the log does.
    ///
    /// A reader that goes slowly holds a chunk of entries, those that it is behind,
    /// and a thread of those that may block; it holds no lock.
    pub fn read(&self, range: Range<RaftIndex>) -> ReceiverStream<Result<Arc<Entry>, LogError>> {
        let (sender, receiver) = tokio::sync::mpsc::channel(AHEAD);
        let reader = self.clone();
        tokio::task::spawn_blocking(move || {
            for entry in reader.iter(range) {
                if sender.blocking_send(entry).is_err() {
                    return;
                }
            }
        });
        ReceiverStream::new(receiver)
    }

    /// Iterates over the entries from `range.start` on, as [`Self::read`] does,
    /// for callers that may block. Ends after the first error.
    pub fn iter(
        &self,
        range: Range<RaftIndex>,
    ) -> impl Iterator<Item = Result<Arc<Entry>, LogError>> {
        let reader = self.clone();
        let mut next = range.start;
        let mut chunk = Vec::new().into_iter();
        let mut failed = false;
        std::iter::from_fn(move || {
            if let Some(entry) = chunk.next() {
                return Some(Ok(entry));
            }
            if next >= range.end || failed {
                return None;
            }
            match reader.entries(next..range.end, CHUNK_BYTES) {
                Ok(entries) => {
                    next = RaftIndex(next.0 + entries.len() as u64);
                    chunk = entries.into_iter();
                    chunk.next().map(Ok)
                }
                Err(error) => {
                    failed = true;
                    Some(Err(error))
                }
            }
        })
    }

    fn look_up(&self, range: Range<RaftIndex>) -> Result<Vec<Found>, LogError> {
        let tail = self.tail();
        if range.start < tail.first() {
            return Err(LogError::NoLongerKept { wanted: range.start, first: tail.first() });
        }
        let end = range.end.0.min(range.start.0.saturating_add(CHUNK_ENTRIES));
        Ok((range.start.0..end).map_while(|index| tail.get(RaftIndex(index))).collect())
    }

    /// Reads an entry, and makes sure that it is the one which was written there.
    fn read_entry(&self, place: Place, first: (RaftIndex, Index)) -> Result<Entry, LogError> {
        let path = segment::path(&self.shared.dir, place.segment.get());
        let file = self.file(place.segment, &path)?;
        let mut bytes = vec![0; place.length as usize];
        file.read_exact_at(&mut bytes, place.offset.into()).map_err(IoError::at("read", &path))?;
        let record =
            frame::check(&bytes).and_then(|header| frame::decode(&header, &bytes[HEADER..]));
        let what = match record {
            Ok(Record::Entry(entry)) if entry.id.index == first.0 => return Ok(entry),
            Ok(Record::Entry(entry)) => format!("expected entry {}, found {}", first.0, entry.id),
            Ok(_) => format!("expected entry {}, found another record", first.0),
            Err(what) => what,
        };
        Err(segment::damage(&path, place.offset as usize, first, what))
    }

    fn file(&self, segment: NonZeroU64, path: &Path) -> Result<Arc<File>, LogError> {
        let mut files = lock(&self.shared.files);
        if let Some((_, file)) = files.iter().find(|(open, _)| *open == segment) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(File::open(path).map_err(IoError::at("open", path))?);
        files.push_front((segment, Arc::clone(&file)));
        files.truncate(OPEN_FILES);
        Ok(file)
    }
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

/// A poisoned lock means a panic, which ends the process: nobody gets to see
/// the half-done state behind it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
