//! One test for each way in which okaywal loses data or stops: that the guard
//! against it holds.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};

use tempfile::TempDir;

use crate::disk::real::RealDisk;
use crate::disk::{Disk, DiskFile, SegmentSize, Segments};
use crate::error::LogError;
use crate::segments::full_segments::FullSegments;
use crate::segments::segment;
use crate::storage::{LogStorage as _, Write};
use crate::testing::fixtures::{entry, eventually, options, write};
use crate::testing::limit;
use crate::testing::simulated_disk::{DiskOp, RecordingDisk};
use crate::types::RaftIndex;
use crate::wal::Wal;
use crate::wal::options::WalOptions;

/// The value of most entries.
fn value() -> String {
    "v".repeat(100)
}

/// Appends entries, each with a commit of its own.
fn append(wal: &Wal, indices: std::ops::Range<u64>) {
    for index in indices {
        write(wal, Write::Append(vec![entry(index, 1, &value())])).unwrap();
    }
}

/// A closed log of so many entries.
fn written(segment_bytes: u32, entries: u64) -> TempDir {
    let dir = TempDir::new().unwrap();
    let (wal, _) = Wal::open(&options(dir.path(), segment_bytes)).unwrap();
    append(&wal, 0..entries);
    wal.close().unwrap();
    dir
}

/// Opens a log and returns how many entries it has; each is checked.
fn entries(dir: &Path) -> Result<u64, LogError> {
    let (wal, _) = Wal::open(&options(dir, 2048))?;
    let mut count = 0;
    for read in wal.reader().iter(RaftIndex(0)..RaftIndex(u64::MAX)) {
        assert_eq!(read?, entry(count, 1, &value()));
        count += 1;
    }
    wal.close()?;
    Ok(count)
}

fn newest_segment(dir: &Path) -> PathBuf {
    segment::list(&dir.join("wal")).unwrap().segments.pop().unwrap().path
}

fn overwrite(path: &Path, bytes: &[u8], at: u64) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn flipped_marker_hides_no_later_entry() {
    let dir = written(64 << 10, 3);
    // okaywal would take the first commit's broken marker for the end of the file.
    overwrite(&newest_segment(dir.path()), &[0], segment::FILE_HEADER as u64);
    assert!(matches!(entries(dir.path()), Err(LogError::Damage(_))));
}

#[test]
fn torn_tail_does_not_keep_a_log_from_opening() {
    let dir = written(64 << 10, 3);
    let path = newest_segment(dir.path());
    let length = segment::length_without_zeros(&fs::read(&path).unwrap());
    fs::remove_file(dir.path().join("wal/witness")).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(length as u64 - 1).unwrap();
    // The last commit takes the note along that entries are committed, or it is the
    // last entry's own.
    let whole = entries(dir.path()).unwrap();
    assert_eq!(whole, 2);
    assert_eq!(entries(dir.path()).unwrap(), whole);
}

#[test]
fn recycled_segment_does_not_give_its_old_frames_back() {
    let dir = written(2048, 30);
    let (wal, _) = Wal::open(&options(dir.path(), 2048)).unwrap();
    wal.note_committed(entry(29, 1, "").id);
    wal.note_checkpoints(Some(RaftIndex(29)), None);
    let spare = || segment::list(&dir.path().join("wal")).unwrap().spare;
    eventually("segments are let go", || spare().len() >= 2);
    let inodes: Vec<_> = spare().iter().map(|path| fs::metadata(path).unwrap().ino()).collect();
    let is_reused = || {
        let newest = fs::metadata(newest_segment(dir.path())).unwrap();
        inodes.contains(&newest.ino())
    };
    let mut next = 30;
    while !is_reused() || fs::read(newest_segment(dir.path())).unwrap().len() < 400 {
        append(&wal, next..next + 1);
        next += 1;
    }
    // Only the beginning of it is new.
    append(&wal, next..next + 2);
    wal.close().unwrap();
    assert_eq!(entries(dir.path()).unwrap(), next + 2);
}

#[test]
fn value_that_imitates_a_frame_is_only_text() {
    let dir = written(64 << 10, 1);
    let bytes = fs::read(newest_segment(dir.path())).unwrap();
    let imitation = String::from_utf8_lossy(&bytes[..400]).into_owned();
    let (wal, _) = Wal::open(&options(dir.path(), 64 << 10)).unwrap();
    wal.write(Write::Append(vec![entry(1, 1, &imitation)]), Box::new(drop));
    wal.close().unwrap();
    let (wal, _) = Wal::open(&options(dir.path(), 64 << 10)).unwrap();
    assert_eq!(wal.entries(RaftIndex(1)..RaftIndex(2), 0).unwrap(), [entry(1, 1, &imitation)]);
}

#[test]
fn commit_is_one_chunk_however_large() {
    let dir = TempDir::new().unwrap();
    let (wal, _) = Wal::open(&options(dir.path(), 8 << 20)).unwrap();
    wal.write(Write::Append(vec![entry(0, 1, &"v".repeat(3 << 20))]), Box::new(drop));
    wal.close().unwrap();
    let bytes = fs::read(newest_segment(dir.path())).unwrap();
    let mut at = segment::FILE_HEADER;
    for number in 1..=2 {
        // It is read as one chunk with its end right behind, or not at all.
        at = segment::read_commit(&bytes, at, number).unwrap().end;
    }
    assert!(at > 3 << 20);
}

#[test]
fn newest_segment_empty_or_zero_is_removed() {
    for zeros in [0, 9, 4096] {
        let dir = written(64 << 10, 3);
        let last = crate::recovery::scan::scan(&dir.path().join("wal"), 0, None).unwrap().commit;
        let next = segment::path(&dir.path().join("wal"), last + 1);
        fs::write(&next, vec![0; zeros]).unwrap();
        assert_eq!(entries(dir.path()).unwrap(), 3, "{zeros} bytes");
        assert!(!next.exists(), "{zeros} bytes");
    }
}

#[test]
fn rollback_is_never_called() {
    let source = include_str!("../disk/okaywal.rs");
    assert!(!source.contains(".rollback("));
    // Dropping a writer rolls back as well.
    assert!(source.contains("ManuallyDrop::new(entry)"));
}

/// A disk that fails when it is told to.
#[derive(Debug)]
struct FailingDisk {
    from_commit: u64,
}

struct FailingSegments {
    segments: Box<dyn Segments>,
    from_commit: u64,
}

impl Segments for FailingSegments {
    fn commit(&mut self, number: u64, frames: &[u8]) -> std::io::Result<(u64, u64)> {
        if number >= self.from_commit {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        self.segments.commit(number, frames)
    }

    fn close(self: Box<Self>) {
        self.segments.close();
    }
}

impl Disk for FailingDisk {
    fn create(&self, path: &Path) -> std::io::Result<Box<dyn DiskFile>> {
        RealDisk.create(path)
    }

    fn open(&self, path: &Path) -> std::io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn segments(
        &self,
        dir: &Path,
        size: SegmentSize,
        full_segments: FullSegments,
    ) -> std::io::Result<Box<dyn Segments>> {
        let segments = RealDisk.segments(dir, size, full_segments)?;
        Ok(Box::new(FailingSegments { segments, from_commit: self.from_commit }))
    }
}

#[test]
fn failed_fsync_ends_the_log_and_acknowledges_nothing() {
    let dir = TempDir::new().unwrap();
    let failure = Arc::new(Mutex::new(None));
    let failed = Arc::clone(&failure);
    let on_fatal = Arc::new(move |error: LogError| *failed.lock().unwrap() = Some(error));
    let options = WalOptions { on_fatal, ..options(dir.path(), 64 << 10) };
    let (wal, _) = Wal::open_on(&Arc::new(FailingDisk { from_commit: 3 }), &options).unwrap();
    append(&wal, 0..1);
    let (sender, done) = mpsc::channel();
    for index in 1..4 {
        let sender = sender.clone();
        let write = Write::Append(vec![entry(index, 1, "v")]);
        wal.write(write, Box::new(move |result| drop(sender.send(result))));
    }
    drop(sender);
    // Those that were under way hear nothing, those that came later that it is over.
    while let Ok(result) = done.recv() {
        assert!(matches!(result, Err(LogError::Closed)), "{result:?}");
    }
    let failure = failure.lock().unwrap().take().unwrap();
    assert!(failure.to_string().starts_with("cannot write and sync"), "{failure}");
}

#[test]
fn recycled_name_is_durable_before_anything_in_it_is_acknowledged() {
    let dir = TempDir::new().unwrap();
    let disk = Arc::new(RecordingDisk::default());
    let (wal, _) = Wal::open_on(&disk, &options(dir.path(), 2048)).unwrap();
    append(&wal, 0..30);
    wal.note_committed(entry(29, 1, "").id);
    wal.note_checkpoints(Some(RaftIndex(29)), None);
    let spare = || !segment::list(&dir.path().join("wal")).unwrap().spare.is_empty();
    eventually("a segment is let go", spare);
    for index in 30..60 {
        append(&wal, index..index + 1);
        disk.acknowledge(usize::try_from(index).unwrap());
    }
    let steps = disk.steps();
    let is_reuse = |step: &DiskOp| matches!(step, DiskOp::Rename(from, _) if from.to_string_lossy().ends_with("-cp"));
    let mut reused = 0;
    for at in (0..steps.len()).filter(|at| is_reuse(&steps[*at])) {
        // What fills a segment makes the next one. The first commit there is synced,
        // and then its name, before anybody hears of it.
        let DiskOp::Rename(_, to) = &steps[at] else { unreachable!() };
        let rest = &steps[at..];
        let written = rest.iter().position(|step| matches!(step, DiskOp::Sync(path) if path == to));
        let Some(written) = written else { continue };
        let rest = &rest[written..];
        let is_named =
            |step: &DiskOp| matches!(step, DiskOp::SyncDir(path) if path.ends_with("wal"));
        let named = rest.iter().position(is_named).expect("its name is synced");
        let told = rest.iter().position(|step| matches!(step, DiskOp::Acknowledged(_)));
        assert!(told.is_none_or(|told| named < told), "{named} {told:?}");
        reused += 1;
    }
    assert!(reused > 0);
}

#[test]
fn recovered_pages_are_synced_before_anything_is_built_on_them() {
    let dir = written(64 << 10, 3);
    let disk = Arc::new(RecordingDisk::default());
    let newest = newest_segment(dir.path());
    let (wal, _) = Wal::open_on(&disk, &options(dir.path(), 64 << 10)).unwrap();
    append(&wal, 3..4);
    let steps = disk.steps();
    let first = |wanted: &dyn Fn(&DiskOp) -> bool| steps.iter().position(wanted).unwrap();
    let synced = first(&|step| matches!(step, DiskOp::Sync(path) if *path == newest));
    let named = first(&|step| matches!(step, DiskOp::SyncDir(path) if path.ends_with("wal")));
    let written = first(&|step| matches!(step, DiskOp::Write(path, ..) if *path == newest));
    assert!(synced < written && named < written, "{synced} {named} {written}");
}

#[test]
fn checkpoint_active_is_never_called() {
    assert!(!include_str!("../disk/okaywal.rs").contains("checkpoint_active"));
}

#[test]
fn checkpoint_to_fails_only_when_the_log_closes() {
    limit::begin();
    let full_segments = FullSegments::default();
    let (waiting, (sender, released)) = (full_segments.clone(), mpsc::channel());
    let waiter = std::thread::spawn(move || sender.send(waiting.wait_until_released(5)));
    full_segments.stop();
    // The archiver's end is not the log's.
    let while_stopped = released.recv_timeout(std::time::Duration::from_millis(50));
    assert_eq!(while_stopped, Err(mpsc::RecvTimeoutError::Timeout));
    full_segments.close();
    assert_eq!(released.recv(), Ok(false));
    waiter.join().unwrap().unwrap();
}

#[test]
fn writers_go_on_while_checkpoint_to_waits() {
    // Without a checkpoint no segment is let go, and okaywal's thread waits for the
    // first one all the time.
    let dir = written(2048, 100);
    assert!(segment::list(&dir.path().join("wal")).unwrap().segments.len() > 5);
    assert_eq!(entries(dir.path()).unwrap(), 100);
}

/// In one segment that okaywal has filled, and in the next, there is as much as was
/// allocated: a stall of some 6 ms, and not of 50.
#[test]
fn segment_is_no_longer_than_it_takes_to_make_one_without_a_stall() {
    let dir = TempDir::new().unwrap();
    let (wal, _) = Wal::open(&options(dir.path(), WalOptions::SEGMENT_BYTES)).unwrap();
    wal.close().unwrap();
    let length = fs::metadata(newest_segment(dir.path())).unwrap().len();
    assert_eq!(length, 8 << 20);
}
