//! What the tests of the log share: entries, and how to write them.
#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "these are the words of a library of its own")]

#[path = "../../../tests/support/limit.rs"]
pub mod limit;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_log::{
    Batch, Command, Entry, KeyPath, LogError, LogId, LogReader, LogStorage as _, LogTime, NodeId,
    Payload, RaftIndex, Recovered, Retain, Term, Wal, WalOptions, Write,
};

/// Whose log it is.
pub const NODE: NodeId = NodeId(0xa1);

/// Longer than anything takes on a busy machine: reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// How to open the log of a directory. The time of the test that does so begins anew.
pub fn options(dir: &Path) -> WalOptions {
    limit::begin();
    let on_fatal = Arc::new(|error| panic!("the log failed: {error}"));
    let (wal, archive) = (dir.join("wal"), dir.join("archive"));
    WalOptions { retain: Retain::Forever, ..WalOptions::new(wal, archive, NODE, on_fatal) }
}

/// Opens the log of a directory to read it.
pub fn open_to_read(dir: &Path) -> Result<(LogReader, Recovered), LogError> {
    LogReader::open(&dir.join("wal"), &dir.join("archive"), &mut |_| {})
}

/// An entry that sets one key.
pub fn entry(index: u64, value: &str) -> Arc<Entry> {
    let (key, value) = (KeyPath::clean("/k").unwrap(), Arc::from(value));
    let batch = Batch::new(LogTime(index), vec![Command::Set { key, value, ttl: None }]);
    let id = LogId { term: Term(1), node: NODE, index: RaftIndex(index) };
    Arc::new(Entry { id, payload: Payload::Batch(Arc::new(batch)) })
}

/// Writes, and waits until it is safe.
pub fn write(wal: &Wal, write: Write) {
    wal.write_and_wait(write, PATIENCE).unwrap();
}

/// Waits until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
