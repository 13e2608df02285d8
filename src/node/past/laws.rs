//! Laws of the past that hold for any log: it was as a replay says that it was, and what is
//! put back is so again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{Batch, Command, Index, KeyPath, LogTime};
use etcd_projections::{Change, Event, KeyTree, Position, State, TreeNode};
use proptest::prelude::*;
use proptest::sample::Index as Any;
use tempfile::TempDir;

use super::deadline::Deadline;
use super::history::{HistoryQuery, PastEvents};
use super::net::{NetChange, net, touched};
use super::restore::{LivesOn, Plan, RestoreQuery, is_untouched, plan};
use super::view::take_back;
use super::{Moment, PastError};
use crate::storage::events::fixtures::{self, log, prefix};
use crate::storage::events::{EventStore, Interest};

/// What a log led to: states, each behind the one before, and the store of what happened.
struct World {
    _dir: TempDir,
    store: EventStore,
    state: State,
    states: Vec<(Position, KeyTree)>,
}

/// A restore in a log: behind which entry, of what, to which of the states before.
type Restoring = (Any, KeyPath, Any, LivesOn);

impl World {
    /// A world in which a log has happened, command by command, and restores in between.
    fn of(log: &[Batch], restores: &[Restoring]) -> Self {
        let dir = TempDir::new().unwrap();
        let store = fixtures::open(dir.path(), &[]);
        let states = vec![(Position::default(), KeyTree::default())];
        let mut world = Self { _dir: dir, store, state: State::new(10), states };
        for (number, batch) in log.iter().enumerate() {
            let mut commands = batch.commands.iter();
            let first = commands.next().cloned().into_iter().collect();
            world.apply(batch.time, first);
            commands.for_each(|command| world.apply(batch.time, vec![command.clone()]));
            for (_, key, at, ttl) in restores.iter().filter(|it| it.0.index(log.len()) == number) {
                let at = at.index(world.states.len());
                if let Ok(Plan { command, .. }) = world.plan(key, at, *ttl) {
                    world.apply(batch.time, vec![Command::Restore(command)]);
                }
            }
            if number % 3 == 0 {
                fixtures::store_all(&world.store);
            }
        }
        world
    }

    fn apply(&mut self, time: LogTime, commands: Vec<Command>) {
        let before = self.state.position();
        let outcomes = self.state.apply(&Batch::new(time, commands));
        if !outcomes.is_empty() {
            fixtures::push(&self.store, &[(before, outcomes)]);
            self.states.push((self.state.position(), self.state.tree().clone()));
        }
    }

    /// The keys as they were, right at a key and below it.
    fn view(&self, then: Position, key: &KeyPath) -> KeyTree {
        let (now, tree) = self.states.last().unwrap();
        take_back(&self.store, tree.clone(), (*now, then), key, in_time()).unwrap().0
    }

    fn plan(&self, key: &KeyPath, at: usize, ttl: LivesOn) -> Result<Plan, PastError> {
        let (then, base) = (self.states[at].0, self.state.position());
        let moment = Moment::Index(then.index);
        let query = RestoreQuery { key: key.clone(), at: moment, if_index: None, ttl };
        let touched = touched(&self.store, (then, base), key, in_time())?;
        let tree = self.view(then, key);
        plan(&query, &touched, (then, &tree), (base, self.state.tree()))
    }

    /// What happened, as history tells it between two positions.
    fn history(&self, query: HistoryQuery, from: Position, to: Position) -> PastEvents {
        let interest = Interest::Below(query.key.clone());
        let newest = self.state.position();
        if query.reverse {
            PastEvents::new(self.store.before(to, interest), query, from, (newest, None))
        } else {
            PastEvents::new(self.store.after(from, interest), query, to, (newest, None))
        }
    }
}

/// A deadline that nobody misses.
fn in_time() -> Deadline {
    Deadline::after(Duration::from_hours(1))
}

type Held = BTreeMap<KeyPath, TreeNode>;

/// What is at a key and below it, as it is asked for one by one.
fn shown(tree: &KeyTree, top: &KeyPath) -> Held {
    let mut found = Held::new();
    let mut waiting: Vec<_> =
        tree.get(top).map(|node| (top.clone(), node.clone())).into_iter().collect();
    while let Some((key, node)) = waiting.pop() {
        waiting.extend(tree.children(&key).map(|(key, node)| (key, node.clone())));
        found.insert(key, node);
    }
    let below = tree.subtree(top, "").map(|(key, node)| (key.clone(), node.clone()));
    let below: Held = below.collect();
    let mut files = found.clone();
    files.retain(|key, node| key != top && matches!(node, TreeNode::File { .. }));
    assert_eq!(below, files, "one by one, and all at once");
    found
}

fn values(held: &Held) -> BTreeMap<KeyPath, Arc<str>> {
    let files = held.iter().filter_map(|(key, node)| match node {
        TreeNode::File { value, .. } => Some((key.clone(), Arc::clone(value))),
        TreeNode::Directory => None,
    });
    files.collect()
}

fn directories(held: &Held) -> Vec<&KeyPath> {
    let directories = held.iter().filter(|(_, node)| **node == TreeNode::Directory);
    directories.map(|(key, _)| key).collect()
}

fn deadline(node: &TreeNode) -> Option<LogTime> {
    match node {
        TreeNode::File { deadline, .. } => *deadline,
        TreeNode::Directory => None,
    }
}

fn lives_on() -> impl Strategy<Value = LivesOn> {
    proptest::sample::select(vec![LivesOn::Rest, LivesOn::Keep, LivesOn::Drop])
}

fn restores() -> impl Strategy<Value = Vec<Restoring>> {
    proptest::collection::vec((any::<Any>(), prefix(), any::<Any>(), lives_on()), 0..4)
}

fn collected(mut events: PastEvents) -> Vec<Arc<Event>> {
    read(&mut events, usize::MAX)
}

/// Reads so many chunks, at most.
fn read(events: &mut PastEvents, chunks: usize) -> Vec<Arc<Event>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut found = Vec::new();
        for _ in 0..chunks {
            let Some(chunk) = events.next().await.unwrap() else { break };
            found.extend(chunk);
        }
        found
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// At a command, and at a time, it was as a replay up to there says.
    #[test]
    fn it_was_as_a_replay_says(log in log(), restores in restores(), key in prefix()) {
        let world = World::of(&log, &restores);
        for (then, tree) in &world.states {
            prop_assert_eq!(shown(&world.view(*then, &key), &key), shown(tree, &key), "{:?}", then);
        }
        let newest = world.state.position();
        for index in 0..=newest.index.0 {
            let (then, _) = world.states.iter().find(|(at, _)| at.index.0 == index).unwrap();
            prop_assert_eq!(world.store.position_at_index(Index(index)), Some(*then));
        }
        for time in (0..=newest.time.0 + 500_000_000).step_by(250_000_000).map(LogTime) {
            let (_, tree) = world.states.iter().rfind(|(at, _)| at.time <= time).unwrap();
            let then = world.store.position_at_time(time).unwrap();
            prop_assert_eq!(shown(&world.view(then, &key), &key), shown(tree, &key), "{:?}", time);
        }
    }

    /// What changed leads from the one state to the other.
    #[test]
    fn diff_leads_from_one_state_to_the_other(
        log in log(),
        restores in restores(),
        key in prefix(),
        (one, other) in any::<(Any, Any)>(),
    ) {
        let world = World::of(&log, &restores);
        let (one, other) = (one.index(world.states.len()), other.index(world.states.len()));
        let [from, to] = [one.min(other), one.max(other)].map(|at| &world.states[at]);
        let changes = net(&world.store, (from.0, to.0), &key, in_time()).unwrap();
        prop_assert!(changes.is_sorted_by(|left, right| left.key.as_str() < right.key.as_str()));
        let mut held = values(&shown(&from.1, &key));
        for NetChange { key, from, to } in changes {
            prop_assert_ne!(&from, &to);
            prop_assert_eq!(held.remove(&key), from);
            held.extend(to.map(|value| (key, value)));
        }
        prop_assert_eq!(held, values(&shown(&to.1, &key)));
    }

    /// Whoever folds a history has the state; and it can be read backward.
    #[test]
    fn history_leads_to_the_state(
        log in log(),
        restores in restores(),
        key in prefix(),
        (one, other) in any::<(Any, Any)>(),
    ) {
        let world = World::of(&log, &restores);
        let (one, other) = (one.index(world.states.len()), other.index(world.states.len()));
        let [from, to] = [one.min(other), one.max(other)].map(|at| &world.states[at]);
        let query = HistoryQuery { key: key.clone(), recursive: true, from: None, to: None, reverse: false };
        let events = collected(world.history(query.clone(), from.0, to.0));
        let mut held = values(&shown(&from.1, &key));
        for event in &events {
            let is_within = from.0.event < event.number && event.number <= to.0.event;
            prop_assert!(is_within, "{}", event.number);
            match &event.change {
                Change::Set { value, .. } => drop(held.insert(event.key.clone(), Arc::clone(value))),
                Change::Delete { .. } | Change::Expire { .. } => drop(held.remove(&event.key)),
                Change::DeleteDir => {}
            }
        }
        prop_assert_eq!(held, values(&shown(&to.1, &key)));
        let backward = HistoryQuery { reverse: true, ..query.clone() };
        let mut backward = collected(world.history(backward, from.0, to.0));
        backward.reverse();
        prop_assert_eq!(&backward, &events);
        let own = HistoryQuery { recursive: false, ..query.clone() };
        let mut of_key = events;
        of_key.retain(|event| event.key == key);
        prop_assert_eq!(collected(world.history(own, from.0, to.0)), of_key);
    }

    /// Wherever a history ends early, it goes on from where it says, and nothing is missing.
    #[test]
    fn history_that_ended_early_goes_on(log in log(), chunks in 1..8_usize, reverse in any::<bool>()) {
        let world = World::of(&log, &[]);
        let query = HistoryQuery { key: KeyPath::root(), recursive: true, from: None, to: None, reverse };
        let (first, newest) = (Position::default(), world.state.position());
        let mut events = world.history(query.clone(), first, newest);
        let mut found = read(&mut events, chunks);
        let goes_on = events.goes_on();
        let (end, index) = goes_on.split_once('=').unwrap();
        prop_assert_eq!(end, if reverse { "to" } else { "from" });
        let index = Index(index.parse().unwrap());
        let (from, to) = if reverse {
            (first, world.store.position_before_index(index.next()).unwrap_or(newest))
        } else {
            (world.store.position_before_index(index).unwrap_or(first), newest)
        };
        found.extend(collected(world.history(query.clone(), from, to)));
        found.sort_by_key(|event| event.number);
        found.dedup();
        let mut all = collected(world.history(query, first, newest));
        all.sort_by_key(|event| event.number);
        prop_assert_eq!(found, all);
    }

    /// Whatever has happened at a key, below it or above while a restore was worked out is
    /// noticed, and nothing else is.
    #[test]
    fn what_happens_meanwhile_is_noticed(
        log in log(),
        key in prefix(),
        ends in (any::<Any>(), any::<Any>()),
    ) {
        let world = World::of(&log, &[]);
        let at = |end: Any| world.states[end.index(world.states.len())].0;
        let (base, newest) = (at(ends.0).min(at(ends.1)), at(ends.0).max(at(ends.1)));
        let root = KeyPath::root();
        let query = HistoryQuery { key: root, recursive: true, from: None, to: None, reverse: false };
        let events = collected(world.history(query, base, newest));
        let concerned = events.iter().any(|event| event.key.covers(&key) || key.covers(&event.key));
        let untouched = is_untouched(&world.store, (base, newest), &key, in_time());
        prop_assert_eq!(untouched, Ok(!concerned));
    }

    /// What is put back is what it was, by one command; and it was told before.
    #[test]
    fn what_is_put_back_is_what_it_was(
        log in log(),
        restores in restores(),
        key in prefix(),
        at in any::<Any>(),
        ttl in lives_on(),
    ) {
        let mut world = World::of(&log, &restores);
        let at = at.index(world.states.len());
        let (base, (then, tree)) = (world.state.position(), world.states[at].clone());
        let (then_held, before) = (shown(&tree, &key), shown(world.state.tree(), &key));
        let Plan { command, diff } = match world.plan(&key, at, ttl) {
            Ok(plan) => plan,
            Err(error) => {
                let above = world.state.tree().file_above(&key);
                let expected = above.map(|file| {
                    PastError::Refused(etcd_projections::Rejection::NotADirectory(file))
                });
                prop_assert_eq!(Some(error), expected);
                return Ok(());
            }
        };
        let steps = command.changes.len();
        world.apply(base.time, vec![Command::Restore(command)]);
        let after = shown(world.state.tree(), &key);
        // One command, and every step of it.
        let position = world.state.position();
        prop_assert_eq!(position.index, base.index.next());
        prop_assert_eq!(position.event.0 - base.event.0, steps as u64);
        // What was told came, and nothing else.
        let (mut told, mut changed) = (before.clone(), 0);
        let (held, holds) = (values(&before), values(&after));
        for NetChange { key, from, to } in &diff {
            prop_assert_eq!(held.get(key), from.as_ref());
            prop_assert_eq!(holds.get(key), to.as_ref());
            prop_assert_ne!(before.get(key), after.get(key));
            told.remove(key);
            changed += 1;
        }
        told.retain(|_, node| *node != TreeNode::Directory);
        let untold = after.iter().filter(|(key, node)| {
            **node != TreeNode::Directory && diff.iter().all(|change| change.key != **key)
        });
        prop_assert_eq!(untold.map(|(key, node)| (key.clone(), node.clone())).collect::<Held>(), told);
        prop_assert!(changed <= steps);
        // It is what it was, but for what had its time and keeps it.
        let mut expected = then_held.clone();
        expected.retain(|key, node| {
            let has_passed = deadline(node).is_some_and(|deadline| deadline <= base.time);
            ttl != LivesOn::Keep || !has_passed || before.get(key) == Some(node)
        });
        prop_assert_eq!(values(&after), values(&expected));
        let is_left = net(&world.store, (then, position), &key, in_time()).unwrap();
        prop_assert!(ttl == LivesOn::Keep || is_left.is_empty(), "{is_left:?}");
        for (key, node) in after.iter().filter(|(_, node)| **node != TreeNode::Directory) {
            let (was, is) = (deadline(&then_held[key]), deadline(node));
            let rest = |was: LogTime, since: LogTime| {
                base.time.plus_seconds((was.0 - since.0).div_ceil(1_000_000_000))
            };
            let expected = was.map(|was| match ttl {
                LivesOn::Rest => rest(was, then.time),
                LivesOn::Keep => rest(was, base.time),
                LivesOn::Drop => was,
            });
            let is_dropped = ttl == LivesOn::Drop && is.is_none();
            prop_assert!(is == was || is == expected || is_dropped, "{key}: {was:?} {is:?}");
        }
        // No directory is left that was not there; and one that held something is.
        let (was, is) = (directories(&then_held), directories(&after));
        prop_assert!(is.iter().all(|directory| was.contains(directory)), "{was:?} {is:?}");
        let holds = |directory: &&&KeyPath| {
            expected.iter().any(|(key, node)| {
                directory.covers(key) && *node != TreeNode::Directory
            })
        };
        prop_assert!(was.iter().filter(holds).all(|directory| is.contains(directory)));
    }
}
