//! The watch ring: the last events, for those who watch.
//!
//! ```text
//!   dropped     first                          last
//! ··· e41 e42 │ e43  e44  e45  …  e1041  e1042 │ (e1043 comes)
//! ```
//!
//! A ring of 1000 events, unless the machine was told otherwise, and of fewer if they
//! are large. Its length is a machine's own business, so the state's digest does not
//! cover it. A watch that wants an older event has the log replayed.
//!
//! Deliberately not here: who waits, and for which prefix.

use std::sync::Arc;

use etcd_log::{EventNumber, Index};
use imbl::Vector;

use crate::event::Event;
use crate::outcome::{Outcome, Position, Projection, What};

/// The last events.
#[derive(Clone, Debug)]
pub struct WatchRing {
    position: Position,
    capacity: usize,
    events: Vector<Arc<Event>>,
    /// How many bytes of memory the events take, about.
    bytes: usize,
    /// The index of the newest event that is no longer in the ring; 0 if none is.
    dropped: Index,
}

impl WatchRing {
    /// How many events the first etcd kept.
    pub const DEFAULT_CAPACITY: usize = 1000;

    /// How many bytes of events are kept, about: room for 1000 of them as long as the
    /// first etcd's could be, and for 30 of the largest. The newest one is always kept.
    pub const MAX_BYTES: usize = 64 << 20;

    /// Makes an empty ring.
    ///
    /// # Panics
    ///
    /// If it could not hold a single event.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a ring holds at least one event");
        let (position, dropped) = (Position::default(), Index::default());
        Self { position, capacity, events: Vector::new(), bytes: 0, dropped }
    }

    /// Returns the oldest event kept.
    pub fn first(&self) -> Option<&Arc<Event>> {
        self.events.front()
    }

    /// Returns the newest event kept.
    pub fn last(&self) -> Option<&Arc<Event>> {
        self.events.back()
    }

    /// Returns whether every event with an index of `index` or more is, or will
    /// be, in the ring.
    pub fn reaches_back_to(&self, index: Index) -> bool {
        index > self.dropped || self.dropped == Index(0)
    }

    /// Returns whether the event of this number is in the ring, or yet to come.
    pub fn holds_from(&self, number: EventNumber) -> bool {
        number >= self.first_number()
    }

    /// Returns the number of the first event with an index of `index` or more;
    /// if there is none, that of the next event.
    pub fn first_at(&self, index: Index) -> EventNumber {
        let (mut low, mut high) = (0, self.events.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.events[middle].index < index { low = middle + 1 } else { high = middle }
        }
        EventNumber(self.first_number().0 + low as u64)
    }

    /// Returns the events from a number on, in order.
    ///
    /// # Panics
    ///
    /// If the number is no longer in the ring: see [`Self::holds_from`].
    pub fn since(&self, number: EventNumber) -> impl Iterator<Item = &Arc<Event>> {
        assert!(self.holds_from(number), "{number} is not in the ring");
        let skip = usize::try_from(number.0 - self.first_number().0).unwrap_or(usize::MAX);
        let skip = skip.min(self.events.len());
        self.events.focus().narrow(skip..).into_iter()
    }

    /// Returns how many events the ring holds.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Returns whether the ring holds no event.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Restores a ring from its events, keeping the newest that fit.
    pub(crate) fn restore(
        capacity: usize,
        position: Position,
        dropped: Index,
        events: impl IntoIterator<Item = Arc<Event>>,
    ) -> Self {
        let mut ring = Self { position, dropped, ..Self::new(capacity) };
        events.into_iter().for_each(|event| ring.push(event));
        ring
    }

    /// Returns the index of the newest event that is no longer in the ring.
    pub(crate) fn dropped(&self) -> Index {
        self.dropped
    }

    /// Returns all events, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.events.iter()
    }

    fn first_number(&self) -> EventNumber {
        self.events.front().map_or(self.position.event.next(), |event| event.number)
    }

    fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.size();
        self.events.push_back(event);
        while self.events.len() > self.capacity
            || (self.bytes > Self::MAX_BYTES && self.events.len() > 1)
        {
            let oldest = self.events.pop_front().expect("there is more than one");
            self.bytes -= oldest.size();
            self.dropped = oldest.index;
        }
    }
}

impl Projection for WatchRing {
    fn position(&self) -> Position {
        self.position
    }

    fn fold(&mut self, outcome: &Outcome) {
        self.position.follow(outcome);
        if let What::Event(event) = &outcome.what {
            // The ring is searched by these numbers.
            assert_eq!(event.number, self.position.event, "the number of {event:?}");
            self.push(Arc::clone(event));
        }
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::{Batch, Command, KeyPath, LogTime};

    use super::*;
    use crate::state::State;

    #[test]
    fn large_events_are_bounded_by_their_bytes() {
        let mut state = State::new(1000);
        let value = Arc::<str>::from("v".repeat(1 << 20));
        for number in 1..=100 {
            let key = KeyPath::root().child(&number.to_string());
            let command = Command::Set { key, value: Arc::clone(&value), ttl: None };
            state.apply(&Batch::new(LogTime(number), vec![command]));
            let ring = state.ring();
            let bytes: usize = ring.iter().map(|event| event.size()).sum();
            assert!(bytes == ring.bytes && bytes <= WatchRing::MAX_BYTES, "{bytes} bytes");
        }
        // What is dropped is known, as it is where there are too many.
        let ring = state.ring();
        assert_eq!(ring.len(), 63);
        assert_eq!(ring.first_at(Index(38)), EventNumber(38));
        assert!(ring.holds_from(EventNumber(38)) && !ring.holds_from(EventNumber(37)));
        assert!(ring.reaches_back_to(Index(38)) && !ring.reaches_back_to(Index(37)));
    }

    #[test]
    fn newest_event_is_kept_however_large() {
        let mut ring = WatchRing::new(10);
        for number in 1..=2 {
            let value = Arc::<str>::from("v".repeat(WatchRing::MAX_BYTES));
            let change = crate::event::Change::Set { value, prev: None, deadline: None };
            let (number, index, key) = (EventNumber(number), Index(number), KeyPath::root());
            ring.push(Arc::new(Event { number, index, time: LogTime(1), key, change }));
            assert_eq!((ring.len(), ring.first_number()), (1, number));
        }
    }
}
