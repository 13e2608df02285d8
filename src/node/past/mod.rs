//! The past: what was, and what happened, out of the store of events.
//!
//! ```text
//!          then ───────── events ─────────▶ now
//! view        ◀──── taken back, newest first ──┘
//! history     └─ told, oldest first ─▶           ◀─ or newest first ─┘
//! diff        └─ the first value and the last, of each key ─▶
//! restore     the view, made so again: the diff from now to then, as one command
//! ```
//!
//! No state is built for it: what is read grows with what happened since then at the keys
//! in question, not with the tree, and blocks that hold nothing of them are passed over.
//!
//! *Limit*: where the store has a gap, one is told to come again: it is filled in from the
//! log in the background (`history::fill`).

mod cache;
mod deadline;
mod history;
#[cfg(test)]
mod laws;
mod moment;
mod net;
mod restore;
mod view;

use etcd_log::Index;
use etcd_projections::{Position, Rejection};

use super::error::{Unavailable, WriteError};
use crate::storage::events::Gap;

pub(super) use cache::PastViews;
pub use history::{HistoryQuery, PastEvents};
pub use moment::Moment;
pub use net::{Diff, NetChange};
pub use restore::{LivesOn, RestoreQuery, Restored};

/// Why the past cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PastError {
    /// It has not come yet.
    #[error("{moment} is not reached, the newest is {}", newest.index)]
    NotReached {
        /// What was asked for.
        moment: Moment,
        /// How far the log has come.
        newest: Position,
    },
    /// It is kept no longer.
    #[error("{moment} is no longer kept, the oldest is {oldest}")]
    Gone {
        /// What was asked for.
        moment: Moment,
        /// The oldest command that is kept.
        oldest: Index,
    },
    /// It is kept, but its events are still being worked out from the log.
    #[error("the events at command {} are being worked out", at.index)]
    NotStored {
        /// Up to where they are, or down to where.
        at: Position,
    },
    /// This machine stores no events.
    #[error("no events are stored here")]
    NoStore,
    /// The end lies before the beginning.
    #[error("{from} is after {to}")]
    Backwards {
        /// The beginning.
        from: Moment,
        /// The end.
        to: Moment,
    },
    /// More changed than is told at once.
    #[error("more than {most} bytes changed")]
    TooMuch {
        /// How many bytes may have.
        most: usize,
    },
    /// More would have to be changed than one command may change.
    #[error("{found} {what} are more than one batch may have: {most}")]
    TooLarge {
        /// Of what: bytes, or changes.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// Something changed that was not to have.
    #[error("{key} was changed by {index}")]
    Changed {
        /// What.
        key: String,
        /// By which command.
        index: Index,
    },
    /// It cannot be put back as things are.
    #[error("{0}")]
    Refused(Rejection),
    /// There is no state to begin with.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The restore could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<Gap> for PastError {
    fn from(gap: Gap) -> Self {
        Self::NotStored { at: gap.at }
    }
}
