//! The archiver: a thread that moves what is settled from full segments into
//! sealed files, and drops the oldest of them.
//!
//! ```text
//! full segment: committed? in a checkpoint? ─▶ sealed file, durable ─▶ the tail lets go
//!                                                                        │
//!                                   okaywal may write over the segment ◀─┘
//! ```
//!
//! Whatever fails here ends the process, as any failure of the log does, save
//! that a disk without room is waited for: the segments still have it all.
//!
//! Besides, it reads the archive through, a file a second, and again an hour later,
//! so that damage to old history is noticed while a copy may still be good.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::archive::sealed::{self, Predecessor, Sealed, SealedWriter};
use crate::disk::Disk;
use crate::error::LogError;
use crate::notice::{Notice, OnFatal, OnNotice};
use crate::reader::LogReader;
use crate::segments::full_segments::{FullSegment, FullSegments};
use crate::types::{LogId, RaftIndex};
use crate::wal::pruner::Pruner;

/// How often to look whether there is something to do, if nobody says so.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long to rest after the whole archive has been read through.
const REST: Duration = Duration::from_hours(1);

/// The thread's state.
pub(crate) struct Archiver {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) reader: LogReader,
    pub(crate) full_segments: FullSegments,
    pub(crate) pruner: Pruner,
    pub(crate) on_fatal: OnFatal,
    pub(crate) on_notice: OnNotice,
}

/// How far the archive has been read through.
#[derive(Default)]
struct Inspection {
    /// The last entry of the last file.
    last: Option<LogId>,
    /// When the next file is to be read.
    next: Option<Instant>,
}

/// Entries that can be sealed, and the last segment that is superfluous then.
struct Settled {
    first: RaftIndex,
    last: LogId,
    segment: FullSegment,
}

impl Archiver {
    /// Works until the log closes, or fails.
    pub(crate) fn run(self) {
        let (mut inspection, mut waits_for_room) = (Inspection::default(), false);
        while !self.full_segments.is_stopped() {
            match self.work() {
                Ok(()) => waits_for_room = false,
                // A checkpoint came from another machine, and the log goes on behind it.
                Err(LogError::NoLongerKept { .. }) => {}
                Err(LogError::Closed) => return,
                Err(error) if is_out_of_room(&error) => {
                    if !waits_for_room {
                        (self.on_notice)(Notice::NoRoomToSeal(error));
                    }
                    waits_for_room = true;
                }
                Err(error) => return (self.on_fatal)(error),
            }
            self.full_segments.wait_for_news(INTERVAL);
            if inspection.next.is_none_or(|next| next <= Instant::now()) {
                self.inspect(&mut inspection);
            }
        }
    }

    /// Reads the next file through. After the last one there is a rest.
    fn inspect(&self, inspection: &mut Inspection) {
        let files = self.reader.archive().sealed();
        let Some(file) = files.iter().find(|file| Some(file.footer.last) > inspection.last) else {
            *inspection = Inspection { last: None, next: Some(Instant::now() + REST) };
            return;
        };
        if let Err(error) = file.verify(|| self.full_segments.is_stopped()) {
            (self.on_notice)(Notice::Damaged(error));
        }
        let next = Some(Instant::now() + INTERVAL);
        *inspection = Inspection { last: Some(file.footer.last), next };
    }

    /// Does all that can be done now. What brings room comes first.
    fn work(&self) -> Result<(), LogError> {
        self.drop_oldest()?;
        while let Some(settled) = self.next_settled() {
            self.seal(&settled)?;
            self.let_go(settled.segment);
            self.drop_oldest()?;
        }
        Ok(())
    }

    /// Returns what is to be sealed next. Segments of which nothing is left to be
    /// sealed go at once.
    fn next_settled(&self) -> Option<Settled> {
        let committed = self.reader.state().committed?.index;
        let settled = committed.min(self.full_segments.covered().newest?);
        if !self.reader.goes_on_from_archive() {
            return None;
        }
        for segment in self.full_segments.all() {
            let tail = self.reader.tail();
            let first = tail.first();
            let Some((last, index)) = tail.last_in(segment.first_commit) else {
                drop(tail);
                self.let_go(segment);
                continue;
            };
            if last.index > settled {
                return None;
            }
            // A file is named by its commands. Entries without one wait for those
            // that follow.
            if index > tail.index_before_first() {
                return Some(Settled { first, last, segment });
            }
        }
        None
    }

    /// Seals entries, and lets the tail go of them.
    fn seal(&self, settled: &Settled) -> Result<(), LogError> {
        let archive = self.reader.archive();
        let _sealing = archive.sealing();
        let before = {
            let tail = self.reader.tail();
            if tail.first() != settled.first {
                // A checkpoint from another machine has come, and the log goes on behind it.
                return Ok(());
            }
            tail.index_before_first()
        };
        let from = archive.predecessor();
        let from = from.unwrap_or_else(|| Predecessor { before, ..Predecessor::default() });
        let sealed = self.write_sealed(settled, from).inspect_err(|_| {
            // A draft takes room that the log may need. That it cannot be removed
            // says less than why it could not be written.
            let _removed = self.disk.remove(&sealed::draft(archive.dir()));
        })?;
        let notice = Notice::Sealed {
            path: sealed.path.clone(),
            bytes: sealed.bytes,
            last: sealed.footer.index,
        };
        archive.push(sealed);
        self.reader.tail().release(settled.last);
        (self.on_notice)(notice);
        Ok(())
    }

    fn write_sealed(&self, settled: &Settled, from: Predecessor) -> Result<Sealed, LogError> {
        let mut file = SealedWriter::create(&*self.disk, self.reader.archive().dir(), from)?;
        for index in settled.first.0..=settled.last.index.0 {
            if self.full_segments.is_stopped() {
                return Err(LogError::Closed);
            }
            file.push(&self.reader.read_payload(RaftIndex(index))?)?;
        }
        file.finish()
    }

    fn let_go(&self, segment: FullSegment) {
        self.reader.close_segment(segment.first_commit);
        self.full_segments.release(segment);
    }

    /// Drops the oldest files while there are more than is wanted.
    fn drop_oldest(&self) -> Result<(), LogError> {
        let Some(covered) = self.full_segments.covered().all else { return Ok(()) };
        // What Raft has not forgotten it may still want to send to another machine.
        let Some(purged) = self.reader.tail().state().purged else { return Ok(()) };
        let superfluous = covered.min(purged.index);
        if !self.reader.goes_on_from_archive() {
            return Ok(());
        }
        let archive = self.reader.archive();
        let _sealing = archive.sealing();
        self.pruner.drop_excess(superfluous)
    }
}

fn is_out_of_room(error: &LogError) -> bool {
    let LogError::Io(error) = error else { return false };
    matches!(error.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::archive::retention::Retain;
    use crate::storage::{LogStorage as _, Write};
    use crate::testing::fixtures::{entry, options, wait_for_archiver, write};
    use crate::types::{Batch, Entry, LogTime, Payload, Vote};
    use crate::wal::Wal;
    use crate::wal::options::WalOptions;

    /// A log of so many entries, each in a commit of its own, five to a segment.
    fn filled(entries: u64) -> (TempDir, Wal) {
        let dir = TempDir::new().unwrap();
        let (wal, _) = Wal::open(&options(dir.path(), 1024)).unwrap();
        for index in 0..entries {
            write(&wal, Write::Append(vec![entry(index, 1, "v")])).unwrap();
        }
        (dir, wal)
    }

    /// The last entry that is sealed, once the archiver has looked.
    fn sealed(wal: &Wal) -> Option<RaftIndex> {
        wait_for_archiver(wal);
        wal.reader().last_archived().map(|id| id.index)
    }

    #[test]
    fn only_what_is_committed_is_sealed() {
        let (_dir, wal) = filled(20);
        wal.note_checkpoints(Some(RaftIndex(19)), None);
        assert_eq!(sealed(&wal), None);
        wal.note_committed(entry(11, 1, "").id);
        let last = sealed(&wal).unwrap();
        assert!((RaftIndex(3)..=RaftIndex(11)).contains(&last), "{last}");
    }

    #[test]
    fn only_what_is_in_a_checkpoint_is_sealed() {
        let (_dir, wal) = filled(20);
        wal.note_committed(entry(19, 1, "").id);
        assert_eq!(sealed(&wal), None);
        wal.note_checkpoints(Some(RaftIndex(11)), None);
        let last = sealed(&wal).unwrap();
        assert!((RaftIndex(3)..=RaftIndex(11)).contains(&last), "{last}");
    }

    #[test]
    fn segment_that_is_being_written_is_not_sealed() {
        let (_dir, wal) = filled(2);
        wal.note_committed(entry(1, 1, "").id);
        wal.note_checkpoints(Some(RaftIndex(1)), None);
        assert_eq!(sealed(&wal), None);
    }

    #[test]
    fn entries_without_a_command_are_not_sealed_alone() {
        let dir = TempDir::new().unwrap();
        let (wal, _) = Wal::open(&options(dir.path(), 1024)).unwrap();
        let blank = |index: u64| {
            let payload = Payload::Blank;
            Arc::new(Entry { id: entry(index, 1, "").id, payload })
        };
        for index in 0..20 {
            write(&wal, Write::Append(vec![blank(index)])).unwrap();
        }
        write(&wal, Write::Vote(Vote::default())).unwrap();
        wal.note_committed(blank(19).id);
        wal.note_checkpoints(Some(RaftIndex(19)), None);
        assert_eq!(sealed(&wal), None);
    }

    #[test]
    fn what_a_checkpoint_needs_after_it_is_not_dropped() {
        let dir = TempDir::new().unwrap();
        let options = WalOptions { retain: Retain::Bytes(0), ..options(dir.path(), 1024) };
        let (wal, _) = Wal::open(&options).unwrap();
        for index in 0..40 {
            write(&wal, Write::Append(vec![entry(index, 1, "v")])).unwrap();
        }
        wal.note_committed(entry(39, 1, "").id);
        write(&wal, Write::Purge { upto: entry(39, 1, "").id }).unwrap();
        wal.note_checkpoints(Some(RaftIndex(39)), None);
        sealed(&wal).unwrap();
        assert_eq!(wal.first(), RaftIndex(0));
        wal.note_checkpoints(Some(RaftIndex(39)), Some(RaftIndex(17)));
        wait_for_archiver(&wal);
        let first = wal.first();
        assert!((RaftIndex(1)..=RaftIndex(18)).contains(&first), "{first}");
        // All but the newest file, if nothing is needed.
        wal.note_checkpoints(Some(RaftIndex(39)), Some(RaftIndex(39)));
        wait_for_archiver(&wal);
        assert_eq!(wal.reader().archived().0, 1);
    }

    /// What is old by the logged time alone, for a clock has jumped, stays.
    #[test]
    fn only_what_was_written_long_ago_is_dropped_for_its_age() {
        let dir = TempDir::new().unwrap();
        let retain = Retain::Age(Duration::from_hours(30 * 24));
        let options = WalOptions { retain, ..options(dir.path(), 1024) };
        let (wal, _) = Wal::open(&options).unwrap();
        // All of it is from 1970, but for the last entry.
        let write_at = |index, time| {
            let mut last = (*entry(index, 1, "v")).clone();
            last.payload = Payload::Batch(Arc::new(Batch::new(time, Vec::new())));
            write(&wal, Write::Append(vec![Arc::new(last)])).unwrap();
        };
        for index in 0..40 {
            write(&wal, Write::Append(vec![entry(index, 1, "v")])).unwrap();
        }
        write_at(40, LogTime(1_800_000_000_000_000_000));
        let last = entry(40, 1, "").id;
        wal.note_committed(last);
        write(&wal, Write::Purge { upto: last }).unwrap();
        wal.note_checkpoints(Some(last.index), Some(last.index));
        wait_for_archiver(&wal);
        assert_eq!(wal.first(), RaftIndex(0));
        let files = wal.reader().archive().sealed();
        assert!(files.len() > 3, "{} files", files.len());
        for file in &files[..2] {
            let file = std::fs::File::options().write(true).open(&file.path).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        }
        wait_for_archiver(&wal);
        assert_eq!(wal.first(), files[2].footer.first);
    }
}
