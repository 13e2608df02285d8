//! openraft's own suite for storage, on the log on disk and on its in-memory twin.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use etcd::consensus::Unsynced;
use etcd::consensus::log_store::LogStore;
use etcd::consensus::snapshot::Checkpoints;
use etcd::consensus::state_machine::StateMachine;
use etcd::consensus::types::TypeConfig;
use etcd::state::published;
use etcd::state::recent_outcomes::RecentOutcomes;
use etcd::storage::checkpoint::{Checkpoint, CheckpointStore, CheckpointWriter};
use etcd::storage::disk_space::DiskRoom;
use etcd::storage::stored::Stored;
use etcd_log::{LogStorage, MemoryLog, NodeId, Wal, WalOptions};
use etcd_projections::State;
use openraft::StorageError;
use openraft::storage::RaftLogStorage as _;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::support::limit;

/// Not the node that the suite votes for: one's own vote is demoted when read.
const ME: NodeId = NodeId(77);

fn state_machine(dir: &TempDir, log: &impl LogStorage) -> StateMachine {
    let start = Checkpoint::empty(State::new(10));
    let (publisher, _) = published::channel(start.state.clone(), None);
    let store = CheckpointStore::new(dir.path().join("checkpoints"), 10);
    let (log, disk) = (log.clone(), DiskRoom::default());
    let stored = Stored { log, checkpoints: store.clone(), disk };
    let writer = CheckpointWriter::start(stored, |_, _| {});
    let checkpoints = Checkpoints::new(store, &start, None);
    let (outcomes, unsynced) = (RecentOutcomes::default(), Unsynced::default());
    StateMachine::new(
        start.membership,
        publisher,
        outcomes,
        unsynced,
        checkpoints,
        writer,
        usize::MAX,
    )
}

struct OnDisk;

impl StoreBuilder<TypeConfig, LogStore<Wal>, StateMachine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore<Wal>, StateMachine), StorageError<u64>> {
        let dir = TempDir::new().unwrap();
        let on_fatal = Arc::new(|error| panic!("the log failed: {error}"));
        let (wal, archive) = (dir.path().join("wal"), dir.path().join("archive"));
        let options = WalOptions {
            cache_bytes: 1000,
            segment_bytes: 4096,
            ..WalOptions::new(wal, archive, ME, on_fatal)
        };
        let (wal, _) = Wal::open(&options).unwrap();
        let state_machine = state_machine(&dir, &wal);
        Ok((dir, LogStore::new(wal, ME), state_machine))
    }
}

struct InMemory;

impl StoreBuilder<TypeConfig, LogStore<MemoryLog>, StateMachine, TempDir> for InMemory {
    async fn build(
        &self,
    ) -> Result<(TempDir, LogStore<MemoryLog>, StateMachine), StorageError<u64>> {
        let dir = TempDir::new().unwrap();
        let log = MemoryLog::new();
        let state_machine = state_machine(&dir, &log);
        Ok((dir, LogStore::new(log, ME), state_machine))
    }
}

#[test]
fn log_on_disk() {
    limit::begin();
    Suite::test_all(OnDisk).unwrap();
}

#[test]
fn log_in_memory() {
    limit::begin();
    Suite::test_all(InMemory).unwrap();
}

/// A machine that led must not lead on after a restart without an election.
#[tokio::test]
async fn own_vote_is_demoted_when_read_back() {
    limit::begin();
    let log = MemoryLog::new();
    let vote = etcd_log::Vote { term: etcd_log::Term(3), node: ME, committed: true };
    log.write(etcd_log::Write::Vote(vote), Box::new(drop));
    let read = LogStore::new(log.clone(), ME).read_vote().await.unwrap().unwrap();
    assert_eq!((read.committed, read.leader_id.term), (false, 3));
    let other = LogStore::new(log, NodeId(1)).read_vote().await.unwrap().unwrap();
    assert!(other.committed);
}
