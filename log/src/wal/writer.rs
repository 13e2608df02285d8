//! The writer: one thread, and one fsync for all that waits.
//!
//! ```text
//! requests ─▶ all that wait ─▶ frames, one chunk ─▶ okaywal entry, fsync ─▶ mark ─▶ done, done
//! ```
//!
//! * A commit is encoded whole before okaywal sees a byte: nothing is ever
//!   rolled back, which okaywal does not survive.
//! * A failed write or fsync is the end: okaywal's later commits would wait for
//!   ever, and what the disk holds is no longer known. Nothing is called done
//!   after it.
//! * The first commit of a segment begins with a base frame and a new salt.
//!   okaywal moves to a new segment when a commit reaches the length of a full
//!   one, so the writer can tell beforehand, and checks afterwards that okaywal
//!   did as expected.

use std::mem;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::disk::{Disk, SegmentSize, Segments};
use crate::error::LogError;
use crate::files::IoError;
use crate::notice::OnFatal;
use crate::reader::LogReader;
use crate::recovery::high_water::HighWaterFile;
use crate::recovery::scanned::Scanned;
use crate::segments::frame::{Base, Chain, Encoder, FORMAT, Record};
use crate::segments::full_segments::{FullSegment, FullSegments};
use crate::segments::segment::{self, BEFORE_FRAMES, BEHIND_FRAMES, FILE_HEADER};
use crate::segments::tail::Place;
use crate::storage::{Done, LogState, Write};
use crate::types::NodeId;
use crate::wal::group::{Group, Item, Written};
use crate::wal::options::WalOptions;
use crate::wal::watchdog::Watchdog;

/// How long a lazily noted commit point may wait for a write to go with.
const IDLE: Duration = Duration::from_secs(1);

/// A request to the writer's thread.
pub(crate) enum Request {
    Write {
        write: Write,
        /// What the log holds once this is written.
        after: Box<Written>,
        done: Done,
    },
    Close(Done),
}

/// Hands what is to be written to the writer. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct Submitter {
    reader: LogReader,
    requests: Arc<Mutex<Sender<Request>>>,
}

/// The state of the writer's thread.
pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    segments: Box<dyn Segments>,
    size: SegmentSize,
    high_water: HighWaterFile,
    full_segments: FullSegments,
    requests: Receiver<Request>,
    reader: LogReader,
    dir: PathBuf,
    node: NodeId,
    chain: Chain,
    salt: u64,
    /// The number of the last commit.
    commit: u64,
    /// The number in the segment's name, and how much of it is written; `None`
    /// if the next commit begins a segment.
    segment: Option<(u64, u64)>,
    /// The segment before, if the next commit begins one.
    full: Option<FullSegment>,
    /// What the log holds as far as it is written, for base frames.
    written: Written,
    buffer: Vec<u8>,
    watchdog: Watchdog,
    on_fatal: OnFatal,
}

impl Submitter {
    /// Makes a handle, and what the writer receives from it.
    pub(crate) fn new(reader: &LogReader) -> (Self, Receiver<Request>) {
        let (requests, receiver) = mpsc::channel();
        let requests = Arc::new(Mutex::new(requests));
        (Self { reader: reader.clone(), requests }, receiver)
    }

    /// Writes to the tail at once, and to disk when its turn comes; see
    /// [`LogStorage::write`](crate::storage::LogStorage::write).
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

    /// Puts a request behind those that wait.
    pub(crate) fn send(&self, request: Request) -> Result<(), LogError> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.send(request).map_err(|_| LogError::Closed)
    }
}

impl Writer {
    /// Makes the state of the writer's thread, which goes on where the scan ended.
    ///
    /// # Errors
    ///
    /// If the operating system refuses.
    pub(crate) fn new(
        options: &WalOptions,
        disk: &Arc<dyn Disk>,
        scanned: &Scanned,
        reader: &LogReader,
        full_segments: &FullSegments,
        requests: Receiver<Request>,
    ) -> Result<Self, LogError> {
        let (dir, size) = (&options.dir, options.segment_size());
        let segments = disk.segments(dir, size, full_segments.clone());
        let active = scanned.active();
        let (on_fatal, on_notice) = (&options.on_fatal, &options.on_notice);
        Ok(Self {
            segments: segments.map_err(IoError::at("open the segments of", dir))?,
            size,
            high_water: HighWaterFile::open(&**disk, dir)?,
            disk: Arc::clone(disk),
            full_segments: full_segments.clone(),
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
            watchdog: Watchdog::start(dir.clone(), Arc::clone(on_fatal), Arc::clone(on_notice))?,
            on_fatal: Arc::clone(on_fatal),
        })
    }

    /// Begins a log that is empty with a base frame: a log that was ever opened is
    /// not empty, and one that is has been lost.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub(crate) fn begin(&mut self) -> Result<(), LogError> {
        if self.segment.is_some() {
            return Ok(());
        }
        self.watchdog.begin();
        self.write(&mut Group { begins: true, ..Group::after(self.written) })?;
        self.watchdog.end();
        Ok(())
    }

    /// Serves requests until told to close, or until the disk fails.
    pub(crate) fn run(mut self) {
        loop {
            let first = match self.requests.recv_timeout(IDLE) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.close(None),
            };
            let mut group = self.collect(first);
            self.watchdog.begin();
            let written = self.write(&mut group);
            self.watchdog.end();
            if let Err(error) = written {
                return (self.on_fatal)(error);
            }
            group.dones.into_iter().for_each(|done| done(Ok(())));
            if group.close.is_some() {
                return self.close(group.close);
            }
        }
    }

    /// Takes what waits, up to the bounds of a commit; the last one may go over.
    fn collect(&self, mut next: Option<Request>) -> Group {
        let mut group = Group::after(self.written);
        while let Some(request) = next {
            match request {
                Request::Write { write, after, done } => group.push(write, *after, done),
                Request::Close(done) => {
                    group.close = Some(done);
                    break;
                }
            }
            next = if group.is_full() { None } else { self.requests.try_recv().ok() };
        }
        self.note_committed(&mut group);
        group
    }

    /// Notes last what is committed, and only if the log holds it by then. What the log
    /// ends with otherwise may be overruled by writes that still wait.
    fn note_committed(&self, group: &mut Group) {
        let state = &mut group.after.state;
        let committed = self.reader.state().committed;
        // Whoever has a later entry in the log has all that was committed before it
        // (Raft, section 5.4, leader completeness).
        let is_held = committed <= state.last;
        if let Some(upto) = committed.filter(|_| is_held && committed > state.committed) {
            group.items.push(Item::Record(Record::Committed { upto }));
            state.committed = committed;
        }
    }

    /// Writes a group as one commit, and syncs it.
    fn write(&mut self, group: &mut Group) -> Result<(), LogError> {
        if group.items.is_empty() && !group.begins {
            return Ok(());
        }
        let opens_segment = self.segment.is_none();
        if opens_segment {
            self.salt = random_salt();
            group.items.insert(0, Item::Record(Record::Base(self.base())));
        }
        self.commit += 1;
        let places = self.encode(&group.items);
        let path = segment::path(&self.dir, self.segment.map_or(self.commit, |(first, _)| first));
        let committed = self.segments.commit(self.commit, &self.buffer);
        let (segment, offset) = committed.map_err(IoError::at("write and sync", &path))?;
        self.check_position(segment, offset);
        if opens_segment {
            // okaywal syncs the directory for files that it has created, not for
            // those that it has renamed.
            self.disk.sync_dir(&self.dir).map_err(IoError::at("sync", &self.dir))?;
        }
        self.high_water.write(self.commit, self.chain)?;
        let end = offset + (BEFORE_FRAMES + self.buffer.len() + BEHIND_FRAMES) as u64;
        self.segment = Some((segment, end));
        self.note_places(&group.items, &places, segment, offset);
        self.written = group.after;
        if let Some(full) = self.full.take() {
            // Only now: this commit begins with a base frame, which says all that
            // the segment before is needed for besides its entries.
            self.full_segments.push(full);
        }
        if end >= self.size.full() {
            self.segment = None;
            self.full = Some(FullSegment { first_commit: segment, last_commit: self.commit });
        }
        Ok(())
    }

    /// Encodes the frames of a commit, and returns where each begins and its
    /// length.
    fn encode(&mut self, items: &[Item]) -> Vec<(usize, usize)> {
        let mut out = mem::take(&mut self.buffer);
        out.clear();
        let mut encoder =
            Encoder { out: &mut out, chain: &mut self.chain, salt: self.salt, commit: self.commit };
        let mut places = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let left =
                u16::try_from(items.len() - 1 - at).expect("a request has at most 50,000 entries");
            let start = match item {
                Item::Record(record) => encoder.write(record, left),
                Item::Entry(entry) => encoder.write_entry(entry, left),
            };
            places.push((start, encoder.out.len() - start));
        }
        self.buffer = out;
        places
    }

    fn base(&self) -> Base {
        let LogState { vote, purged, forgotten, missing, committed, last, .. } = self.written.state;
        let (node, index) = (self.node, self.written.index);
        Base { format: FORMAT, node, vote, purged, last, committed, index, forgotten, missing }
    }

    /// okaywal must have put the commit where the writer thought it would.
    fn check_position(&self, segment: u64, offset: u64) {
        let expected = self.segment.unwrap_or((self.commit, FILE_HEADER as u64));
        assert_eq!((segment, offset), expected, "okaywal put commit {} elsewhere", self.commit);
    }

    fn note_places(&self, items: &[Item], places: &[(usize, usize)], segment: u64, at: u64) {
        let segment = NonZeroU64::new(segment).expect("okaywal counts from 1");
        let frames = usize::try_from(at).expect("segments are small") + BEFORE_FRAMES;
        let mut tail = self.reader.tail();
        for (item, (start, length)) in items.iter().zip(places) {
            if let Item::Entry(entry) = item {
                let offset = u32::try_from(frames + start).expect("segments are small");
                let length = u32::try_from(*length).expect("frames are bounded");
                tail.set_place(entry, Place { segment, offset, length });
            }
        }
    }

    fn close(self, done: Option<Done>) {
        self.full_segments.close();
        self.segments.close();
        if let Some(done) = done {
            done(Ok(()));
        }
    }
}

fn random_salt() -> u64 {
    getrandom::u64().expect("the operating system gives random numbers")
}
