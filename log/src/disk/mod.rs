//! The disk under the log: all that writes, syncs, renames or removes a file of the
//! log goes through here, save what okaywal does by itself, so that a test can put
//! a disk in its place that loses what was not synced.
//!
//! ```text
//! writer ─▶ Segments ─▶ okaywal ──┐
//! high water, archiver, repair ───┴─▶ Disk ─▶ the operating system
//! ```
//!
//! Reading is not part of it: what can be read is what has been written, synced
//! or not.

mod okaywal;
pub(crate) mod real;

use std::fmt;
use std::io;
use std::path::Path;

use crate::segments::full_segments::FullSegments;

/// What the log asks of a disk.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// Makes a file, or empties the one that is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file that is there, to write to it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, in the place of any that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names of a directory's files durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Opens the segments of a directory, which the scan has found whole.
    fn segments(
        &self,
        dir: &Path,
        size: SegmentSize,
        full_segments: FullSegments,
    ) -> io::Result<Box<dyn Segments>>;
}

/// A file that is being written.
pub(crate) trait DiskFile: Send {
    /// Writes at a place of the file.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file off, or fills it up with zeros.
    fn set_len(&mut self, length: u64) -> io::Result<()>;

    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// The segments that are being written.
pub(crate) trait Segments: Send {
    /// Writes the frames of a commit and makes them durable. Returns the number in
    /// the segment's name, and where the commit begins in it.
    fn commit(&mut self, number: u64, frames: &[u8]) -> io::Result<(u64, u64)>;

    /// Lets the segments go. What was committed stays.
    fn close(self: Box<Self>);
}

/// How long a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentSize {
    /// How much is allocated for it.
    pub(crate) allocated: u32,
}

impl SegmentSize {
    /// At which length a segment is full. The commit that fills it goes over; most
    /// stay within what is allocated.
    pub(crate) fn full(self) -> u64 {
        u64::from(self.allocated - self.allocated / 16)
    }
}
