//! The scan of one segment: its commits one after the other, and what stands where
//! they end.

use std::num::NonZeroU64;

use crate::error::{Damage, Gap, LogError};
use crate::recovery::scanned::{Scanned, Shown, TornTail, Visit, Visitor, WholeSegment};
use crate::segments::frame::{
    self, Base, Chain, EntryHead, FORMAT, HEADER, Header, Installed, Record,
};
use crate::segments::segment::{self, SegmentFile};
use crate::segments::tail::Place;
use crate::types::{Index, RaftIndex};

/// The scan of one segment.
pub(crate) struct SegmentScan<'a> {
    pub(crate) scanned: &'a mut Scanned,
    pub(crate) segment: &'a SegmentFile,
    pub(crate) bytes: &'a [u8],
}

/// What stands where a commit may begin.
enum Found {
    /// A commit: its frames and where they stand, and where the next one begins.
    Whole { frames: Vec<(Header, usize)>, end: usize },
    /// None, or one that is not whole; why not, in words.
    Broken(String),
}

impl SegmentScan<'_> {
    /// Folds the segment into what was scanned before it.
    pub(crate) fn run(&mut self, visit: &mut Option<Visitor<'_>>) -> Result<(), LogError> {
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
            return Err(self.gap(number));
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
            Record::Install(Installed { upto, index }) => self.scanned.tail.install(upto, index),
            Record::Backfilled { upto } => self.scanned.tail.backfill(upto),
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
        Err(self.gap(commit))
    }

    /// The segment begins with this commit, and should with another.
    fn gap(&self, found: u64) -> LogError {
        let (found, expected) = (format!("commit {found}"), format!("commit {}", self.next()));
        Gap::before(&self.segment.path, found, expected, self.next_entry())
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
        Err(Damage::at(&torn.path, torn.offset, self.next_entry(), what))
    }

    fn damage(&self, offset: usize, what: String) -> LogError {
        Damage::at(&self.segment.path, offset as u64, self.next_entry(), what)
    }

    fn next_entry(&self) -> (RaftIndex, Index) {
        self.scanned.next_entry()
    }
}
