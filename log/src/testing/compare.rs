//! Does a log hold what the model does? All that can be read of it is compared.

use std::sync::Arc;

use crate::error::LogError;
use crate::memory::MemoryLog;
use crate::storage::{LogState, LogStorage as _};
use crate::testing::model::Model;
use crate::types::{Index, RaftIndex};
use crate::wal::Wal;

/// Compares all that can be read of the real log with the model.
pub(crate) fn wal_is(wal: &Wal, model: &Model) {
    let reader = wal.reader();
    assert_eq!(wal.state(), model.state());
    assert_eq!(wal.first(), model.oldest());
    let (first, next) = (model.oldest(), model.next());
    let all = model.read(first..next);
    let read: Result<Vec<_>, _> = reader.iter(first..RaftIndex(u64::MAX)).collect();
    assert_eq!(read.unwrap(), all);
    // A range that begins anywhere, and ends where its bytes do.
    for start in (first.0..=next.0).step_by(3) {
        for most in [0, 700] {
            let range = RaftIndex(start)..RaftIndex(start + 5);
            let (read, all) = (wal.entries(range.clone(), most).unwrap(), model.read(range));
            assert_eq!(read, all[..read.len()]);
            assert_eq!(read.is_empty(), all.is_empty());
            let bytes: usize = read.iter().map(|entry| entry.size()).sum();
            assert!(read.len() <= 1 || bytes <= most, "{bytes} bytes instead of {most}");
        }
    }
    if let Some(before) = first.0.checked_sub(1) {
        let refused = wal.entries(RaftIndex(before)..next, usize::MAX);
        assert!(matches!(refused, Err(LogError::NoLongerKept { .. })), "{refused:?}");
    }
    let last = model.index_before(next);
    assert_eq!(reader.last_command(), last);
    for command in 0..=last.0 + 2 {
        let found = reader.find(Index(command)).unwrap();
        assert_eq!(found, model.find(Index(command)), "command {command}");
    }
}

/// Compares the in-memory log with the model, where it does not lawfully differ.
pub(crate) fn memory_is(memory: &MemoryLog, model: &Model) {
    // It keeps all that it ever had.
    let first = model.installed.map_or(RaftIndex(0), |id| id.index.next());
    assert_eq!(memory.first(), first);
    let expected = LogState { first, oldest: (first, model.index_before(first)), ..model.state() };
    assert_eq!(memory.state(), expected);
    let entries = memory.entries(first..model.next(), usize::MAX).unwrap();
    let range = model.entries.range(first..).map(|(_, entry)| Arc::clone(entry));
    assert_eq!(entries, range.collect::<Vec<_>>());
}
