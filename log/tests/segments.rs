//! A log of several segments: what it says when one of them is not as it was.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_log::{
    Entry, LogError, LogReader, LogStorage as _, RaftIndex, Recovered, Wal, WalOptions, Write,
};
use support::{limit, options, write};
use tempfile::TempDir;
use tokio_stream::StreamExt as _;

const ENTRIES: u64 = 44;

/// A value of one mebibyte, so that a segment is full after fifteen.
fn entry(index: u64) -> Arc<Entry> {
    support::entry(index, &format!("{index:02}").repeat(1 << 19))
}

fn open(dir: &Path) -> Result<(Wal, Recovered), LogError> {
    Wal::open(&WalOptions { segment_bytes: 16 << 20, ..options(dir) })
}

fn append(wal: &Wal, indices: Range<u64>) {
    for index in indices {
        write(wal, Write::Append(vec![entry(index)]));
    }
}

/// A closed log of three segments.
fn written() -> (TempDir, Vec<PathBuf>) {
    let dir = TempDir::new().unwrap();
    let (wal, _) = open(dir.path()).unwrap();
    append(&wal, 0..ENTRIES);
    wal.close().unwrap();
    let mut segments: Vec<_> =
        fs::read_dir(dir.path().join("wal")).unwrap().map(|file| file.unwrap().path()).collect();
    segments.retain(|path| !path.ends_with("witness"));
    segments.sort_by_key(|path| {
        path.to_str().unwrap().rsplit('-').next().unwrap().parse::<u64>().unwrap()
    });
    assert_eq!(segments.len(), 3, "{segments:?}");
    (dir, segments)
}

fn refused(dir: &TempDir) -> String {
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, LogError::Damage(_)), "{error}");
    error.to_string()
}

#[test]
fn reopened_log_is_whole_and_goes_on() {
    let (dir, _) = written();
    let (wal, recovered) = open(dir.path()).unwrap();
    assert_eq!((recovered.segments, recovered.torn), (3, None));
    append(&wal, ENTRIES..ENTRIES + 2);
    let all: Result<Vec<_>, _> = wal.reader().iter(RaftIndex(0)..RaftIndex(u64::MAX)).collect();
    assert_eq!(all.unwrap(), (0..ENTRIES + 2).map(entry).collect::<Vec<_>>());
}

#[tokio::test]
async fn stream_crosses_segments_and_the_live_tail() {
    limit::begin();
    let (dir, _) = written();
    let (wal, _) = open(dir.path()).unwrap();
    append(&wal, ENTRIES..ENTRIES + 1);
    let stream = wal.reader().read(RaftIndex(13)..RaftIndex(ENTRIES + 1));
    let read: Result<Vec<_>, _> = stream.collect().await;
    assert_eq!(read.unwrap(), (13..=ENTRIES).map(entry).collect::<Vec<_>>());
}

#[test]
fn reader_of_a_stopped_log_changes_nothing() {
    let (dir, segments) = written();
    let before: Vec<_> = segments.iter().map(|path| fs::read(path).unwrap()).collect();
    let mut frames = 0;
    let (reader, recovered) =
        LogReader::open(&dir.path().join("wal"), &dir.path().join("archive"), &mut |_| frames += 1)
            .unwrap();
    assert_eq!(recovered.frames, frames);
    assert_eq!(reader.iter(RaftIndex(0)..RaftIndex(u64::MAX)).count() as u64, ENTRIES);
    let after: Vec<_> = segments.iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(before, after);
}

#[test]
fn torn_commit_before_another_segment_is_refused() {
    let (dir, segments) = written();
    let bytes = fs::read(&segments[0]).unwrap();
    let length = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    fs::write(&segments[0], &bytes[..length - 100]).unwrap();
    let error = refused(&dir);
    assert!(
        error.contains("the log goes on in") && error.contains("entry r14, command #15"),
        "{error}"
    );
}

#[test]
fn torn_commit_before_a_segment_without_commits_is_cut_off() {
    let (dir, segments) = written();
    // As after a power failure between filling the one and the first commit of the
    // other.
    fs::remove_file(dir.path().join("wal/witness")).unwrap();
    fs::remove_file(&segments[2]).unwrap();
    let next: u64 = segments[2].to_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
    let bytes = fs::read(&segments[1]).unwrap();
    let length = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    fs::write(&segments[1], &bytes[..length - 100]).unwrap();
    fs::write(dir.path().join(format!("wal/wal-{next}")), &bytes[..9]).unwrap();
    let (wal, recovered) = open(dir.path()).unwrap();
    let last = wal.state().last.unwrap().index;
    assert_eq!((recovered.torn.is_some(), last), (true, RaftIndex(next - 4)));
    append(&wal, next - 3..next + 3);
    wal.close().unwrap();
    assert!(open(dir.path()).unwrap().1.torn.is_none());
}
