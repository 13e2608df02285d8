//! Very many keys that are due at once, on real processes: each entry of the log lets some
//! of them expire, and what clients write goes between.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use etcd::tools::log::{self, Import};
use etcd_log::{Batch, Command, Index, KeyPath, LogTime, RecordedBatch, Ttl};
use tempfile::TempDir;

use crate::support::{Server, etcd, eventually};

const KEYS: usize = 200_000;

/// How many keys have one deadline: those of a few batches expire in one entry.
const BATCH: usize = 256;

/// How many a batch lets expire at most.
const EXPIRIES: usize = 2048;

/// How long they live, in seconds: about as long as it takes until three machines run.
const TTL: u64 = 12;

/// How long a write may take while they expire.
const LIMIT: Duration = Duration::from_secs(1);

const ANY: [&str; 4] = ["-c", "0", "-s", "0"];

/// A machine with much else to do may be silent for longer than a leader is waited for
/// otherwise.
const PATIENT: [&str; 2] = ["--election", "1500-3000"];

/// Ends the load, whatever comes before.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn key(number: usize) -> String {
    format!("/k/{number}")
}

/// Makes the directory of a machine that has very many keys with one time to live.
fn with_keys(dir: &Path) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now = u64::try_from(now.as_nanos()).unwrap();
    let set = |number: usize| Command::Set {
        key: KeyPath::clean(&key(number)).unwrap(),
        value: Arc::from("x"),
        ttl: Ttl::new(TTL),
    };
    let mut lines = String::new();
    for first in (0..KEYS).step_by(BATCH) {
        let commands = (first..KEYS.min(first + BATCH)).map(set).collect();
        let batch = Batch::new(LogTime(now + first as u64), commands);
        let recorded = RecordedBatch::new(Index(first as u64 + 1), &batch);
        lines += &serde_json::to_string(&recorded).unwrap();
        lines.push('\n');
    }
    let file = dir.join("recorded.jsonl");
    std::fs::write(&file, lines).unwrap();
    let import = Import { file, name: Some("one".to_owned()), without_end: true, to: None };
    log::import(&import, &dir.join("one"), &mut Vec::new()).unwrap();
}

/// Writes one value after the other until it is told to stop; returns how long each took,
/// and when it began.
fn write_until(server: &Server, stop: &AtomicBool) -> Vec<(Instant, Duration)> {
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let written = server.post("/v1/keys/client?timeout=60", &[("value", "v")]);
        assert_eq!(written.status, 200, "{}", written.body);
        took.push((begun, begun.elapsed()));
    }
    took
}

/// Waits until a key is gone, as a machine has applied the log; returns since when.
fn gone(server: &Server, number: usize) -> Instant {
    let path = format!("/v1/keys{}?stale=true", key(number));
    eventually("it has expired", || server.get(&path).status == 404);
    Instant::now()
}

/// How many keys each entry of a log has let expire, and how many commands came between the
/// first of them and the last.
fn expiries(dir: &Path) -> (Vec<usize>, usize) {
    let mut show = etcd(&["log", "show", "--json", "--from", &KEYS.to_string()]);
    let output = show.arg("-d").arg(dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (mut expired, mut commands, mut between) = (BTreeMap::<u64, usize>::new(), 0, 0);
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line: serde_json::Value = serde_json::from_slice(line).unwrap();
        if line.get("command").is_some() {
            commands += usize::from(!expired.is_empty());
        } else {
            *expired.entry(line["raft"].as_u64().unwrap()).or_default() += 1;
            between = commands;
        }
    }
    (expired.into_values().collect(), between)
}

/// While they expire, others write, and nobody takes the leader for dead.
#[test]
fn very_many_keys_that_are_due_at_once_hold_up_nobody() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    with_keys(dir.path());
    let one = Server::start_with(&path("one"), &[&ANY[..], &PATIENT].concat());
    let through = ["-C", one.peer_url.trim_start_matches("http://")];
    let term = || one.get("/version").number("x-raft-term");
    let (before, stop) = (term(), AtomicBool::new(false));
    let (writes, others, begun, ended) = std::thread::scope(|scope| {
        let _ended = Stop(&stop);
        let writing = scope.spawn(|| write_until(&one, &stop));
        let join = |name| Server::start_with(&path(name), &[&ANY[..], &PATIENT, &through].concat());
        let others = [join("two"), join("three")];
        let (begun, ended) = (gone(&one, 0), gone(&one, KEYS - 1));
        stop.store(true, Ordering::Relaxed);
        (writing.join().unwrap(), others, begun, ended)
    });
    assert_eq!(term(), before, "nobody else was elected");
    // Where there is much else to do, all of it takes longer.
    let most = LIMIT.max((ended - begun) / 4);
    let during = writes.into_iter().filter(|(at, took)| *at + *took >= begun);
    let longest = during.map(|(_, took)| took).max().unwrap();
    assert!(longest < most, "a write has taken {longest:?}, of {:?} in all", ended - begun);
    drop(others);
    assert!(one.stop("-TERM").0.success());
    let (expired, between) = expiries(&path("one"));
    assert_eq!(expired.iter().sum::<usize>(), KEYS);
    assert!(expired.iter().all(|keys| *keys <= EXPIRIES), "{expired:?}");
    // How many fit in between is the computer's business.
    assert!(between > 1, "{between} writes between {} ticks", expired.len());
}
