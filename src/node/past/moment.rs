//! Where in the log a moment is.

use etcd_log::{Index, LogTime};
use etcd_projections::Position;

use super::PastError;
use crate::node::Node;
use crate::storage::events::EventStore;
pub use crate::util::moment::Moment;

impl Node {
    /// Returns where a moment lies: up to where what happened by then goes. It reads a
    /// block at most.
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
        self.known(moment, newest, is_reached, found)
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
        self.known(moment, newest, is_reached, found)
    }

    /// Says why there is no such position, if there is none.
    fn known(
        &self,
        moment: Moment,
        newest: Position,
        is_reached: bool,
        found: Option<Position>,
    ) -> Result<Position, PastError> {
        if !is_reached {
            return Err(PastError::NotReached { moment, newest });
        }
        let oldest = self.inner.history.oldest();
        match (found, moment) {
            (Some(found), _) if found.index.next() >= oldest => Ok(found),
            (None, Moment::Index(index)) if index.next() >= oldest => {
                Err(PastError::NotStored { at: Position { index, ..Position::default() } })
            }
            // Whether a time is still kept is known once the log of that time is stored.
            (None, Moment::Time(_) | Moment::Ago(_)) if oldest == Index(1) => {
                Err(PastError::NotStored { at: Position::default() })
            }
            (Some(_) | None, _) => Err(PastError::Gone { moment, oldest }),
        }
    }
}
