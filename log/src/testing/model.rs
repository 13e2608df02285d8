//! A model of the log that is too dumb to be wrong: a map of entries, and some marks.
//!
//! ```text
//! log    archive │ segments │ tail: places, cache, positions      what is where
//! model  #0 ─▶ entry, #1 ─▶ entry, #2 ─▶ entry, …                 what there is
//! ```
//!
//! The log and its in-memory twin share the tail, and so its faults. This shares nothing
//! with them but the words: it keeps each entry for ever, and counts anew whenever it is
//! asked. What is no longer kept, or not there yet, is a mark in front of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::storage::{LogState, Write};
use crate::types::{Entry, Index, LogId, RaftIndex, Vote};

/// What a log holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// All entries from the first one on, wherever they are.
    pub(crate) entries: BTreeMap<RaftIndex, Arc<Entry>>,
    /// The last vote.
    pub(crate) vote: Option<Vote>,
    /// The last entry that may be forgotten.
    pub(crate) purged: Option<LogId>,
    /// The last entry known to be committed.
    pub(crate) committed: Option<LogId>,
    /// The last entry that a write has taken along as committed.
    noting: Option<LogId>,
    /// The last entry that is safely noted as committed.
    pub(crate) noted: Option<LogId>,
    /// The last entry whose history is no longer kept.
    pub(crate) forgotten: Option<LogId>,
    /// The last entry that came in a checkpoint, while history is missing.
    pub(crate) missing: Option<LogId>,
    /// The last entry that ever came in a checkpoint.
    pub(crate) installed: Option<LogId>,
}

impl Model {
    /// Does what a write does. What comes in a checkpoint must be among the entries.
    pub(crate) fn apply(&mut self, write: &Write) {
        match write {
            Write::Append(entries) => {
                for entry in entries {
                    self.entries.insert(entry.id.index, Arc::clone(entry));
                }
            }
            Write::Vote(vote) => self.vote = Some(*vote),
            Write::Truncate { since } => self.entries.retain(|index, _| index < since),
            Write::Purge { upto } => self.purged = self.purged.max(Some(*upto)),
            Write::Install { upto, .. } => self.install(*upto),
            Write::Backfill { upto } => self.missing = self.missing.filter(|id| id != upto),
            Write::Forget { upto } => {
                if self.forgotten.is_none_or(|id| id.index < upto.index) {
                    self.forgotten = Some(*upto);
                }
            }
        }
        self.noting = self.held().max(self.noting);
    }

    fn install(&mut self, upto: LogId) {
        assert_eq!(self.id(upto.index), Some(upto), "the model knows what was installed");
        self.purged = self.purged.max(Some(upto));
        if self.last() == Some(upto) {
            self.committed = self.committed.max(Some(upto));
            (self.missing, self.installed) = (Some(upto), Some(upto));
        }
    }

    /// Hears that entries are committed, which need not be here yet.
    pub(crate) fn commit(&mut self, upto: LogId) {
        self.committed = self.committed.max(Some(upto));
    }

    /// What is committed, if the log holds it: a write takes it along then.
    fn held(&self) -> Option<LogId> {
        self.committed.filter(|id| id.index < self.next())
    }

    /// All that was written is safe.
    pub(crate) fn sync(&mut self) {
        self.noted = self.noted.max(self.noting);
    }

    /// The log is closed, and notes last what is committed.
    pub(crate) fn close(&mut self) {
        self.noting = self.held().max(self.noting);
        self.sync();
    }

    /// The last entry that there is.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| entry.id)
    }

    /// The entry that would come next.
    pub(crate) fn next(&self) -> RaftIndex {
        self.last().map_or(RaftIndex(0), |id| id.index.next())
    }

    /// The last entry that is committed and here: up to there nothing changes.
    pub(crate) fn settled(&self) -> Option<LogId> {
        let committed = self.committed?.index;
        self.entries.range(..=committed).next_back().map(|(_, entry)| entry.id)
    }

    /// The id of an entry.
    pub(crate) fn id(&self, index: RaftIndex) -> Option<LogId> {
        self.entries.get(&index).map(|entry| entry.id)
    }

    /// The first entry that can be read.
    pub(crate) fn oldest(&self) -> RaftIndex {
        let behind = [self.forgotten, self.missing].into_iter().flatten();
        behind.map(|id| id.index.next()).max().unwrap_or_default()
    }

    /// The entries of a range that can be read.
    pub(crate) fn read(&self, range: Range<RaftIndex>) -> Vec<Arc<Entry>> {
        let from = range.start.max(self.oldest());
        if range.end <= from {
            return Vec::new();
        }
        self.entries.range(from..range.end).map(|(_, entry)| Arc::clone(entry)).collect()
    }

    /// The last command before an entry.
    pub(crate) fn index_before(&self, entry: RaftIndex) -> Index {
        Index(self.entries.range(..entry).map(|(_, entry)| entry.commands()).sum())
    }

    /// The entry with a command, or the first one after it that can be read; and the last
    /// command before that entry.
    pub(crate) fn find(&self, command: Index) -> (RaftIndex, Index) {
        let holds = |index: &RaftIndex| self.index_before(index.next()) >= command;
        let mut readable = self.entries.range(self.oldest()..).map(|(index, _)| *index);
        let found = readable.find(holds).unwrap_or(self.next());
        (found, self.index_before(found))
    }

    /// All that a log says of itself.
    pub(crate) fn state(&self) -> LogState {
        let Self { vote, purged, committed, forgotten, missing, .. } = *self;
        let (oldest, last) = (self.oldest(), self.last());
        let first = purged.map_or(oldest, |id| oldest.max(id.index.next()));
        let oldest = (oldest, self.index_before(oldest));
        LogState { vote, purged, forgotten, missing, committed, first, last, oldest }
    }
}
