//! A log opened by its path: what each kind of path gives, and what may happen to it meanwhile.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use etcd_log::{
    End, History, HistoryError, Index, LogError, LogStorage as _, LogTime, RaftIndex,
    RecordedBatch, RecordedEnd, Wal, WalOptions, Write,
};
use support::{entry, eventually, options, write};
use tempfile::TempDir;

const ENTRIES: u64 = 60;

/// A log that is open, with sealed files and segments behind them.
fn filled(dir: &Path) -> Wal {
    let (wal, _) = Wal::open(&WalOptions { segment_bytes: 2048, ..options(dir) }).unwrap();
    fill(&wal, 0..ENTRIES);
    wal.note_checkpoints(Some(RaftIndex(40)), None);
    eventually("there are sealed files", || wal.reader().archived().0 >= 3);
    wal
}

fn fill(wal: &Wal, entries: std::ops::Range<u64>) {
    for index in entries {
        write(wal, Write::Append(vec![entry(index, "v")]));
        wal.note_committed(entry(index, "v").id);
    }
}

/// The indices that a path gives, up to the first error.
fn read(path: &Path) -> (Vec<u64>, Result<(), HistoryError>) {
    let history = match History::open(path) {
        Ok(history) => history,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let mut indices = Vec::new();
    for batch in history {
        match batch {
            Ok(batch) => indices.push(batch.index.0),
            Err(error) => return (indices, Err(error)),
        }
    }
    (indices, Ok(()))
}

fn sealed(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("archive")).unwrap().map(|file| file.unwrap().path());
    let mut sealed: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "sealed")).collect();
    sealed.sort();
    sealed
}

#[test]
fn directory_gives_all_and_its_archive_what_is_settled() {
    let dir = TempDir::new().unwrap();
    filled(dir.path()).close().unwrap();
    let (all, ended) = read(dir.path());
    ended.unwrap();
    // Nothing says for certain that the very last one is committed.
    assert!(all.len() as u64 >= ENTRIES - 1, "{all:?}");
    assert!(all.iter().copied().eq(1..=all.len() as u64), "{all:?}");
    let (settled, ended) = read(&dir.path().join("archive"));
    ended.unwrap();
    assert!(settled.len() >= 10 && settled.len() < all.len(), "{settled:?}");
    assert_eq!(settled, all[..settled.len()]);
    // So does a copy of it, wherever that begins.
    fs::remove_dir_all(dir.path().join("wal")).unwrap();
    fs::remove_file(&sealed(dir.path())[0]).unwrap();
    let (later, ended) = read(dir.path());
    ended.unwrap();
    assert!(later[0] > 1 && settled.ends_with(&later), "{later:?} of {settled:?}");
}

/// Whoever reads the archive meanwhile sees no draft, no half of a file, and no gap.
#[test]
fn archive_is_read_while_it_grows() {
    let dir = TempDir::new().unwrap();
    let wal = filled(dir.path());
    let archive = dir.path().join("archive");
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for round in 1..6 {
                let entries = round * ENTRIES..(round + 1) * ENTRIES;
                fill(&wal, entries.clone());
                wal.note_checkpoints(Some(RaftIndex(entries.end - 1)), None);
            }
        });
        let mut most = 0;
        let mut is_over = false;
        while !is_over {
            is_over = writing.is_finished();
            let (indices, ended) = read(&archive);
            ended.unwrap();
            assert!(indices.iter().copied().eq(1..=indices.len() as u64), "{indices:?}");
            assert!(indices.len() >= most);
            most = indices.len();
        }
    });
    wal.close().unwrap();
}

#[test]
fn directory_is_refused_while_a_machine_runs_there() {
    let dir = TempDir::new().unwrap();
    filled(dir.path()).close().unwrap();
    let lock = File::create(dir.path().join("LOCK")).unwrap();
    lock.lock().unwrap();
    let refused = read(dir.path()).1.unwrap_err();
    assert!(matches!(&refused, HistoryError::InUse(path) if path == dir.path()), "{refused}");
    read(&dir.path().join("archive")).1.unwrap();
    lock.unlock().unwrap();
    // And a machine does not start while somebody reads; any number may.
    let (first, second) = (History::open(dir.path()).unwrap(), History::open(dir.path()).unwrap());
    assert!(lock.try_lock().is_err());
    drop((first, second));
    lock.try_lock().unwrap();
}

/// What is acknowledged lies behind what is sealed: without its segments, a machine's
/// directory is not taken for a copy of an archive.
#[test]
fn machine_that_has_lost_its_segments_is_no_archive() {
    let dir = TempDir::new().unwrap();
    filled(dir.path()).close().unwrap();
    fs::write(dir.path().join("node.json"), "{}").unwrap();
    for file in fs::read_dir(dir.path().join("wal")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    let missing = |read: Result<(), HistoryError>| {
        assert!(matches!(read, Err(HistoryError::Log(LogError::Missing(_)))), "{read:?}");
    };
    missing(read(dir.path()).1);
    fs::remove_dir(dir.path().join("wal")).unwrap();
    missing(read(dir.path()).1);
    // What is no machine's is a copy, if there is something in it.
    fs::remove_file(dir.path().join("node.json")).unwrap();
    assert!(!read(dir.path()).0.is_empty());
    for file in sealed(dir.path()) {
        fs::remove_file(file).unwrap();
    }
    assert!(matches!(read(dir.path()).1, Err(HistoryError::Nothing(_))));
}

#[test]
fn file_that_is_dropped_meanwhile_leaves_no_gap() {
    let dir = TempDir::new().unwrap();
    filled(dir.path()).close().unwrap();
    let archive = dir.path().join("archive");
    let mut batches = History::open(&archive).unwrap().into_iter();
    assert_eq!(batches.next().unwrap().unwrap().index, Index(1));
    // What was opened can be read on. The others were dropped.
    for path in sealed(dir.path()) {
        fs::remove_file(path).unwrap();
    }
    let mut next = Index(2);
    let error = loop {
        match batches.next().expect("it ends with an error") {
            Ok(batch) => assert_eq!(batch.index, next),
            Err(error) => break error,
        }
        next = next.next();
    };
    assert!(matches!(error, HistoryError::Dropped(_)), "{error}");
    assert!(batches.next().is_none());
    assert!(matches!(read(&archive).1, Err(HistoryError::Nothing(_))));
}

#[test]
fn recording_gives_the_same_and_is_whole_or_said_not_to_be() {
    let dir = TempDir::new().unwrap();
    filled(dir.path()).close().unwrap();
    let batches: Vec<_> =
        History::open(dir.path()).unwrap().into_iter().map(Result::unwrap).collect();
    let line = |batch: &etcd_log::IndexedBatch| {
        serde_json::to_string(&RecordedBatch::new(batch.index, &batch.batch)).unwrap()
    };
    let mut lines: Vec<_> = batches.iter().map(line).collect();
    let last = Index(batches.len() as u64);
    let end = End { index: last, time: LogTime(0), digest: None };
    lines.push(serde_json::to_string(&RecordedEnd { end }).unwrap());
    let path = dir.path().join("log.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    let mut recorded = History::open(&path).unwrap().into_iter();
    let same = recorded.by_ref().map(Result::unwrap).zip(&batches);
    assert!(same.into_iter().all(|(found, batch)| found.index == batch.index
        && found.batch == batch.batch
        && found.entry.is_none()));
    assert_eq!(recorded.end(), Some(end));
    // Cut off between two lines, which nothing but the missing end can tell.
    fs::write(&path, lines[..5].join("\n")).unwrap();
    let (indices, ended) = read(&path);
    assert!(matches!(ended, Err(HistoryError::NoEnd { last: Index(5), .. })), "{ended:?}");
    assert_eq!(indices, [1, 2, 3, 4, 5]);
    assert_eq!(
        History::open(&path).unwrap().without_end().into_iter().map(Result::unwrap).count(),
        5
    );
    assert!(matches!(read(Path::new("/nowhere/at/all")).1, Err(HistoryError::Log(_))));
}
