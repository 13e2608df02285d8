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
//! Nor is a broken commit a torn tail if the witness says that it was
//! acknowledged. What stands behind the last commit may be the frames of an older
//! life of the segment: those are of lower commits, and prove nothing.
//!
//! The scan changes nothing. What it found can be cut off by [`repair`].

use std::fmt;
use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use crate::archive::Archive;
use crate::disk::Disk;
use crate::frame::{self, Base, Chain, EntryHead, FORMAT, HEADER, Header};
use crate::keeper::FullSegment;
use crate::segment::{self, SegmentFile};
use crate::tail::{Place, Tail};
use crate::witness::{self, Testimony};
use crate::{Index, IoError, LogError, LogId, NodeId, RaftIndex, Record};

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
    /// The witness, if it says nothing: a damaged last commit cannot be told from
    /// a torn one without it.
    pub unreadable_witness: Option<PathBuf>,
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
    /// The segments that hold something, oldest first.
    pub(crate) whole: Vec<WholeSegment>,
    /// Segments without one whole commit: cut short while being created.
    pub(crate) blank: Vec<PathBuf>,
    /// Segments that were let go.
    pub(crate) spare: Vec<PathBuf>,
}

/// A segment that holds something.
#[derive(Clone, Debug)]
pub(crate) struct WholeSegment {
    pub(crate) file: SegmentFile,
    /// Where its last commit ends.
    pub(crate) length: usize,
    /// Whether something stands behind it.
    pub(crate) has_more: bool,
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
        whole: Vec::new(),
        blank: Vec::new(),
        spare: Vec::new(),
    };
    let listing = segment::list(dir)?;
    scanned.spare = listing.spare;
    for segment in listing.segments {
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
    scanned.check_witness(dir)?;
    Ok(scanned)
}

impl Scanned {
    /// The newest segment that holds something.
    pub(crate) fn active(&self) -> Option<&WholeSegment> {
        self.whole.last()
    }

    /// The segments before the newest: nothing is written to them any more.
    pub(crate) fn full(&self) -> impl Iterator<Item = FullSegment> {
        self.whole.windows(2).map(|pair| FullSegment {
            first_commit: pair[0].file.first_commit,
            last_commit: pair[1].file.first_commit - 1,
        })
    }

    /// A log that ends before its witness has lost what was acknowledged.
    fn check_witness(&mut self, dir: &Path) -> Result<(), LogError> {
        let path = witness::path(dir);
        let Testimony { commit, crc } = match witness::read(dir)? {
            witness::Found::Nothing => return Ok(()),
            witness::Found::Unreadable => {
                self.recovered.unreadable_witness = Some(path);
                return Ok(());
            }
            witness::Found::Testimony(testimony) => testimony,
        };
        let as_it_was = commit < self.commit || (commit, crc) == (self.commit, self.chain.crc);
        if as_it_was {
            return Ok(());
        }
        let (path, offset, what) = match (&self.recovered.torn, self.active()) {
            (Some(torn), _) => (&torn.path, torn.offset, format!("{}; ", torn.what)),
            (None, Some(active)) => (&active.file.path, active.length as u64, String::new()),
            (None, None) => return Err(LogError::Missing(dir.to_owned())),
        };
        let found = self.commit;
        let what = if commit == found {
            format!("{what}commit {commit} is not the one that was acknowledged")
        } else {
            format!("{what}the log ends with commit {found}, but {commit} was acknowledged")
        };
        let offset = usize::try_from(offset).expect("segments are small");
        Err(segment::damage(path, offset, self.next_entry(), what))
    }

    /// Opens the archive, and checks that the segments go on where it ends.
    pub(crate) fn join(&mut self, dir: &Path) -> Result<Archive, LogError> {
        let archive = Archive::open(dir, self.tail.forgotten(), self.whole.is_empty())?;
        let Some(last) = archive.last() else {
            self.check_start(None, Index(0))?;
            return Ok(archive);
        };
        let command = archive.newest().map_or(Index(0), |file| file.footer.index);
        if self.whole.is_empty() {
            // A copy of an archive alone.
            self.tail.start_behind(last, command);
            return Ok(archive);
        }
        self.check_start(Some(last), command)?;
        let in_segments = self.tail.id(last.index);
        let end = self.tail.last();
        if end < Some(last) || in_segments.is_some_and(|id| id != last) {
            let what = format!(
                "the archive goes up to entry {last}, the segments to {}",
                Shown(in_segments.or(end))
            );
            let path = self.whole.last().map_or(dir, |segment| &segment.file.path);
            return Err(segment::damage(path, 0, self.next_entry(), what));
        }
        self.tail.release(last);
        self.tail.set_committed(last);
        Ok(archive)
    }

    /// The oldest segment must begin where the archive ends, or before.
    fn check_start(&self, archived: Option<LogId>, command: Index) -> Result<(), LogError> {
        let Some(oldest) = self.whole.first() else { return Ok(()) };
        let start = self.tail.released();
        let known = archived.max(self.tail.forgotten()).max(self.tail.state().purged);
        if start <= known {
            return Ok(());
        }
        let what = format!("log goes on from {}: those before it are missing", Shown(start));
        let next = (known.map_or(RaftIndex(0), |id| id.index.next()), command.next());
        Err(segment::damage(&oldest.file.path, segment::FILE_HEADER, next, what))
    }

    /// The first entry and the first command that are not known to be whole.
    fn next_entry(&self) -> (RaftIndex, Index) {
        (self.tail.next().unwrap_or_default(), self.tail.index().next())
    }
}

/// Makes the segments such that okaywal sees whole commits only, all that it sees
/// is on disk, and not too many are kept to be used again.
pub(crate) fn repair(disk: &dyn Disk, dir: &Path, scanned: &Scanned) -> Result<(), LogError> {
    let spare = scanned.spare.iter().skip(segment::MOST_SPARE);
    for path in scanned.blank.iter().chain(spare) {
        disk.remove(path).map_err(IoError::at("remove", path))?;
    }
    for (at, segment) in scanned.whole.iter().enumerate() {
        let is_active = at + 1 == scanned.whole.len();
        // What was read may still be in memory only, if the last process died
        // before its fsync: nothing may be built on it before it is on disk.
        if is_active || segment.has_more {
            end_segment(disk, segment, is_active)?;
        }
    }
    Ok(disk.sync_dir(dir).map_err(IoError::at("sync", dir))?)
}

/// What stands behind the last commit of a segment may look to okaywal as if it
/// went on there. In the newest segment it is cut off; in another one, to which
/// nothing is added, a zero will do.
fn end_segment(disk: &dyn Disk, segment: &WholeSegment, is_active: bool) -> Result<(), LogError> {
    let (path, end) = (&segment.file.path, segment.length as u64);
    let mut file = disk.open(path).map_err(IoError::at("open", path))?;
    if segment.has_more && is_active {
        file.set_len(end).map_err(IoError::at("cut", path))?;
    } else if segment.has_more {
        file.write_at(&[0], end).map_err(IoError::at("write", path))?;
    }
    Ok(file.sync().map_err(IoError::at("sync", path))?)
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
                        self.begin_segment();
                    }
                    let segment = self.scanned.whole.last_mut().expect("begun with its first");
                    segment.length = end;
                    self.scanned.commit = number;
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

    fn begin_segment(&mut self) {
        let file = self.segment.clone();
        self.scanned.recovered.segments += 1;
        self.scanned.whole.push(WholeSegment { file, length: 0, has_more: false });
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
            Record::Truncate(truncation) => self.scanned.tail.restore_truncated(&truncation),
            Record::Purge { upto } => self.scanned.tail.purge(upto),
            Record::Committed { upto } => self.scanned.tail.set_committed(upto),
            Record::Forgotten { upto } => self.scanned.tail.forget(upto),
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
        let rest = &rest[..segment::length_without_zeros(rest)];
        let survey = segment::survey(rest, commit);
        if let Some((distance, header)) = survey.later {
            let (other, place) = (header.commit, at + distance);
            let what = format!("{what}; there is a frame of commit {other} at byte {place}");
            return Err(self.damage(at, what));
        }
        if at <= segment::FILE_HEADER {
            self.check_blank(commit)?;
            self.scanned.blank.push(self.segment.path.clone());
        } else if let Some(segment) = self.scanned.whole.last_mut() {
            segment.has_more = survey.torn > 0 || rest.first().is_some_and(|byte| *byte != 0);
        }
        if survey.torn > 0 {
            let (path, offset) = (self.segment.path.clone(), at as u64);
            let torn = TornTail { path, offset, bytes: survey.torn as u64, what };
            self.scanned.recovered.torn = Some(torn);
        }
        Ok(())
    }

    /// A segment without commits was being made when a crash came, so it is named
    /// after the next commit; or the one after, if the crash took that.
    fn check_blank(&self, commit: u64) -> Result<(), LogError> {
        let next = self.next();
        if self.scanned.commit == 0 || (next..=next + 1).contains(&commit) {
            return Ok(());
        }
        let what = format!(
            "segment begins with commit {commit}, expected {next}: one is missing or doubled"
        );
        Err(self.damage(0, what))
    }

    /// A torn commit was not the end of the log if a later segment holds anything.
    fn check_torn_before(&self) -> Result<(), LogError> {
        let Some(torn) = &self.scanned.recovered.torn else { return Ok(()) };
        let behind_header = self.bytes.get(segment::FILE_HEADER..).unwrap_or_default();
        let commit = self.segment.first_commit;
        let begins = |header: &Header| header.commit >= commit;
        if segment::find_frame(behind_header, begins).is_none() {
            return Ok(());
        }
        let what = format!("{}; the log goes on in {}", torn.what, self.segment.path.display());
        let offset = usize::try_from(torn.offset).expect("segments are small");
        Err(segment::damage(&torn.path, offset, self.next_entry(), what))
    }

    fn damage(&self, offset: usize, what: String) -> LogError {
        segment::damage(&self.segment.path, offset, self.next_entry(), what)
    }

    fn next_entry(&self) -> (RaftIndex, Index) {
        self.scanned.next_entry()
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
