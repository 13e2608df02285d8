//! The examples do what they say. Each is called as its `main` would call it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "its main is for the command line")]
#[path = "../../examples/changes.rs"]
mod changes;
#[expect(dead_code, reason = "its main is for the command line")]
#[path = "../../examples/directories.rs"]
mod directories;
#[expect(dead_code, reason = "its main is for the command line")]
#[path = "../../examples/lock.rs"]
mod lock;
#[expect(dead_code, reason = "its main is for the command line")]
#[path = "../../examples/replay.rs"]
mod replay;

use std::fs;
use std::path::Path;
use std::sync::mpsc;

use etcd_log::{History, KeyPath, Recording};
use etcd_projections::{TreeNode, replay_with};
use lock::Lock;
use tempfile::TempDir;

use crate::support::{PATIENCE, Server, etcd};

/// What an export leads to.
fn replayed(export: &[u8]) -> Result<String, String> {
    let mut out = Vec::new();
    replay::replay(export, &mut out).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn replay_leads_to_the_state_that_was_exported() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/a/b", &[("value", "x")]);
    server.post("/v1/keys/a/c", &[("value", "y"), ("ttl", "1000")]);
    assert!(server.stop("-TERM").0.success());
    let export = etcd(&["log", "export", "-d"]).arg(dir.path()).output().unwrap().stdout;
    let replay = replayed(&export).unwrap();
    let lines: Vec<_> = replay.lines().collect();
    assert!(lines.contains(&"/a/") && lines.contains(&r#"/a/b = "x""#), "{replay}");
    assert!(replay.contains(r#"/a/c = "y" until 20"#), "{replay}");
    assert!(replay.contains("\n4 commands, digest "), "{replay}");
    assert_eq!(lines.last(), Some(&"whole, and the same"));
    // One that was changed, and one that was cut off.
    let export = String::from_utf8(export).unwrap();
    let changed = replayed(export.replace("\"x\"", "\"z\"").as_bytes()).unwrap_err();
    assert!(changed.starts_with("the digest should be "), "{changed}");
    let (cut_off, _) = export.split_once("{\"end\"").unwrap();
    let cut_off = replayed(cut_off.as_bytes()).unwrap();
    assert!(cut_off.ends_with("without an end: it may have been cut off\n"), "{cut_off}");
}

#[test]
fn changes_are_counted_by_key() {
    let log = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/locks.jsonl");
    let mut out = Vec::new();
    changes::changes(&*fs::read(log).unwrap(), &mut out).unwrap();
    let expected = "     8 /lock
     2 /late
     1 /_etcd/cluster
     1 /_etcd/machines/node1
     4 refused
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

/// The tree counts them too: each directory's children that are files.
#[test]
fn keys_are_counted_by_directory() {
    let log = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/workload.jsonl");
    let mut out = Vec::new();
    directories::directories(History::open(&log).unwrap().without_end(), &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    let recording = Recording::read(&*fs::read(log).unwrap()).unwrap();
    let state = replay_with(&recording, |_| {}).unwrap();
    let mut counted = 0;
    for line in out.lines() {
        let (count, directory) = line.trim_start().split_once(' ').unwrap();
        let prefix = KeyPath::clean(directory).unwrap();
        let children = state.tree().children(&prefix);
        let files = children.filter(|(_, node)| matches!(node, TreeNode::File { .. })).count();
        assert_eq!(count, files.to_string(), "{directory}");
        counted += files;
    }
    let files = state.tree().iter().filter(|(_, node)| matches!(node, TreeNode::File { .. }));
    assert!(counted > 5, "{out}");
    assert_eq!(counted, files.count());
}

#[test]
fn lock_goes_from_holder_to_holder() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    let lock = |me: &str| Lock { url: server.url.clone(), me: me.to_owned() };
    let alice = lock("alice");
    let first = alice.acquire().unwrap();
    alice.renew().unwrap();
    let (sender, taken) = mpsc::channel();
    let bob = lock("bob");
    std::thread::spawn(move || {
        sender.send(bob.acquire().unwrap()).unwrap();
        bob
    });
    // However far bob has come by now, alice has it.
    assert!(taken.try_recv().is_err());
    alice.release().unwrap();
    let second = taken.recv_timeout(PATIENCE).unwrap();
    assert!(second > first, "{second} after {first}");
    assert!(server.get("/v1/keys/lock").body.contains(r#""value":"bob""#));
    // What alice has given away she does not take from bob.
    alice.release().unwrap();
    assert!(server.get("/v1/keys/lock").body.contains(r#""value":"bob""#));
    // A holder that dies loses it, by its key that expires; here, at once.
    server.delete("/v1/keys/lock");
    assert!(lock("bob").renew().is_err());
    assert!(lock("carol").acquire().unwrap() > second);
}
