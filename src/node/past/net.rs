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

use super::deadline::Deadline;
use super::view::Present;
use super::{Moment, PastError};
use crate::node::{Freshness, Node, Place};
use crate::storage::events::{EventStore, Interest, StoredWhat};

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

/// What changed between two moments.
#[derive(Debug)]
pub struct Diff {
    /// What did, in the order of the keys as text.
    pub changes: Vec<NetChange>,
    /// The end; of a restore, the state that it would change.
    pub position: Position,
    /// The entry that had been applied last as it was looked for; none before the first.
    pub applied: Option<LogId>,
    /// The place that it takes up until it has been told.
    pub place: Option<Place>,
}

impl Node {
    /// Returns what changed at a key or below it between two moments.
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
    ) -> Result<Diff, PastError> {
        let deadline = Deadline::after(limit);
        let Present { events, view } = self.present(freshness, deadline).await?;
        let (node, newest, applied) = (self.clone(), view.position, view.applied);
        let place = view.into_place();
        let comparing = deadline.within(move || {
            let begin = node.position_at(&events, from, newest)?;
            let end = match to {
                Some(to) => node.position_at(&events, to, newest)?,
                None => newest,
            };
            match to {
                Some(to) if end < begin => Err(PastError::Backwards { from, to }),
                Some(_) | None => {
                    let changes = net(&events, (begin, end), &key, deadline)?;
                    Ok(Diff { changes, position: end, applied, place })
                }
            }
        });
        comparing.await
    }
}

/// Returns the net change at a key or below it between two positions.
pub(super) fn net(
    events: &EventStore,
    between: (Position, Position),
    key: &KeyPath,
    deadline: Deadline,
) -> Result<Vec<NetChange>, PastError> {
    let touched = touched(events, between, key, deadline)?;
    let changes = touched.into_iter().filter(|(_, (from, to))| from != to);
    let changes = changes.map(|(key, (from, to))| NetChange { key, from, to });
    let mut changes: Vec<_> = changes.collect();
    changes.sort_by(|left, right| left.key.as_str().cmp(right.key.as_str()));
    Ok(changes)
}

/// Returns what was written, deleted or expired at a key or below it between two positions,
/// also if it is again what it was.
pub(super) fn touched(
    events: &EventStore,
    (from, to): (Position, Position),
    key: &KeyPath,
    deadline: Deadline,
) -> Result<HashMap<KeyPath, FromTo>, PastError> {
    let mut changes = HashMap::new();
    let mut bytes = 0;
    let mut reader = events.after(from, Interest::Below(key.clone()));
    let mut reached = from;
    while reached < to {
        deadline.check()?;
        let Some(chunk) = reader.next(CHUNK_BYTES)? else { break };
        for stored in chunk.stored.iter().take_while(|stored| stored.position <= to) {
            if let StoredWhat::Event(event, _) = &stored.what {
                note(&mut changes, &mut bytes, event);
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

/// Notes an event, and how many bytes all that is noted takes now, about.
fn note(changes: &mut HashMap<KeyPath, FromTo>, bytes: &mut usize, event: &Event) {
    let (from, to) = match &event.change {
        Change::Set { value, prev, .. } => (prev.clone(), Some(Arc::clone(value))),
        Change::Delete { prev, .. } | Change::Expire { prev, .. } => (Some(Arc::clone(prev)), None),
        Change::DeleteDir => return,
    };
    match changes.entry(event.key.clone()) {
        Entry::Occupied(mut known) => {
            let last = &mut known.get_mut().1;
            *bytes = (*bytes + length(to.as_ref())).saturating_sub(length(last.as_ref()));
            *last = to;
        }
        Entry::Vacant(new) => {
            new.insert((from, to));
            *bytes += event.size();
        }
    }
}

fn length(value: Option<&Arc<str>>) -> usize {
    value.map_or(0, |value| value.len())
}

#[cfg(test)]
mod tests {
    use etcd_log::{Batch, Command, LogTime};
    use etcd_projections::{State, What};

    use super::*;

    /// What counts is what a key holds last, whatever it held when it was noted first.
    #[test]
    fn what_a_key_grew_to_counts() {
        let (mut state, key) = (State::new(10), KeyPath::clean("/a").unwrap());
        let (mut changes, mut bytes) = (HashMap::new(), 0);
        let mut noted = |length: usize| {
            let value = "v".repeat(length).into();
            let set = Command::Set { key: key.clone(), value, ttl: None };
            for outcome in state.apply(&Batch::new(LogTime(1), vec![set])) {
                if let What::Event(event) = outcome.what {
                    note(&mut changes, &mut bytes, &event);
                }
            }
            bytes
        };
        let small = noted(1);
        assert_eq!(noted(1 << 20), small + (1 << 20) - 1);
        for _ in 0..1000 {
            noted(1 << 20);
        }
        assert_eq!(noted(1 << 20), small + (1 << 20) - 1, "it is there once");
        assert_eq!(noted(1), small);
    }
}
