//! Views of the past: the keys as they were, by taking back what happened since.
//!
//! ```text
//! now, or a view of later that is kept ─▶ events since then, newest first, taken back
//! ```
//!
//! Only what happened at a key or below it is taken back, if somebody asks for that: the
//! view is right there, and nowhere else.

use std::time::Duration;

use etcd_log::KeyPath;
use etcd_projections::{Change, Event, KeyTree, Position};

use super::deadline::Deadline;
use super::{Moment, PastError};
use crate::node::view::View;
use crate::node::{Freshness, Node, Unavailable};
use crate::storage::events::{EventStore, Interest, StoredWhat};

/// How many bytes of events are taken back at once, about.
const CHUNK_BYTES: usize = 1 << 20;

/// By how many bytes a tree may grow, about.
const MOST_BYTES: i64 = 256 << 20;

/// By how many one may have grown that is kept for whoever comes again.
const KEPT_BYTES: i64 = 32 << 20;

/// How often to look whether what is published is stored.
const STORED_INTERVAL: Duration = Duration::from_millis(1);

/// The keys as they are, and what has been stored of how they came to be so.
pub(super) struct Present {
    pub(super) events: EventStore,
    pub(super) view: View,
}

impl Node {
    /// Returns the keys as they were at a moment, as seen from a state that is fresh
    /// enough: right at a key and below it.
    ///
    /// # Errors
    ///
    /// If that moment has not come, or is kept no longer, or nothing is to be had within
    /// `limit`.
    pub async fn view_at(
        &self,
        moment: Moment,
        key: &KeyPath,
        freshness: Freshness,
        limit: Duration,
    ) -> Result<View, PastError> {
        let deadline = Deadline::after(limit);
        let Present { events, view } = self.present(freshness, deadline).await?;
        let (node, key) = (self.clone(), key.clone());
        let looking = deadline.within(move || {
            let then = node.position_at(&events, moment, view.position)?;
            node.take_back(&events, view, then, &key, deadline)
        });
        looking.await
    }

    /// Returns the present, once all that led to it is stored: with a place for what is
    /// told of the past.
    pub(super) async fn present(
        &self,
        freshness: Freshness,
        deadline: Deadline,
    ) -> Result<Present, PastError> {
        drop(self.read(freshness, deadline.left()).await?);
        let view = self.view_for_past(deadline.left()).await?;
        let events = self.inner.history.events().ok_or(PastError::NoStore)?.clone();
        // It is stored right after it is published.
        while events.newest() < view.position {
            if deadline.left().is_zero() {
                return Err(Unavailable::Late.into());
            }
            tokio::time::sleep(STORED_INTERVAL).await;
        }
        Ok(Present { events, view })
    }

    /// Returns the keys as they were at a position.
    pub(super) fn take_back(
        &self,
        events: &EventStore,
        view: View,
        then: Position,
        key: &KeyPath,
        deadline: Deadline,
    ) -> Result<View, PastError> {
        if then == view.position {
            return Ok(view);
        }
        let kept = self.inner.past.find(then, view.position, key);
        let (from, tree) = kept.unwrap_or_else(|| (view.position, view.tree.clone()));
        let (tree, grown) = take_back(events, tree, (from, then), key, deadline)?;
        if grown <= KEPT_BYTES {
            self.inner.past.keep(then, key, &tree);
        }
        Ok(view.taken_back(tree, then))
    }
}

/// Takes back what happened at a key or below it between two positions. Returns by how many
/// bytes the tree has grown by that, about: what is gone by now takes memory again.
pub(super) fn take_back(
    events: &EventStore,
    mut tree: KeyTree,
    (from, then): (Position, Position),
    key: &KeyPath,
    deadline: Deadline,
) -> Result<(KeyTree, i64), PastError> {
    let mut grown = 0;
    let mut reader = events.before(from, Interest::Below(key.clone()));
    let mut reached = from;
    while then < reached {
        deadline.check()?;
        let Some(chunk) = reader.next(CHUNK_BYTES)? else { break };
        let since = chunk.stored.iter().take_while(|stored| then < stored.position);
        for stored in since {
            if let StoredWhat::Event(event, undo) = &stored.what {
                tree.undo(event, *undo);
                grown += growth(event);
            }
        }
        if grown > MOST_BYTES {
            return Err(PastError::TooMuch {
                most: usize::try_from(MOST_BYTES).unwrap_or(usize::MAX),
            });
        }
        reached = chunk.reached;
    }
    Ok((tree, grown))
}

/// Returns how many bytes a tree grows by, about, when an event is taken back.
fn growth(event: &Event) -> i64 {
    let (more, less) = match &event.change {
        Change::Set { value, prev, .. } => (prev.as_deref(), Some(&**value)),
        Change::Delete { prev, .. } | Change::Expire { prev, .. } => (Some(&**prev), None),
        Change::DeleteDir => (None, None),
    };
    let size = |value: Option<&str>| {
        value.map_or(0, |value| 128 + i64::try_from(value.len()).unwrap_or(i64::MAX))
    };
    size(more) - size(less)
}
