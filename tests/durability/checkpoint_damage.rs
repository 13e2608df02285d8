//! The damage matrix of checkpoints: every byte of a small one changed, every
//! length of it. None is believed, and none panics: a panic would keep a machine
//! from starting over a mere cache.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use etcd::storage::checkpoint::{Checkpoint, CheckpointStore};
use etcd_log::{
    Batch, ClusterId, Command, KeyPath, LogFormat, LogId, LogTime, Machine, NodeId, RaftIndex,
    Term, Ttl,
};
use etcd_projections::State;
use tempfile::TempDir;

const RING: usize = 10;

fn checkpoint() -> Checkpoint {
    let key = |path| KeyPath::clean(path).unwrap();
    let mut state = State::new(RING);
    state.apply(&Batch::new(
        LogTime(7),
        vec![
            Command::Sync { cluster: ClusterId(0xc1), format: LogFormat::FIRST },
            Command::Join(Machine {
                name: Arc::from("node1"),
                node: NodeId(0xa1),
                peer_url: Arc::from("http://h:1"),
                client_url: Arc::from("http://h:2"),
            }),
            Command::Set { key: key("/a/b"), value: Arc::from("ä\n"), ttl: Ttl::new(5) },
            Command::Delete { key: key("/nothing") },
        ],
    ));
    let id = LogId { term: Term(1), node: NodeId(0xa1), index: RaftIndex(3) };
    Checkpoint { applied: Some(id), membership: (Some(id), etcd_log::Membership::default()), state }
}

fn written() -> (TempDir, CheckpointStore, PathBuf, Vec<u8>) {
    let dir = TempDir::new().unwrap();
    let store = CheckpointStore::new(dir.path().to_owned(), RING);
    let path = store.write(&checkpoint()).unwrap().path;
    let bytes = fs::read(&path).unwrap();
    (dir, store, path, bytes)
}

#[test]
fn whole_one_is_read_back() {
    let (_dir, store, path, _) = written();
    let (read, expected) = (store.read(&path).unwrap(), checkpoint());
    assert_eq!((read.applied, &read.membership), (expected.applied, &expected.membership));
    assert_eq!(read.state.snapshot_header(), expected.state.snapshot_header());
    assert!(read.state.snapshot_items().eq(expected.state.snapshot_items()));
}

#[test]
fn every_bit_flipped_is_noticed() {
    let (_dir, store, path, bytes) = written();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            fs::write(&path, &flipped).unwrap();
            assert!(store.read(&path).is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn every_length_is_noticed() {
    let (_dir, store, path, bytes) = written();
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(store.read(&path).is_err(), "{length} bytes");
    }
    fs::write(&path, [&bytes[..], b"\n"].concat()).unwrap();
    assert!(store.read(&path).is_err(), "something behind its end");
}

#[test]
fn newest_good_one_is_taken_whatever_the_others_are() {
    let (dir, store, path, bytes) = written();
    for (name, bytes) in [
        ("00000000000000000009-9-9.checkpoint", &b""[..]),
        ("00000000000000000008-8-8.checkpoint", &bytes[..bytes.len() / 2]),
        ("nonsense.checkpoint", &bytes[..]),
        ("00000000000000000007-7.checkpoint", &bytes[..]),
    ] {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let (newest, file) = store.newest(|_| true).unwrap().unwrap();
    assert_eq!(file.path, path);
    assert_eq!(newest.state.snapshot_header(), checkpoint().state.snapshot_header());
    fs::remove_file(path).unwrap();
    assert!(store.newest(|_| true).unwrap().is_none());
}

#[test]
fn old_ones_are_thinned_out() {
    let dir = TempDir::new().unwrap();
    let store = CheckpointStore::new(dir.path().to_owned(), RING);
    let mut checkpoint = checkpoint();
    for index in 1..=6 {
        checkpoint.applied = Some(LogId { index: RaftIndex(index), ..LogId::default() });
        store.write(&checkpoint).unwrap();
    }
    // All are at the same command, so that none but the oldest is needed before
    // the newest.
    let kept = store.thin_out(RaftIndex(0)).unwrap();
    let kept: Vec<_> = kept.iter().map(|file| file.raft_index.0).collect();
    assert_eq!(kept, [1, 4, 5, 6]);
    assert_eq!(store.list().unwrap().len(), 4);
    assert_eq!(store.thin_out(RaftIndex(6)).unwrap().len(), 2);
}
