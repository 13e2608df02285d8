//! What the tests within this crate share.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::archive::retention::Retain;
use crate::error::LogError;
use crate::storage::{LogStorage as _, Write};
use crate::testing::limit;
use crate::types::{
    Batch, Command, Entry, KeyPath, LogId, LogTime, NodeId, Payload, RaftIndex, Term,
};
use crate::wal::Wal;
use crate::wal::options::WalOptions;

/// Whose log it is.
pub(crate) const NODE: NodeId = NodeId(0xa1);

/// Longer than anything takes on a busy machine: reaching it is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How to open the log of a directory, with segments of so many bytes. The time
/// of the test that does so begins anew.
pub(crate) fn options(dir: &Path, segment_bytes: u32) -> WalOptions {
    limit::begin();
    let on_fatal = Arc::new(|error| panic!("the log failed: {error}"));
    let (wal, archive) = (dir.join("wal"), dir.join("archive"));
    let retain = Retain::Forever;
    WalOptions { segment_bytes, retain, ..WalOptions::new(wal, archive, NODE, on_fatal) }
}

/// An entry that sets one key.
pub(crate) fn entry(index: u64, term: u64, value: &str) -> Arc<Entry> {
    let (key, value) = (KeyPath::clean("/k").unwrap(), Arc::from(value));
    let batch = Batch::new(LogTime(index + 1), vec![Command::Set { key, value, ttl: None }]);
    let id = LogId { term: Term(term), node: NODE, index: RaftIndex(index) };
    Arc::new(Entry { id, payload: Payload::Batch(Arc::new(batch)) })
}

/// Writes, and waits until it is safe.
pub(crate) fn write(wal: &Wal, write: Write) -> Result<(), LogError> {
    wal.write_and_wait(write, PATIENCE)
}

/// Waits until all is sealed that can be by now.
pub(crate) fn wait_for_archiver(wal: &Wal) {
    // The round that is under way may have begun before.
    let rounds = wal.archiver_rounds() + 2;
    eventually("the archiver has looked", || wal.archiver_rounds() >= rounds);
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
