//! Putting back: a key, and all below it, made what it was, as one command.
//!
//! ```text
//! request ─▶ leader: what changed since then? ─▶ restore, behind command N ─▶ log
//!                ▲                                     │ another one came behind N
//!                └─────────────────────────────────────┘
//! ```
//!
//! The command holds for the state that it was worked out from, and is refused behind any
//! other; so it is worked out where batches are made, by the leader, and tried again when
//! something came in between. What it does not change is not looked at again: nothing has
//! touched it since.
//!
//! *Time to live*: by default a key gets what was left of its time then. It is the safest:
//! a key that was to go does not stay for ever, as a lock would without a time, and none
//! comes back only to go at once, as one would whose deadline has passed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{Command, Index, KeyPath, LogTime, Restore, RestoreChange, Ttl};
use etcd_projections::{KeyTree, Outcome, Position, Rejection, TreeNode, What, is_reserved};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::net::{NetChange, net};
use super::view::Present;
use super::{Moment, PastError};
use crate::node::view::View;
use crate::node::{Freshness, Node, Unavailable, WriteError};
use crate::storage::events::{EventStore, Interest, StoredWhat};
use crate::util::blocking::blocking;

/// How many bytes a restore takes at most, as it is written: as any command.
const MOST_BYTES: usize = 8 << 20;

/// How many keys a restore changes at most: applying it takes a tenth of a second.
const MOST_CHANGES: usize = 20_000;

/// How often it is worked out anew because something came in between.
const TRIES: usize = 20;

/// What is to be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreQuery {
    /// A key, and all below it.
    pub key: KeyPath,
    /// When it was as it shall be.
    pub at: Moment,
    /// After which command nothing there may have changed.
    pub if_index: Option<Index>,
    /// How long the keys live.
    pub ttl: LivesOn,
}

/// How long a key lives that is put back, and had a time to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LivesOn {
    /// For what was left of its time then.
    #[default]
    Rest,
    /// Up to the deadline that it had: if that has passed, it does not come back.
    Keep,
    /// For ever.
    Drop,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The command behind which it was so.
    pub at: Index,
    /// How many keys changed.
    pub changed: usize,
    /// The command; none, if nothing had to be changed.
    pub index: Option<Index>,
}

/// A restore that has been worked out.
struct Plan {
    command: Restore,
    diff: Vec<NetChange>,
}

impl Node {
    /// Returns what a restore would change, and changes nothing.
    ///
    /// # Errors
    ///
    /// As [`Self::restore`].
    pub async fn dry_restore(
        &self,
        query: RestoreQuery,
        limit: Duration,
    ) -> Result<Vec<NetChange>, PastError> {
        Ok(self.plan(query, Instant::now() + limit).await?.diff)
    }

    /// Makes a key, and all below it, what it was.
    ///
    /// # Errors
    ///
    /// If the moment has not come, or is kept no longer; if something changed that was not
    /// to have; if it is too large; or if it cannot be written within `limit`.
    pub async fn restore(
        &self,
        query: RestoreQuery,
        limit: Duration,
    ) -> Result<Restored, PastError> {
        let deadline = Instant::now() + limit;
        for _ in 0..TRIES {
            let Plan { command, diff } = self.plan(query.clone(), deadline).await?;
            let (at, changed) = (command.at, diff.len());
            if command.changes.is_empty() {
                return Ok(Restored { at, changed: 0, index: None });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Outcome { position, what, .. } =
                self.propose(Command::Restore(command), left).await?;
            match what {
                What::Event(_) => {
                    return Ok(Restored { at, changed, index: Some(position.index) });
                }
                What::Rejection(Rejection::Overtaken { .. }) => {}
                What::Rejection(_) | What::Tick => {
                    return Ok(Restored { at, changed: 0, index: Some(position.index) });
                }
            }
        }
        Err(WriteError::from(Unavailable::Busy).into())
    }

    /// Works out what has to be changed, as things are now.
    async fn plan(&self, query: RestoreQuery, deadline: Instant) -> Result<Plan, PastError> {
        let Present { events, view } = self.present(Freshness::Linearizable, deadline).await?;
        let node = self.clone();
        let planning = blocking(move || node.plan_from(&query, &events, view));
        let planned = tokio::time::timeout_at(deadline, planning).await;
        planned.map_err(|_| Unavailable::Busy)?
    }

    fn plan_from(
        &self,
        query: &RestoreQuery,
        events: &EventStore,
        view: View,
    ) -> Result<Plan, PastError> {
        let (now, base) = (view.tree.clone(), view.position);
        let then = self.position_at(events, query.at, base)?;
        if let Some(index) = query.if_index {
            check_unchanged(events, base, index, &query.key)?;
        }
        let mut diff = net(events, then, base, &query.key)?;
        diff.retain(|change| !is_reserved(&change.key));
        let view = self.take_back(events, view, then, &query.key)?;
        let planner = Planner { now: &now, then: &view.tree, query, times: (then.time, base.time) };
        let changes = planner.changes(&diff);
        let command = Restore { key: query.key.clone(), at: then.index, base: base.index, changes };
        check_size(&command)?;
        for change in &mut diff {
            // From what is there now to what was there then.
            std::mem::swap(&mut change.from, &mut change.to);
        }
        Ok(Plan { command, diff })
    }
}

/// Says so if something changed after a command: what, and by which.
fn check_unchanged(
    events: &EventStore,
    now: Position,
    index: Index,
    key: &KeyPath,
) -> Result<(), PastError> {
    let mut reader = events.before(now, Interest::Below(key.clone()));
    // The newest is named: whoever changed it last knows most of it.
    while let Some(chunk) = reader.next(1)? {
        for stored in &chunk.stored {
            if stored.position.index <= index {
                return Ok(());
            }
            if let StoredWhat::Event(event, _) = &stored.what {
                return Err(PastError::Changed { key: event.key.to_string(), index: event.index });
            }
        }
        if chunk.reached.index <= index {
            return Ok(());
        }
    }
    Ok(())
}

fn check_size(restore: &Restore) -> Result<(), PastError> {
    let (changes, bytes) =
        (restore.changes.len(), Command::Restore(restore.clone()).written_size());
    if changes > MOST_CHANGES {
        return Err(PastError::TooLarge { what: "Changes", found: changes, most: MOST_CHANGES });
    }
    if bytes > MOST_BYTES {
        return Err(PastError::TooLarge { what: "Bytes", found: bytes, most: MOST_BYTES });
    }
    Ok(())
}

/// What a restore is worked out from.
struct Planner<'a> {
    now: &'a KeyTree,
    then: &'a KeyTree,
    query: &'a RestoreQuery,
    /// The logged times: then, and now.
    times: (LogTime, LogTime),
}

impl Planner<'_> {
    /// Returns what has to be done: what stands in the way goes first.
    fn changes(&self, diff: &[NetChange]) -> Vec<RestoreChange> {
        let deletes = diff.iter().filter(|change| change.to.is_some());
        let deletes = deletes.filter(|change| !self.comes_back(&change.key));
        let mut changes: Vec<_> =
            deletes.map(|change| RestoreChange::Delete(change.key.clone())).collect();
        changes.extend(self.new_directories(diff).map(RestoreChange::DeleteDir));
        changes.extend(diff.iter().filter_map(|change| self.set(&change.key)));
        changes
    }

    fn comes_back(&self, key: &KeyPath) -> bool {
        self.set(key).is_some()
    }

    /// Returns what makes a key what it was, if it was there.
    fn set(&self, key: &KeyPath) -> Option<RestoreChange> {
        let Some(TreeNode::File { value, deadline }) = self.then.get(key) else { return None };
        let ttl = match deadline {
            Some(deadline) => self.ttl(*deadline)?,
            None => None,
        };
        Some(RestoreChange::Set { key: key.clone(), value: Arc::clone(value), ttl })
    }

    /// Returns how long a key lives that had a deadline; none for ever, and nothing if it
    /// does not come back.
    #[expect(clippy::option_option, reason = "a key may live for ever, or not come back")]
    fn ttl(&self, deadline: LogTime) -> Option<Option<Ttl>> {
        let (then, now) = self.times;
        let left = |since: LogTime| {
            let nanos = deadline.0.saturating_sub(since.0);
            Ttl::new(nanos.div_ceil(1_000_000_000))
        };
        match self.query.ttl {
            LivesOn::Drop => Some(None),
            LivesOn::Rest => left(then).map(Some),
            LivesOn::Keep => left(now).map(Some),
        }
    }

    /// Returns the directories that have come since, the deepest first.
    fn new_directories(&self, diff: &[NetChange]) -> impl Iterator<Item = KeyPath> {
        let mut made = BTreeSet::new();
        for change in diff {
            let mut above = change.key.parent();
            while let Some(directory) = above.filter(|it| self.query.key.covers(it)) {
                above = directory.parent();
                let is_new = self.now.get(&directory) == Some(&TreeNode::Directory)
                    && self.then.get(&directory) != Some(&TreeNode::Directory);
                if is_new {
                    made.insert((std::cmp::Reverse(directory.parts().count()), directory));
                }
            }
        }
        made.into_iter().map(|(_, directory)| directory)
    }
}
