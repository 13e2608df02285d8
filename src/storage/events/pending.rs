//! What has been applied, and is not in a file yet: in memory, as it came.
//!
//! It is bounded by its bytes. When there is no room, what comes is left out: a gap, until
//! half of the room is free again.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use etcd_log::Index;
use etcd_projections::{Outcome, Position, Rejection, What};

use super::block::is_block;
use super::record::weight;

/// How many bytes of outcomes may wait, about.
const MOST_BYTES: usize = 64 << 20;

/// Outcomes that follow each other: what came of one entry of the log.
#[derive(Debug)]
pub(super) struct Batch {
    /// The position before the first.
    pub(super) before: Position,
    /// That of the last.
    pub(super) after: Position,
    pub(super) outcomes: Vec<Outcome>,
    weight: usize,
    bytes: usize,
}

impl Batch {
    /// Returns the outcomes behind a position.
    pub(super) fn behind(&self, position: Position) -> &[Outcome] {
        let known = self.outcomes.partition_point(|outcome| outcome.position <= position);
        &self.outcomes[known..]
    }
}

/// What is not in a file yet.
#[derive(Debug)]
pub(super) struct Pending {
    batches: VecDeque<Arc<Batch>>,
    /// Where the last outcome has led that was applied.
    newest: Position,
    count: usize,
    weight: usize,
    bytes: usize,
    most_bytes: usize,
    is_full: bool,
    /// That all of it is to be in files soon, enough for a block or not; and before which
    /// command nothing is worth keeping.
    urge: Option<Index>,
}

impl Pending {
    /// Begins where the machine stands.
    pub(super) fn new(newest: Position) -> Self {
        Self {
            batches: VecDeque::new(),
            newest,
            count: 0,
            weight: 0,
            bytes: 0,
            most_bytes: MOST_BYTES,
            is_full: false,
            urge: None,
        }
    }

    /// Has room for so many bytes from now on.
    #[cfg(test)]
    pub(super) fn bound(&mut self, bytes: usize) {
        self.most_bytes = bytes;
    }

    /// Takes outcomes that follow a position. Returns whether there was room for them; if
    /// not, all that is here is to be in files soon.
    pub(super) fn push(&mut self, before: Position, outcomes: Vec<Outcome>) -> bool {
        let Some(last) = outcomes.last() else { return true };
        let after = last.position;
        self.newest = after;
        let bytes = outcomes.iter().map(memory).sum();
        let most = if self.is_full { self.most_bytes / 2 } else { self.most_bytes };
        self.is_full = self.bytes + bytes > most && !self.batches.is_empty();
        if self.is_full {
            // Files are not believed behind what stays here: nothing may stay before a gap.
            self.urge.get_or_insert_default();
            return false;
        }
        let weight = outcomes.iter().map(weight).sum();
        self.count += outcomes.len();
        self.weight += weight;
        self.bytes += bytes;
        self.batches.push_back(Arc::new(Batch { before, after, outcomes, weight, bytes }));
        true
    }

    /// Returns whether what has come last was left out.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Notes that the state has come to a position without outcomes.
    pub(super) fn jump(&mut self, position: Position) {
        self.newest = position;
    }

    /// Forgets what led to a position or to one before it.
    pub(super) fn settle(&mut self, position: Position) {
        while let Some(batch) = self.batches.pop_front_if(|batch| batch.after <= position) {
            self.count -= batch.outcomes.len();
            self.weight -= batch.weight;
            self.bytes -= batch.bytes;
        }
    }

    /// Forgets every batch with an outcome behind a command.
    pub(super) fn forget_behind(&mut self, index: Index) {
        while let Some(batch) = self.batches.pop_back_if(|batch| batch.after.index > index) {
            self.count -= batch.outcomes.len();
            self.weight -= batch.weight;
            self.bytes -= batch.bytes;
        }
    }

    /// Wants all of it to be in files soon, and nothing from before a command.
    pub(super) fn urge(&mut self, oldest: Index) {
        self.urge = Some(oldest);
    }

    /// Returns what somebody wanted so, once.
    pub(super) fn take_urge(&mut self) -> Option<Index> {
        self.urge.take()
    }

    /// Returns whether there is enough for a block.
    pub(super) fn has_block(&self) -> bool {
        is_block(self.count, self.weight)
    }

    /// Returns where the last outcome has led that was applied.
    pub(super) fn newest(&self) -> Position {
        self.newest
    }

    /// Returns up to where files are believed: what is here is not compared with them yet.
    pub(super) fn first(&self) -> Position {
        self.batches.front().map_or(self.newest, |batch| batch.before)
    }

    /// Returns the outcomes of the next block behind a position, and a few more: those that
    /// follow each other without a gap. And whether no more will come to them, or need to.
    pub(super) fn next_block(&self, position: Position) -> (Vec<Arc<Batch>>, bool) {
        let (mut count, mut bytes) = (0, 0);
        let mut taken: Vec<Arc<Batch>> = Vec::new();
        for batch in &self.batches {
            let follows = taken.last().is_none_or(|last| last.after == batch.before);
            if !follows || is_block(count, bytes) {
                return (taken, true);
            }
            let new = batch.behind(position);
            count += new.len();
            bytes += if new.len() < batch.outcomes.len() {
                new.iter().map(weight).sum()
            } else {
                batch.weight
            };
            taken.push(Arc::clone(batch));
        }
        (taken, is_block(count, bytes))
    }

    /// Returns the batch with the outcome that follows a position.
    pub(super) fn following(&self, position: Position) -> Option<Arc<Batch>> {
        let at = self.batches.partition_point(|batch| batch.after <= position);
        self.batches.get(at).filter(|batch| batch.before <= position).cloned()
    }

    /// Returns the batch with the outcome that led to a position.
    pub(super) fn leading_to(&self, position: Position) -> Option<Arc<Batch>> {
        let at = self.batches.partition_point(|batch| batch.after < position);
        self.batches.get(at).filter(|batch| batch.before < position).cloned()
    }

    /// Returns the first batch that fits; from there on, all do.
    pub(super) fn first_that(&self, fits: impl Fn(&Batch) -> bool) -> Option<Arc<Batch>> {
        let at = self.batches.partition_point(|batch| !fits(batch));
        self.batches.get(at).cloned()
    }

    /// Returns the positions between which everything is here, oldest first.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<Position>> {
        self.batches.iter().map(|batch| batch.before..batch.after)
    }
}

/// How many bytes of memory an outcome takes, about.
fn memory(outcome: &Outcome) -> usize {
    let more = match &outcome.what {
        What::Event(event) => event.size(),
        What::Rejection(Rejection::TestFailed { found, expected }) => found.len() + expected.len(),
        What::Rejection(_) | What::Tick => 0,
    };
    size_of::<Outcome>() + more
}
