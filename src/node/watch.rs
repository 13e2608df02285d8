//! Watches: the events below a prefix, in order, without gaps or repeats.
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

use std::pin::pin;
use std::sync::Arc;

use etcd_log::{EventNumber, Index, KeyPath};
use etcd_projections::Event;

use super::closing::Closing;
use super::history::sink::{Replayed, Replaying};
use super::history::{Cursor, History, WatchError, wanted};
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
    /// It has seen or passed over the events up to this one.
    Event(EventNumber),
    /// It has not got to its first index yet.
    NothingBefore(Index),
}

/// A watch on a prefix.
#[derive(Debug)]
pub struct Watch {
    prefix: KeyPath,
    cursor: Cursor,
    /// Events of a lower index are passed over.
    from_index: Index,
    published: StateReader,
    listener: Listener,
    history: History,
    replaying: Option<Replaying>,
    closing: Closing,
}

impl Watch {
    pub(super) fn new(
        prefix: KeyPath,
        start: Start,
        published: StateReader,
        history: History,
        closing: Closing,
    ) -> Self {
        let next = published.now().state.position().event.next();
        let (cursor, from_index) = match start {
            Start::Now => (Cursor::Number(next), Index(0)),
            Start::Index(index) => (Cursor::Index(index), index),
            Start::After(EventNumber(u64::MAX)) => {
                (Cursor::Number(EventNumber(u64::MAX)), Index(0))
            }
            Start::After(number) => (Cursor::Number(number.next()), Index(0)),
        };
        let listener = published.listen(&prefix);
        let replaying = None;
        Self { prefix, cursor, from_index, published, listener, history, replaying, closing }
    }

    /// Returns how far the watch has come: where another one would go on.
    pub fn seen(&self) -> Seen {
        if self.from_index > self.published.now().state.position().index {
            return Seen::NothingBefore(self.from_index);
        }
        let passed = self.replaying.as_ref().and_then(Replaying::passed);
        match self.cursor.past(passed) {
            Cursor::Number(next) => Seen::Event(EventNumber(next.0.saturating_sub(1))),
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
            match self.look()? {
                Look::Found(event) => return Ok(event),
                Look::Behind => {
                    if let Some(event) = self.replay().await? {
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
        let now = self.published.now();
        match self.cursor {
            Cursor::Number(number) => !now.state.ring().holds_from(number),
            Cursor::Index(index) => !now.state.ring().reaches_back_to(index),
        }
    }

    /// Looks for the next event in the ring.
    fn look(&mut self) -> Result<Look, WatchError> {
        if self.closing.has_begun() {
            return Err(WatchError::Closing);
        }
        let now = self.published.now();
        let ring = now.state.ring();
        let number = match self.cursor {
            Cursor::Number(number) if ring.holds_from(number) => number,
            Cursor::Index(index) if ring.reaches_back_to(index) => ring.first_at(index),
            Cursor::Number(_) | Cursor::Index(_) => return Ok(Look::Behind),
        };
        // What a replay still has in hand comes from the ring now: taken later, it
        // would be told twice.
        self.replaying = None;
        let found = ring.since(number).find(|event| self.wants(event)).cloned();
        let next = found.as_ref().map_or(now.state.position().event, |event| event.number).next();
        // The cursor of a watch in the future stays where it is.
        self.cursor = Cursor::Number(next.max(number));
        Ok(found.map_or(Look::Nothing, Look::Found))
    }

    /// Takes the next event from the log; nothing, if the ring is reached.
    async fn replay(&mut self) -> Result<Option<Arc<Event>>, WatchError> {
        let replaying = self.replaying.get_or_insert_with(|| {
            self.history.replay(self.cursor, self.prefix.clone(), self.from_index)
        });
        let found = tokio::select! {
            found = replaying.next() => found,
            () = self.closing.begun() => return Err(WatchError::Closing),
        };
        match found? {
            Replayed::Event(event) => {
                self.cursor = Cursor::Number(event.number.next());
                Ok(Some(event))
            }
            Replayed::Reached(number) => {
                self.cursor = Cursor::Number(number.next());
                self.replaying = None;
                Ok(None)
            }
            // It had waited too long to be read, and made room for others.
            Replayed::GivenUp => {
                let passed = self.replaying.take().and_then(|replaying| replaying.passed());
                self.cursor = self.cursor.past(passed);
                Ok(None)
            }
        }
    }

    fn wants(&self, event: &Event) -> bool {
        wanted(event, self.from_index, &self.prefix)
    }
}

enum Look {
    Found(Arc<Event>),
    /// The ring does not reach back so far.
    Behind,
    Nothing,
}
