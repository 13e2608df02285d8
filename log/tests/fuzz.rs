//! Any bytes at all in the place of a segment, a sealed file or a recorded log:
//! nothing panics, nothing is believed that was not written, and no more memory is
//! asked for than the file is long, by some factor that does not depend on what it
//! says.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use etcd_log::{
    LogError, LogReader, LogStorage as _, RaftIndex, RecordedBatch, Wal, WalOptions, Write,
};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use support::{entry, eventually, open_to_read, options, write};
use tempfile::TempDir;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Memory is counted for the whole process, so the tests take turns.
static TURN: Mutex<()> = Mutex::new(());

/// What a reader may take whatever it reads: buffers, messages, what proptest has.
const ALLOWANCE: usize = 2 << 20;

/// A log whose first entries are sealed.
fn written() -> TempDir {
    let dir = TempDir::new().unwrap();
    let options = WalOptions { segment_bytes: 2048, ..options(dir.path()) };
    let (wal, _) = Wal::open(&options).unwrap();
    for index in 0..30 {
        write(&wal, Write::Append(vec![entry(index, "value")]));
    }
    wal.note_committed(entry(29, "").id);
    wal.note_checkpoints(Some(RaftIndex(29)), None);
    eventually("two sealed files", || wal.reader().archived().0 == 2);
    wal.close().unwrap();
    dir
}

/// The newest segment.
fn newest_segment(dir: &Path) -> PathBuf {
    let number = |path: &PathBuf| -> Option<u64> {
        path.file_name()?.to_str()?.strip_prefix("wal-")?.parse().ok()
    };
    files(dir, "wal").into_iter().filter(|path| number(path).is_some()).max_by_key(number).unwrap()
}

/// The newest sealed file.
fn newest_sealed(dir: &Path) -> PathBuf {
    files(dir, "archive").into_iter().max().unwrap()
}

fn files(dir: &Path, name: &str) -> Vec<PathBuf> {
    fs::read_dir(dir.join(name)).unwrap().map(|file| file.unwrap().path()).collect()
}

/// Opens and reads all there is, within bounds.
fn read_within_bounds(dir: &Path, length: usize) -> Result<usize, LogError> {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let read = || {
        let (reader, _) = open_to_read(dir)?;
        reader.verify_archive()?;
        let all = reader.iter(reader.first()..RaftIndex(u64::MAX));
        let mut count = 0;
        for read in all {
            let read = read?;
            assert_eq!(read, entry(read.id.index.0, "value"));
            count += 1;
        }
        Ok(count)
    };
    let result = read();
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(taken < ALLOWANCE + 20 * length, "{taken} bytes for a file of {length}");
    result
}

/// Changes to a file: at some places, other bytes, or none.
fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, Vec<u8>, usize)>> {
    let change =
        (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..20), 0..30_usize);
    prop::collection::vec(change, 1..4)
}

fn changed(bytes: &[u8], changes: &[(prop::sample::Index, Vec<u8>, usize)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, put, take) in changes {
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + take);
        bytes.splice(at..end, put.iter().copied());
    }
    bytes
}

fn turn() -> std::sync::MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn any_change_of_a_segment_is_judged() {
    let _turn = turn();
    let dir = written();
    let path = newest_segment(dir.path());
    let whole = fs::read(&path).unwrap();
    proptest!(|(changes in changes())| {
        let bytes = changed(&whole, &changes);
        fs::write(&path, &bytes).unwrap();
        // The high-water mark knows how much there was.
        if let Ok(count) = read_within_bounds(dir.path(), bytes.len()) {
            prop_assert_eq!(count, 30);
        }
    });
}

#[test]
fn any_change_of_a_sealed_file_is_judged() {
    let _turn = turn();
    let dir = written();
    let path = newest_sealed(dir.path());
    let whole = fs::read(&path).unwrap();
    proptest!(|(changes in changes())| {
        let bytes = changed(&whole, &changes);
        fs::write(&path, &bytes).unwrap();
        let read = read_within_bounds(dir.path(), bytes.len());
        prop_assert!(bytes == whole || read.is_err());
    });
}

#[test]
fn any_bytes_in_the_place_of_a_file_are_judged() {
    let _turn = turn();
    let bytes = prop::collection::vec(any::<u8>(), 0..600);
    proptest!(|(bytes in bytes, sealed in any::<bool>(), headed in any::<bool>())| {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("wal")).unwrap();
        fs::create_dir_all(dir.path().join("archive")).unwrap();
        let (name, head) = if sealed {
            ("archive/00000000000000000001-00000000000000000009.sealed", &b"etcdseal\x01\0\0\0\0\0\0\0"[..])
        } else {
            ("wal/wal-1", &b"okw\0\x04etcd"[..])
        };
        let bytes = if headed { [head, &bytes].concat() } else { bytes };
        fs::write(dir.path().join(name), &bytes).unwrap();
        if let Ok(count) = read_within_bounds(dir.path(), bytes.len()) {
            prop_assert_eq!(count, 0);
        }
    });
}

/// A length that is a lie is not believed: it is held against the file first.
#[test]
fn lengths_that_lie_take_no_memory() {
    let _turn = turn();
    let dir = written();
    let (segment, sealed) = (newest_segment(dir.path()), newest_sealed(dir.path()));
    for (path, at) in [(segment, vec![19, 31]), (sealed, vec![usize::MAX])] {
        let whole = fs::read(&path).unwrap();
        for at in at {
            let mut bytes = whole.clone();
            let at = at.min(bytes.len() - 28);
            bytes[at..at + 4].copy_from_slice(&(u32::MAX / 2).to_le_bytes());
            fs::write(&path, &bytes).unwrap();
            assert!(read_within_bounds(dir.path(), bytes.len()).is_err());
        }
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(read_within_bounds(dir.path(), 4096).unwrap(), 30);
}

#[test]
fn any_text_as_a_recorded_log_is_judged() {
    let _turn = turn();
    let line = r#"{"index":1,"time":"2026-11-22T10:00:00.000000000Z","commands":[{"set":{"key":"/a","value":"b"}}]}"#;
    proptest!(|(changes in changes())| {
        let bytes = changed(line.as_bytes(), &changes);
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let _judged = RecordedBatch::read_all(&bytes[..]);
        let taken = MEMORY.peak_usage().saturating_sub(before);
        prop_assert!(taken < ALLOWANCE + 20 * bytes.len(), "{taken}");
    });
}

/// Reading a log takes a chunk of it and no more, however long it is.
#[test]
fn reading_takes_bounded_memory() {
    let _turn = turn();
    let dir = TempDir::new().unwrap();
    let options = WalOptions { segment_bytes: 16 << 20, ..options(dir.path()) };
    let (wal, _) = Wal::open(&options).unwrap();
    let value = "v".repeat(1 << 20);
    for index in 0..40 {
        write(&wal, Write::Append(vec![entry(index, &value)]));
    }
    wal.note_committed(entry(39, "").id);
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    wal.note_checkpoints(Some(RaftIndex(39)), None);
    eventually("two sealed files", || wal.reader().archived().0 == 2);
    let reader: LogReader = wal.reader();
    assert_eq!(reader.iter(RaftIndex(0)..RaftIndex(u64::MAX)).count(), 40);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(taken < 16 << 20, "{taken} bytes to seal and read 40 MiB");
}
