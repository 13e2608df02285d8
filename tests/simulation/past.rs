//! The past of machines that crash: clients put back what was, and in the end every machine
//! tells of any moment what a replay of its log tells, and the same history as all others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use etcd::node::{
    Freshness, HistoryQuery, LivesOn, Moment, Node, PastError, RestoreQuery, Restored, WriteError,
};
use etcd_log::{Batch, Command, Entry, Index, KeyPath, RequestId};
use etcd_projections::{Event, KeyTree, State, TreeNode};

use super::world::World;

/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(2);

/// How long to wait until what is asked for may have been read from the log.
const PAUSE: Duration = Duration::from_millis(100);

/// Of how many moments it is compared what was.
const MOMENTS: u64 = 8;

/// What is in a directory: the values, by the keys.
type Held = BTreeMap<String, String>;

fn held(pairs: &[(&str, &str)]) -> Held {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Writes into a directory that nobody else knows, puts it back, and looks at it.
pub(crate) async fn put_back(world: &World, name: &str, node: &Node) {
    let top = KeyPath::clean(&format!("/own/{}", world.unique())).unwrap();
    let set = |key: &str, value: &str| {
        let key = KeyPath::clean(&format!("{top}/{key}")).unwrap();
        Command::Set { key, value: Arc::from(value), ttl: None }
    };
    let delete = Command::Delete { key: top.child("b") };
    let (before, after) =
        ([set("a", "1"), set("b", "2")], [set("a", "3"), delete, set("c/d", "4")]);
    let (then, now) = (held(&[("/a", "1"), ("/b", "2")]), held(&[("/a", "3"), ("/c/d", "4")]));
    let Some(at) = write(node, before).await else { return };
    if write(node, after).await.is_none() {
        return;
    }
    let moment = Moment::Index(at);
    let query = RestoreQuery { key: top.clone(), at: moment, if_index: None, ttl: LivesOn::Rest };
    let id: Option<RequestId> = world.dice().one_in(2).then(|| world.unique().parse().unwrap());
    let restored = node.restore(query.clone(), id.clone(), LIMIT).await;
    if let (Ok(first), Some(id)) = (&restored, id)
        && let Ok(again) = node.restore(query, Some(id), LIMIT).await
        && again != (Restored { is_repeated: true, ..first.clone() })
    {
        world.violation(format_args!("{name} put back {top}: {first:?}, and then {again:?}"));
    }
    let expected = match &restored {
        Ok(restored) if restored.changed == 3 => vec![then],
        Err(PastError::Write(WriteError::Unknown)) => vec![then, now],
        Ok(_) => Vec::new(),
        Err(_) => vec![now],
    };
    let Ok(published) = node.read(Freshness::Linearizable, LIMIT).await else { return };
    let found = files(published.state.tree(), &top);
    if !expected.contains(&found) {
        world.violation(format_args!("{name} put back {top}: {restored:?}, and has {found:?}"));
    }
}

/// Writes one after the other. Returns the index of the last, if all were written.
async fn write(node: &Node, commands: impl IntoIterator<Item = Command>) -> Option<Index> {
    let mut last = None;
    for command in commands {
        last = Some(node.propose(command, LIMIT).await.ok()?.position.index);
    }
    last
}

fn files(tree: &KeyTree, top: &KeyPath) -> Held {
    let files = tree.subtree(top, "").filter_map(|(key, node)| match node {
        TreeNode::File { value, .. } => Some((key.as_str(), value)),
        TreeNode::Directory => None,
    });
    files.map(|(key, value)| (key[top.as_str().len()..].to_owned(), value.to_string())).collect()
}

/// Waits until the clients have had enough, and compares what a machine tells of the past.
pub(crate) async fn compare(world: World, name: String, node: Node) {
    while !world.is_quiet() {
        tokio::time::sleep(PAUSE).await;
    }
    if world.was_wrong(&name) || world.has_lost_a_key(&name) {
        // *Limit*: what a process stored that had begun with a wrong checkpoint of its own
        // is believed for ever.
        return world.past_was_compared(&name);
    }
    let newest = node.now().state.position();
    let Some(log) = log_of(&world, &name, newest.index) else {
        // Its history is on its way still, or is lost with the machine that had it.
        return world.past_was_compared(&name);
    };
    let some = (0..MOMENTS).map(|_| Index(world.dice().number() % (newest.index.0 + 1)));
    for (index, tree) in replayed(&log, &some.collect()) {
        let Some(was) = tell(&world, &name, &node, index).await else { return };
        if !was.iter().eq(tree.iter()) {
            return world.violation(format_args!("{name} does not tell what was at {index}"));
        }
    }
    let Some(events) = history(&world, &name, &node).await else { return };
    let numbers = events.iter().map(|event| event.number.0);
    let count = events.len() as u64;
    if !numbers.clone().eq(1..=count) || count < newest.event.0 {
        let told: Vec<_> = numbers.collect();
        return world.violation(format_args!("the history of {name} is not whole: {told:?}"));
    }
    for event in &events {
        world.happened(&name, event);
    }
    world.past_was_compared(&name);
}

/// The log of a machine, once it has come to an index on disk.
fn log_of(world: &World, name: &str, newest: Index) -> Option<Vec<Arc<Entry>>> {
    let log = world.stored(name).disk().history()?;
    let commands: usize =
        log.iter().filter_map(|entry| entry.batch()).map(|it| it.commands.len()).sum();
    (commands as u64 >= newest.0).then_some(log)
}

/// What a replay of a log says of some moments: right behind these commands.
fn replayed(log: &[Arc<Entry>], moments: &BTreeSet<Index>) -> BTreeMap<Index, KeyTree> {
    let (mut state, mut found) = (State::new(1), BTreeMap::new());
    let mut apply = |batch: &Batch| {
        state.apply(batch);
        let index = state.position().index;
        if moments.contains(&index) {
            found.entry(index).or_insert_with(|| state.tree().clone());
        }
    };
    if moments.contains(&Index(0)) {
        apply(&Batch::new(etcd_log::LogTime(0), Vec::new()));
    }
    for batch in log.iter().filter_map(|entry| entry.batch()) {
        if batch.commands.is_empty() {
            apply(batch);
        }
        // Expiries come before the first, as they do where all are applied together.
        for command in &batch.commands {
            apply(&Batch::new(batch.time, vec![command.clone()]));
        }
    }
    found
}

/// What a machine tells of a moment, once it has read it.
async fn tell(world: &World, name: &str, node: &Node, index: Index) -> Option<KeyTree> {
    loop {
        let root = KeyPath::root();
        match node.view_at(Moment::Index(index), &root, Freshness::Stale, LIMIT).await {
            Ok(view) => return Some(view.tree),
            Err(PastError::NotStored { .. } | PastError::Unavailable(_)) => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                world.violation(format_args!("{name} tells nothing of {index}: {error}"));
                return None;
            }
        }
    }
}

/// All that happened, as a machine tells it, once it has read it.
async fn history(world: &World, name: &str, node: &Node) -> Option<Vec<Arc<Event>>> {
    let key = KeyPath::root();
    let query = HistoryQuery { key, recursive: true, from: None, to: None, reverse: false };
    loop {
        match history_once(node, query.clone()).await {
            Ok(events) => return Some(events),
            Err(PastError::NotStored { .. } | PastError::Unavailable(_)) => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                world.violation(format_args!("{name} tells no history: {error}"));
                return None;
            }
        }
    }
}

async fn history_once(node: &Node, query: HistoryQuery) -> Result<Vec<Arc<Event>>, PastError> {
    let (mut found, mut events) = (Vec::new(), node.history(query, Freshness::Stale, LIMIT).await?);
    while let Some(chunk) = events.next().await? {
        found.extend(chunk);
    }
    Ok(found)
}
