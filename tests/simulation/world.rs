//! The world of a simulation: what outlives the machines in it, and what must hold
//! in it.

mod checks;
mod leaders;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use etcd::consensus::Consensus;
use etcd::node::{LeaveError, Node, WriteError};
use etcd_log::{Digest, EventNumber, KeyPath, LogId, RaftIndex, Vote};
use etcd_projections::Event;
use tokio::runtime::Handle;

use super::dice::Dice;
use super::health::{Patient, Probes};
use super::linearizability::order::{self, Shown};
use super::linearizability::{self, Answer, Call, Operation};
use super::links::Links;
use super::machine::Stored;

/// A world. Cloning gives another handle.
#[derive(Clone)]
pub(crate) struct World {
    dice: Dice,
    links: Links,
    probes: Probes,
    inner: Arc<Mutex<Inner>>,
}

/// What is wrong besides that somebody lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Besides {
    Nothing,
    Something,
    /// The machine that had this vote is down, and he speaks for it alone.
    Usurped(Vote),
}

#[derive(Default)]
struct Inner {
    stored: BTreeMap<String, Arc<Stored>>,
    up: BTreeMap<String, (Node, Consensus)>,
    /// What each machine that has been up runs on: its clock is there.
    runtimes: BTreeMap<String, Handle>,
    /// Those that have heard from the others since they were started.
    ready: BTreeSet<String>,
    removed: Vec<String>,
    /// Those that have stopped because they run somewhere else.
    gave_way: BTreeSet<String>,
    /// Those that are down for good.
    dead: Vec<String>,
    /// Whose state has lost a key, and at which index it has been started with that.
    lost_a_key: Option<(String, u64)>,
    /// Who has stopped for that, and not been replaced yet.
    stopped: Option<String>,
    /// What else is wrong while somebody lies; and how often that was refused.
    lied_to: Option<Besides>,
    lies: u64,
    /// Which machine is to be removed, and whether somebody has been asked to.
    to_leave: Option<String>,
    is_leaving: bool,
    /// A key that some client is to set, and that is kept for long.
    to_keep: Option<&'static str>,
    /// Whether clients have had enough, or are to take their time.
    is_quiet: bool,
    is_long: bool,
    clients: usize,
    clock: u64,
    /// How long the simulation has run, for whoever drives it.
    elapsed: Duration,
    values: u64,
    last_values: BTreeMap<String, String>,
    pending: BTreeMap<u64, Operation>,
    history: Vec<Operation>,
    /// What was shown at which index.
    shown: Vec<Shown>,
    /// How far the watches have come that run.
    watching: BTreeMap<u64, EventNumber>,
    /// Where watches are that run nowhere at the moment.
    watches: Vec<EventNumber>,
    /// What happened, as the first watch saw it.
    events: BTreeMap<EventNumber, Event>,
    /// Who led in each term, and since when: openraft may elect several in a term, one
    /// after the other in the order of their ids.
    leaders: BTreeMap<(u64, u64), (String, Duration)>,
    /// Which entry was applied at each index, and what the state was at each position.
    applied: BTreeMap<RaftIndex, LogId>,
    digests: BTreeMap<(u64, u64, u64), Digest>,
    /// Those that had lost a key, and are whole again.
    was_wrong: BTreeSet<String>,
    /// Those of whose past it has been compared what they tell.
    compared: BTreeSet<String>,
    trace: Vec<String>,
    violation: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, clients: usize) -> Self {
        let inner = Inner { clients, ..Inner::default() };
        let inner = Arc::new(Mutex::new(inner));
        Self { dice: Dice::new(seed), links: Links::default(), probes: Probes::default(), inner }
    }

    pub(crate) fn dice(&self) -> Dice {
        self.dice.clone()
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn probes(&self) -> &Probes {
        &self.probes
    }

    /// What a machine has on disk; made when it is first asked for.
    pub(crate) fn stored(&self, name: &str) -> Arc<Stored> {
        if let Some(stored) = self.lock().stored.get(name) {
            return Arc::clone(stored);
        }
        self.store(name, self.dice.millis(0, 400))
    }

    /// Makes what a machine has on disk, with a clock that is so far ahead.
    pub(crate) fn store(&self, name: &str, ahead: Duration) -> Arc<Stored> {
        let stored = Arc::new(Stored::new(ahead, has_real_logs()));
        self.lock().stored.insert(name.to_owned(), Arc::clone(&stored));
        stored
    }

    /// Lets machines be of an old version until they are started again.
    pub(crate) fn play_an_old_version(&self, names: &[&str]) {
        for name in names {
            self.stored(name).set_old(true);
        }
    }

    /// Whether a machine had lost a key: what it stored of the past then is wrong still.
    pub(crate) fn was_wrong(&self, name: &str) -> bool {
        self.lock().was_wrong.contains(name)
    }

    /// Notes that what a machine tells of the past is what was.
    pub(crate) fn past_was_compared(&self, name: &str) {
        self.lock().compared.insert(name.to_owned());
    }

    /// Whether all that are up tell of the past what was.
    pub(crate) fn past_is_compared(&self) -> bool {
        let inner = self.lock();
        inner.up.keys().all(|name| inner.compared.contains(name))
    }

    /// Notes an event that a machine tells, which must be the one that everybody tells.
    pub(crate) fn happened(&self, name: &str, event: &Event) {
        let mut inner = self.lock();
        // *Limit*: what came of a wrong checkpoint of its own, it may tell again.
        let is_excused = inner.was_wrong.contains(name);
        let known = inner.events.entry(event.number).or_insert_with(|| event.clone()).clone();
        drop(inner);
        if known != *event && !is_excused {
            let what = format_args!("{name} tells {event:?}, another one {known:?}");
            self.violation(what);
        }
    }

    pub(crate) fn clients(&self) -> usize {
        self.lock().clients
    }

    pub(crate) fn up(&self, name: &str, node: &Node, consensus: &Consensus) {
        self.note(format_args!("{name} is up"));
        let mut inner = self.lock();
        inner.compared.remove(name);
        inner.runtimes.insert(name.to_owned(), Handle::current());
        inner.up.insert(name.to_owned(), (node.clone(), consensus.clone()));
    }

    pub(crate) fn ready(&self, name: &str) {
        self.note(format_args!("{name} is ready"));
        self.lock().ready.insert(name.to_owned());
    }

    pub(crate) fn is_ready(&self, name: &str) -> bool {
        self.lock().ready.contains(name)
    }

    /// How long the simulation has run.
    pub(crate) fn elapsed(&self) -> Duration {
        self.lock().elapsed
    }

    /// Notes that a machine is gone: its disk keeps what was synced. What its clients
    /// waited for is not known.
    pub(crate) fn down(&self, name: &str) {
        self.note(format_args!("{name} crashes"));
        self.probes.gone(name);
        self.lock().ready.remove(name);
        let gone = self.lock().up.remove(name);
        drop(gone);
        let stored = self.stored(name);
        // When it comes back, it is of this version.
        stored.set_old(false);
        stored.disk().lose_tail(&self.dice());
    }

    pub(crate) fn removed(&self, name: &str) {
        self.probes.gone(name);
        let gone = self.lock().up.remove(name);
        drop(gone);
        self.lock().removed.push(name.to_owned());
    }

    /// Wants a machine to be removed: whichever client is free asks for it.
    pub(crate) fn wish_to_leave(&self, name: &str) {
        self.lock().to_leave = Some(name.to_owned());
    }

    /// Wants a key to be set that is kept for long.
    pub(crate) fn wish_to_keep(&self, key: &'static str) {
        self.lock().to_keep = Some(key);
    }

    pub(crate) fn take_wish_to_keep(&self) -> Option<&'static str> {
        self.lock().to_keep.take()
    }

    /// Whether all that are up have a key.
    pub(crate) fn all_have(&self, key: &str) -> bool {
        let key = KeyPath::clean(key).unwrap();
        self.machines_up().iter().all(|(_, node, _)| node.now().state.tree().get(&key).is_some())
    }

    /// Whether a machine is a member still, as some machine has it.
    pub(crate) fn is_listed(&self, name: &str) -> bool {
        let up = self.machines_up();
        let lists =
            |node: &Node| node.now().state.machines().iter().any(|machine| *machine.name == *name);
        up.iter().any(|(_, node, _)| lists(node))
    }

    pub(crate) fn take_wish_to_leave(&self) -> Option<String> {
        let mut inner = self.lock();
        let name = inner.to_leave.take();
        inner.is_leaving |= name.is_some();
        name
    }

    /// Notes what came of a wish: the dead have to be removed in the end. As long as it is
    /// not known whether a machine leaves, none may die.
    pub(crate) fn wish_was_answered(&self, name: &str, left: &Result<(), LeaveError>) {
        let mut inner = self.lock();
        inner.is_leaving = matches!(left, Err(LeaveError::Write(WriteError::Unknown)));
        if left.is_err() && inner.dead.iter().any(|dead| dead == name) {
            inner.to_leave.get_or_insert_with(|| name.to_owned());
        }
    }

    /// Notes that a machine has stopped because it runs somewhere else.
    pub(crate) fn gave_way(&self, name: &str) {
        self.probes.gone(name);
        let mut inner = self.lock();
        inner.ready.remove(name);
        inner.gave_way.insert(name.to_owned());
        let gone = inner.up.remove(name);
        drop(inner);
        drop(gone);
    }

    /// Returns whether a machine has stopped because it runs somewhere else; and from
    /// here on has what that one has.
    pub(crate) fn goes_on_from(&self, name: &str, twin: &Arc<Stored>) -> bool {
        let mut inner = self.lock();
        let gave_way = inner.gave_way.remove(name);
        if gave_way {
            inner.stored.insert(name.to_owned(), Arc::clone(twin));
        }
        gave_way
    }

    /// Notes that a machine will not come back.
    pub(crate) fn kill(&self, name: &str) {
        self.lock().dead.push(name.to_owned());
    }

    /// Notes that the state of a machine has lost a key.
    pub(crate) fn lost_a_key(&self, name: &str) {
        let newest = self.lock().newest_shown();
        self.lock().lost_a_key = Some((name.to_owned(), newest));
    }

    /// Whether the state of a machine that may be up has lost a key.
    pub(crate) fn has_lost_a_key(&self, name: &str) -> bool {
        self.lock().lost_a_key.as_ref().is_some_and(|(lost, _)| lost == name)
    }

    pub(crate) fn somebody_has_lost_a_key(&self) -> bool {
        self.lock().lost_a_key.is_some()
    }

    /// Notes that a machine has stopped for good, since its state is not what it should be.
    pub(crate) fn stopped(&self, name: &str, why: &dyn std::error::Error) {
        let root = std::iter::successors(Some(why), |why| why.source()).last();
        self.note(format_args!("{name} stops: {why}: {root:?}"));
        self.probes.gone(name);
        let gone = self.lock().up.remove(name);
        drop(gone);
        self.kill(name);
        self.wish_to_leave(name);
        let mut inner = self.lock();
        (inner.lost_a_key, inner.stopped) = (None, Some(name.to_owned()));
    }

    /// Returns who has stopped for good by himself since this was asked last.
    pub(crate) fn take_stopped(&self) -> Option<String> {
        self.lock().stopped.take()
    }

    /// Lets somebody lie, or nobody.
    pub(crate) fn set_lied_to(&self, lied_to: Option<Besides>) {
        self.lock().lied_to = lied_to;
    }

    pub(crate) fn is_lied_to(&self) -> bool {
        self.lock().lied_to.is_some()
    }

    pub(crate) fn lie_was_refused(&self) {
        self.lock().lies += 1;
    }

    /// How many lies were refused.
    pub(crate) fn lies(&self) -> u64 {
        self.lock().lies
    }

    /// Whether a machine was removed, or is dead.
    pub(crate) fn is_gone(&self, name: &str) -> bool {
        let inner = self.lock();
        inner.removed.iter().chain(&inner.dead).any(|gone| gone == name)
    }

    /// Tells all clients to stop.
    pub(crate) fn quiet(&self) {
        self.lock().is_quiet = true;
    }

    /// Whether a fault is there that lasts for long.
    pub(crate) fn is_long(&self) -> bool {
        self.lock().is_long
    }

    pub(crate) fn set_long(&self, is_long: bool) {
        self.lock().is_long = is_long;
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.lock().is_quiet
    }

    /// Whether a watch runs on every machine that is up, and has seen all that happened
    /// as that machine has it.
    pub(crate) fn watches_are_done(&self) -> bool {
        let up = self.machines_up();
        let last = up.iter().map(|(_, node, _)| node.now().state.position().event).max();
        let inner = self.lock();
        inner.watching.len() == up.len() && inner.watching.values().all(|seen| Some(*seen) == last)
    }

    pub(crate) fn machines_up(&self) -> Vec<(String, Node, Consensus)> {
        let inner = self.lock();
        let up = inner.up.iter();
        up.map(|(name, (node, consensus))| (name.clone(), node.clone(), consensus.clone()))
            .collect()
    }

    /// The machines that are up, and what they know of each other.
    pub(crate) fn patients(&self) -> Vec<Patient> {
        let up = self.machines_up().into_iter();
        up.map(|(name, _, consensus)| {
            let voters = consensus.membership().voters;
            Patient { name, node: consensus.me(), voters }
        })
        .collect()
    }

    /// Whether all machines are up, and each knows the address of each.
    pub(crate) fn all_know_where_all_are(&self, names: &[String]) -> bool {
        let up = self.machines_up();
        let address = |name: &str| self.stored(name).address(name);
        let knows = |node: &Node, name: &str| {
            let now = node.now();
            let known = now.state.machines().iter().find(|machine| *machine.name == *name);
            known.is_some_and(|machine| machine.peer_address() == address(name))
        };
        names.iter().filter(|name| !self.is_gone(name)).count() == up.len()
            && up.iter().all(|(_, node, _)| up.iter().all(|(name, ..)| knows(node, name)))
    }

    /// Where all machines are reached that are up, but one.
    pub(crate) fn addresses_but(&self, but: &str) -> Vec<String> {
        let up = self.machines_up();
        let others = up.iter().map(|(name, ..)| name).filter(|name| ***name != *but);
        others.map(|name| self.stored(name).address(name)).collect()
    }

    /// Whether a machine that is dead is a member still.
    pub(crate) fn somebody_is_dead(&self) -> bool {
        let up = self.machines_up();
        let dead = self.lock().dead.clone();
        let knows = |node: &Node| {
            let now = node.now();
            now.state
                .machines()
                .iter()
                .any(|machine| dead.iter().any(|dead| **dead == *machine.name))
        };
        up.iter().any(|(_, node, _)| knows(node))
    }

    /// Whether the members are at least three, all up, and nothing is about to change, so
    /// that one may die.
    pub(crate) fn may_lose_one(&self) -> bool {
        let patients = self.patients();
        let nodes = patients.iter().map(|patient| patient.node).collect();
        let is_changing = self.lock().to_leave.is_some() || self.lock().is_leaving;
        let is_changing = is_changing || self.somebody_has_lost_a_key();
        !is_changing
            && !self.somebody_is_dead()
            && patients.len() >= 3
            && patients.iter().all(|patient| *patient.voters == [BTreeSet::clone(&nodes)])
    }

    /// The next moment of the clock that operations are ordered by.
    pub(crate) fn tick(&self) -> u64 {
        let mut inner = self.lock();
        inner.clock += 1;
        inner.clock
    }

    /// A value that was never written before.
    pub(crate) fn unique(&self) -> String {
        let mut inner = self.lock();
        inner.values += 1;
        format!("v{}", inner.values)
    }

    /// A value that a key may hold.
    pub(crate) fn last_value(&self, key: &str) -> String {
        self.lock().last_values.get(key).cloned().unwrap_or_else(|| "none".to_owned())
    }

    pub(crate) fn begin(&self, key: &str, call: &Call, called: u64) {
        let (key, call) = (key.to_owned(), call.clone());
        let unknown = Answer::Unknown;
        let operation = Operation { key, call, answer: unknown, called, answered: u64::MAX };
        self.lock().pending.insert(called, operation);
    }

    /// Notes an answer; nothing, if it is certain that nothing was done.
    pub(crate) fn end(&self, called: u64, operation: Option<Operation>) {
        let mut inner = self.lock();
        inner.pending.remove(&called);
        let Some(operation) = operation else { return };
        if let (
            Call::Set(value) | Call::Create(value) | Call::TestAndSet { value, .. },
            Answer::Done(_),
        ) = (&operation.call, &operation.answer)
        {
            inner.last_values.insert(operation.key.clone(), value.clone());
        }
        inner.history.push(operation);
    }

    /// Notes what was shown at an index.
    pub(crate) fn show(&self, shown: Shown) {
        self.lock().shown.push(shown);
    }

    /// The newest index that was shown anywhere.
    pub(crate) fn newest_shown(&self) -> u64 {
        self.lock().newest_shown()
    }

    /// Checks that what clients were answered fits together.
    pub(crate) fn check_history(&self) -> Result<(), String> {
        let history = self.history();
        linearizability::check(&history)?;
        order::check(&self.lock().shown, &history)
    }

    /// All operations, those without an answer among them.
    pub(crate) fn history(&self) -> Vec<Operation> {
        let inner = self.lock();
        inner.history.iter().chain(inner.pending.values()).cloned().collect()
    }

    /// Takes the place of a watch that runs nowhere, or that of a new one.
    pub(crate) fn take_watch(&self) -> WatchPlace {
        let id = self.tick();
        let mut inner = self.lock();
        let seen = inner.watches.pop().unwrap_or_default();
        inner.watching.insert(id, seen);
        WatchPlace { world: self.clone(), id, seen: Mutex::new(seen) }
    }

    /// Writes down what happens, for a run to be compared with another one.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let mut inner = self.lock();
        let at = turmoil::sim_elapsed().unwrap_or(inner.elapsed).as_millis();
        inner.trace.push(format!("{at} {what}"));
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.lock().trace.clone()
    }

    /// Notes that something does not hold that must.
    pub(crate) fn violation(&self, what: fmt::Arguments<'_>) {
        self.lock().violation.get_or_insert_with(|| what.to_string());
    }

    /// How many operations were answered, how many events were seen, and how many
    /// terms had a leader.
    pub(crate) fn summary(&self) -> (usize, usize, usize) {
        let inner = self.lock();
        (inner.history.len(), inner.events.len(), inner.leaders.len())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

impl Inner {
    fn newest_shown(&self) -> u64 {
        self.shown.iter().map(|shown| shown.index).max().unwrap_or_default()
    }
}

/// How far a watch has come, over the machines that it runs on.
pub(crate) struct WatchPlace {
    world: World,
    id: u64,
    seen: Mutex<EventNumber>,
}

impl WatchPlace {
    pub(crate) fn seen(&self) -> EventNumber {
        *self.seen.lock().unwrap()
    }

    /// Notes the next event, which must be the one after the last, and the same that
    /// everybody else sees.
    pub(crate) fn note(&self, name: &str, event: &Event) {
        let mut seen = self.seen.lock().unwrap();
        if event.number != seen.next() {
            let (seen, number) = (*seen, event.number);
            let what = format_args!("a watch on {name} saw {number} after {seen}");
            self.world.violation(what);
        }
        *seen = event.number;
        self.world.lock().watching.insert(self.id, event.number);
        self.world.happened(name, event);
    }
}

impl Drop for WatchPlace {
    fn drop(&mut self) {
        let seen = self.seen();
        let mut inner = self.world.lock();
        inner.watching.remove(&self.id);
        // A crash drops watches in any order.
        let place = inner.watches.partition_point(|other| *other < seen);
        inner.watches.insert(place, seen);
    }
}

/// Asks for the real log instead of the one in memory, if it is set to `wal`.
pub(crate) const LOG: &str = "SIM_LOG";

/// Whether the logs are the real ones.
fn has_real_logs() -> bool {
    std::env::var(LOG).is_ok_and(|log| log == "wal")
}

/// After how many commands a machine that has lost a key has stopped: a check comes after
/// a thousand, and a batch or two are under way.
const NOTICED: u64 = 1_100;

/// How long the votes of an election are on their way at most.
const SETTLING: Duration = Duration::from_millis(100);

/// How long a simulation runs at most until all machines agree again.
pub(crate) const HEALING: Duration = Duration::from_mins(1);
