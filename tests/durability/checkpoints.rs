//! Checkpoints of a real process: written while it runs, used at its start and by
//! old watches, skipped when damaged, and never believed over the log.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use etcd::storage::checkpoint::Checkpoint;
use etcd_projections::{SnapshotItem, State};
use tempfile::TempDir;

use crate::divergence::newest;
use crate::support::{Server, etcd, eventually, last_fault};

const ARGS: [&str; 8] = ["-c", "0", "-s", "0", "-m", "10", "--checkpoint-bytes", "20000"];

fn checkpoints(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir.join("checkpoints")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "checkpoint"))
        .collect();
    paths.sort();
    paths
}

/// A stopped machine with a few checkpoints behind it.
fn stopped() -> TempDir {
    let dir = TempDir::new().unwrap();
    let server = Server::start_with(dir.path(), &ARGS);
    let value = "v".repeat(500);
    for number in 0..200 {
        server.post(&format!("/v1/keys/k/{number}"), &[("value", &value), ("ttl", "10000")]);
    }
    eventually("three checkpoints", || checkpoints(dir.path()).len() >= 3);
    assert!(server.stop("-TERM").0.success());
    dir
}

fn verify(dir: &Path) -> (bool, String) {
    let output = etcd(&["log", "verify", "-d"]).arg(dir).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn start_refused(dir: &Path) -> String {
    last_fault(&[&ARGS[..], &["-d", dir.to_str().unwrap()]].concat())
}

/// Changes one byte of a file.
fn spoil(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

/// Whoever began with it would do twice what was asked for once.
#[test]
fn checkpoint_that_has_forgotten_a_request_is_found_by_verify() {
    let dir = TempDir::new().unwrap();
    let server = Server::start_with(dir.path(), &ARGS);
    server.ask("PUT", "/v1/keys/once?value=x", &[("x-request-id", "job-1")]);
    let value = "v".repeat(500);
    for number in 0..100 {
        server.post(&format!("/v1/keys/k/{number}"), &[("value", &value)]);
    }
    eventually("a checkpoint", || !checkpoints(dir.path()).is_empty());
    assert!(server.stop("-TERM").0.success());
    assert!(verify(dir.path()).0);
    let (store, Checkpoint { applied, membership, state }) = newest(dir.path()).unwrap();
    let is_kept = |item: &SnapshotItem| !matches!(item, SnapshotItem::Request(_));
    let items: Vec<_> = state.snapshot_items().filter(is_kept).collect();
    let mut header = state.snapshot_header();
    assert_eq!(std::mem::take(&mut header.requests), 1);
    let state = State::from_snapshot(&header, items, 1000).unwrap();
    store.write(&Checkpoint { applied, membership, state }).unwrap();
    let (good, text) = verify(dir.path());
    assert!(!good && text.contains("none") && text.contains("job-1 by #3"), "{text}");
}

#[test]
fn start_goes_on_from_the_newest() {
    let dir = stopped();
    let (good, text) = verify(dir.path());
    let expected = format!("; {} checkpoints", checkpoints(dir.path()).len());
    assert!(good && text.contains(&expected), "{text}");
    let server = Server::start_with(dir.path(), &ARGS);
    assert!(
        server.announced.iter().any(|line| line.contains("from checkpoint #")),
        "{:?}",
        server.announced
    );
    for number in [0, 100, 199] {
        assert_eq!(server.get(&format!("/v1/keys/k/{number}")).status, 200);
    }
    // Old watches start from a checkpoint, or from the beginning before the oldest.
    for index in [3, 50, 120, 190] {
        let body = server.get(&format!("/v1/watch/k?index={index}")).body;
        assert!(body.contains(&format!(r#""key":"/k/{}""#, index - 3)), "{body}");
    }
}

#[test]
fn damaged_ones_are_skipped_and_found_by_verify() {
    let dir = stopped();
    let paths = checkpoints(dir.path());
    let newest = paths.len() - 1;
    spoil(&paths[newest], 0);
    spoil(&paths[newest - 1], 500);
    let (good, text) = verify(dir.path());
    assert!(!good && text.contains("hash is"), "{text}");
    let server = Server::start_with(dir.path(), &ARGS);
    let skipped =
        server.announced.iter().filter(|line| line.contains("checkpoint skipped")).count();
    assert_eq!(skipped, 2, "{:?}", server.announced);
    assert_eq!(server.get("/v1/keys/k/199").status, 200);
}

#[test]
fn without_any_the_log_is_enough() {
    let dir = stopped();
    let (_, with) = verify(dir.path());
    fs::remove_dir_all(dir.path().join("checkpoints")).unwrap();
    let (good, without) = verify(dir.path());
    assert!(good && without.contains("; 0 checkpoints"), "{without}");
    assert_eq!(with.lines().last(), without.lines().last(), "the digest is the log's");
    let server = Server::start_with(dir.path(), &ARGS);
    assert_eq!(server.get("/v1/keys/k/199").status, 200);
}

#[test]
fn log_that_is_gone_is_not_started_anew() {
    let dir = stopped();
    fs::remove_dir_all(dir.path().join("wal")).unwrap();
    for with_checkpoints in [true, true, false, false] {
        if !with_checkpoints {
            fs::remove_dir_all(dir.path().join("checkpoints")).unwrap_or_default();
        }
        let line = start_refused(dir.path());
        assert!(line.contains("the segments are missing, and with them"), "{line}");
    }
    assert!(!dir.path().join("wal").exists());
}

#[test]
fn data_without_an_owner_is_refused() {
    for left in ["wal", "checkpoints"] {
        let dir = stopped();
        fs::remove_file(dir.path().join("node.json")).unwrap();
        let gone = if left == "wal" { "checkpoints" } else { "wal" };
        fs::remove_dir_all(dir.path().join(gone)).unwrap();
        for _ in 0..2 {
            let line = start_refused(dir.path());
            let expected = format!("{left}: there is data, but no node.json to say whose");
            assert!(line.contains(&expected), "{line}");
        }
    }
}

#[test]
fn log_shorter_than_a_checkpoint_is_refused() {
    let dir = stopped();
    let segment = dir.path().join("wal/wal-1");
    let bytes = fs::read(&segment).unwrap();
    // A log from an earlier day: whole, but without its later part.
    let other = TempDir::new().unwrap();
    let server = Server::start_with(other.path(), &ARGS);
    server.post("/v1/keys/a", &[("value", "x")]);
    server.stop("-TERM");
    let high_water = dir.path().join("wal/witness");
    let mark = fs::read(&high_water).unwrap();
    fs::copy(other.path().join("wal/wal-1"), &segment).unwrap();
    let line = start_refused(dir.path());
    assert!(line.contains("was acknowledged"), "{line}");
    fs::copy(other.path().join("wal/witness"), &high_water).unwrap();
    fs::copy(other.path().join("node.json"), dir.path().join("node.json")).unwrap();
    let line = start_refused(dir.path());
    assert!(line.contains("entries are missing"), "{line}");
    // And one that is as long, but another.
    fs::write(&segment, &bytes).unwrap();
    fs::write(&high_water, mark).unwrap();
    let theirs = checkpoints(dir.path()).pop().unwrap();
    let second = stopped();
    let ours = checkpoints(second.path()).pop().unwrap();
    fs::remove_file(&ours).unwrap();
    fs::copy(&theirs, ours.with_file_name(theirs.file_name().unwrap())).unwrap();
    let line = start_refused(second.path());
    assert!(line.contains("is not of this log"), "{line}");
}

#[test]
fn one_that_cannot_be_written_stops_nothing() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("checkpoints"), "in the way").unwrap();
    let args = &ARGS;
    let output = etcd(args).arg("-d").arg(dir.path()).output().unwrap();
    // A file in the place of the directory is noticed at the start.
    assert_eq!(output.status.code(), Some(1));
    fs::remove_file(dir.path().join("checkpoints")).unwrap();
    let server = Server::start_with(dir.path(), args);
    fs::write(dir.path().join("checkpoints"), "in the way").unwrap();
    let value = "v".repeat(500);
    for number in 0..100 {
        let path = format!("/v1/keys/k/{number}");
        assert_eq!(server.post(&path, &[("value", &value)]).status, 200);
    }
    let (status, lines) = server.stop("-TERM");
    assert!(status.success());
    assert!(lines.iter().any(|line| line.contains("no checkpoint written")), "{lines:?}");
}
