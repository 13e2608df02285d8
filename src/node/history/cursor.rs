//! How far a watch has come, what it wants, and why it may end.

use std::fmt;

use etcd_log::{EventNumber, Index, KeyPath};
use etcd_projections::Event;

use crate::state::replay::ReplayError;

/// Why a watch ends.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The machine is closing.
    #[error("the machine is closing")]
    Closing,
    /// What the watch asks for is no longer kept.
    #[error("{cursor} is no longer kept, the oldest command is {oldest}")]
    Gone {
        /// What it asks for.
        cursor: Cursor,
        /// The oldest command that is kept.
        oldest: Index,
    },
    /// The log cannot be read.
    #[error("the log cannot be read")]
    Log(#[from] ReplayError),
}

/// What a watch looks for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// The first event of this index or a later one.
    Index(Index),
    /// The event of this number, or a later one.
    Number(EventNumber),
}

impl Cursor {
    /// Returns where to go on once all events up to one have been seen. Never goes
    /// back: a replay may end in the middle of a batch, of which more has been told
    /// than it has noted.
    pub(in crate::node) fn past(self, passed: Option<EventNumber>) -> Self {
        match (self, passed) {
            (cursor, None) => cursor,
            (Self::Index(_), Some(passed)) => Self::Number(passed.next()),
            (Self::Number(next), Some(passed)) => Self::Number(next.max(passed.next())),
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "command {index}"),
            Self::Number(number) => write!(f, "event {number}"),
        }
    }
}

/// Returns whether an event is one that a watch on a prefix waits for.
pub(in crate::node) fn wanted(event: &Event, from: Index, prefix: &KeyPath) -> bool {
    event.index >= from && prefix.covers(&event.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_never_goes_back() {
        let number = |number| Cursor::Number(EventNumber(number));
        for (cursor, passed, next) in [
            (number(151), Some(9), number(151)),
            (number(5), Some(9), number(10)),
            (number(5), None, number(5)),
            (Cursor::Index(Index(3)), Some(9), number(10)),
            (Cursor::Index(Index(3)), None, Cursor::Index(Index(3))),
        ] {
            assert_eq!(cursor.past(passed.map(EventNumber)), next);
        }
    }
}
