//! What happened at a key, or below it: event by event, in either direction.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{Index, KeyPath, LogId};
use etcd_projections::{Change, Event, Position};

use super::deadline::Deadline;
use super::view::Present;
use super::{Moment, PastError};
use crate::node::{Freshness, Node};
use crate::storage::events::{EventReader, Interest, Stored, StoredWhat};
use crate::util::blocking::blocking;

/// How many bytes of events are read at once, about.
const CHUNK_BYTES: usize = 256 << 10;

/// Which part of history somebody wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// What happened at this key.
    pub key: KeyPath,
    /// Or below it.
    pub recursive: bool,
    /// From this moment on; from the first on that is kept, if there is none.
    pub from: Option<Moment>,
    /// Up to this one, and the expiries that follow a command; up to the newest, if there
    /// is none.
    pub to: Option<Moment>,
    /// Whether the newest comes first.
    pub reverse: bool,
}

/// What happened, as it is read.
#[derive(Debug)]
pub struct PastEvents {
    reader: Option<EventReader>,
    query: HistoryQuery,
    /// Behind the last event that is wanted; before it, where the newest comes first.
    end: Position,
    newest: Position,
    applied: Option<LogId>,
    /// Up to where it has been read, or down to where.
    reached: Position,
}

impl Node {
    /// Returns what a command has made happen: of several events, the first; nothing, if it was
    /// refused.
    ///
    /// # Errors
    ///
    /// If that is kept no longer, or not found within `limit`.
    pub async fn event_of(
        &self,
        index: Index,
        limit: Duration,
    ) -> Result<Option<Arc<Event>>, PastError> {
        let (key, at) = (KeyPath::root(), Some(Moment::Index(index)));
        let query = HistoryQuery { key, recursive: true, from: at, to: at, reverse: false };
        let mut events = self.history(query, Freshness::Stale, limit).await?;
        while let Some(found) = events.next().await? {
            if let Some(first) = found.into_iter().next() {
                // What has expired behind it has its index, too.
                let is_its = !matches!(first.change, Change::Expire { .. });
                return Ok(is_its.then_some(first));
            }
        }
        Ok(None)
    }

    /// Looks for what happened.
    ///
    /// # Errors
    ///
    /// If a moment has not come, or is kept no longer, or the second is before the first.
    pub async fn history(
        &self,
        query: HistoryQuery,
        freshness: Freshness,
        limit: Duration,
    ) -> Result<PastEvents, PastError> {
        let deadline = Deadline::after(limit);
        let Present { events, view } = self.present(freshness, deadline).await?;
        let (node, newest, applied) = (self.clone(), view.position, view.applied);
        let place = view.into_place();
        let looking = deadline.within(move || {
            // Up to here at most: what is told then is read a chunk at a time.
            let _place = place;
            let begin = match query.from {
                Some(from) => node.position_before(&events, from, newest)?,
                None => node.position_before_all(&events)?,
            };
            let end = match query.to {
                Some(to) => node.position_behind(&events, to, newest)?,
                None => newest,
            };
            if let (Some(from), Some(to)) = (query.from, query.to)
                && (end < begin || from.is_index_after(to))
            {
                return Err(PastError::Backwards { from, to });
            }
            let interest = Interest::Below(query.key.clone());
            let (reader, end) = if query.reverse {
                (events.before(end, interest), begin)
            } else {
                (events.after(begin, interest), end)
            };
            Ok(PastEvents::new(reader, query, end, (newest, applied)))
        });
        looking.await
    }
}

impl PastEvents {
    pub(super) fn new(
        reader: EventReader,
        query: HistoryQuery,
        end: Position,
        (newest, applied): (Position, Option<LogId>),
    ) -> Self {
        let reached = if query.reverse { newest } else { Position::default() };
        Self { reader: Some(reader), query, end, newest, applied, reached }
    }

    /// Returns how far the log had come when it was looked for, and the entry that had
    /// been applied last.
    pub fn newest(&self) -> (Position, Option<LogId>) {
        (self.newest, self.applied)
    }

    /// Returns which end of the query to change, and to what, so that it goes on from here.
    /// The command there may have more events than have been read: then those come again.
    pub fn goes_on(&self) -> String {
        let end = if self.query.reverse { "to" } else { "from" };
        format!("{end}={}", self.reached.index.0)
    }

    /// Reads on: some events, perhaps none; nothing, at the end.
    ///
    /// # Errors
    ///
    /// If what comes next is not stored.
    pub async fn next(&mut self) -> Result<Option<Vec<Arc<Event>>>, PastError> {
        let Some(mut reader) = self.reader.take() else { return Ok(None) };
        let (read, reader) = blocking(move || (reader.next(CHUNK_BYTES), reader)).await;
        let Some(chunk) = read? else { return Ok(None) };
        self.reached = chunk.reached;
        if !self.is_over_at(chunk.reached) {
            self.reader = Some(reader);
        }
        Ok(Some(chunk.stored.into_iter().filter_map(|stored| self.wanted(stored)).collect()))
    }

    fn is_over_at(&self, reached: Position) -> bool {
        if self.query.reverse { reached <= self.end } else { reached >= self.end }
    }

    fn wanted(&self, stored: Stored) -> Option<Arc<Event>> {
        let is_within = if self.query.reverse {
            stored.position > self.end
        } else {
            stored.position <= self.end
        };
        match stored.what {
            StoredWhat::Event(event, _) if is_within => {
                (self.query.recursive || event.key == self.query.key).then_some(event)
            }
            StoredWhat::Event(..) | StoredWhat::Refused | StoredWhat::Tick => None,
        }
    }
}
