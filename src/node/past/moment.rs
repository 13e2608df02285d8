//! Where in the log a moment is.

use etcd_log::{Index, LogTime};
use etcd_projections::Position;

use super::PastError;
use crate::node::Node;
use crate::storage::events::EventStore;
pub use crate::util::moment::Moment;

impl Node {
    /// Returns where a moment lies: up to where what happened by then goes, as far as the
    /// newest position goes that is looked at. It reads a block at most.
    pub(super) fn position_at(
        &self,
        events: &EventStore,
        moment: Moment,
        newest: Position,
    ) -> Result<Position, PastError> {
        let (is_reached, found) = match (moment, moment.time(newest.time)) {
            (Moment::Index(index), _) => (index <= newest.index, events.position_at_index(index)),
            (_, Some(time)) => (time <= newest.time, events.position_at_time(time)),
            (Moment::Time(_) | Moment::Ago(_), None) => unreachable!("a time is one"),
        };
        if !is_reached {
            return Err(PastError::NotReached { moment, newest });
        }
        self.known(events, moment, found.map(|found| found.min(newest)), false)
    }

    /// Returns where a moment ends: behind all that has happened by then. That is behind
    /// the expiries, too, that have the index of a command.
    pub(super) fn position_behind(
        &self,
        events: &EventStore,
        moment: Moment,
        newest: Position,
    ) -> Result<Position, PastError> {
        let Moment::Index(index) = moment else {
            return self.position_at(events, moment, newest);
        };
        if index > newest.index {
            return Err(PastError::NotReached { moment, newest });
        }
        let found = if index == newest.index {
            Some(newest)
        } else {
            events.position_before_index(index.next())
        };
        self.known(events, moment, found.map(|found| found.min(newest)), false)
    }

    /// Returns the position before the first command that is kept.
    pub(super) fn position_before_all(&self, events: &EventStore) -> Result<Position, PastError> {
        match self.inner.history.oldest() {
            Index(1) => Ok(Position::default()),
            oldest => events.position_before_index(oldest).ok_or(PastError::NotStored {
                at: Position { index: oldest, ..Position::default() },
            }),
        }
    }

    /// Returns where a moment begins: behind all that happened before it.
    pub(super) fn position_before(
        &self,
        events: &EventStore,
        moment: Moment,
        newest: Position,
    ) -> Result<Position, PastError> {
        let (is_reached, found) = match (moment, moment.time(newest.time)) {
            (Moment::Index(Index(0)), _) => (true, Some(Position::default())),
            (Moment::Index(index), _) => {
                (index <= newest.index, events.position_before_index(index))
            }
            (_, Some(LogTime(0))) => (true, Some(Position::default())),
            (_, Some(time)) => (time <= newest.time, events.position_at_time(LogTime(time.0 - 1))),
            (Moment::Time(_) | Moment::Ago(_), None) => unreachable!("a time is one"),
        };
        if !is_reached {
            return Err(PastError::NotReached { moment, newest });
        }
        self.known(events, moment, found.map(|found| found.min(newest)), true)
    }

    /// Says why there is no such position, if there is none, or it is of before what is kept:
    /// the states from the oldest command on, and what happened from it on.
    fn known(
        &self,
        events: &EventStore,
        moment: Moment,
        found: Option<Position>,
        is_beginning: bool,
    ) -> Result<Position, PastError> {
        let oldest = self.inner.history.oldest();
        let first = if oldest == Index(1) { Index(0) } else { oldest };
        let (is_kept, at) = match moment {
            Moment::Index(index) => (index >= first, index),
            Moment::Time(_) | Moment::Ago(_) => match found {
                Some(found) if is_beginning => (found.index.next() >= oldest, found.index),
                Some(found) => (found.index >= first, found.index),
                // That is known once the log of that time is stored.
                None => (!events.reaches_back_to(oldest), oldest),
            },
        };
        let may_come = is_kept || self.inner.history.log().missing().is_some();
        match found.filter(|_| is_kept) {
            Some(found) => Ok(found),
            None if may_come => {
                Err(PastError::NotStored { at: Position { index: at, ..Position::default() } })
            }
            None => Err(PastError::Gone { moment, oldest }),
        }
    }
}
