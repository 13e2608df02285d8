//! Histories to store, and stores to read from: for tests.

use std::path::Path;
use std::sync::Arc;

use etcd_log::{Batch, ClusterId, Command, KeyPath, LogTime, TestAndSet, Ttl};
use etcd_projections::{Outcome, Position, State};
use proptest::prelude::*;

use super::recorder::Recorder;
use super::{Chunk, EventReader, EventStore, Gap, Stored};
use crate::storage::disk_space::DiskRoom;

pub(crate) const CLUSTER: ClusterId = ClusterId(7);

/// What came of a log: of each entry, the position before it, and the outcomes.
pub(crate) type History = Vec<(Position, Vec<Outcome>)>;

fn key() -> impl Strategy<Value = KeyPath> {
    proptest::collection::vec(proptest::sample::select(vec!["a", "b", "ab", "ß"]), 1..4)
        .prop_map(|parts| KeyPath::clean(&parts.join("/")).unwrap())
}

/// Any key, or the root.
pub(crate) fn prefix() -> impl Strategy<Value = KeyPath> {
    prop_oneof![1 => Just(KeyPath::root()), 4 => key()]
}

fn value() -> impl Strategy<Value = Arc<str>> {
    proptest::sample::select(vec!["x", "y", "a longer value"]).prop_map(Arc::from)
}

fn command() -> impl Strategy<Value = Command> {
    let ttl = || proptest::option::of(1..6_u64).prop_map(|ttl| ttl.and_then(Ttl::new));
    prop_oneof![
        5 => (key(), value(), ttl()).prop_map(|(key, value, ttl)| Command::Set { key, value, ttl }),
        1 => (key(), value(), value(), ttl()).prop_map(|(key, prev_value, value, ttl)| {
            Command::TestAndSet(TestAndSet { key, prev_value, value, ttl })
        }),
        2 => key().prop_map(|key| Command::Delete { key }),
        1 => key().prop_map(|key| Command::DeleteDir { key }),
    ]
}

/// Logs whose clock goes on, or stands.
pub(crate) fn log() -> impl Strategy<Value = Vec<Batch>> {
    let batch = (0..6_u64, proptest::collection::vec(command(), 0..6));
    proptest::collection::vec(batch, 1..30).prop_map(|batches| {
        let mut now = 10_u64;
        let at = |(step, commands)| {
            now += step;
            Batch::new(LogTime(now * 500_000_000), commands)
        };
        batches.into_iter().map(at).collect()
    })
}

/// What comes of a log.
pub(super) fn history(log: &[Batch]) -> History {
    let mut state = State::new(10);
    log.iter().map(|batch| (state.position(), state.apply(batch))).collect()
}

/// A history of some length, always the same.
pub(super) fn some_history(entries: u64) -> History {
    let batch = |number: u64| {
        let key = |name: u64| KeyPath::clean(&format!("/{}/{name}", number % 3)).unwrap();
        let set = Command::Set {
            key: key(number % 7),
            value: format!("value {number}").into(),
            ttl: Ttl::new(number % 4),
        };
        Batch::new(LogTime(number * 1_000_000_000), vec![set, Command::Delete { key: key(3) }])
    };
    history(&(1..=entries).map(batch).collect::<Vec<_>>())
}

/// All outcomes of a history, as they are stored.
pub(super) fn stored(history: &[(Position, Vec<Outcome>)]) -> Vec<Stored> {
    history.iter().flat_map(|(_, outcomes)| outcomes).map(Stored::from).collect()
}

/// Opens a store that stands at the beginning of a history.
pub(crate) fn open(dir: &Path, history: &[(Position, Vec<Outcome>)]) -> EventStore {
    let at = history.first().map_or(Position::default(), |(before, _)| *before);
    EventStore::open(dir, CLUSTER, at).unwrap()
}

pub(super) fn recorder(store: &EventStore) -> Recorder {
    Recorder::new(store.clone(), DiskRoom::default(), Position::default()).unwrap()
}

pub(crate) fn push(store: &EventStore, history: &[(Position, Vec<Outcome>)]) {
    for (before, outcomes) in history {
        store.push(*before, outcomes.clone());
    }
}

/// Brings all that a store has in memory into files.
pub(crate) fn store_all(store: &EventStore) {
    recorder(store).finish();
}

/// Applies a history, and brings it into files.
pub(super) fn record(dir: &Path, history: &[(Position, Vec<Outcome>)]) -> EventStore {
    let store = open(dir, history);
    push(&store, history);
    recorder(&store).finish();
    store
}

/// Reads to the end, or to a gap. Each chunk is what it says it is.
pub(super) fn read_all(mut reader: EventReader, bytes: usize) -> (Vec<Stored>, Option<Gap>) {
    let mut found = Vec::new();
    loop {
        match reader.next(bytes) {
            Ok(Some(Chunk { stored, .. })) => found.extend(stored),
            Ok(None) => return (found, None),
            Err(gap) => return (found, Some(gap)),
        }
    }
}
