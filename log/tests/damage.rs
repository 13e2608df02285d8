//! The damage matrix: every byte of a small log cut off, zeroed and flipped.
//!
//! The law: a log with damage in it opens with fewer entries only if the damage
//! is in its last commit, and there is no high-water mark to tell that from a write which a
//! crash cut short; and then the loss is that one commit, and is reported.
//! Everything else refuses to open. No damage makes an entry that nobody wrote, and
//! none panics.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_log::{
    Entry, LogError, LogReader, LogStorage as _, Record, Retain, Term, Vote, Wal, WalOptions, Write,
};
use support::{NODE, eventually, options, write};
use tempfile::TempDir;

fn entry(index: u64) -> Arc<Entry> {
    support::entry(index, &format!("value {index}"))
}

/// A log of four commits behind its first: two entries, a vote, one entry, two
/// entries. Returns its bytes, where each commit begins, and its high-water mark.
fn log() -> (Vec<u8>, Vec<usize>, Vec<u8>) {
    let dir = TempDir::new().unwrap();
    let (wal, _) = Wal::open(&options(dir.path())).unwrap();
    let vote = Vote { term: Term(1), node: NODE, committed: true };
    for record in [
        Write::Append(vec![entry(0), entry(1)]),
        Write::Vote(vote),
        Write::Append(vec![entry(2)]),
        Write::Append(vec![entry(3), entry(4)]),
    ] {
        write(&wal, record);
    }
    wal.close().unwrap();
    let mut bytes = fs::read(dir.path().join("wal/wal-1")).unwrap();
    let length = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // okaywal allocates ahead; a little of it will do.
    bytes.truncate(length + 64);
    let starts: Vec<_> = (1..=5).map(|commit| commit_start(&bytes, commit)).collect();
    (bytes, starts, fs::read(dir.path().join("wal/witness")).unwrap())
}

/// Where okaywal's entry of this number begins: a marker, and the number.
fn commit_start(bytes: &[u8], commit: u8) -> usize {
    let marker = [1, commit, 0, 0, 0, 0, 0, 0, 0, 2];
    bytes.windows(marker.len()).position(|window| window == marker).unwrap()
}

/// What a log with these bytes opens with: its entries, and whether it reports a
/// torn tail.
fn open(dir: &Path, bytes: &[u8]) -> Result<(Vec<Entry>, bool), LogError> {
    let path: PathBuf = dir.join("wal-1");
    fs::write(path, bytes).unwrap();
    let mut entries = Vec::new();
    let (_, recovered) = LogReader::open(dir, &dir.join("archive"), &mut |visit| {
        if let Record::Entry(entry) = visit.record {
            entries.push(entry.clone());
        }
    })?;
    Ok((entries, recovered.torn.is_some()))
}

/// How many entries are whole in the first commits.
const ENTRIES: [usize; 6] = [0, 0, 2, 2, 3, 5];

struct Matrix {
    dir: TempDir,
    bytes: Vec<u8>,
    starts: Vec<usize>,
    /// Where the last commit ends.
    end: usize,
    high_water: Vec<u8>,
    has_high_water: bool,
}

impl Matrix {
    fn new() -> Self {
        let (bytes, starts, high_water) = log();
        let end = bytes.len() - 64;
        let dir = TempDir::new().unwrap();
        Self { dir, bytes, starts, end, high_water, has_high_water: false }
    }

    fn open(&self, bytes: &[u8]) -> Result<(Vec<Entry>, bool), LogError> {
        let opened = open(self.dir.path(), bytes);
        if let Ok((entries, _)) = &opened {
            let written = (0..5).map(entry);
            assert!(entries.iter().zip(written).all(|(found, written)| *found == *written));
        }
        opened
    }

    /// The number of whole commits before a byte.
    fn commits_before(&self, at: usize) -> usize {
        self.starts.iter().filter(|start| **start <= at).count().saturating_sub(1)
    }

    /// One byte has been changed.
    fn check_changed(&self, at: usize, bytes: &[u8]) {
        let in_last = (self.starts[4]..self.end).contains(&at) && !self.has_high_water;
        match self.open(bytes) {
            Ok((entries, torn)) if in_last => {
                assert_eq!((entries.len(), torn), (ENTRIES[4], true), "byte {at}");
            }
            Ok((entries, _)) => panic!("byte {at}: opened with {} entries", entries.len()),
            Err(LogError::Damage(damage)) => {
                let commits = self.commits_before(at);
                assert_eq!(damage.raft_index.0, ENTRIES[commits] as u64, "byte {at}: {damage}");
                assert!(damage.offset <= at as u64, "byte {at}: {damage}");
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
}

#[test]
fn whole_log_opens() {
    let matrix = Matrix::new();
    let (entries, torn) = matrix.open(&matrix.bytes).unwrap();
    assert_eq!((entries.len(), torn), (5, false));
}

#[test]
fn every_bit_flipped() {
    let matrix = Matrix::new();
    for at in 0..matrix.end {
        for bit in 0..8 {
            let mut bytes = matrix.bytes.clone();
            bytes[at] ^= 1 << bit;
            matrix.check_changed(at, &bytes);
        }
    }
}

/// With the high-water mark beside it, no change of a log opens at all.
#[test]
fn every_bit_flipped_before_a_high_water_mark() {
    let mut matrix = Matrix::new();
    fs::write(matrix.dir.path().join("witness"), &matrix.high_water).unwrap();
    matrix.has_high_water = true;
    assert!(matrix.open(&matrix.bytes).is_ok());
    for at in matrix.starts[4]..matrix.end {
        for bit in 0..8 {
            let mut bytes = matrix.bytes.clone();
            bytes[at] ^= 1 << bit;
            matrix.check_changed(at, &bytes);
        }
        assert!(matrix.open(&matrix.bytes[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn every_byte_zeroed() {
    let matrix = Matrix::new();
    for at in (0..matrix.end).filter(|at| matrix.bytes[*at] != 0) {
        let mut bytes = matrix.bytes.clone();
        bytes[at] = 0;
        matrix.check_changed(at, &bytes);
    }
}

/// A log that ends anywhere holds the commits that are whole up to there.
#[test]
fn cut_off_at_every_byte() {
    let matrix = Matrix::new();
    for at in matrix.starts[0]..matrix.end {
        let whole = matrix.starts.iter().filter(|start| **start <= at).count() - 1;
        let (entries, torn) = matrix.open(&matrix.bytes[..at]).unwrap();
        assert_eq!(entries.len(), ENTRIES[whole], "cut at {at}");
        assert_eq!(torn, !matrix.starts.contains(&at), "cut at {at}");
    }
}

/// The same with zeros in place of what is missing, as after a crash in a segment
/// that was allocated ahead.
#[test]
fn zeros_from_every_byte_on() {
    let matrix = Matrix::new();
    for at in matrix.starts[0]..matrix.end {
        let mut bytes = matrix.bytes.clone();
        bytes[at..].fill(0);
        let whole = matrix.starts.iter().filter(|start| **start <= at).count() - 1;
        let (entries, _) = matrix.open(&bytes).unwrap();
        assert_eq!(entries.len(), ENTRIES[whole], "zeros from {at}");
    }
}

/// Any four bytes in a row replaced by anything: nothing panics, and nothing is
/// believed that was not written.
#[test]
fn garbage_is_never_believed() {
    let matrix = Matrix::new();
    let mut state = 0x2013_u64;
    for at in 0..matrix.end - 4 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut bytes = matrix.bytes.clone();
        bytes[at..at + 4].copy_from_slice(&state.to_be_bytes()[..4]);
        // What it holds is checked where it opens.
        let _opened = matrix.open(&bytes);
    }
}

/// The sealed files of a log, oldest first.
fn sealed(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("archive")).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    files
}

/// A crash may have left a file that was to be removed: nobody needs it.
#[test]
fn damage_of_what_is_forgotten_stops_no_start() {
    let dir = TempDir::new().unwrap();
    let open = |retain| {
        let options = WalOptions { segment_bytes: 1024, retain, ..options(dir.path()) };
        Wal::open(&options).map(|(wal, _)| wal)
    };
    let wal = open(Retain::Forever).unwrap();
    for index in 0..40 {
        write(&wal, Write::Append(vec![entry(index)]));
    }
    let last = entry(39).id;
    write(&wal, Write::Purge { upto: last });
    wal.note_committed(last);
    wal.note_checkpoints(Some(last.index), None);
    eventually("some is sealed", || wal.reader().archived().0 > 2);
    wal.close().unwrap();
    let read = |path: PathBuf| (fs::read(&path).unwrap(), path);
    let mut before: Vec<_> = sealed(dir.path()).into_iter().map(read).collect();
    let wal = open(Retain::Bytes(0)).unwrap();
    wal.note_checkpoints(Some(last.index), Some(last.index));
    eventually("all but the newest is forgotten", || wal.reader().archived().0 == 1);
    wal.close().unwrap();
    let kept = sealed(dir.path());
    if before.iter().all(|(_, path)| *path != kept[0]) {
        // It has been sealed since.
        before.push(read(kept[0].clone()));
    }
    let put_back = |damaged: &Path| {
        for (bytes, path) in before.iter().filter(|(_, path)| path <= &kept[0]) {
            let mut bytes = bytes.clone();
            if path <= &damaged.to_owned() {
                *bytes.last_mut().unwrap() ^= 1;
            }
            fs::write(path, bytes).unwrap();
        }
    };
    let forgotten = before.iter().map(|(_, path)| path).filter(|path| **path < kept[0]);
    for damaged in forgotten {
        put_back(damaged);
        open(Retain::Bytes(0)).unwrap().close().unwrap();
        assert_eq!(sealed(dir.path()), kept, "what is forgotten is removed");
    }
    // What is kept is another matter.
    put_back(&kept[0]);
    assert!(matches!(open(Retain::Bytes(0)), Err(LogError::Damage(_))));
}
