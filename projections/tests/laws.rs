//! Laws that hold for any log, tried on many random ones.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../tests/support/limit.rs"]
mod limit;

use std::sync::Arc;

use etcd_log::{
    Asked, Batch, Check, Command, Digest, Index, KeyPath, LogTime, RaftIndex, RequestHash, Restore,
    RestoreChange, TestAndSet, Ttl,
};
use etcd_projections::{
    KeyTree, Outcome, Position, Projection as _, Rejection, SnapshotItem, State, TreeNode, What,
    of_commands,
};
use proptest::prelude::*;

const RING: usize = 8;

fn key() -> impl Strategy<Value = KeyPath> {
    proptest::collection::vec(proptest::sample::select(vec!["a", "b", "a-b", "a-", "ß"]), 1..4)
        .prop_map(|parts| KeyPath::clean(&parts.join("/")).unwrap())
}

fn value() -> impl Strategy<Value = Arc<str>> {
    proptest::sample::select(vec!["x", "y", "z"]).prop_map(Arc::from)
}

fn ttl() -> impl Strategy<Value = Option<Ttl>> {
    proptest::option::of(1..6_u64).prop_map(|ttl| ttl.and_then(Ttl::new))
}

/// A command, perhaps under one of a few ids.
fn command() -> impl Strategy<Value = Command> {
    let id = proptest::sample::select(vec!["r1", "r2", "r3"]);
    (plain_command(), proptest::option::weighted(0.3, id)).prop_map(|(command, id)| match id {
        Some(id) => under(id, command),
        None => command,
    })
}

fn under(id: &str, command: Command) -> Command {
    let id = id.parse().unwrap();
    Command::As(match &command {
        Command::Restore(Restore { key, .. }) => {
            let hash = RequestHash::of([key.as_str()]);
            Asked { id, hash, since: Index(0), command: Box::new(command) }
        }
        _ => Asked::new(id, Index(0), command),
    })
}

fn plain_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => (key(), value(), ttl()).prop_map(|(key, value, ttl)| Command::Set { key, value, ttl }),
        2 => (key(), value(), value(), ttl()).prop_map(|(key, prev_value, value, ttl)| {
            Command::TestAndSet(TestAndSet { key, prev_value, value, ttl })
        }),
        2 => key().prop_map(|key| Command::Delete { key }),
        2 => key().prop_map(|key| Command::DeleteDir { key }),
        1 => (key(), value(), ttl())
            .prop_map(|(key, value, ttl)| Command::Create { key, value, ttl }),
        1 => (key(), value())
            .prop_map(|(key, prev_value)| Command::TestAndDelete { key, prev_value }),
        1 => (key(), proptest::collection::vec(step(), 0..4), any::<bool>())
            .prop_map(|(key, changes, is_late)| {
                let base = if is_late { Index(u64::MAX) } else { HERE };
                Command::Restore(Restore { key, at: Index(1), base, changes })
            }),
    ]
}

/// Stands for the index of the last command, in a restore that is not yet in a log.
const HERE: Index = Index(0);

fn step() -> impl Strategy<Value = RestoreChange> {
    prop_oneof![
        key().prop_map(RestoreChange::Delete),
        key().prop_map(RestoreChange::DeleteDir),
        (key(), value(), ttl()).prop_map(|(key, value, ttl)| RestoreChange::Set {
            key,
            value,
            ttl
        }),
    ]
}

/// Says in each restore which command stands before it.
fn placed(mut commands: Vec<Command>, last: &mut Index) -> Vec<Command> {
    for command in &mut commands {
        if let Command::Restore(restore) = command.wanted_mut()
            && restore.base == HERE
        {
            restore.base = *last;
        }
        *last = last.next();
    }
    commands
}

/// Batches whose clock mostly goes on, and sometimes back.
fn log() -> impl Strategy<Value = Vec<Batch>> {
    let batch = (0..20_u64, proptest::collection::vec(command(), 0..6));
    proptest::collection::vec(batch, 1..30).prop_map(|batches| {
        let (mut now, mut last) = (10_u64, Index(0));
        batches
            .into_iter()
            .map(|(step, commands)| {
                now = (now + step).saturating_sub(8);
                Batch::new(LogTime(now * 500_000_000), placed(commands, &mut last))
            })
            .collect()
    })
}

fn restored(state: &State) -> State {
    let items: Vec<SnapshotItem> = state.snapshot_items().collect();
    // Through text, as a checkpoint on disk.
    let text = serde_json::to_string(&items).unwrap();
    let items: Vec<SnapshotItem> = serde_json::from_str(&text).unwrap();
    State::from_snapshot(&state.snapshot_header(), items, RING).unwrap()
}

/// The state, but for a key that it has lost.
fn without(state: &State, lost: &KeyPath) -> State {
    let is_lost = |item: &SnapshotItem| match item {
        SnapshotItem::File { key, .. } => key == lost,
        SnapshotItem::Directory { .. } | SnapshotItem::Event(_) | SnapshotItem::Request(_) => false,
    };
    let items: Vec<SnapshotItem> = state.snapshot_items().filter(|item| !is_lost(item)).collect();
    let mut header = state.snapshot_header();
    header.nodes = items.len() - header.events - header.requests;
    State::from_snapshot(&header, items, RING).unwrap()
}

fn other_key() -> KeyPath {
    KeyPath::clean("/nowhere").unwrap()
}

fn check_at(entry: Option<RaftIndex>, state: &State) -> Check {
    let Position { index, event, time } = state.position();
    Check { entry, index, event, time, digest: state.digest() }
}

fn assert_equal(left: &State, right: &State) {
    assert_eq!(left.position(), right.position());
    assert_eq!(left.digest(), right.digest());
    assert!(left.tree().iter().eq(right.tree().iter()));
    assert!(left.ring().iter().eq(right.ring().iter()));
    assert!(left.expiry().iter().eq(right.expiry().iter()));
    assert!(left.requests().iter().eq(right.requests().iter()));
}

/// All outcomes of a log, and the trees before the first and after each.
fn history(log: &[Batch]) -> (Vec<Outcome>, Vec<KeyTree>) {
    let mut state = State::new(RING);
    let outcomes: Vec<_> = log.iter().flat_map(|batch| state.apply(batch)).collect();
    let mut tree = KeyTree::default();
    let mut trees = vec![tree.clone()];
    for outcome in &outcomes {
        tree.fold(outcome);
        trees.push(tree.clone());
    }
    (outcomes, trees)
}

/// What stands at a key and below it.
fn below(tree: &KeyTree, key: &KeyPath) -> Vec<(KeyPath, TreeNode)> {
    let (mut found, mut open) = (Vec::new(), vec![key.clone()]);
    while let Some(key) = open.pop() {
        found.extend(tree.get(&key).map(|node| (key.clone(), node.clone())));
        open.extend(tree.children(&key).map(|(child, _)| child));
    }
    found
}

proptest! {
    /// Whoever takes all events back, the last one first, comes by every tree that there was.
    #[test]
    fn undoing_leads_back_through_every_tree(log in log()) {
        let (outcomes, mut trees) = history(&log);
        let mut tree = trees.pop().unwrap();
        for outcome in outcomes.iter().rev() {
            if let What::Event(event) = &outcome.what {
                tree.undo(event, outcome.undo);
            }
            let before = trees.pop().unwrap();
            prop_assert!(tree.iter().eq(before.iter()), "before {:?}", outcome);
            prop_assert_eq!(tree.len(), before.len());
        }
        prop_assert!(tree.is_empty());
    }

    /// Taking back the events at a key and below it is enough to know what was there.
    #[test]
    fn undoing_below_a_key_leads_back_through_all_that_was_there(log in log(), key in key()) {
        let (outcomes, mut trees) = history(&log);
        let mut tree = trees.pop().unwrap();
        for outcome in outcomes.iter().rev() {
            match &outcome.what {
                What::Event(event) if key.covers(&event.key) => tree.undo(event, outcome.undo),
                What::Event(_) | What::Rejection(_) | What::Tick => {}
            }
            let before = trees.pop().unwrap();
            prop_assert_eq!(below(&tree, &key), below(&before, &key), "before {:?}", outcome);
        }
    }

    /// Any log replayed whole is the same as replayed from any checkpoint.
    #[test]
    fn replay_from_any_checkpoint_is_replay_from_the_start(log in log(), at in any::<prop::sample::Index>()) {
        limit::begin();
        let at = at.index(log.len());
        let mut whole = State::new(RING);
        let mut from_checkpoint = State::new(RING);
        for (number, batch) in log.iter().enumerate() {
            if number == at {
                from_checkpoint = restored(&from_checkpoint);
            }
            prop_assert_eq!(whole.apply(batch), from_checkpoint.apply(batch));
        }
        assert_equal(&whole, &from_checkpoint);
        assert_equal(&whole, &restored(&whole));
    }

    /// However often commands are repeated under their ids, and in whatever places behind, they
    /// are done once: the same happens as if nobody had repeated any.
    #[test]
    fn what_is_repeated_is_done_once(
        commands in proptest::collection::vec((plain_command(), 0..4_u64), 1..20),
        again in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let commands: Vec<_> = commands
            .into_iter()
            .enumerate()
            .filter(|(_, (command, _))| !matches!(command, Command::Restore(_)))
            .map(|(at, (command, later))| (under(&format!("r{at}"), command), later))
            .collect();
        let (mut once, mut often, mut time) = (State::new(RING), State::new(RING), LogTime(1));
        for (at, (command, later)) in commands.iter().enumerate() {
            time = LogTime(time.0 + later * 1_000_000_000);
            let batch = Batch::new(time, vec![command.clone()]);
            once.apply(&batch);
            often.apply(&batch);
            let known = &commands[..=at];
            for again in again.iter().skip(at).step_by(3).take(3) {
                let (repeated, _) = again.get(known);
                let outcomes = often.apply(&Batch::new(time, vec![repeated.clone()]));
                let is_told = matches!(
                    &outcomes[..],
                    [Outcome { what: What::Rejection(Rejection::Repeated(_)), .. }]
                );
                prop_assert!(is_told, "{:?}", outcomes);
            }
        }
        prop_assert!(once.tree().iter().eq(often.tree().iter()));
        prop_assert_eq!(once.position().event, often.position().event);
        let answers = |state: &State| {
            let came = state.requests().iter().map(|first| (Arc::clone(&first.requested), first.changed));
            came.collect::<Vec<_>>()
        };
        prop_assert_eq!(answers(&once), answers(&often));
    }

    /// Indices and event numbers are dense, and the clock never goes back.
    #[test]
    fn numbers_have_no_gaps(log in log()) {
        limit::begin();
        let mut state = State::new(RING);
        for batch in &log {
            let mut before = state.position();
            let outcomes = state.apply(batch);
            let answers = of_commands(before.index, &outcomes).count();
            prop_assert_eq!(answers, batch.commands.len());
            let mut commands = batch.commands.iter();
            let mut command: Option<&Command> = None;
            for Outcome { position, what, .. } in &outcomes {
                let by_command = position.index.0 - before.index.0;
                let by_event = u64::from(matches!(what, What::Event(_)));
                match by_command {
                    // A later event of one command, or the clock's before all of them.
                    0 => {
                        let wanted = command.map(Command::wanted);
                        prop_assert!(matches!(wanted, None | Some(Command::Restore(_))));
                    }
                    1 => command = commands.next(),
                    _ => prop_assert!(false, "{} behind {}", position.index, before.index),
                }
                prop_assert_eq!(position.event.0, before.event.0 + by_event);
                prop_assert!(position.time >= before.time);
                before = *position;
            }
            prop_assert_eq!(state.position(), before);
        }
    }

    /// A state agrees with what it was itself, disagrees with another digest at the
    /// same position, and has nothing to say of other positions.
    #[test]
    fn another_digest_is_noticed_where_it_belongs(log in log(), at in any::<prop::sample::Index>()) {
        limit::begin();
        let mut state = State::new(RING);
        let mut checks = Vec::new();
        for batch in &log {
            let Position { index, event, time } = state.position();
            checks.push(Check { entry: None, index, event, time, digest: state.digest() });
            prop_assert!(state.compare(&checks[checks.len() - 1]).is_ok());
            state.apply(batch);
        }
        let mut check = checks[at.index(checks.len())];
        prop_assert!(state.compare(&check).is_ok(), "of an earlier position there is nothing to say");
        let Position { index, event, time } = state.position();
        check = Check { entry: None, index, event, time, digest: Digest(!state.digest().0) };
        prop_assert!(state.compare(&check).is_err());
    }

    /// A check that names its entry speaks wherever that entry has been applied, also when
    /// others lie between: a state that has lost a key is found out as soon as a command
    /// has touched it, though it stands elsewhere from then on.
    #[test]
    fn lost_key_is_noticed_at_the_entry_that_a_check_names(log in log(), later in 0..4_u64) {
        limit::begin();
        let mut entries = (0..).map(RaftIndex);
        let mut state = State::new(RING);
        for batch in &log {
            state.apply_entry(entries.next().unwrap(), Some(batch));
        }
        let lost = state.tree().iter().find_map(|(key, node)| match node {
            TreeNode::File { .. } => Some(key),
            TreeNode::Directory => None,
        });
        prop_assume!(lost.is_some());
        let lost = lost.unwrap();
        let mut other = without(&state, &lost);
        let delete = Batch::new(state.position().time, vec![Command::Delete { key: lost }]);
        let entry = entries.next().unwrap();
        for state in [&mut state, &mut other] {
            state.apply_entry(entry, Some(&delete));
        }
        let check = check_at(Some(entry), &state);
        // One that names no entry has nothing to say of another position.
        let unnamed = Check { entry: None, ..check };
        prop_assert!(other.compare(&unnamed).is_ok());
        let last = entry.0 + later;
        for entry in entries.take(usize::try_from(later).unwrap()) {
            state.apply_entry(entry, None);
            other.apply_entry(entry, None);
        }
        prop_assert!(state.compare(&check).is_ok());
        prop_assert!(other.compare(&check).is_err());
        // What it does not remember, it does not judge; and is not said to be right.
        let mut forgetful = without(&state, &other_key());
        prop_assert!(forgetful.compare(&check).is_ok());
        let stood = state.position();
        let checking = Batch { check: Some(check), ..Batch::new(stood.time, Vec::new()) };
        for (state, checked) in [(&mut state, Some(stood)), (&mut forgetful, None)] {
            state.apply_entry(RaftIndex(last + 1), Some(&checking));
            prop_assert_eq!(state.checked(), checked);
        }
    }

    /// No key outlives its deadline, and none with a deadline is forgotten.
    #[test]
    fn deadlines_are_those_of_the_tree(log in log()) {
        limit::begin();
        let mut state = State::new(RING);
        for batch in &log {
            state.apply(batch);
            let mut of_tree: Vec<_> = state
                .tree()
                .iter()
                .filter_map(|(key, node)| match node {
                    TreeNode::File { deadline: Some(deadline), .. } => Some((*deadline, key.clone())),
                    TreeNode::File { deadline: None, .. } | TreeNode::Directory => None,
                })
                .collect();
            of_tree.sort();
            let of_index = state.expiry().iter().map(|(deadline, key)| (deadline, key.clone()));
            prop_assert_eq!(&of_tree, &of_index.collect::<Vec<_>>());
            prop_assert!(of_tree.iter().all(|(deadline, _)| *deadline > state.position().time));
        }
    }

    /// Everything but the root has a directory above it, and no file has a child.
    #[test]
    fn tree_is_a_tree(log in log()) {
        limit::begin();
        let mut state = State::new(RING);
        for batch in &log {
            state.apply(batch);
        }
        for (key, _) in state.tree().iter() {
            let parent = key.parent().expect("the root is not listed");
            prop_assert_eq!(state.tree().get(&parent), Some(&TreeNode::Directory));
        }
        let keys: Vec<_> = state.tree().iter().map(|(key, _)| key).collect();
        prop_assert_eq!(keys.len(), state.tree().len());
        prop_assert!(keys.is_sorted(), "{:?}", keys);
        for directory in keys.iter().chain([&KeyPath::root()]) {
            let listed = state.tree().children(directory).map(|(key, _)| key);
            let below = keys.iter().filter(|key| directory.is_parent_of(key));
            prop_assert!(listed.eq(below.cloned()), "children of {}", directory);
        }
    }

    /// A subtree is all files below a directory, sorted as text; from anywhere on.
    #[test]
    fn subtree_is_sorted_as_text_sorts(log in log(), from in key(), top in proptest::option::of(key())) {
        let mut state = State::new(RING);
        for batch in &log {
            state.apply(batch);
        }
        let top = top.filter(|top| state.tree().get(top) == Some(&TreeNode::Directory));
        let top = top.unwrap_or_else(KeyPath::root);
        let before = if top.is_root() { "" } else { top.as_str() };
        let files = state.tree().iter().filter(|(_, node)| **node != TreeNode::Directory);
        let mut below: Vec<_> = files.map(|(key, _)| key).filter(|key| top.covers(key)).collect();
        below.sort_by(|left, right| left.as_str().cmp(right.as_str()));
        let walked = |from: &str| state.tree().subtree(&top, from).map(|(key, _)| key.clone()).collect::<Vec<_>>();
        prop_assert_eq!(walked(""), &below[..]);
        let first = format!("{before}{from}");
        let rest = below.iter().position(|key| key.as_str() >= &*first).unwrap_or(below.len());
        prop_assert_eq!(walked(&from.as_str()[1..]), &below[rest..], "from {}", first);
        let first = format!("{first}/");
        let rest = below.iter().position(|key| key.as_str() >= &*first).unwrap_or(below.len());
        prop_assert_eq!(walked(&first[before.len() + 1..]), &below[rest..], "from {}", first);
    }

    /// Children from a name on are the last of all children.
    #[test]
    fn children_from_a_name_are_the_last(log in log(), from in proptest::sample::select(vec!["a", "a-", "b", "z", "ß"])) {
        let mut state = State::new(RING);
        for batch in &log {
            state.apply(batch);
        }
        for (directory, _) in state.tree().iter().chain([(KeyPath::root(), &TreeNode::Directory)]) {
            let listed = state.tree().children_from(&directory, from).map(|(key, _)| key);
            let all = state.tree().children(&directory).map(|(key, _)| key);
            prop_assert!(listed.eq(all.skip_while(|key| key.name() < from)), "{} in {}", from, directory);
        }
    }
}
