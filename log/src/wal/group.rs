//! A group: the writes that go to disk together, with one fsync.

use std::sync::Arc;

use crate::segments::frame::{Installed, Record, Truncation};
use crate::segments::tail::Tail;
use crate::storage::{Done, LogState, WRITE_ENTRIES, Write};
use crate::types::{Entry, Index};

/// The most bytes of entries that go into one commit together.
const COMMIT_BYTES: usize = 8 << 20;

/// The most records that go into one commit together.
const COMMIT_RECORDS: usize = 4096;

// A frame says in two bytes how many follow. Besides what waited there may be one write
// more, and the notes of what comes before and of what is committed.
const _: () = assert!(COMMIT_RECORDS + WRITE_ENTRIES + 2 <= u16::MAX as usize);

/// What goes to disk with one fsync.
#[derive(Default)]
pub(super) struct Group {
    /// The frames that it is to be.
    pub(super) items: Vec<Item>,
    /// Whom to tell once it is safe.
    pub(super) dones: Vec<Done>,
    /// What the log holds after it.
    pub(super) after: Written,
    /// How many bytes of entries it has.
    pub(super) bytes: usize,
    /// Whether it begins the log, with a base frame alone.
    pub(super) begins: bool,
    /// Set if the log closes behind it.
    pub(super) close: Option<Done>,
}

/// What becomes one frame.
pub(super) enum Item {
    Record(Record),
    Entry(Arc<Entry>),
}

/// What a log holds at some point: what a base frame says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) state: LogState,
    /// The last command.
    pub(crate) index: Index,
}

impl Written {
    pub(super) fn of(tail: &Tail) -> Self {
        Self { state: tail.state(), index: tail.index() }
    }
}

impl Group {
    /// Begins a group behind what the log holds by now.
    pub(super) fn after(after: Written) -> Self {
        Self { after, ..Self::default() }
    }

    /// Adds a write. `after` is what the log holds once it is written, save that what is
    /// committed is noted last.
    pub(super) fn push(&mut self, write: Write, after: Written, done: Done) {
        self.bytes += size(&write);
        push_items(write, &after, &mut self.items);
        let committed = self.after.state.committed;
        self.after = after;
        self.after.state.committed = committed;
        self.dones.push(done);
    }

    /// Returns whether it is as large as a commit should be.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= COMMIT_BYTES || self.items.len() >= COMMIT_RECORDS
    }
}

fn size(write: &Write) -> usize {
    match write {
        Write::Append(entries) => entries.iter().map(|entry| entry.size()).sum(),
        Write::Vote(_)
        | Write::Truncate { .. }
        | Write::Purge { .. }
        | Write::Install { .. }
        | Write::Backfill { .. }
        | Write::Forget { .. } => 0,
    }
}

/// Adds what a write puts down. `after` is what the log holds then.
fn push_items(write: Write, after: &Written, items: &mut Vec<Item>) {
    match write {
        Write::Append(entries) => items.extend(entries.into_iter().map(Item::Entry)),
        Write::Vote(vote) => items.push(Item::Record(Record::Vote(vote))),
        Write::Truncate { since } => {
            let (last, index) = (after.state.last, after.index);
            let truncation = Truncation { since, last, index };
            items.push(Item::Record(Record::Truncate(truncation)));
        }
        Write::Purge { upto } => items.push(Item::Record(Record::Purge { upto })),
        Write::Install { upto, index } => {
            items.push(Item::Record(Record::Install(Installed { upto, index })));
        }
        Write::Backfill { upto } => items.push(Item::Record(Record::Backfilled { upto })),
        Write::Forget { upto } => items.push(Item::Record(Record::Forgotten { upto })),
    }
}
