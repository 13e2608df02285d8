//! Clients of a machine: they write and read, and note what they were answered; and
//! one watches all that happens.

use std::sync::Arc;
use std::time::Duration;

use etcd::node::{Freshness, Node, Start, WatchError, WriteError};
use etcd::state::filter::Filter;
use etcd_log::{Command, KeyPath, TestAndSet, Ttl};
use etcd_projections::{Came, Change, Event, Outcome, Rejection, TreeNode, What};

use super::linearizability::order::{self, Shown};
use super::linearizability::{Answer, Call, Operation};
use super::past;
use super::world::World;

/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(2);

/// How often it is tried again what may have been done, where it is not done twice.
const TRIES: usize = 3;

/// How long a machine may hold back what it has: longer than it ever does.
const LONG: Duration = Duration::from_mins(10);

/// How long it is between requests, in milliseconds: less often while a fault lasts for
/// long, or most of what is asked would be asked then.
const OFTEN: (u64, u64) = (1, 60);
const SELDOM: (u64, u64) = (50, 600);

/// How long a key lives that is kept for long, in seconds.
const TEN_MINUTES: u64 = 600;

/// The keys that are written, and never expire.
pub(crate) const KEYS: [&str; 6] = ["/a", "/b", "/c", "/d/e", "/d/f", "/g"];

/// Writes and reads until its machine crashes.
pub(crate) async fn run(world: World, name: Arc<str>, node: Node) {
    let dice = world.dice();
    while !world.is_quiet() {
        let (least, most) = if world.is_long() { SELDOM } else { OFTEN };
        tokio::time::sleep(dice.millis(least, most)).await;
        if let Some(name) = world.take_wish_to_leave() {
            let left = node.leave(&Arc::from(name.clone()), LIMIT).await;
            world.note(format_args!("{name} leaves: {left:?}"));
            world.wish_was_answered(&name, &left);
        }
        if let Some(key) = world.take_wish_to_keep() {
            keep(&world, &node, key).await;
        }
        if dice.one_in(12) {
            expiring(&world, &node).await;
            continue;
        }
        if dice.one_in(40) {
            past::put_back(&world, &name, &node).await;
            continue;
        }
        let key = *dice.pick(&KEYS);
        let value = world.unique();
        let call = match dice.below(13) {
            0..=3 => Call::Get,
            4..=6 => Call::Set(value),
            7 => Call::Delete,
            8 => Call::TestAndDelete { prev: world.last_value(key) },
            9..=10 => Call::Create(value),
            _ => Call::TestAndSet { prev: world.last_value(key), value },
        };
        let called = world.tick();
        // A machine that crashes never gets to note the answer.
        world.begin(key, &call, called);
        let answer = ask(&world, &node, key, &call).await;
        let answered = world.tick();
        if let Some((answer, Some(index))) = &answer {
            let (machine, index, what) = (name.to_string(), *index, what(key, &call, answer));
            world.show(Shown { machine, called, answered, index, what });
        }
        world
            .end(called, answer.map(|(answer, _)| operation(key, &call, answer, called, answered)));
    }
}

/// What an answer says of the order of things.
fn what(key: &str, call: &Call, answer: &Answer) -> order::What {
    let key = key.to_owned();
    let value = match (call, answer) {
        (Call::Get, answer) => {
            let value = if let Answer::Value(value) = answer { Some(value.clone()) } else { None };
            return order::What::Read { key, value, freshness: order::Freshness::Linearizable };
        }
        (
            Call::Set(value) | Call::Create(value) | Call::TestAndSet { value, .. },
            Answer::Done(_),
        ) => Some(value.clone()),
        (Call::Delete | Call::TestAndDelete { .. }, Answer::Done(_)) => None,
        _ => return order::What::Refused,
    };
    order::What::Wrote { key, value }
}

fn operation(key: &str, call: &Call, answer: Answer, called: u64, answered: u64) -> Operation {
    Operation { key: key.to_owned(), call: call.clone(), answer, called, answered }
}

/// Sets a key that expires: what watches see of it is compared between machines.
async fn expiring(world: &World, node: &Node) {
    let key = KeyPath::clean(&format!("/expiring/{}", world.dice().below(4))).unwrap();
    let ttl = Ttl::new(1 + world.dice().number() % 3);
    let command = Command::Set { key, value: Arc::from(world.unique()), ttl };
    let _answered = node.propose(command, LIMIT).await;
}

/// Sets a key that is to be there for long, as logged time goes.
async fn keep(world: &World, node: &Node, name: &'static str) {
    let (key, value) = (KeyPath::clean(name).unwrap(), Arc::from("kept"));
    let kept = node.propose(Command::Set { key, value, ttl: Ttl::new(TEN_MINUTES) }, LIMIT).await;
    if kept.is_err() {
        world.wish_to_keep(name);
    }
}

/// Asks for something, and returns the answer and its index, if it names one; nothing,
/// if it is certain that nothing was done. Every other write is asked for under an id.
async fn ask(world: &World, node: &Node, key: &str, call: &Call) -> Option<(Answer, Option<u64>)> {
    let key = KeyPath::clean(key).unwrap();
    let command = match call.clone() {
        Call::Get => return get(node, &key).await,
        Call::Set(value) => Command::Set { key, value: Arc::from(value), ttl: None },
        Call::Create(value) => Command::Create { key, value: Arc::from(value), ttl: None },
        Call::Delete => Command::Delete { key },
        Call::TestAndDelete { prev } => Command::TestAndDelete { key, prev_value: Arc::from(prev) },
        Call::TestAndSet { prev, value } => {
            let (prev_value, value) = (Arc::from(prev), Arc::from(value));
            Command::TestAndSet(TestAndSet { key, prev_value, value, ttl: None })
        }
    };
    if !world.dice().one_in(2) {
        return propose(node, command).await;
    }
    let command = node.once(world.unique().parse().unwrap(), command);
    let mut told = propose(node, command.clone()).await;
    for _ in 0..TRIES {
        if !matches!(told, Some((Answer::Unknown, _))) {
            break;
        }
        // What is certain of this try is not so of those before it.
        told = propose(node, command.clone()).await.or(told);
    }
    if world.dice().one_in(4)
        && let Some((answer, Some(_))) = &told
        && let Some((again, Some(_))) = propose(node, command).await
        && again != *answer
    {
        world.violation(format_args!("{call:?} was {answer:?}, and then {again:?}"));
    }
    told
}

/// Proposes a command once.
async fn propose(node: &Node, command: Command) -> Option<(Answer, Option<u64>)> {
    match node.propose(command, LIMIT).await {
        Ok(outcome) => {
            let (answer, index) = answer(&outcome);
            Some((answer, Some(index)))
        }
        Err(WriteError::Unknown) => Some((Answer::Unknown, None)),
        Err(
            WriteError::Unavailable(_) | WriteError::DiskFull | WriteError::UpgradeNotFinished(_),
        ) => None,
    }
}

async fn get(node: &Node, key: &KeyPath) -> Option<(Answer, Option<u64>)> {
    let published = node.read(Freshness::Linearizable, LIMIT).await.ok()?;
    let answer = match published.state.tree().get(key) {
        Some(TreeNode::File { value, .. }) => Answer::Value(value.to_string()),
        Some(TreeNode::Directory) | None => Answer::NotFound,
    };
    Some((answer, Some(published.state.position().index.0)))
}

/// What was answered, and by which index it was done: of what was done before under its id,
/// that of then.
fn answer(outcome: &Outcome) -> (Answer, u64) {
    let index = outcome.position.index.0;
    match &outcome.what {
        What::Event(event) => (done(event), index),
        What::Rejection(Rejection::Repeated(first)) => {
            let answer = match &first.came {
                Came::Event(event) => done(event),
                Came::Refused(rejection) => refused(rejection),
                Came::LetGo => panic!("no answer is large"),
            };
            (answer, first.index.0)
        }
        What::Rejection(rejection) => (refused(rejection), index),
        What::Tick => panic!("a command is no tick"),
    }
}

fn done(event: &Event) -> Answer {
    Answer::Done(match &event.change {
        Change::Set { prev, .. } => prev.as_ref().map(ToString::to_string),
        Change::Delete { prev, .. } | Change::Expire { prev, .. } => Some(prev.to_string()),
        Change::DeleteDir => None,
    })
}

fn refused(rejection: &Rejection) -> Answer {
    match rejection {
        Rejection::KeyNotFound => Answer::NotFound,
        Rejection::KeyExists(_) => Answer::Exists,
        Rejection::TestFailed { found, .. } => Answer::Found(found.to_string()),
        other => panic!("nobody asked for {other:?}"),
    }
}

/// Watches all that happens, from where the watch was that ran here or elsewhere
/// before, and holds it against what others have seen.
pub(crate) async fn watch(world: World, name: String, node: Node) {
    let place = world.take_watch();
    let (everything, start) = (Filter::below(KeyPath::root()), Start::After(place.seen()));
    let mut watch = node.watch(everything, start, LONG).await.unwrap();
    loop {
        match watch.next().await {
            Ok(event) => place.note(&name, &event),
            Err(WatchError::Closing) => return,
            Err(error) => {
                return world.violation(format_args!("a watch on {name} ends: {error}"));
            }
        }
    }
}
