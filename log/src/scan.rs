//! The strict scan: every byte of every segment is judged before any is used.
//!
//! The scan folds the segments into the log's state, oldest first. A commit
//! counts as a whole, or not at all. Where a commit is not whole, there are two
//! cases, told apart by what comes after:
//!
//! ```text
//! … commit 7 │ commit 8, broken │ nothing of ours           a torn tail: commit 8 was never
//!                                                           acknowledged; it is cut off
//! … commit 7 │ commit 8, broken │ … a frame of commit 9 …   damage: commit 8 was acknowledged,
//!                                                           for 9 came after; nothing starts
//! ```
//!
//! The scan changes nothing. What it found can be cut off by [`repair`].

use std::fmt;
use std::fs::{self, OpenOptions};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use crate::frame::{self, Base, Chain, EntryHead, FORMAT, HEADER, Header};
use crate::segment::{self, SegmentFile};
use crate::tail::{Place, Tail};
use crate::{Index, IoError, LogError, LogId, NodeId, RaftIndex, Record, sync_dir};

/// The largest file that can be a segment: full, and gone over by the largest
/// commit. Bounds what a scan has in memory.
const MOST_SEGMENT_BYTES: u64 = 1 << 30;

/// A record that a scan came by, and where it stands.
#[derive(Debug)]
pub struct Visit<'a> {
    /// The record.
    pub record: &'a Record,
    /// The index of the last command before it.
    pub index_before: Index,
    /// The segment.
    pub path: &'a Path,
    /// Where its frame begins in the segment.
    pub offset: u64,
}

/// The end of a write that a crash cut short. It was never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub path: PathBuf,
    /// Where the torn write begins.
    pub offset: u64,
    /// How many bytes of it there are.
    pub bytes: u64,
    /// Where its first fault is, in words.
    pub what: String,
}

impl fmt::Display for TornTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, offset, bytes, what } = self;
        write!(f, "{}: a write was cut short at byte {offset}; its {bytes} bytes", path.display())?;
        write!(f, " were never acknowledged, and are cut off ({what})")
    }
}

/// What a scan found, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Whose log it is, if there is one.
    pub node: Option<NodeId>,
    /// How many segments hold something.
    pub segments: usize,
    /// How many bytes they hold, without what okaywal has allocated ahead.
    pub bytes: u64,
    /// How many frames were read.
    pub frames: u64,
    /// The torn end, if there is one.
    pub torn: Option<TornTail>,
}

/// Where a scan has got to: all that is needed to write on.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) tail: Tail,
    pub(crate) recovered: Recovered,
    pub(crate) chain: Chain,
    /// The number of the last commit; 0 before the first.
    pub(crate) commit: u64,
    /// The salt of the newest segment.
    pub(crate) salt: u64,
    /// The newest segment that holds something.
    pub(crate) active: Option<SegmentFile>,
    /// Where its last commit ends.
    pub(crate) active_length: usize,
    /// Segments without one whole commit: cut short while being created.
    pub(crate) blank: Vec<PathBuf>,
}

/// Shows a record to somebody who goes through the log.
pub(crate) type Visitor<'v> = &'v mut dyn FnMut(&Visit<'_>);

/// Reads and checks all segments of `dir`, showing every record to the visitor
/// if there is one. Without one, entries are checked but not parsed.
///
/// # Errors
///
/// If a file cannot be read, is damaged, or of a later version.
pub(crate) fn scan(
    dir: &Path,
    cache_limit: usize,
    mut visit: Option<Visitor<'_>>,
) -> Result<Scanned, LogError> {
    let mut scanned = Scanned {
        tail: Tail::new(cache_limit),
        recovered: Recovered::default(),
        chain: Chain::default(),
        commit: 0,
        salt: 0,
        active: None,
        active_length: 0,
        blank: Vec::new(),
    };
    for segment in segment::list(dir)? {
        let path = &segment.path;
        let length = fs::metadata(path).map_err(IoError::at("read", path))?.len();
        if length > MOST_SEGMENT_BYTES {
            let what =
                format!("file has {length} bytes, a segment has {MOST_SEGMENT_BYTES} at most");
            let next = (scanned.tail.next().unwrap_or_default(), scanned.tail.index().next());
            return Err(segment::damage(path, 0, next, what));
        }
        let bytes = fs::read(path).map_err(IoError::at("read", path))?;
        let mut scan = SegmentScan { scanned: &mut scanned, segment: &segment, bytes: &bytes };
        scan.run(&mut visit)?;
    }
    scanned.tail.clamp_committed();
    Ok(scanned)
}

/// Cuts off what a crash left unfinished, so that okaywal sees whole commits
/// only, and makes sure that all it will see is on disk.
pub(crate) fn repair(dir: &Path, scanned: &Scanned) -> Result<(), LogError> {
    for path in &scanned.blank {
        fs::remove_file(path).map_err(IoError::at("remove", path))?;
    }
    if let Some(active) = &scanned.active {
        let path = &active.path;
        let file = OpenOptions::new().write(true).open(path);
        let file = file.map_err(IoError::at("open", path))?;
        if scanned.recovered.torn.is_some() {
            file.set_len(scanned.active_length as u64).map_err(IoError::at("cut", path))?;
        }
        // What was read may still be in memory only, if the last process died
        // before its fsync: nothing may be built on it before it is on disk.
        file.sync_all().map_err(IoError::at("sync", path))?;
    }
    Ok(sync_dir(dir)?)
}

/// The scan of one segment.
struct SegmentScan<'a> {
    scanned: &'a mut Scanned,
    segment: &'a SegmentFile,
    bytes: &'a [u8],
}

/// What stands where a commit may begin.
enum Found {
    /// A commit: its frames and where they stand, and where the next one begins.
    Whole { frames: Vec<(Header, usize)>, end: usize },
    /// None, or one that is not whole; why not, in words.
    Broken(String),
}

impl SegmentScan<'_> {
    fn run(&mut self, visit: &mut Option<Visitor<'_>>) -> Result<(), LogError> {
        self.check_torn_before()?;
        if let Err(what) = segment::check_header(self.bytes) {
            return self.stop(0, self.segment.first_commit, what);
        }
        let mut at = segment::FILE_HEADER;
        while at < self.bytes.len() {
            let first = at == segment::FILE_HEADER;
            let number = if first { self.segment.first_commit } else { self.next() };
            match self.read_commit(at, number)? {
                Found::Whole { frames, end } => {
                    for (header, offset) in frames {
                        self.fold(&header, offset, visit)?;
                    }
                    if first {
                        self.scanned.recovered.segments += 1;
                        self.scanned.active = Some(self.segment.clone());
                    }
                    self.scanned.commit = number;
                    self.scanned.active_length = end;
                    at = end;
                }
                Found::Broken(what) => {
                    self.scanned.recovered.bytes += at as u64;
                    return self.stop(at, number, what);
                }
            }
        }
        if at == segment::FILE_HEADER {
            self.scanned.blank.push(self.segment.path.clone());
        }
        self.scanned.recovered.bytes += at as u64;
        Ok(())
    }

    /// The number of the next commit.
    fn next(&self) -> u64 {
        self.scanned.commit + 1
    }

    /// A segment is named after its first commit, and follows the one before.
    fn check_name(&self, number: u64) -> Result<(), LogError> {
        if self.scanned.commit > 0 && number != self.next() {
            let expected = self.next();
            let what = format!(
                "segment begins with commit {number}, expected {expected}: one is missing or doubled"
            );
            return Err(self.damage(0, what));
        }
        Ok(())
    }

    /// Reads a commit and its frames without folding any: it counts as a whole.
    fn read_commit(&self, at: usize, number: u64) -> Result<Found, LogError> {
        let commit = match segment::read_commit(self.bytes, at, number) {
            Ok(commit) => commit,
            Err(what) => return Ok(Found::Broken(what)),
        };
        // okaywal's own checksum was right, so from here on a fault is no torn
        // write: these bytes were written like this.
        if at == segment::FILE_HEADER {
            self.check_name(number)?;
        }
        let mut frames: Vec<(Header, usize)> = Vec::new();
        let mut offset = commit.frames.start;
        while offset < commit.frames.end {
            let header = frame::check(&self.bytes[offset..commit.frames.end])
                .map_err(|what| self.damage(offset, what))?;
            let before = frames.last().map(|(header, _)| header);
            self.check_frame(&header, before, offset, number, at == segment::FILE_HEADER)?;
            frames.push((header, offset));
            offset += HEADER + header.length;
        }
        if frames.last().is_none_or(|(header, _)| header.left != 0) {
            return Err(self.damage(at, format!("commit {number} lacks its last frames")));
        }
        Ok(Found::Whole { frames, end: commit.end })
    }

    /// Checks a frame against the one before it.
    fn check_frame(
        &self,
        header: &Header,
        before: Option<&Header>,
        offset: usize,
        commit: u64,
        in_first_commit: bool,
    ) -> Result<(), LogError> {
        let opens_segment = in_first_commit && before.is_none();
        let chain = match before {
            Some(before) => Chain { sequence: before.sequence, crc: before.crc },
            None => self.scanned.chain,
        };
        // The oldest segment kept is taken at its word for where the chain stands.
        let chain_starts = opens_segment && self.scanned.chain == Chain::default();
        if opens_segment != (header.kind == frame::BASE) {
            let what = "a base frame stands first in a segment, and nowhere else".to_owned();
            return Err(self.damage(offset, what));
        }
        let expect = |what: &str, found: u64, expected: u64| {
            if found == expected {
                return Ok(());
            }
            Err(self.damage(offset, format!("frame has {what} {found:x}, expected {expected:x}")))
        };
        expect("commit", header.commit, commit)?;
        if !chain_starts {
            expect("sequence", header.sequence, chain.sequence + 1)?;
            expect("predecessor", header.previous.into(), chain.crc.into())?;
        }
        if !opens_segment {
            let salt = before.map_or(self.scanned.salt, |before| before.salt);
            expect("salt", header.salt, salt)?;
        }
        if let Some(before) = before {
            expect("frames left", header.left.into(), u64::from(before.left.saturating_sub(1)))?;
        }
        Ok(())
    }

    fn fold(
        &mut self,
        header: &Header,
        offset: usize,
        visit: &mut Option<Visitor<'_>>,
    ) -> Result<(), LogError> {
        let payload = &self.bytes[offset + HEADER..][..header.length];
        if let Some(visit) = visit {
            let record = self.decode(header, payload, offset)?;
            let index_before = self.scanned.tail.index();
            visit(&Visit {
                record: &record,
                index_before,
                path: &self.segment.path,
                offset: offset as u64,
            });
        }
        self.scanned.chain = Chain { sequence: header.sequence, crc: header.crc };
        self.scanned.salt = header.salt;
        self.scanned.recovered.frames += 1;
        if header.kind == frame::ENTRY {
            let head = EntryHead::read(payload).map_err(|what| self.damage(offset, what))?;
            let place = Place {
                segment: NonZeroU64::new(self.segment.first_commit).expect("okaywal counts from 1"),
                offset: u32::try_from(offset).expect("segments are small"),
                length: u32::try_from(HEADER + header.length).expect("segments are small"),
            };
            return self.fold_entry(head, place, offset);
        }
        match self.decode(header, payload, offset)? {
            Record::Base(base) => self.fold_base(&base, offset)?,
            Record::Entry(_) => unreachable!("entries are folded by their heads"),
            Record::Vote(vote) => self.scanned.tail.set_vote(vote),
            Record::Truncate { since } => self.scanned.tail.truncate(since),
            Record::Purge { upto } => self.scanned.tail.purge(upto),
            Record::Committed { upto } => self.scanned.tail.set_committed(upto),
        }
        Ok(())
    }

    fn decode(&self, header: &Header, payload: &[u8], offset: usize) -> Result<Record, LogError> {
        frame::decode(header, payload).map_err(|what| {
            match frame::format_of(payload).filter(|format| *format > FORMAT) {
                Some(found) => {
                    let path = self.segment.path.clone();
                    LogError::NewerFormat { path, found, known: FORMAT }
                }
                None => self.damage(offset, what),
            }
        })
    }

    fn fold_entry(&mut self, head: EntryHead, place: Place, offset: usize) -> Result<(), LogError> {
        if self.scanned.tail.next().is_some_and(|next| next != head.id.index) {
            let (id, last) = (head.id, self.scanned.tail.last());
            return Err(self.damage(offset, format!("entry {id} does not follow {}", Shown(last))));
        }
        self.scanned.tail.push_written(head.id, head.commands.into(), place);
        Ok(())
    }

    /// The oldest segment's base is where the log starts; a later one must say
    /// what the segments before it have led to.
    fn fold_base(&mut self, base: &Base, offset: usize) -> Result<(), LogError> {
        if base.format > FORMAT {
            let path = self.segment.path.clone();
            return Err(LogError::NewerFormat { path, found: base.format, known: FORMAT });
        }
        let Some(node) = self.scanned.recovered.node else {
            if base.last > base.purged {
                let what = format!(
                    "oldest segment goes on from {}: those before it are missing",
                    Shown(base.last)
                );
                return Err(self.damage(offset, what));
            }
            self.scanned.recovered.node = Some(base.node);
            self.scanned.tail.start_from(base);
            return Ok(());
        };
        let state = self.scanned.tail.state();
        let expected = (node, state.vote, state.last, self.scanned.tail.index());
        let found = (base.node, base.vote, base.last, base.index);
        if found != expected {
            let what = format!(
                "segment of node {} starts from {} and {}, expected node {node}, {} and {}",
                base.node,
                Shown(base.last),
                base.index,
                Shown(state.last),
                self.scanned.tail.index()
            );
            return Err(self.damage(offset, what));
        }
        Ok(())
    }

    /// Judges the spot where the commits of a segment end: the end of the log,
    /// a torn tail, or damage.
    fn stop(&mut self, at: usize, commit: u64, what: String) -> Result<(), LogError> {
        let rest = &self.bytes[at..];
        let bytes = segment::length_without_zeros(rest);
        let nothing_whole = at <= segment::FILE_HEADER;
        if nothing_whole {
            self.scanned.blank.push(self.segment.path.clone());
        }
        if bytes == 0 {
            return Ok(());
        }
        // A frame of a later commit proves that this one was acknowledged. In a
        // segment that seems to have been cut short while it was made, so does a
        // frame of any other commit: it is not what its name says.
        let last = self.scanned.chain.sequence;
        let proves = |header: &Header| {
            if nothing_whole {
                return header.commit != commit;
            }
            header.commit > commit && header.sequence > last
        };
        if let Some((distance, header)) = segment::find_frame(&rest[..bytes], proves) {
            let (other, place) = (header.commit, at + distance);
            let what = format!("{what}; there is a frame of commit {other} at byte {place}");
            return Err(self.damage(at, what));
        }
        let (path, offset) = (self.segment.path.clone(), at as u64);
        let torn = TornTail { path, offset, bytes: bytes as u64, what };
        self.scanned.recovered.torn = Some(torn);
        Ok(())
    }

    /// A torn commit was not the end of the log if a later segment holds anything.
    fn check_torn_before(&self) -> Result<(), LogError> {
        let Some(torn) = &self.scanned.recovered.torn else { return Ok(()) };
        let behind_header = self.bytes.get(segment::FILE_HEADER..).unwrap_or_default();
        if segment::length_without_zeros(behind_header) == 0 {
            return Ok(());
        }
        let what = format!("{}; the log goes on in {}", torn.what, self.segment.path.display());
        let offset = usize::try_from(torn.offset).expect("segments are small");
        Err(segment::damage(&torn.path, offset, self.next_entry(), what))
    }

    fn damage(&self, offset: usize, what: String) -> LogError {
        segment::damage(&self.segment.path, offset, self.next_entry(), what)
    }

    /// The first entry and the first command that are not yet known to be whole.
    fn next_entry(&self) -> (RaftIndex, Index) {
        (self.scanned.tail.next().unwrap_or_default(), self.scanned.tail.index().next())
    }
}

/// An entry's id, or that there is none.
struct Shown(Option<LogId>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => write!(f, "entry {id}"),
            None => f.write_str("no entry"),
        }
    }
}
