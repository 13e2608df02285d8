//! Reading the store: a chunk at a time, forward or backward from a position.
//!
//! ```text
//! positions    p0 ──o1── p1 ──o2── p2 ──o3── p3        after p1: o2, o3
//!                                                      before p2: o2, o1
//! ```
//!
//! A reader holds nothing but what is left of one block. Reading waits for the disk.

use std::collections::VecDeque;

use etcd_projections::Position;

use super::record::{Interest, Stored};
use super::store::{EventStore, Source};

/// How many blocks are passed over before a reader shows how far it has come.
const MOST_BLOCKS: usize = 64;

/// What a reader came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The outcomes of interest, in the order of the reader; there may be none.
    pub stored: Vec<Stored>,
    /// The position up to which all of interest has been read; or down to which.
    pub reached: Position,
}

/// What comes next is not in the store: the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the events at command {}, event {} are not stored", at.index, at.event)]
pub struct Gap {
    /// The position up to which all has been read; or down to which.
    pub at: Position,
}

/// A reader of the store.
#[derive(Debug)]
pub struct EventReader {
    store: EventStore,
    interest: Interest,
    is_forward: bool,
    reached: Position,
    /// What is left of a block, in the order of the reader, each with the position that
    /// is reached with it.
    rest: VecDeque<(Position, Stored)>,
    /// What is reached behind that.
    end: Position,
}

impl EventReader {
    pub(super) fn forward(store: EventStore, position: Position, interest: Interest) -> Self {
        Self::new(store, position, interest, true)
    }

    pub(super) fn backward(store: EventStore, position: Position, interest: Interest) -> Self {
        let position = position.min(store.pending().newest());
        Self::new(store, position, interest, false)
    }

    fn new(store: EventStore, from: Position, interest: Interest, is_forward: bool) -> Self {
        let rest = VecDeque::new();
        Self { store, interest, is_forward, reached: from, rest, end: from }
    }

    /// Reads on: outcomes of about so many bytes together, and one at least if there is
    /// any close by. Nothing, at the end; where that is the newest outcome, there may be
    /// more later.
    ///
    /// # Errors
    ///
    /// If what comes next is not in the store, or cannot be read.
    pub fn next(&mut self, most_bytes: usize) -> Result<Option<Chunk>, Gap> {
        let begun = self.reached;
        for _ in 0..MOST_BLOCKS {
            if !self.rest.is_empty() {
                break;
            }
            self.reached = self.end;
            let has_come = self.reached != begun;
            match self.load() {
                Ok(true) => {}
                // What was passed over is told first: it may be all that is asked for.
                Ok(false) | Err(_) if has_come => break,
                Ok(false) => return Ok(None),
                Err(gap) => return Err(gap),
            }
        }
        Ok(Some(self.take(most_bytes)))
    }

    fn take(&mut self, most_bytes: usize) -> Chunk {
        let (mut stored, mut bytes) = (Vec::new(), 0);
        while bytes < most_bytes || stored.is_empty() {
            let Some((reached, next)) = self.rest.pop_front() else { break };
            bytes += next.size();
            stored.push(next);
            self.reached = reached;
        }
        if self.rest.is_empty() {
            self.reached = self.end;
        }
        Chunk { stored, reached: self.reached }
    }

    /// Loads the next outcomes. Returns whether there are any, of interest or not.
    fn load(&mut self) -> Result<bool, Gap> {
        if self.is_forward { self.load_forward() } else { self.load_backward() }
    }

    fn load_forward(&mut self) -> Result<bool, Gap> {
        let at = self.reached;
        let gap = Gap { at };
        match self.store.following(at) {
            (Source::End, _) => return Ok(false),
            (Source::Nowhere, _) => return Err(gap),
            (Source::Memory(batch), _) => {
                let stored = batch.behind(at).iter().map(Stored::from);
                let stored = stored.filter(|stored| self.interest.wants(stored));
                self.rest = stored.map(|stored| (stored.position, stored)).collect();
                self.end = batch.after;
            }
            (Source::File(file, block), limit) => {
                let end = block.after.min(limit);
                let read = self.store.read(&file, &block, &self.interest).ok_or(gap)?;
                let stored = read.into_iter().map(|(_, stored)| (stored.position, stored));
                let is_here = |(position, _): &(Position, _)| at < *position && *position <= end;
                self.rest = stored.filter(is_here).collect();
                self.end = end;
            }
        }
        Ok(true)
    }

    fn load_backward(&mut self) -> Result<bool, Gap> {
        let at = self.reached;
        let gap = Gap { at };
        match self.store.leading_to(at) {
            Source::End => return Ok(false),
            Source::Nowhere => return Err(gap),
            Source::Memory(batch) => {
                let mut before = batch.before;
                let with_before = batch.outcomes.iter().map(|outcome| {
                    (std::mem::replace(&mut before, outcome.position), Stored::from(outcome))
                });
                let wanted = |(_, stored): &(_, Stored)| {
                    stored.position <= at && self.interest.wants(stored)
                };
                let found: Vec<_> = with_before.filter(wanted).collect();
                self.rest = found.into_iter().rev().collect();
                self.end = batch.before;
            }
            Source::File(file, block) => {
                let read = self.store.read(&file, &block, &self.interest).ok_or(gap)?;
                let newest_first = read.into_iter().rev();
                self.rest = newest_first.filter(|(_, stored)| stored.position <= at).collect();
                self.end = block.before;
            }
        }
        Ok(true)
    }
}
