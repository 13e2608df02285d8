//! A machine whose state is not what the log says: it stops, and the others go on.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use etcd::storage::checkpoint::{Checkpoint, CheckpointStore};
use etcd_projections::{SnapshotItem, State};

use crate::support::cluster::Cluster;
use crate::support::eventually;

/// As many events as a machine's own ring.
const RING: usize = 1000;

/// How many commands a machine may apply until it finds out.
const COMMANDS: usize = 1000;

/// The newest checkpoint of a machine.
pub(crate) fn newest(dir: &Path) -> Option<(CheckpointStore, Checkpoint)> {
    let store = CheckpointStore::new(dir.join("checkpoints"), RING);
    let (checkpoint, _) = store.newest(|_| true).unwrap()?;
    Some((store, checkpoint))
}

/// Takes a key out of a machine's newest checkpoint, as a flipped bit in its memory would.
fn lose(dir: &Path, lost: &str) {
    let (store, checkpoint) = newest(dir).unwrap();
    store.write(&without(checkpoint, lost)).unwrap();
}

/// A checkpoint without one of its keys.
pub(crate) fn without(checkpoint: Checkpoint, lost: &str) -> Checkpoint {
    let Checkpoint { applied, membership, state } = checkpoint;
    let is_lost = |item: &SnapshotItem| match item {
        SnapshotItem::File { key, .. } => key.as_str() == lost,
        SnapshotItem::Directory { .. } | SnapshotItem::Event(_) | SnapshotItem::Request(_) => false,
    };
    let pieces: Vec<SnapshotItem> = state.snapshot_items().filter(|item| !is_lost(item)).collect();
    let mut summary = state.snapshot_header();
    summary.nodes -= 1;
    let state = State::from_snapshot(&summary, pieces, RING).unwrap();
    Checkpoint { applied, membership, state }
}

#[test]
fn machine_that_has_lost_a_key_stops_and_the_others_go_on() {
    let mut cluster = Cluster::start(3, &["--checkpoint-bytes", "20000"]);
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let value = "v".repeat(1000);
    cluster.server(leader).post("/v1/keys/lost", &[("value", "x")]);
    for number in 0..100 {
        cluster.server(leader).post(&format!("/v1/keys/k/{number}"), &[("value", &value)]);
    }
    let dir = cluster.dir(follower);
    eventually("a checkpoint", || newest(&dir).is_some());
    let stopped = cluster.servers[follower].take().unwrap();
    assert!(stopped.stop("-TERM").0.success());
    lose(&dir, "/lost");
    cluster.launch(follower, &[]);
    cluster.wait(follower);
    assert_eq!(cluster.server(follower).get("/v1/keys/lost?stale=true").status, 404);

    let leader = cluster.leader_without(follower);
    assert_eq!(cluster.server(leader).delete("/v1/keys/lost").status, 200);
    for number in 0..COMMANDS {
        cluster.server(leader).post(&format!("/v1/keys/n/{}", number % 50), &[("value", "x")]);
    }
    let mut diverged = cluster.servers[follower].take().unwrap();
    assert!(!diverged.wait().success());
    let words = diverged.last_words().join("\n");
    assert!(words.contains("after entry"), "{words}");
    assert_eq!(cluster.server(leader).get("/v1/keys/n/0").status, 200);
    assert_eq!(cluster.server(leader).post("/v1/keys/on", &[("value", "x")]).status, 200);
}
