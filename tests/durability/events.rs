//! The store of events of a real process: whatever becomes of it, old watches get what
//! they got, and what is missing comes again from the log.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::divergence::{newest, without};
use crate::support::{Server, eventually};

const ARGS: [&str; 8] = ["-c", "0", "-s", "0", "-m", "10", "--checkpoint-bytes", "20000"];

/// How many events a machine has in the end: two are of its founding.
const EVENTS: usize = 202;

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir.join("events")) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Whether the file is there that begins with the first command.
fn has_first(dir: &Path) -> bool {
    let begins = format!("{:020}-0-", 0);
    let names = files(dir).into_iter().filter_map(|path| Some(path.file_name()?.to_owned()));
    names.into_iter().any(|name| name.to_string_lossy().starts_with(&begins))
}

fn old_watch(server: &Server) -> Vec<String> {
    server.lines("/v1/watch/?stream=true&after=0", &[]).take(EVENTS).collect()
}

/// A stopped machine whose last checkpoint comes some time after its beginning, and what
/// a watch from there got.
fn stopped() -> (TempDir, Vec<String>) {
    let dir = TempDir::new().unwrap();
    let server = Server::start_with(dir.path(), &ARGS);
    let value = "v".repeat(500);
    for number in 0..200 {
        server.post(&format!("/v1/keys/k/{number}"), &[("value", &value), ("ttl", "10000")]);
    }
    eventually("the first events in a file", || has_first(dir.path()));
    let seen = old_watch(&server);
    assert!(server.stop("-TERM").0.success());
    (dir, seen)
}

#[test]
fn machine_that_has_lost_it_has_it_again_after_a_while() {
    let (dir, seen) = stopped();
    fs::remove_dir_all(dir.path().join("events")).unwrap();
    let server = Server::start_with(dir.path(), &ARGS);
    assert_eq!(old_watch(&server), seen);
    eventually("the first events in a file again", || has_first(dir.path()));
    assert_eq!(old_watch(&server), seen);
    // It is as good after a hard stop.
    server.stop("-KILL");
    let server = Server::start_with(dir.path(), &ARGS);
    assert_eq!(old_watch(&server), seen);
}

#[test]
fn damaged_files_are_not_believed() {
    let (dir, seen) = stopped();
    for at in [3, 60, 200, 1000] {
        for path in files(dir.path()) {
            let mut bytes = fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 4;
            fs::write(&path, bytes).unwrap();
        }
        let server = Server::start_with(dir.path(), &ARGS);
        assert_eq!(old_watch(&server), seen);
        assert!(server.stop("-TERM").0.success());
    }
}

#[test]
fn machine_serves_without() {
    let (dir, seen) = stopped();
    fs::remove_dir_all(dir.path().join("events")).unwrap();
    fs::write(dir.path().join("events"), "in the way").unwrap();
    let server = Server::start_with(dir.path(), &ARGS);
    assert_eq!(old_watch(&server), seen);
}

/// A machine that has a gap behind a checkpoint which is not what its log leads to: the one
/// before it leads through the gap. The newest, with which it starts, is as it should be.
#[test]
fn gap_is_not_filled_from_a_wrong_checkpoint() {
    let dir = TempDir::new().unwrap();
    let value = "v".repeat(500);
    let write = |server: &Server, count: usize| {
        for number in 0..count {
            server.post(&format!("/v1/keys/k/{number}"), &[("value", &value)]);
        }
    };
    let server = Server::start_with(dir.path(), &ARGS);
    server.post("/v1/keys/lost", &[("value", "x")]);
    write(&server, 100);
    eventually("a checkpoint", || newest(dir.path()).is_some());
    assert!(server.stop("-TERM").0.success());
    let (store, wrong) = newest(dir.path()).unwrap();
    let known = files(dir.path());

    let server = Server::start_with(dir.path(), &ARGS);
    assert_eq!(server.delete("/v1/keys/lost").status, 200);
    assert!(server.stop("-TERM").0.success());
    // The first command behind a start says with what state it began.
    let server = Server::start_with(dir.path(), &ARGS);
    write(&server, 50);
    eventually("a newer checkpoint", || newest(dir.path()).unwrap().1.applied > wrong.applied);
    let history = server.get("/v1/history/lost").body;
    assert_eq!(history.lines().count(), 2, "{history}");
    assert!(server.stop("-TERM").0.success());

    store.write(&without(wrong, "/lost")).unwrap();
    for later in files(dir.path()).iter().filter(|path| !known.contains(path)) {
        fs::remove_file(later).unwrap();
    }
    let server = Server::start_with(dir.path(), &ARGS);
    let mut said = server.announced.clone();
    eventually("it is passed over", || {
        said.extend(server.said());
        said.iter().any(|line| line.contains("WARN") && line.ends_with("which is passed over"))
    });
    eventually("the gap is filled", || {
        let told = server.get("/v1/history/lost");
        told.status == 200 && told.body == history
    });
}
