//! The net change between two positions: what each key held first, and what it holds last.
//!
//! ```text
//! set /a 1→2   delete /b   set /a 2→3   set /b 5   set /c, new   delete /c
//!                                                    /a: 1 ─▶ 3     /b: 4 ─▶ 5
//! ```
//!
//! It takes time and memory for what changed in between, however large the tree is.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{KeyPath, LogId};
use etcd_projections::{Change, Event, Position};
use tokio::time::Instant;

use super::view::Present;
use super::{Moment, PastError};
use crate::node::{Freshness, Node, Unavailable};
use crate::storage::events::{EventStore, Interest, StoredWhat};
use crate::util::blocking::blocking;

/// How many bytes of events are read at once, about.
const CHUNK_BYTES: usize = 1 << 20;

/// How many bytes of keys and values may differ, about.
const MOST_BYTES: usize = 256 << 20;

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetChange {
    /// The key.
    pub key: KeyPath,
    /// What it held first; none, if it was not there.
    pub from: Option<Arc<str>>,
    /// What it holds last; none, if it is not there.
    pub to: Option<Arc<str>>,
}

impl Node {
    /// Returns what changed at a key or below it between two moments, in the order of the
    /// keys as text; and the end, with the entry that had been applied last.
    ///
    /// # Errors
    ///
    /// If a moment has not come, or is kept no longer; if the second is before the first;
    /// or if too much changed.
    pub async fn diff(
        &self,
        key: KeyPath,
        (from, to): (Moment, Option<Moment>),
        freshness: Freshness,
        limit: Duration,
    ) -> Result<(Vec<NetChange>, (Position, Option<LogId>)), PastError> {
        let deadline = Instant::now() + limit;
        let Present { events, view } = self.present(freshness, deadline).await?;
        let (node, newest, applied) = (self.clone(), view.position, view.applied);
        drop(view);
        let comparing = blocking(move || {
            let begin = node.position_at(&events, from, newest)?;
            let end = match to {
                Some(to) => node.position_at(&events, to, newest)?,
                None => newest,
            };
            match to {
                Some(to) if end < begin => Err(PastError::Backwards { from, to }),
                Some(_) | None => Ok((net(&events, begin, end, &key)?, (end, applied))),
            }
        });
        let compared = tokio::time::timeout_at(deadline, comparing).await;
        compared.map_err(|_| Unavailable::Busy)?
    }
}

/// Returns the net change at a key or below it between two positions.
pub(super) fn net(
    events: &EventStore,
    from: Position,
    to: Position,
    key: &KeyPath,
) -> Result<Vec<NetChange>, PastError> {
    let changes = touched(events, from, to, key)?.into_iter().filter(|(_, (from, to))| from != to);
    let changes = changes.map(|(key, (from, to))| NetChange { key, from, to });
    let mut changes: Vec<_> = changes.collect();
    changes.sort_by(|left, right| left.key.as_str().cmp(right.key.as_str()));
    Ok(changes)
}

/// Returns what was written, deleted or expired at a key or below it between two positions,
/// also if it is again what it was.
pub(super) fn touched(
    events: &EventStore,
    from: Position,
    to: Position,
    key: &KeyPath,
) -> Result<HashMap<KeyPath, FromTo>, PastError> {
    let mut changes = HashMap::new();
    let mut bytes = 0;
    let mut reader = events.after(from, Interest::Below(key.clone()));
    let mut reached = from;
    while reached < to {
        let Some(chunk) = reader.next(CHUNK_BYTES)? else { break };
        for stored in chunk.stored.iter().take_while(|stored| stored.position <= to) {
            if let StoredWhat::Event(event, _) = &stored.what {
                bytes += note(&mut changes, event);
            }
        }
        if bytes > MOST_BYTES {
            return Err(PastError::TooMuch { most: MOST_BYTES });
        }
        reached = chunk.reached;
    }
    Ok(changes)
}

/// What a key held first, and holds last.
pub(super) type FromTo = (Option<Arc<str>>, Option<Arc<str>>);

/// Notes an event. Returns how many bytes that takes more, about.
fn note(changes: &mut HashMap<KeyPath, FromTo>, event: &Event) -> usize {
    let (from, to) = match &event.change {
        Change::Set { value, prev, .. } => (prev.clone(), Some(Arc::clone(value))),
        Change::Delete { prev, .. } | Change::Expire { prev, .. } => (Some(Arc::clone(prev)), None),
        Change::DeleteDir => return 0,
    };
    match changes.entry(event.key.clone()) {
        Entry::Occupied(mut known) => {
            known.get_mut().1 = to;
            0
        }
        Entry::Vacant(new) => {
            new.insert((from, to));
            event.size()
        }
    }
}
