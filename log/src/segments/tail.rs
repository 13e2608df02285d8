//! The tail: which entries the log holds, where each lies, and the recent ones
//! themselves.
//!
//! ```text
//!       released       on disk only          cached
//!  ────────────────┬───────────────────┬──────────────────┐
//!  in the archive  │ place             │ place, and entry │ … not yet written:
//!                  first               cached             last    entry only
//! ```
//!
//! Entries leave at the front when they are *released*: the archive has them.
//! What Raft may forget (*purged*) is another matter, and moves nothing; unless
//! the log goes on behind entries that it never had.
//!
//! The cache is bounded by bytes, save that an entry stays until it is on disk.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::segments::frame::{Base, Truncation};
use crate::storage::{LogState, Write};
use crate::types::{Entry, Index, LogId, NodeId, RaftIndex, Term, Vote};

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
    /// The last entry before the first slot.
    released: Option<LogId>,
    /// The last entry whose history is no longer kept.
    forgotten: Option<LogId>,
    /// The last entry that came in a checkpoint, while the history up to there is
    /// missing.
    missing: Option<LogId>,
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

    /// Forgets that entries were committed which are not there: earlier versions wrote
    /// the note of it ahead of them. What the log ends with then need not be committed.
    pub(crate) fn clamp_committed(&mut self) {
        if self.committed > self.last() {
            self.committed = self.purged;
        }
    }

    /// Returns what the log holds besides its entries.
    pub(crate) fn state(&self) -> LogState {
        LogState {
            vote: self.vote,
            purged: self.purged,
            forgotten: self.forgotten,
            missing: self.missing,
            committed: self.committed,
            first: self.first(),
            last: self.last(),
            oldest: (self.first(), self.index_before),
        }
    }

    /// Returns the index of the last command before the first entry here.
    pub(crate) fn index_before_first(&self) -> Index {
        self.index_before
    }

    /// Returns the last entry whose history is no longer kept.
    pub(crate) fn forgotten(&self) -> Option<LogId> {
        self.forgotten
    }

    /// Returns the last entry's id, or else that of the last one before.
    pub(crate) fn last(&self) -> Option<LogId> {
        match self.slots.back() {
            Some(slot) => {
                Some(LogId { term: slot.term, node: slot.node, index: self.last_raft_index() })
            }
            None => self.released,
        }
    }

    /// Returns the index of the last command.
    pub(crate) fn index(&self) -> Index {
        self.slots.back().map_or(self.index_before, |slot| slot.index)
    }

    /// Returns the first entry that is not in the archive; if there is none, the
    /// one that would come.
    pub(crate) fn first(&self) -> RaftIndex {
        if self.slots.is_empty() { self.next().unwrap_or_default() } else { self.first }
    }

    /// Returns the index that the next entry must have; an empty log takes any.
    pub(crate) fn next(&self) -> Option<RaftIndex> {
        self.last().map(|last| last.index.next())
    }

    /// Starts from what a segment says came before it.
    pub(crate) fn start_from(&mut self, base: &Base) {
        self.vote = base.vote;
        self.committed = base.committed;
        self.index_before = base.index;
        self.purged = base.purged;
        self.released = base.last;
        self.forgotten = base.forgotten;
        self.missing = base.missing;
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
            Write::Install { upto, index } => self.install(*upto, *index),
            Write::Backfill { upto } => self.backfill(*upto),
            Write::Forget { upto } => self.forget(*upto),
        }
        self.check();
    }

    /// Makes sure of what holds whatever is written: what was let go of lies before what
    /// is here, and nothing that is spoken of lies behind it. But `committed` may: a leader
    /// says what is committed before its entries have come.
    fn check(&self) {
        let at = |id: Option<LogId>| id.map(|id| id.index);
        let (released, last) = (at(self.released), at(self.last()));
        let follows = released.is_none_or(|released| released.next() == self.first);
        assert!(self.slots.is_empty() || follows, "{:?} behind {released:?}", self.first);
        assert!(at(self.missing) <= released, "{:?} is missing, not {released:?}", self.missing);
        assert!(at(self.purged).max(at(self.forgotten)) <= last, "beyond {last:?}: {self:?}");
        assert!(self.index_before <= self.index(), "{} goes back", self.index());
        assert!(self.uncached <= self.slots.len(), "{} of {last:?}", self.uncached);
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
            self.drop_slot(VecDeque::pop_back);
        }
        self.uncached = self.uncached.min(self.slots.len());
    }

    /// Drops the entries that a truncation did. Those that it names may lie in
    /// segments that are there no more: then what is left is in the archive.
    pub(crate) fn restore_truncated(&mut self, truncation: &Truncation) {
        self.truncate(truncation.since);
        if self.slots.is_empty() {
            self.released = truncation.last;
            self.index_before = truncation.index;
        }
    }

    /// Notes that Raft may forget the entries up to `upto`. They stay.
    pub(crate) fn purge(&mut self, upto: LogId) {
        self.purged = self.purged.max(Some(upto));
    }

    /// Goes on behind a checkpoint; nothing happens if the log has its last entry.
    pub(crate) fn install(&mut self, upto: LogId, index: Index) {
        self.purge(upto);
        if self.last_kept().is_some_and(|last| last.index > upto.index || last == upto) {
            return;
        }
        self.release(upto);
        self.committed = self.committed.max(Some(upto));
        self.index_before = index;
        self.missing = Some(upto);
    }

    /// Notes that the history that was missing up to an entry has come. More may be
    /// missing by now.
    pub(crate) fn backfill(&mut self, upto: LogId) {
        self.missing = self.missing.filter(|missing| *missing != upto);
    }

    /// Returns the last entry up to where history is missing.
    pub(crate) fn missing(&self) -> Option<LogId> {
        self.missing
    }

    /// The last entry that this log has, or had.
    fn last_kept(&self) -> Option<LogId> {
        self.slots.back().map_or(self.released, |_| self.last())
    }

    /// Starts behind an archive without segments.
    pub(crate) fn start_behind(&mut self, last: LogId, index: Index) {
        self.released = Some(last);
        self.committed = Some(last);
        self.index_before = index;
    }

    /// Returns the last entry before the first one here.
    pub(crate) fn released(&self) -> Option<LogId> {
        self.released
    }

    /// Notes that the history up to `upto` is no longer kept.
    pub(crate) fn forget(&mut self, upto: LogId) {
        // By the index alone: of what lies before history that was fetched, nobody knows
        // the term.
        if self.forgotten.is_none_or(|forgotten| forgotten.index < upto.index) {
            self.forgotten = Some(upto);
        }
    }

    /// Lets go of the entries up to `upto`: the archive has them.
    pub(crate) fn release(&mut self, upto: LogId) {
        self.released = self.released.max(Some(upto));
        while !self.slots.is_empty() && self.first <= upto.index {
            self.index_before = self.slots[0].index;
            self.drop_slot(VecDeque::pop_front);
            self.first = self.first.next();
            self.uncached = self.uncached.saturating_sub(1);
        }
    }

    /// Returns the last of the entries that lie in this segment or an older one,
    /// and its last command; nothing, if there are none.
    pub(crate) fn last_in(&self, segment: u64) -> Option<(LogId, Index)> {
        let lies_there =
            |slot: &Slot| slot.place.is_some_and(|place| place.segment.get() <= segment);
        let at = self.slots.partition_point(lies_there).checked_sub(1)?;
        let Slot { term, node, index, .. } = self.slots[at];
        let raft_index = RaftIndex(self.first.0 + at as u64);
        Some((LogId { term, node, index: raft_index }, index))
    }

    /// Returns the id of an entry.
    pub(crate) fn id(&self, index: RaftIndex) -> Option<LogId> {
        let slot = &self.slots[self.position(index)?];
        Some(LogId { term: slot.term, node: slot.node, index })
    }

    /// Returns where an entry lies, and the last command before it.
    pub(crate) fn place(&self, index: RaftIndex) -> Option<(Place, Index)> {
        let at = self.position(index)?;
        Some((self.slots[at].place?, self.index_before(at)))
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

    fn drop_slot(&mut self, pop: impl Fn(&mut VecDeque<Slot>) -> Option<Slot>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixtures::entry;

    /// The disk is behind: the place of an entry that was overruled meanwhile is not that
    /// of the one which stands there by now, or another leader's would be read.
    #[test]
    fn place_of_an_overruled_entry_is_not_taken() {
        let mut tail = Tail::new(0);
        let (overruled, stands) = (entry(0, 1, "old"), entry(0, 2, "new"));
        tail.push(Arc::clone(&overruled));
        tail.truncate(RaftIndex(0));
        tail.push(Arc::clone(&stands));
        let place = Place { segment: NonZeroU64::MIN, offset: 0, length: 1 };
        tail.set_place(&overruled, place);
        assert!(matches!(tail.get(RaftIndex(0)), Some(Found::Cached(found)) if found == stands));
        tail.set_place(&stands, place);
        assert!(matches!(tail.get(RaftIndex(0)), Some(Found::OnDisk(..))));
    }
}
