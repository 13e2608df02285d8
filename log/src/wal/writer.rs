//! The writer: one thread, and one fsync for all that waits.
//!
//! ```text
//! requests ─▶ all that wait ─▶ frames, one chunk ─▶ okaywal entry, fsync ─▶ witness ─▶ done, done
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
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::disk::{Disk, SegmentSize, Segments};
use crate::error::LogError;
use crate::files::IoError;
use crate::reader::LogReader;
use crate::recovery::high_water::Witness;
use crate::segments::frame::{Base, Chain, Encoder, FORMAT, Installed, Record, Truncation};
use crate::segments::full_segments::{FullSegment, Keeper};
use crate::segments::segment::{self, BEFORE_FRAMES, BEHIND_FRAMES, FILE_HEADER};
use crate::segments::tail::{Place, Tail};
use crate::storage::{Done, LogState, Write};
use crate::types::{Entry, Index, NodeId};
use crate::wal::OnFatal;
use crate::wal::watchdog::Watchdog;

/// The most bytes of entries that go into one commit together.
const COMMIT_BYTES: usize = 8 << 20;

/// The most records that go into one commit together.
const COMMIT_RECORDS: usize = 4096;

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

/// The state of the writer's thread.
pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) segments: Box<dyn Segments>,
    pub(crate) size: SegmentSize,
    pub(crate) witness: Witness,
    pub(crate) keeper: Keeper,
    pub(crate) requests: Receiver<Request>,
    pub(crate) reader: LogReader,
    pub(crate) dir: PathBuf,
    pub(crate) node: NodeId,
    pub(crate) chain: Chain,
    pub(crate) salt: u64,
    /// The number of the last commit.
    pub(crate) commit: u64,
    /// The number in the segment's name, and how much of it is written; `None`
    /// if the next commit begins a segment.
    pub(crate) segment: Option<(u64, u64)>,
    /// The segment before, if the next commit begins one.
    pub(crate) full: Option<FullSegment>,
    /// What the log holds as far as it is written, for base frames.
    pub(crate) written: Written,
    pub(crate) buffer: Vec<u8>,
    pub(crate) watchdog: Watchdog,
    pub(crate) on_fatal: OnFatal,
}

/// What a log holds at some point: what a base frame says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) state: LogState,
    pub(crate) index: Index,
}

impl Written {
    pub(crate) fn of(tail: &Tail) -> Self {
        Self { state: tail.state(), index: tail.index() }
    }
}

impl Writer {
    /// Begins a log that is empty with a base frame: a log that was ever opened is
    /// not empty, and one that is has been lost.
    pub(crate) fn begin(&mut self) -> Result<(), LogError> {
        if self.segment.is_some() {
            return Ok(());
        }
        self.write(&mut Group { begins: true, after: self.written, ..Group::default() })
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
        let mut group = Group { after: self.written, ..Group::default() };
        while let Some(request) = next {
            match request {
                Request::Write { write, after, done } => {
                    group.bytes += size(&write);
                    push_items(write, &after, &mut group.items);
                    let committed = group.after.state.committed;
                    group.after = *after;
                    group.after.state.committed = committed;
                    group.dones.push(done);
                }
                Request::Close(done) => {
                    group.close = Some(done);
                    break;
                }
            }
            let full = group.bytes >= COMMIT_BYTES || group.items.len() >= COMMIT_RECORDS;
            next = if full { None } else { self.requests.try_recv().ok() };
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
        self.witness.write(self.commit, self.chain)?;
        let end = offset + (BEFORE_FRAMES + self.buffer.len() + BEHIND_FRAMES) as u64;
        self.segment = Some((segment, end));
        self.note_places(&group.items, &places, segment, offset);
        self.written = group.after;
        if let Some(full) = self.full.take() {
            // Only now: this commit begins with a base frame, which says all that
            // the segment before is needed for besides its entries.
            self.keeper.filled(full);
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
        self.keeper.close();
        self.segments.close();
        if let Some(done) = done {
            done(Ok(()));
        }
    }
}

/// What goes to disk with one fsync.
#[derive(Default)]
struct Group {
    items: Vec<Item>,
    dones: Vec<Done>,
    /// What the log holds after it.
    after: Written,
    bytes: usize,
    /// Whether it begins the log, with a base frame alone.
    begins: bool,
    /// Set if the log closes behind it.
    close: Option<Done>,
}

/// What becomes one frame.
enum Item {
    Record(Record),
    Entry(Arc<Entry>),
}

fn random_salt() -> u64 {
    getrandom::u64().expect("the operating system gives random numbers")
}

fn size(write: &Write) -> usize {
    match write {
        Write::Append(entries) => entries.iter().map(|entry| entry.size()).sum(),
        Write::Vote(_)
        | Write::Truncate { .. }
        | Write::Purge { .. }
        | Write::Install { .. }
        | Write::Fill { .. }
        | Write::Forget { .. } => 0,
    }
}

/// Adds what a write puts down. `after` is what the log holds then.
fn push_items(write: Write, after: &Written, items: &mut Vec<Item>) {
    match write {
        Write::Append(entries) => items.extend(entries.into_iter().map(Item::Entry)),
        Write::Vote(vote) => items.push(Item::Record(Record::Vote(vote))),
        Write::Truncate { since } => {
            let (last, index) = (after.state.last, after.index);
            let truncation = Truncation { since, last, index };
            items.push(Item::Record(Record::Truncate(truncation)));
        }
        Write::Purge { upto } => items.push(Item::Record(Record::Purge { upto })),
        Write::Install { upto, index } => {
            items.push(Item::Record(Record::Install(Installed { upto, index })));
        }
        Write::Fill { upto } => items.push(Item::Record(Record::Filled { upto })),
        Write::Forget { upto } => items.push(Item::Record(Record::Forgotten { upto })),
    }
}
