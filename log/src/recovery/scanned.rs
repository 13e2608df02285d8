//! What a scan found: where the log stands, and the segments that it lies in.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::segments::frame::{Chain, Record};
use crate::segments::full_segments::FullSegment;
use crate::segments::segment::SegmentFile;
use crate::segments::tail::Tail;
use crate::types::{Index, LogId, NodeId, RaftIndex};

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
    /// The high-water mark, if it says nothing: a damaged last commit cannot be told from
    /// a torn one without it.
    pub unreadable_high_water: Option<PathBuf>,
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

    /// The first entry and the first command that are not known to be whole.
    pub(crate) fn next_entry(&self) -> (RaftIndex, Index) {
        (self.tail.next().unwrap_or_default(), self.tail.index().next())
    }
}

/// An entry's id, or that there is none.
pub(crate) struct Shown(pub(crate) Option<LogId>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => write!(f, "entry {id}"),
            None => f.write_str("no entry"),
        }
    }
}
