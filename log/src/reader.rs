//! Reading the log, from any index, whoever writes it meanwhile.
//!
//! ```text
//! archive: sealed files │ segments │ the tail, in memory
//! ───────────────────────────────────────────────────────▶ one stream of entries
//! ```
//!
//! A reader does not notice where it crosses from one to the other, nor that an
//! entry moves to the archive while it is being read. To begin anywhere is a
//! seek: a lookup in memory, and one block to be read, after the footer of its file
//! if that is not open already.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::spawn_blocking;

use crate::archive::Archive;
use crate::error::{Damage, LogError};
use crate::files::IoError;
use crate::recovery::scan;
use crate::recovery::scanned::{Recovered, Scanned, Visit};
use crate::segments::frame::{self, EntryHead, HEADER, Record};
use crate::segments::segment;
use crate::segments::tail::{Found, Place, Tail};
use crate::storage::LogState;
use crate::stream::EntryStream;
use crate::types::{Entry, Index, LogId, Membership, Payload, RaftIndex};

/// How many bytes of entries a stream reads at once. Bounds what a reader holds.
const CHUNK_BYTES: usize = 1 << 20;

/// How many entries are looked up at once.
const CHUNK_ENTRIES: u64 = 1024;

/// How many open segments are kept at hand.
const OPEN_FILES: usize = 8;

/// A reader of the log: of one that is being written, or of a stopped node's.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    archive: Archive,
    tail: Mutex<Tail>,
    /// The segments opened last, newest first.
    files: Mutex<VecDeque<(NonZeroU64, Arc<File>)>>,
}

impl LogReader {
    /// Reads and checks a stopped node's log, and changes nothing in it. Of the
    /// archive only the footers are checked; see [`Self::verify_archive`].
    ///
    /// # Errors
    ///
    /// If a file cannot be read, is damaged, or of a later version.
    pub fn open(
        dir: &Path,
        archive: &Path,
        visit: &mut dyn FnMut(&Visit<'_>),
    ) -> Result<(Self, Recovered), LogError> {
        // Nothing is cached: a log of any size is read within bounded memory.
        let mut scanned = scan::scan(dir, 0, Some(visit))?;
        let archive = scanned.join(archive)?;
        let Scanned { tail, recovered, .. } = scanned;
        Ok((Self::new(dir, archive, tail), recovered))
    }

    /// The same, and returns which entries are certain to be committed as well: what a
    /// group of one has synced is, and else what the log says is.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_settled(
        dir: &Path,
        archive: &Path,
    ) -> Result<(Self, Recovered, Range<RaftIndex>), LogError> {
        let mut membership = None;
        let (log, recovered) = Self::open(dir, archive, &mut |visit| {
            if let Record::Entry(entry) = visit.record
                && let Payload::Membership(members) = &entry.payload
            {
                membership = Some(members.clone());
            }
        })?;
        let membership = membership.or_else(|| log.archived_membership()).unwrap_or_default();
        let voters = membership.voters.iter().flatten().count();
        let LogState { last, committed, .. } = log.state();
        let end = if voters == 1 { last } else { committed };
        let settled = log.first()..log.end(end);
        Ok((log, recovered, settled))
    }

    /// Returns the entry behind one; behind none, the first that is kept.
    pub fn end(&self, last: Option<LogId>) -> RaftIndex {
        last.map_or(self.first(), |id| id.index.next())
    }

    pub(crate) fn new(dir: &Path, archive: Archive, tail: Tail) -> Self {
        let shared = Shared {
            dir: dir.to_owned(),
            archive,
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
        let state = self.tail().state();
        let purged = state.purged.map_or(RaftIndex(0), |upto| upto.index.next());
        let oldest = match self.first_archived(state.first) {
            Some(_) => self.shared.archive.oldest().unwrap_or(state.oldest),
            None => state.oldest,
        };
        LogState { first: oldest.0.max(purged), oldest, ..state }
    }

    pub(crate) fn archive(&self) -> &Archive {
        &self.shared.archive
    }

    /// Returns the first entry kept; if there is none, the one that would come.
    pub fn first(&self) -> RaftIndex {
        let next = self.tail().first();
        self.first_archived(next).unwrap_or(next)
    }

    /// Returns the first entry in the archive, if the segments, which begin with
    /// `next`, go on where the archive ends.
    fn first_archived(&self, next: RaftIndex) -> Option<RaftIndex> {
        let last = self.shared.archive.last()?;
        if last.index.next() < next {
            return None;
        }
        self.shared.archive.first()
    }

    /// Returns whether the first entry in the segments follows the archive's last.
    pub(crate) fn goes_on_from_archive(&self) -> bool {
        let last = self.shared.archive.last();
        let tail = self.tail();
        last.map_or(tail.missing().is_none(), |last| last.index.next() == tail.first())
    }

    /// Returns the last membership in the archive, if there is one.
    pub fn archived_membership(&self) -> Option<Membership> {
        self.shared.archive.newest()?.footer.membership.clone()
    }

    /// Returns the last entry in the archive, if there is one.
    pub fn last_archived(&self) -> Option<LogId> {
        self.shared.archive.last()
    }

    /// Returns how many sealed files there are, and how many bytes they have.
    pub fn archived(&self) -> (usize, u64) {
        let files = self.shared.archive.sealed();
        (files.len(), files.iter().map(|file| file.bytes).sum())
    }

    /// Reads all of the archive, and compares it with what its files say of
    /// themselves.
    ///
    /// # Errors
    ///
    /// With the first file that is not as it was written.
    pub fn verify_archive(&self) -> Result<(), LogError> {
        self.shared.archive.sealed().iter().try_for_each(|file| file.verify(|| false))
    }

    /// Returns the index of the last command in the log, committed or not.
    pub fn last_command(&self) -> Index {
        self.tail().index()
    }

    /// Returns the entry that holds the command `index`, or the first command
    /// after it, and the index of the last command before that entry. Beyond the
    /// last command it is the entry that would come next.
    ///
    /// # Errors
    ///
    /// If the archive cannot be read back as it was written.
    pub fn find(&self, index: Index) -> Result<(RaftIndex, Index), LogError> {
        loop {
            let next = self.tail().first();
            if self.first_archived(next).is_some()
                && let Some(found) = self.shared.archive.find(index)?
            {
                return Ok(found);
            }
            // Unless it has moved to the archive since.
            let tail = self.tail();
            if tail.first() == next {
                return Ok(tail.find(index));
            }
        }
    }

    /// Returns the entries of a range, in order, as far as they go together with
    /// about `max_bytes`, or not as far; at least one if there is one.
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
        let Some(found) = self.look_up(range.clone()) else {
            return self.archived_entries(range, max_bytes);
        };
        let mut entries = Vec::with_capacity(found.len());
        let mut bytes = 0;
        for (found, index) in found.into_iter().zip(range.start.0..) {
            let entry = match found {
                Found::Cached(entry) => entry,
                Found::OnDisk(place, first) => match self.read_entry(place, first) {
                    Ok(entry) => Arc::new(entry),
                    // It has moved to the archive, and its segment is in use again.
                    Err(_) if RaftIndex(index) < self.tail().first() => {
                        if entries.is_empty() {
                            return self.archived_entries(range, max_bytes);
                        }
                        break;
                    }
                    Err(error) => return Err(error),
                },
            };
            bytes += entry.size();
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn archived_entries(
        &self,
        range: Range<RaftIndex>,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, LogError> {
        let found = self.shared.archive.entries(range.start);
        let first = self.first();
        if range.start < first {
            return Err(LogError::NoLongerKept { wanted: range.start, first });
        }
        let mut entries = found?;
        entries.retain(|entry| entry.id.index < range.end);
        let mut bytes = 0;
        let fits = |entry: &Arc<Entry>| {
            bytes += entry.size();
            bytes <= max_bytes
        };
        let count = entries.iter().map(fits).take_while(|fits| *fits).count();
        entries.truncate(count.max(1));
        Ok(entries)
    }

    /// Streams the entries from `range.start` on, up to its end. The stream ends
    /// early where the log does.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn read(&self, range: Range<RaftIndex>) -> EntryStream {
        let reader = self.clone();
        EntryStream::new(range, move |range| {
            let reader = reader.clone();
            let read = spawn_blocking(move || reader.entries(range, CHUNK_BYTES));
            // Where the runtime is at its end, nobody takes them any more.
            async { read.await.unwrap_or(Err(LogError::Closed)) }
        })
    }

    /// Iterates over the entries from `range.start` on, as [`Self::read`] does,
    /// for callers that may block. Ends after the first error.
    pub fn iter(
        &self,
        range: Range<RaftIndex>,
    ) -> impl Iterator<Item = Result<Arc<Entry>, LogError>> + use<> {
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

    /// Looks up the entries of a range; nothing, if it begins before the segments.
    fn look_up(&self, range: Range<RaftIndex>) -> Option<Vec<Found>> {
        let tail = self.tail();
        if range.start < tail.first() {
            return None;
        }
        let end = range.end.0.min(range.start.0.saturating_add(CHUNK_ENTRIES));
        Some((range.start.0..end).map_while(|index| tail.get(RaftIndex(index))).collect())
    }

    /// Reads the payload of an entry's frame, as it lies in its segment.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or if the log goes on behind it by now.
    pub(crate) fn read_payload(&self, index: RaftIndex) -> Result<Vec<u8>, LogError> {
        let place = self.tail().place(index);
        let (place, before) =
            place.ok_or_else(|| LogError::NoLongerKept { wanted: index, first: self.first() })?;
        let mut bytes = self.read_frame(place)?;
        let found = frame::check(&bytes).and_then(|_| EntryHead::read(&bytes[HEADER..]));
        let what = match found {
            Ok(head) if head.id.index == index => {
                bytes.drain(..HEADER);
                return Ok(bytes);
            }
            Ok(head) => format!("expected entry {index}, found {}", head.id),
            Err(what) => what,
        };
        let path = segment::path(&self.shared.dir, place.segment.get());
        Err(Damage::at(&path, place.offset.into(), (index, before.next()), what))
    }

    /// Reads an entry, and makes sure that it is the one which was written there.
    fn read_entry(&self, place: Place, first: (RaftIndex, Index)) -> Result<Entry, LogError> {
        let bytes = self.read_frame(place)?;
        let record =
            frame::check(&bytes).and_then(|header| frame::decode(&header, &bytes[HEADER..]));
        let what = match record {
            Ok(Record::Entry(entry)) if entry.id.index == first.0 => return Ok(entry),
            Ok(Record::Entry(entry)) => format!("expected entry {}, found {}", first.0, entry.id),
            Ok(_) => format!("expected entry {}, found another record", first.0),
            Err(what) => what,
        };
        let path = segment::path(&self.shared.dir, place.segment.get());
        Err(Damage::at(&path, place.offset.into(), first, what))
    }

    fn read_frame(&self, place: Place) -> Result<Vec<u8>, LogError> {
        let path = segment::path(&self.shared.dir, place.segment.get());
        let file = self.file(place.segment, &path)?;
        let mut bytes = vec![0; place.length as usize];
        file.read_exact_at(&mut bytes, place.offset.into()).map_err(IoError::at("read", &path))?;
        Ok(bytes)
    }

    /// Closes a segment that okaywal is about to use again.
    pub(crate) fn close_segment(&self, segment: u64) {
        lock(&self.shared.files).retain(|(open, _)| open.get() != segment);
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
