//! Watches: the events that pass a filter, in order, without gaps or repeats.
//!
//! ```text
//!            cursor                    newest
//! ··· replayed │ ······ ring ············ │ wait for the bell
//! ```
//!
//! A watch pulls: it has a cursor, and looks for the next event behind it, first
//! in the log's history if the ring does not reach back so far, then in the ring,
//! and only then waits. Nothing is kept for it meanwhile, so a slow one costs
//! nobody anything.
//!
//! How far it has come is told at any time, and never names an event that passes the
//! filter and was not given yet.

use std::pin::pin;
use std::sync::Arc;

use etcd_log::{EventNumber, Index};
use etcd_projections::{Event, Position, WatchRing};

use super::closing::Closing;
use super::history::sink::{Replayed, Replaying};
use super::history::{Cursor, History, WatchError};
use crate::state::filter::Filter;
use crate::state::published::StateReader;
use crate::state::watch_hub::Listener;

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the next event.
    Now,
    /// With the first event of this index or a later one.
    Index(Index),
    /// With the event after this one.
    After(EventNumber),
}

/// How far a watch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It has seen or passed over all that happened up to here. Where it reads the log,
    /// it may know of no index or time; they are 0 then, or earlier.
    Upto(Position),
    /// It has not got to its first index yet.
    NothingBefore(Index),
}

/// A watch.
#[derive(Debug)]
pub struct Watch {
    filter: Filter,
    cursor: Cursor,
    /// Events of a lower index are passed over.
    from_index: Index,
    /// Whether the log has come to that index.
    has_begun: bool,
    /// How far it has come, at the least; of the event, the cursor knows better.
    seen: Position,
    published: StateReader,
    listener: Listener,
    history: Arc<History>,
    replaying: Option<Replaying>,
    closing: Closing,
}

impl Watch {
    pub(super) fn new(
        filter: Filter,
        start: Start,
        published: StateReader,
        history: Arc<History>,
        closing: Closing,
    ) -> Self {
        let listener = published.listen(&filter);
        let now = published.now().state.position();
        let nothing = Position::default();
        let (cursor, from_index, seen) = match start {
            Start::Now => (Cursor::Number(now.event.next()), Index(0), now),
            Start::Index(index) => (Cursor::Index(index), index, upto(index)),
            Start::After(EventNumber(number)) => {
                (Cursor::Number(EventNumber(number.saturating_add(1))), Index(0), nothing)
            }
        };
        let (has_begun, replaying) = (from_index == Index(0), None);
        Self {
            filter,
            cursor,
            from_index,
            has_begun,
            seen,
            published,
            listener,
            history,
            replaying,
            closing,
        }
    }

    /// Returns how far the watch has come: where another one would go on.
    pub fn seen(&mut self) -> Seen {
        // What has happened since it looked last may be of no interest.
        let _may_have_found = self.advance();
        let passed = self.replaying.as_ref().and_then(Replaying::passed);
        match self.cursor.past(passed) {
            Cursor::Number(next) if self.has_begun || passed.is_some() => {
                let event = EventNumber(next.0.saturating_sub(1));
                Seen::Upto(Position { event, ..self.seen })
            }
            Cursor::Number(_) => Seen::NothingBefore(self.from_index),
            Cursor::Index(index) => Seen::NothingBefore(index),
        }
    }

    /// Waits for the next event. If this call is given up, no event is lost.
    ///
    /// # Errors
    ///
    /// If the machine closes, or history does not reach back so far.
    pub async fn next(&mut self) -> Result<Arc<Event>, WatchError> {
        loop {
            let bell = self.listener.bell();
            let mut rung = pin!(bell.notified());
            // From here on no event is missed, whatever is published meanwhile.
            rung.as_mut().enable();
            if self.closing.has_begun() {
                return Err(WatchError::Closing);
            }
            match self.advance() {
                Look::Found(event) => {
                    self.take(&event);
                    return Ok(event);
                }
                Look::Behind => {
                    // On the heap: few are behind for long, and all would have room for it.
                    if let Some(event) = Box::pin(self.replay()).await? {
                        return Ok(event);
                    }
                }
                Look::Nothing => {
                    tokio::select! {
                        () = rung => {}
                        () = self.closing.begun() => return Err(WatchError::Closing),
                    }
                }
            }
        }
    }

    /// Returns whether the next event is older than the ring.
    pub fn is_behind(&self) -> bool {
        self.next_in(self.published.now().state.ring()).is_none()
    }

    /// Goes on to the next event in the ring, and not past it.
    fn advance(&mut self) -> Look {
        let now = self.published.now();
        let Some(number) = self.next_in(now.state.ring()) else { return Look::Behind };
        // What a replay still has in hand comes from the ring now: taken later, it
        // would be told twice.
        self.replaying = None;
        if let Some(event) = now.state.ring().since(number).find(|event| self.wants(event)) {
            self.cursor = Cursor::Number(event.number);
            self.seen.index = upto(event.index).index;
            return Look::Found(Arc::clone(event));
        }
        let next = now.state.position().event.next();
        // The cursor of a watch in the future stays where it is.
        self.cursor = Cursor::Number(next.max(number));
        self.seen = now.state.position();
        self.has_begun |= self.seen.index >= self.from_index;
        Look::Nothing
    }

    /// Returns where to look in the ring; nothing, if it does not reach back so far.
    fn next_in(&self, ring: &WatchRing) -> Option<EventNumber> {
        match self.cursor {
            Cursor::Number(number) => {
                Some(self.listener.next_from(number)).filter(|number| ring.holds_from(*number))
            }
            Cursor::Index(index) => ring.reaches_back_to(index).then(|| ring.first_at(index)),
        }
    }

    /// Notes that an event is given.
    fn take(&mut self, event: &Event) {
        let Event { index, number, time, .. } = *event;
        self.cursor = Cursor::Number(number.next());
        self.has_begun = true;
        // There may be more events of its index.
        self.seen = Position { event: number, time, ..upto(index) };
    }

    /// Takes the next event from the log; nothing, if the ring is reached.
    async fn replay(&mut self) -> Result<Option<Arc<Event>>, WatchError> {
        let replaying = self.replaying.get_or_insert_with(|| {
            self.history.replay(self.cursor, self.filter.prefix.clone(), self.from_index)
        });
        let found = tokio::select! {
            found = replaying.next() => found,
            () = self.closing.begun() => return Err(WatchError::Closing),
        };
        match found? {
            Replayed::Event(event) => {
                self.take(&event);
                Ok(Some(event).filter(|event| self.wants(event)))
            }
            Replayed::Reached(number) => {
                self.cursor = Cursor::Number(number.next());
                self.has_begun = true;
                self.replaying = None;
                Ok(None)
            }
            // It had waited too long to be read, and made room for others.
            Replayed::GivenUp => {
                let passed = self.replaying.take().and_then(|replaying| replaying.passed());
                self.cursor = self.cursor.past(passed);
                self.has_begun |= passed.is_some();
                Ok(None)
            }
        }
    }

    fn wants(&self, event: &Event) -> bool {
        event.index >= self.from_index && self.filter.passes(event)
    }
}

/// How far one is who has seen all commands before this one.
fn upto(index: Index) -> Position {
    Position { index: Index(index.0.saturating_sub(1)), ..Position::default() }
}

enum Look {
    Found(Arc<Event>),
    /// The ring does not reach back so far.
    Behind,
    Nothing,
}
