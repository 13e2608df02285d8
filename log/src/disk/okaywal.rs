//! okaywal's side of the segments: one entry of one chunk for each commit.
//!
//! okaywal loses data in ways of its own. Half of the guard is here: one chunk a
//! commit, nothing rolled back or dropped half-done, every chunk read at recovery,
//! no segment let go before it is sealed. The other half is the scan before it
//! opens. `okaywal_hazards` has a test for each way.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use okaywal::{
    Configuration, Entry, EntryId, EntryWriter, LogManager, SegmentReader, WriteAheadLog,
};

use super::{SegmentSize, Segments};
use crate::segments::full_segments::FullSegments;
use crate::segments::segment;

/// How much okaywal gathers before it calls the operating system. A segment keeps
/// its buffer, so it is small.
const BUFFER_BYTES: usize = 16 << 10;

/// The segments, as okaywal writes them.
#[derive(Debug)]
pub(crate) struct OkaywalSegments {
    wal: WriteAheadLog,
}

impl OkaywalSegments {
    pub(crate) fn open(
        dir: &Path,
        size: SegmentSize,
        full_segments: FullSegments,
    ) -> io::Result<Self> {
        let mut configuration = Configuration::default_for(dir)
            .preallocate_bytes(size.allocated)
            .checkpoint_after_bytes(size.full())
            .buffer_bytes(BUFFER_BYTES);
        configuration.version_info = Arc::new(segment::VERSION.to_vec());
        Ok(Self { wal: configuration.open(Manager { full_segments, dir: dir.to_owned() })? })
    }
}

impl Segments for OkaywalSegments {
    fn commit(&mut self, number: u64, frames: &[u8]) -> io::Result<(u64, u64)> {
        write_chunk(self.wal.begin_entry()?, number, frames)
    }

    fn close(self: Box<Self>) {
        // The manager ends okaywal's thread with an error, which is what
        // `shutdown` returns then.
        let _ended = self.wal.shutdown();
    }
}

/// Writes one chunk as one okaywal entry and syncs it; returns the segment and
/// the offset that it got.
fn write_chunk(entry: EntryWriter<'_>, number: u64, chunk: &[u8]) -> io::Result<(u64, u64)> {
    assert_eq!(entry.id(), EntryId(number), "okaywal counts its entries as commits are counted");
    // Where a write fails, okaywal would roll the entry back as it is dropped, and
    // panic before the failure is told. What is not dropped does neither; the
    // process ends soon.
    let mut entry = ManuallyDrop::new(entry);
    let length = u32::try_from(chunk.len()).map_err(io::Error::other)?;
    let mut writer = ManuallyDrop::new(entry.begin_chunk(length)?);
    writer.write_all(chunk)?;
    let record = ManuallyDrop::into_inner(writer).finish()?;
    ManuallyDrop::into_inner(entry).commit()?;
    let mut position = Vec::with_capacity(16);
    record.position.serialize_to(&mut position)?;
    let number = |at: usize| u64::from_le_bytes(position[at..at + 8].try_into().expect("eight"));
    // okaywal names the place of the chunk; the commit begins a marker and a
    // number before it.
    Ok((number(0), number(8) - 9))
}

/// What okaywal asks about its segments.
#[derive(Debug)]
struct Manager {
    full_segments: FullSegments,
    dir: PathBuf,
}

impl Manager {
    /// Gives the room of the oldest segment back, which is about to be let go, if
    /// there are enough to be used again. It stays, for okaywal has it open.
    fn empty_if_spare(&self) -> io::Result<()> {
        let listing = segment::list(&self.dir).map_err(io::Error::other)?;
        match listing.segments.first() {
            Some(oldest) if listing.spare.len() >= segment::MOST_SPARE_WHILE_OPEN => {
                OpenOptions::new().write(true).open(&oldest.path)?.set_len(0)
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl LogManager for Manager {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        // The scan has read it already, but a chunk that nobody reads makes
        // okaywal skip four bytes too many, and take the next entry for the end.
        match entry.read_all_chunks()? {
            Some(_) => Ok(()),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "an entry was cut short")),
        }
    }

    /// Returns when a full segment is no longer needed; okaywal writes over it
    /// then. Writers go on in other segments meanwhile.
    fn checkpoint_to(
        &mut self,
        last: EntryId,
        _entries: &mut SegmentReader,
        _wal: &WriteAheadLog,
    ) -> io::Result<()> {
        if self.full_segments.wait_until_released(last.0) {
            return self.empty_if_spare();
        }
        // Success would let okaywal write over the segment.
        Err(io::Error::new(io::ErrorKind::Interrupted, "the log is closing"))
    }
}
