//! The trail: where the last entries of the log have led.
//!
//! ```text
//! entry      57        58       59        60
//! led to   #41 e40   #41 e40  #44 e43   #46 e44      a check in entry 61 names one of them
//!            └ blank entries, and changes of the group, lead nowhere ┘
//! ```
//!
//! A check says what its proposer's state was when that had applied some entry. Mostly
//! it is the one before the check itself; but others may lie between, of a leader
//! before, or of Raft's own. So each state remembers for a while where it stood.
//!
//! It is a state's memory of itself, and no part of what it holds: a state that comes
//! from a checkpoint remembers its last entry only.

use etcd_log::{Digest, RaftIndex};
use imbl::Vector;

use crate::outcome::Position;

/// How many entries are remembered. One batch is under way at a time, so a check names
/// one of the last few; only a new leader that has a lot to apply still may name an
/// older one, which is passed over then, as one from before a checkpoint.
const LENGTH: usize = 64;

/// Where the last entries have led.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trail {
    stood: Vector<Stood>,
    checked: Option<Position>,
}

/// Where an entry has led.
#[derive(Clone, Copy, Debug)]
struct Stood {
    entry: RaftIndex,
    position: Position,
    digest: Digest,
}

impl Trail {
    /// Returns the last entry that is remembered.
    pub(crate) fn last(&self) -> Option<RaftIndex> {
        self.stood.back().map(|stood| stood.entry)
    }

    /// Notes where an entry has led.
    pub(crate) fn note(&mut self, entry: RaftIndex, position: Position, digest: Digest) {
        let last = self.last();
        assert!(last < Some(entry), "entry {entry} behind {last:?}");
        if self.stood.len() == LENGTH {
            self.stood.pop_front();
        }
        self.stood.push_back(Stood { entry, position, digest });
    }

    /// Returns where an entry has led, if that is remembered.
    pub(crate) fn find(&self, entry: RaftIndex) -> Option<(Position, Digest)> {
        let found = self.stood.iter().rev().find(|stood| stood.entry <= entry)?;
        (found.entry == entry).then_some((found.position, found.digest))
    }

    /// Notes that a check has come by which says something of a position; or of none, if that
    /// is not remembered.
    pub(crate) fn note_check(&mut self, position: Option<Position>) {
        self.checked = self.checked.max(position);
    }

    /// Returns the last position that a check has said something of.
    pub(crate) fn checked(&self) -> Option<Position> {
        self.checked
    }
}
