//! Putting back: a key, and all below it, made what it was, as one command.
//!
//! ```text
//! request ─▶ what changed since then? ─▶ and meanwhile? ─▶ restore, behind command N ─▶ log
//!                ▲                          │ something there     │ something came behind N
//!                └──────────────────────────┴─────────────────────┘
//! ```
//!
//! The command holds for the state that it was worked out from, and is refused behind any
//! other. Where other keys are written all the time, there is always another. So what has
//! happened while it was worked out is looked through, which takes a moment however long
//! that took; and whoever makes the batch lets it pass by what has come since then
//! (`proposer::rebase`). Where something has touched what it is about, it is worked out anew.
//! What nothing has touched since the moment in question is not looked at.
//!
//! Under the id of a request it is done once. Whether it was, is looked at before it is worked
//! out, and again if that fails: what is there now has nothing to do with what came of it.
//!
//! Of what was touched, all is made what it was: values, deadlines, and that there was no
//! such directory. *Limit*: a directory that held nothing does not come back.
//!
//! *Time to live*: by default a key gets what was left of its time then. It is the safest:
//! a key that was to go does not stay for ever, as a lock would without a time, and none
//! comes back only to go at once, as one would whose deadline has passed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{
    Asked, Command, Index, KeyPath, LogTime, RequestHash, RequestId, Restore, RestoreChange, Ttl,
};
use etcd_projections::{
    FirstAnswer, KeyTree, Outcome, Position, Rejection, TreeNode, What, is_reserved,
};
use serde::{Deserialize, Serialize};

use super::deadline::Deadline;
use super::net::{Diff, FromTo, NetChange, touched};
use super::view::Present;
use super::{Moment, PastError};
use crate::node::proposer::concerns;
use crate::node::view::View;
use crate::node::{Freshness, Node};
use crate::storage::events::{EventStore, Interest, Stored, StoredWhat};

/// How many bytes a restore takes at most, as it is written: as any command.
const MOST_BYTES: usize = (8 << 20) - ROOM;

/// How many bytes there are for the id of a request around it.
const ROOM: usize = 4 << 10;

/// How many keys a restore changes at most: applying it takes a tenth of a second.
const MOST_CHANGES: usize = 20_000;

/// How many bytes of events are looked through at once, about.
const CHUNK_BYTES: usize = 1 << 20;

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
    /// The command; none, if nothing had to be changed, and it has no id.
    pub index: Option<Index>,
    /// Whether it was done before, under the same id: this came of it then.
    pub is_repeated: bool,
}

impl Restored {
    fn again(first: &FirstAnswer) -> Self {
        let (at, index) = (first.requested.at.unwrap_or_default(), Some(first.index));
        let changed = usize::try_from(first.changed).unwrap_or(usize::MAX);
        Self { at, changed, index, is_repeated: true }
    }
}

/// How a restore is asked for that is done once.
struct Once {
    id: RequestId,
    hash: RequestHash,
    since: Index,
}

impl RestoreQuery {
    /// Hashes what is said; not what that comes to. It is part of the log's format.
    fn hash(&self) -> RequestHash {
        let Self { key, at, if_index, ttl } = self;
        let at = match at {
            Moment::Index(index) => format!("index {}", index.0),
            Moment::Time(time) => format!("time {}", time.0),
            Moment::Ago(nanos) => format!("ago {nanos}"),
        };
        let if_index = if_index.map_or_else(String::new, |index| index.0.to_string());
        let ttl = match ttl {
            LivesOn::Rest => "rest",
            LivesOn::Keep => "keep",
            LivesOn::Drop => "drop",
        };
        RequestHash::of(["restore", key.as_str(), &at, &if_index, ttl])
    }
}

/// Returns the command for what was worked out.
fn command_of(restore: Restore, once: Option<&Once>) -> Command {
    let restore = Command::Restore(restore);
    let Some(Once { id, hash, since }) = once else { return restore };
    let (id, hash, since) = (id.clone(), *hash, *since);
    Command::As(Asked { id, hash, since, command: Box::new(restore) })
}

/// What a restore comes to, as things are.
struct WorkedOut {
    command: Restore,
    /// How many keys change.
    changed: usize,
    /// Whether nothing has happened there since it was begun to be worked out.
    is_current: bool,
}

/// A restore that has been worked out: what to do, and what changes by that.
pub(super) struct Plan {
    pub(super) command: Restore,
    pub(super) diff: Vec<NetChange>,
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
    ) -> Result<Diff, PastError> {
        let deadline = Deadline::after(limit);
        let Present { events, view } = self.present(Freshness::Linearizable, deadline).await?;
        let (position, applied) = (view.position, view.applied);
        let (Plan { diff, .. }, view) = self.plan(query, events, view, deadline).await?;
        Ok(Diff { changes: diff, position, applied, place: view.into_place() })
    }

    /// Makes a key, and all below it, what it was. Under the id of a request, once.
    ///
    /// # Errors
    ///
    /// If the moment has not come, or is kept no longer; if something changed that was not
    /// to have; if it is too large; or if it cannot be written within `limit`.
    pub async fn restore(
        &self,
        query: RestoreQuery,
        id: Option<RequestId>,
        limit: Duration,
    ) -> Result<Restored, PastError> {
        let (deadline, mut tried) = (Deadline::after(limit), 0);
        let since = self.inner.published.index();
        let once = id.map(|id| Once { id, hash: query.hash(), since });
        loop {
            tried += 1;
            if let Some(before) = self.done_before(once.as_ref(), deadline).await? {
                return Ok(before);
            }
            let WorkedOut { command, changed, is_current } =
                match self.work_out(&query, deadline).await {
                    Ok(worked_out) => worked_out,
                    // It may have been done meanwhile, and be why it cannot be done now.
                    Err(error) => {
                        let before = self.done_before(once.as_ref(), deadline).await?;
                        return before.ok_or(error);
                    }
                };
            let at = command.at;
            if command.changes.is_empty() && once.is_none() {
                return Ok(Restored { at, changed: 0, index: None, is_repeated: false });
            }
            if !is_current && tried < TRIES {
                continue;
            }
            let command = command_of(command, once.as_ref());
            let Outcome { position, what, .. } = self.propose(command, deadline.left()).await?;
            let index = Some(position.index);
            match what {
                What::Event(_) => {
                    let changed = self.changed(once.as_ref()).unwrap_or(changed);
                    return Ok(Restored { at, changed, index, is_repeated: false });
                }
                What::Rejection(Rejection::Repeated(first)) => return Ok(Restored::again(&first)),
                What::Rejection(Rejection::Overtaken { .. }) if tried < TRIES => {}
                What::Rejection(Rejection::NothingToDo) => {
                    return Ok(Restored { at, changed: 0, index, is_repeated: false });
                }
                What::Rejection(rejection) => return Err(PastError::Refused(rejection)),
                What::Tick => unreachable!("a command makes an event, or is refused"),
            }
        }
    }

    /// Returns what came of a restore that was asked for before, under the same id.
    async fn done_before(
        &self,
        once: Option<&Once>,
        deadline: Deadline,
    ) -> Result<Option<Restored>, PastError> {
        let Some(Once { id, hash, .. }) = once else { return Ok(None) };
        let now = self.read(Freshness::Linearizable, deadline.left()).await?;
        match now.state.requests().find(id, now.state.position().time) {
            None => Ok(None),
            Some(first) if first.requested.hash == *hash => Ok(Some(Restored::again(first))),
            Some(_) => Err(PastError::Refused(Rejection::RequestIdUsed)),
        }
    }

    /// Returns how many keys a restore has changed, as whoever asks again is told: some may have
    /// expired before it came.
    fn changed(&self, once: Option<&Once>) -> Option<usize> {
        let now = self.now();
        let first = now.state.requests().find(&once?.id, now.state.position().time)?;
        Some(Restored::again(first).changed)
    }

    /// Works out what has to be changed, as things are now.
    async fn work_out(
        &self,
        query: &RestoreQuery,
        deadline: Deadline,
    ) -> Result<WorkedOut, PastError> {
        let Present { events, view } = self.present(Freshness::Linearizable, deadline).await?;
        let (base, stored) = (view.position, events.clone());
        let (Plan { mut command, diff }, view) =
            self.plan(query.clone(), stored, view, deadline).await?;
        drop(view);
        if command.changes.is_empty() {
            return Ok(WorkedOut { command, changed: 0, is_current: true });
        }
        let (newest, key) = (events.newest(), command.key.clone());
        let looking =
            deadline.within(move || is_untouched(&events, (base, newest), &key, deadline));
        let is_current = looking.await?;
        if is_current {
            command.base = newest.index;
        }
        Ok(WorkedOut { command, changed: diff.len(), is_current })
    }

    /// Works out what has to be changed, as things are in a view. Returns the view of then,
    /// which has its place.
    async fn plan(
        &self,
        query: RestoreQuery,
        events: EventStore,
        view: View,
        deadline: Deadline,
    ) -> Result<(Plan, View), PastError> {
        let node = self.clone();
        deadline.within(move || node.plan_from(&query, &events, view, deadline)).await
    }

    fn plan_from(
        &self,
        query: &RestoreQuery,
        events: &EventStore,
        view: View,
        deadline: Deadline,
    ) -> Result<(Plan, View), PastError> {
        let (now, base) = (view.tree.clone(), view.position);
        let then = self.position_at(events, query.at, base)?;
        if let Some(index) = query.if_index {
            self.check_unchanged(events, (index, base), &query.key, deadline)?;
        }
        let touched = touched(events, (then, base), &query.key, deadline)?;
        let view = self.take_back(events, view, then, &query.key, deadline)?;
        let plan = plan(query, &touched, (then, &view.tree), (base, &now))?;
        Ok((plan, view))
    }

    /// Says so if something changed after a command, or if it is not known any more.
    fn check_unchanged(
        &self,
        events: &EventStore,
        (index, now): (Index, Position),
        key: &KeyPath,
        deadline: Deadline,
    ) -> Result<(), PastError> {
        let oldest = self.inner.history.oldest();
        let since = index.max(Index(oldest.0 - 1));
        check_unchanged(events, (since, now), key, deadline)?;
        if index.next() >= oldest {
            return Ok(());
        }
        Err(if self.inner.history.log().missing().is_some() {
            PastError::NotStored { at: Position { index, ..Position::default() } }
        } else {
            PastError::Gone { moment: Moment::Index(index), oldest }
        })
    }
}

/// Works out what makes a key, and all below it, what it was then, given what was touched
/// since.
pub(super) fn plan(
    query: &RestoreQuery,
    touched: &HashMap<KeyPath, FromTo>,
    (then, tree): (Position, &KeyTree),
    (base, now): (Position, &KeyTree),
) -> Result<Plan, PastError> {
    let mut keys: Vec<_> = touched.keys().filter(|key| !is_reserved(key)).collect();
    keys.sort_by(|left, right| left.as_str().cmp(right.as_str()));
    let planner = Planner { now, then: tree, ttl: query.ttl, times: (then.time, base.time) };
    let targets: Vec<_> = keys.iter().filter_map(|key| planner.target(key)).collect();
    let comes_back = |target: &Target<'_>| target.set.is_some();
    match now.file_above(&query.key) {
        Some(file) if targets.iter().any(comes_back) => {
            return Err(PastError::Refused(Rejection::NotADirectory(file)));
        }
        Some(_) | None => {}
    }
    let changes = planner.changes(&keys, &targets, &query.key);
    let command = Restore { key: query.key.clone(), at: then.index, base: base.index, changes };
    check_size(&command)?;
    Ok(Plan { command, diff: targets.into_iter().map(Target::net).collect() })
}

/// Returns whether nothing has happened between two positions that concerns who restores a
/// key.
pub(super) fn is_untouched(
    events: &EventStore,
    (base, newest): (Position, Position),
    key: &KeyPath,
    deadline: Deadline,
) -> Result<bool, PastError> {
    let mut reader = events.after(base, Interest::All);
    let mut reached = base;
    while reached < newest {
        deadline.check()?;
        let Some(chunk) = reader.next(CHUNK_BYTES)? else { break };
        let since = chunk.stored.iter().take_while(|stored| stored.position <= newest);
        let touches = |stored: &Stored| match &stored.what {
            StoredWhat::Event(event, _) => concerns(&event.key, key),
            StoredWhat::Refused | StoredWhat::Tick => false,
        };
        if since.into_iter().any(touches) {
            return Ok(false);
        }
        reached = chunk.reached;
    }
    Ok(true)
}

/// Says so if something changed after a command: what, and by which.
fn check_unchanged(
    events: &EventStore,
    (index, now): (Index, Position),
    key: &KeyPath,
    deadline: Deadline,
) -> Result<(), PastError> {
    let mut reader = events.before(now, Interest::Below(key.clone()));
    // The newest is named: whoever changed it last knows most of it.
    loop {
        deadline.check()?;
        let chunk = match reader.next(1) {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(()),
            Err(gap) if gap.at.index <= index => return Ok(()),
            Err(gap) => return Err(gap.into()),
        };
        for stored in &chunk.stored {
            if stored.position.index <= index {
                return Ok(());
            }
            if let StoredWhat::Event(event, _) = &stored.what
                && !is_reserved(&event.key)
            {
                return Err(PastError::Changed { key: event.key.to_string(), index: event.index });
            }
        }
        if chunk.reached.index <= index {
            return Ok(());
        }
    }
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
    ttl: LivesOn,
    /// The logged times: then, and now.
    times: (LogTime, LogTime),
}

/// What is to become of a key that is not what it was.
struct Target<'a> {
    key: &'a KeyPath,
    /// What it holds now; none, if it is not there.
    now: Option<&'a Arc<str>>,
    /// What it gets; none, if it goes.
    set: Option<(&'a Arc<str>, Option<Ttl>)>,
}

impl Target<'_> {
    fn change(&self) -> RestoreChange {
        let key = self.key.clone();
        match self.set {
            Some((value, ttl)) => RestoreChange::Set { key, value: Arc::clone(value), ttl },
            None => RestoreChange::Delete(key),
        }
    }

    /// From what is there now to what was there then.
    fn net(self) -> NetChange {
        let to = self.set.map(|(value, _)| Arc::clone(value));
        NetChange { key: self.key.clone(), from: self.now.cloned(), to }
    }
}

impl<'a> Planner<'a> {
    /// Returns what is to become of a key; nothing, if it is what it was.
    fn target(&self, key: &'a KeyPath) -> Option<Target<'a>> {
        let (now, then) = (file(self.now, key), file(self.then, key));
        let set = then.and_then(|(value, deadline)| match deadline {
            Some(deadline) => Some((value, self.ttl(deadline)?)),
            None => Some((value, None)),
        });
        let is_as_it_was = match (now, set) {
            (None, None) => true,
            (Some((_, None)), Some((_, None))) => now.map(|it| it.0) == set.map(|it| it.0),
            (Some(_), Some((_, Some(_)))) => now == then,
            (Some(_) | None, _) => false,
        };
        (!is_as_it_was).then_some(Target { key, now: now.map(|(value, _)| value), set })
    }

    /// Returns what has to be done: what stands in the way goes first.
    fn changes(
        &self,
        touched: &[&KeyPath],
        targets: &[Target<'_>],
        top: &KeyPath,
    ) -> Vec<RestoreChange> {
        let (sets, deletes): (Vec<_>, Vec<_>) =
            targets.iter().partition(|target| target.set.is_some());
        let mut changes: Vec<_> = deletes.into_iter().map(Target::change).collect();
        changes.extend(self.new_directories(touched, top).map(RestoreChange::DeleteDir));
        changes.extend(sets.into_iter().map(Target::change));
        changes
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
        match self.ttl {
            LivesOn::Drop => Some(None),
            LivesOn::Rest => left(then).map(Some),
            LivesOn::Keep => left(now).map(Some),
        }
    }

    /// Returns the directories that have come since, the deepest first: whatever made one
    /// has touched a key below it, and that may be gone again.
    fn new_directories(
        &self,
        touched: &[&KeyPath],
        top: &KeyPath,
    ) -> impl Iterator<Item = KeyPath> + use<> {
        let mut made = BTreeSet::new();
        for key in touched {
            let mut above = key.parent();
            while let Some(directory) = above.filter(|directory| top.covers(directory)) {
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

/// Returns the value and the deadline of a file, if it is there.
fn file<'a>(tree: &'a KeyTree, key: &KeyPath) -> Option<(&'a Arc<str>, Option<LogTime>)> {
    match tree.get(key) {
        Some(TreeNode::File { value, deadline }) => Some((value, *deadline)),
        Some(TreeNode::Directory) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is a part of the format: machines of two versions tell the same requests apart.
    #[test]
    fn hash_is_of_what_was_said() {
        let key = KeyPath::clean("/p").unwrap();
        let query = |at, if_index: Option<u64>, ttl| {
            RestoreQuery { key: key.clone(), at, if_index: if_index.map(Index), ttl }.hash()
        };
        let index = Moment::Index(Index(4));
        let said = [
            query(index, None, LivesOn::Rest),
            query(Moment::Index(Index(5)), None, LivesOn::Rest),
            query(Moment::Time(LogTime(4)), None, LivesOn::Rest),
            query(Moment::Ago(4), None, LivesOn::Rest),
            query(index, Some(4), LivesOn::Rest),
            query(index, None, LivesOn::Keep),
            query(index, None, LivesOn::Drop),
        ];
        for (at, hash) in said.iter().enumerate() {
            assert_eq!(said.iter().filter(|other| *other == hash).count(), 1, "{at}");
        }
        assert_eq!(said[0].to_string(), "0488102083e34f42");
    }
}
