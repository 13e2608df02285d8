//! The tail: which entries the log holds, where each lies, and the recent ones
//! themselves.
//!
//! ```text
//!        purged        on disk only          cached
//!  ────────────────┬───────────────────┬──────────────────┐
//!  forgotten       │ place             │ place, and entry │ … not yet written:
//!                  first               cached             last    entry only
//! ```
//!
//! The cache is bounded by bytes, save that an entry stays until it is on disk.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::storage::{LogState, Write};
use crate::{Entry, Index, LogId, NodeId, RaftIndex, Term, Vote};

/// Where a frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number in the segment's name; okaywal counts from 1.
    pub(crate) segment: NonZeroU64,
    /// Where the frame begins in the file.
    pub(crate) offset: u32,
    /// How long it is, header included.
    pub(crate) length: u32,
}

/// An entry that was asked for: at hand, or to be read.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Cached(Arc<Entry>),
    /// Where it lies, and which entry and command begin there.
    OnDisk(Place, (RaftIndex, Index)),
}

#[derive(Debug)]
struct Slot {
    term: Term,
    node: NodeId,
    /// The index of the entry's last command, or of the last before it.
    index: Index,
    place: Option<Place>,
    entry: Option<Arc<Entry>>,
}

/// The entries that the log holds, and what it knows besides them.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    /// The index of the last command before the first slot.
    index_before: Index,
    first: RaftIndex,
    slots: VecDeque<Slot>,
    /// How many slots at the front have left the cache.
    uncached: usize,
    cached_bytes: usize,
    cache_limit: usize,
}

impl Tail {
    /// Makes a tail that keeps about `cache_limit` bytes of entries in memory.
    pub(crate) fn new(cache_limit: usize) -> Self {
        Self { cache_limit, ..Self::default() }
    }

    /// Forgets that entries were committed which are not there: the note of it
    /// reached the disk, and they did not.
    pub(crate) fn clamp_committed(&mut self) {
        self.committed = self.committed.min(self.last());
    }

    /// Returns what the log holds besides its entries.
    pub(crate) fn state(&self) -> LogState {
        LogState {
            vote: self.vote,
            purged: self.purged,
            committed: self.committed,
            first: self.first(),
            last: self.last(),
        }
    }

    /// Returns the last entry's id, or else that of the last purged.
    pub(crate) fn last(&self) -> Option<LogId> {
        match self.slots.back() {
            Some(slot) => {
                Some(LogId { term: slot.term, node: slot.node, index: self.last_raft_index() })
            }
            None => self.purged,
        }
    }

    /// Returns the index of the last command.
    pub(crate) fn index(&self) -> Index {
        self.slots.back().map_or(self.index_before, |slot| slot.index)
    }

    /// Returns the first entry kept; if there is none, the one that would come.
    pub(crate) fn first(&self) -> RaftIndex {
        if self.slots.is_empty() { self.next().unwrap_or_default() } else { self.first }
    }

    /// Returns the index that the next entry must have; an empty log takes any.
    pub(crate) fn next(&self) -> Option<RaftIndex> {
        self.last().map(|last| last.index.next())
    }

    /// Starts from what a segment says came before it.
    pub(crate) fn start_from(&mut self, base: &crate::frame::Base) {
        self.vote = base.vote;
        self.committed = base.committed;
        self.index_before = base.index;
        // Entries between the purge point and the segment's start were let go
        // with the older segments, which amounts to the same.
        self.purged = base.last.max(base.purged);
    }

    /// Does what a write does to a log.
    ///
    /// # Panics
    ///
    /// If appended entries leave a hole.
    pub(crate) fn apply(&mut self, write: &Write) {
        match write {
            Write::Append(entries) => {
                for entry in entries {
                    self.push(Arc::clone(entry));
                }
            }
            Write::Vote(vote) => self.set_vote(*vote),
            Write::Truncate { since } => self.truncate(*since),
            Write::Purge { upto } => self.purge(*upto),
        }
    }

    pub(crate) fn set_vote(&mut self, vote: Vote) {
        self.vote = Some(vote);
    }

    pub(crate) fn set_committed(&mut self, upto: LogId) {
        self.committed = self.committed.max(Some(upto));
    }

    /// Adds the next entry, which is still to be written.
    ///
    /// # Panics
    ///
    /// If it does not follow the last one: a hole would be taken for history.
    pub(crate) fn push(&mut self, entry: Arc<Entry>) {
        self.cached_bytes += entry.size();
        self.push_slot(entry.id, entry.commands(), None, Some(entry));
        self.evict();
    }

    /// Adds the next entry, which lies on disk and is read when it is wanted.
    ///
    /// # Panics
    ///
    /// As [`Self::push`]; and if an entry before it is in memory.
    pub(crate) fn push_written(&mut self, id: LogId, commands: u64, place: Place) {
        assert_eq!(self.uncached, self.slots.len(), "{id} on disk behind entries in memory");
        self.push_slot(id, commands, Some(place), None);
        self.uncached += 1;
    }

    fn push_slot(
        &mut self,
        id: LogId,
        commands: u64,
        place: Option<Place>,
        entry: Option<Arc<Entry>>,
    ) {
        let next = self.next().unwrap_or(id.index);
        assert_eq!(id.index, next, "entry {id} does not follow {:?}", self.last());
        if self.slots.is_empty() {
            self.first = id.index;
        }
        let index = Index(self.index().0 + commands);
        self.slots.push_back(Slot { term: id.term, node: id.node, index, place, entry });
    }

    /// Notes where an entry has been written, unless it has been truncated since.
    pub(crate) fn set_place(&mut self, entry: &Arc<Entry>, place: Place) {
        if let Some(slot) = self.position(entry.id.index).map(|at| &mut self.slots[at])
            && slot.entry.as_ref().is_some_and(|cached| Arc::ptr_eq(cached, entry))
        {
            slot.place = Some(place);
            self.evict();
        }
    }

    /// Drops the entries from `since` on.
    pub(crate) fn truncate(&mut self, since: RaftIndex) {
        while !self.slots.is_empty() && self.last_raft_index() >= since {
            self.forget(VecDeque::pop_back);
        }
        self.uncached = self.uncached.min(self.slots.len());
    }

    /// Drops the entries up to `upto`; where there are none, the log goes on
    /// behind it.
    pub(crate) fn purge(&mut self, upto: LogId) {
        self.purged = self.purged.max(Some(upto));
        while !self.slots.is_empty() && self.first <= upto.index {
            self.index_before = self.slots[0].index;
            self.forget(VecDeque::pop_front);
            self.first = self.first.next();
            self.uncached = self.uncached.saturating_sub(1);
        }
    }

    /// Looks up an entry.
    pub(crate) fn get(&self, index: RaftIndex) -> Option<Found> {
        let at = self.position(index)?;
        let slot = &self.slots[at];
        match (&slot.entry, slot.place) {
            (Some(entry), _) => Some(Found::Cached(Arc::clone(entry))),
            (None, Some(place)) => {
                Some(Found::OnDisk(place, (index, self.index_before(at).next())))
            }
            (None, None) => unreachable!("{index} left the cache before it was written"),
        }
    }

    /// Returns the entry that holds the command `index` or the first one after
    /// it, and the index of the last command before that entry.
    pub(crate) fn find(&self, index: Index) -> (RaftIndex, Index) {
        let at = self.slots.partition_point(|slot| slot.index < index);
        (RaftIndex(self.first().0 + at as u64), self.index_before(at))
    }

    /// The index of the last command before a slot.
    fn index_before(&self, at: usize) -> Index {
        if at == 0 { self.index_before } else { self.slots[at - 1].index }
    }

    fn last_raft_index(&self) -> RaftIndex {
        RaftIndex(self.first.0 + self.slots.len() as u64 - 1)
    }

    fn position(&self, index: RaftIndex) -> Option<usize> {
        let at = usize::try_from(index.0.checked_sub(self.first.0)?).ok()?;
        (at < self.slots.len()).then_some(at)
    }

    fn forget(&mut self, pop: impl Fn(&mut VecDeque<Slot>) -> Option<Slot>) {
        if let Some(entry) = pop(&mut self.slots).and_then(|slot| slot.entry) {
            self.cached_bytes -= entry.size();
        }
    }

    /// Lets the oldest entries leave the cache while it is over its limit.
    fn evict(&mut self) {
        while self.cached_bytes > self.cache_limit {
            match self.slots.get_mut(self.uncached) {
                Some(slot) if slot.place.is_some() => {
                    self.cached_bytes -= slot.entry.take().map_or(0, |entry| entry.size());
                    self.uncached += 1;
                }
                Some(_) | None => break,
            }
        }
    }
}
