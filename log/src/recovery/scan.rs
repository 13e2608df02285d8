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
//! Nor is a broken commit a torn tail if the high-water mark says that it was
//! acknowledged. What stands behind the last commit may be the frames of an older
//! life of the segment: those are of lower commits, and prove nothing.
//!
//! At the end the segments are joined with the archive: they must go on where it
//! ends, or before.
//!
//! The scan changes nothing. What it found can be cut off (`repair`).

use std::fs;
use std::path::Path;

use crate::archive::Archive;
use crate::error::{Damage, Gap, LogError};
use crate::files::IoError;
use crate::recovery::high_water::{self, HighWaterMark};
use crate::recovery::scanned::{Recovered, Scanned, Shown, Visitor};
use crate::recovery::segment_scan::SegmentScan;
use crate::segments::frame::Chain;
use crate::segments::segment;
use crate::segments::tail::Tail;
use crate::types::{Index, LogId, RaftIndex};

/// The largest file that can be a segment: full, and gone over by the largest
/// commit. Bounds what a scan has in memory.
pub(crate) const MOST_SEGMENT_BYTES: u64 = 1 << 30;

// Where a frame begins is kept in four bytes.
const _: () = assert!(MOST_SEGMENT_BYTES <= u32::MAX as u64);

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
            return Err(Damage::at(path, 0, next, what));
        }
        let bytes = fs::read(path).map_err(IoError::at("read", path))?;
        let mut scan = SegmentScan { scanned: &mut scanned, segment: &segment, bytes: &bytes };
        scan.run(&mut visit)?;
    }
    scanned.tail.clamp_committed();
    scanned.check_high_water(dir)?;
    Ok(scanned)
}

impl Scanned {
    /// A log that ends before its high-water mark has lost what was acknowledged.
    fn check_high_water(&mut self, dir: &Path) -> Result<(), LogError> {
        let path = high_water::path(dir);
        let HighWaterMark { commit, crc } = match high_water::read(dir)? {
            high_water::Found::Nothing => return Ok(()),
            high_water::Found::Unreadable => {
                self.recovered.unreadable_high_water = Some(path);
                return Ok(());
            }
            high_water::Found::Mark(mark) => mark,
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
        Err(Damage::at(path, offset, self.next_entry(), what))
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
            return Err(Damage::at(path, 0, self.next_entry(), what));
        }
        self.tail.release(last);
        self.tail.set_committed(last);
        Ok(archive)
    }

    /// The oldest segment must begin where the archive ends, or before.
    fn check_start(&self, archived: Option<LogId>, command: Index) -> Result<(), LogError> {
        let Some(oldest) = self.whole.first() else { return Ok(()) };
        let start = self.tail.released();
        let known = [archived, self.tail.forgotten(), self.tail.missing()];
        let known = known.into_iter().flatten().max_by_key(|id| id.index);
        if start.map(|id| id.index) <= known.map(|id| id.index) {
            return Ok(());
        }
        let next = (known.map_or(RaftIndex(0), |id| id.index.next()), command.next());
        let found = format!("what follows {}", Shown(start));
        let expected = format!("what follows {}", Shown(known));
        Err(Gap::before(&oldest.file.path, found, expected, next))
    }
}
