//! The state: all projections, and the one pipeline that folds them.
//!
//! A live machine, a start, an old watch and the log's tools all call
//! [`State::apply`]: there is no second implementation of it.

use std::fmt;
use std::sync::Arc;

use etcd_log::{
    Asked, Batch, Check, ClusterId, Command, Digest, Index, LogFormat, LogTime, RaftIndex,
    RestoreChange,
};

use crate::cluster::{ClusterValue, FormatInForce};
use crate::decide::{Decided, decide, decide_step};
use crate::digest::Digester;
use crate::event::{Change, Event};
use crate::expiry::ExpiryIndex;
use crate::key_tree::{KeyTree, TreeNode};
use crate::machines::Machines;
use crate::outcome::{Outcome, Position, Projection as _, Rejection, Requested, What};
use crate::requests::Requests;
use crate::trail::Trail;
use crate::watch_ring::WatchRing;

/// A state that is not the proposer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{at} the state has digest {}, the proposer's had {}; it is at {}, that was at {}",
    stands.0.digest, stands.1.digest, stands.0, stands.1
)]
pub struct Diverged {
    at: At,
    /// What was found, and what was expected.
    stands: Box<(Stand, Stand)>,
}

/// Where two states differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Entry(RaftIndex),
    Command(Index),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(entry) => write!(f, "after entry {entry}"),
            Self::Command(index) => write!(f, "after command {index}"),
        }
    }
}

/// Where a state stands, and its digest there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stand {
    position: Position,
    digest: Digest,
}

impl fmt::Display for Stand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { index, event, time } = self.position;
        write!(f, "command {index}, event {event}, {time}")
    }
}

/// Everything that the log says, up to some position. Cloning it is O(1).
#[derive(Clone, Debug)]
pub struct State {
    position: Position,
    pub(crate) tree: KeyTree,
    pub(crate) ring: WatchRing,
    pub(crate) expiry: ExpiryIndex,
    pub(crate) machines: Machines,
    format: FormatInForce,
    pub(crate) requests: Requests,
    pub(crate) digester: Digester,
    trail: Trail,
}

impl State {
    /// Returns the state before the first command, with a ring of so many events.
    ///
    /// # Panics
    ///
    /// If the ring could not hold a single event.
    pub fn new(ring_capacity: usize) -> Self {
        Self {
            position: Position::default(),
            tree: KeyTree::default(),
            ring: WatchRing::new(ring_capacity),
            expiry: ExpiryIndex::default(),
            machines: Machines::default(),
            format: FormatInForce::default(),
            requests: Requests::default(),
            digester: Digester::default(),
            trail: Trail::default(),
        }
    }

    /// Puts the projections together again.
    pub(crate) fn restore(
        position: Position,
        tree: KeyTree,
        ring: WatchRing,
        expiry: ExpiryIndex,
        machines: Machines,
        requests: Requests,
        digester: Digester,
    ) -> Self {
        let format = FormatInForce::restore(position, &tree);
        let trail = Trail::default();
        Self { position, tree, ring, expiry, machines, format, requests, digester, trail }
    }

    /// Notes which entry of the log has led here, if one has: a state that comes from
    /// elsewhere does not know.
    #[must_use]
    pub fn led_to_by(mut self, entry: Option<RaftIndex>) -> Self {
        if let Some(entry) = entry {
            self.trail.note(entry, self.position, self.digest());
        }
        self
    }

    /// Returns how far the state has come.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Returns what every key holds.
    pub fn tree(&self) -> &KeyTree {
        &self.tree
    }

    /// Returns the last events.
    pub fn ring(&self) -> &WatchRing {
        &self.ring
    }

    /// Returns which key is due next.
    pub fn expiry(&self) -> &ExpiryIndex {
        &self.expiry
    }

    /// Returns the machines of the cluster.
    pub fn machines(&self) -> &Machines {
        &self.machines
    }

    /// Returns what came of the commands that were asked for under an id.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Returns who the cluster is, as its key says; nothing, before the first sync.
    pub fn cluster(&self) -> Option<ClusterId> {
        ClusterValue::of(&self.tree).map(|value| value.cluster)
    }

    /// Returns what the log may say: the format in force.
    pub fn format(&self) -> LogFormat {
        self.format.get()
    }

    /// Returns the hash over all outcomes so far.
    pub fn digest(&self) -> Digest {
        self.digester.digest()
    }

    /// Returns up to where the last check that has come by says that the state is right; nothing
    /// before the first that says something to it.
    pub fn checked(&self) -> Option<Position> {
        self.trail.checked()
    }

    /// Applies the next entry of the log: its batch, if it carries one. Whoever does so
    /// has compared the state with the batch's check, if it has one.
    pub fn apply_entry(&mut self, entry: RaftIndex, batch: Option<&Batch>) -> Vec<Outcome> {
        if let Some(check) = batch.and_then(|batch| batch.check.as_ref()) {
            self.trail.note_check(self.stood(check).map(|stood| stood.position));
        }
        let outcomes = batch.map_or_else(Vec::new, |batch| self.apply(batch));
        self.trail.note(entry, self.position, self.digest());
        outcomes
    }

    /// Applies the next committed batch: moves the logged clock on, lets due keys
    /// expire, and decides each command. Returns all outcomes, in order; which of them
    /// came of the commands, [`of_commands`](crate::of_commands) tells.
    ///
    /// The clock never goes back: a batch from an earlier time counts as one from
    /// the last batch's time. Every outcome leads to another position, so that a
    /// position stands for one state.
    ///
    /// # Panics
    ///
    /// If not each command took one index.
    pub fn apply(&mut self, batch: &Batch) -> Vec<Outcome> {
        let time = batch.time.max(self.position.time);
        let before = self.position.index;
        let mut outcomes = Vec::with_capacity(batch.commands.len().max(1));
        while let Some(outcome) = self.expire(time) {
            outcomes.push(self.fold(outcome));
        }
        for command in &batch.commands {
            self.apply_command(command, time, &mut outcomes);
        }
        if outcomes.is_empty() && time > self.position.time {
            let position = self.position.after_clock(time, false);
            outcomes.push(self.fold(Outcome::new(position, What::Tick)));
        }
        // One index a command: whoever waits for the answer of one counts on it.
        let decided = self.position.index.0 - before.0;
        assert_eq!(decided, batch.commands.len() as u64, "outcomes behind {before}");
        outcomes
    }

    /// Notes that the state stands where an entry led of which nothing came: one of those that
    /// whoever reads batches alone is not told of.
    pub(crate) fn note_passed(&mut self, entry: Option<RaftIndex>) {
        if let Some(entry) = entry.filter(|entry| self.trail.last() < Some(*entry)) {
            let (position, digest) = (self.position, self.digest());
            self.trail.note(entry, position, digest);
        }
    }

    /// Compares the state with what a proposer's was after the same entry: there, both
    /// the position and the digest must be the same. Says nothing of an entry that is
    /// no longer remembered; and of a check that names none, only if the state stands
    /// where the proposer's did.
    ///
    /// # Errors
    ///
    /// If the two differ: this machine, or the proposer, is not what the log says.
    pub fn compare(&self, check: &Check) -> Result<(), Diverged> {
        let Some(found) = self.stood(check) else { return Ok(()) };
        let expected = Stand { position: position_of(check), digest: check.digest };
        if found == expected {
            return Ok(());
        }
        let at = check.entry.map_or(At::Command(check.index), At::Entry);
        Err(Diverged { at, stands: Box::new((found, expected)) })
    }

    /// Returns where the state stood when the proposer of a check said where it does, if that
    /// is remembered.
    fn stood(&self, check: &Check) -> Option<Stand> {
        let here = || Stand { position: self.position, digest: self.digest() };
        match check.entry {
            Some(entry) => {
                let found = self.trail.find(entry);
                found.map(|(position, digest)| Stand { position, digest })
            }
            None => (self.position == position_of(check)).then(here),
        }
    }

    /// Returns the expiry of the next key that is due, if one is.
    fn expire(&self, time: LogTime) -> Option<Outcome> {
        let (deadline, key) = self.expiry.next().filter(|(deadline, _)| *deadline <= time)?;
        let position = self.position.after_clock(time, true);
        let Some(TreeNode::File { value, .. }) = self.tree.get(key) else {
            unreachable!("{key} has a deadline and no value")
        };
        let change = Change::Expire { prev: Arc::clone(value), deadline };
        Some(event(position, key.clone(), change))
    }

    fn apply_command(&mut self, command: &Command, time: LogTime, outcomes: &mut Vec<Outcome>) {
        let asked = if let Command::As(asked) = command { Some(asked) } else { None };
        let refused = asked.and_then(|asked| self.requests.refuse(asked, time));
        let requested = asked.map(requested);
        let decided = match refused {
            Some(rejection) => Err(rejection),
            None => decide(&self.tree, command, time, self.position.index),
        };
        let rejection = match decided {
            Ok(Decided::Change(key, change)) => {
                let happened = event(self.position.after_command(time, true), key, change);
                return outcomes.push(self.fold(Outcome { requested, ..happened }));
            }
            Ok(Decided::Steps(steps)) => {
                if self.take_steps(steps, time, requested.as_ref(), outcomes) > 0 {
                    return;
                }
                Rejection::NothingToDo
            }
            Err(rejection) => rejection,
        };
        let refused =
            Outcome::new(self.position.after_command(time, false), What::Rejection(rejection));
        outcomes.push(self.fold(Outcome { requested, ..refused }));
    }

    /// Takes the steps of one command: its events all have its index. Returns how many
    /// there were.
    fn take_steps(
        &mut self,
        steps: &[RestoreChange],
        time: LogTime,
        requested: Option<&Arc<Requested>>,
        outcomes: &mut Vec<Outcome>,
    ) -> usize {
        let (index, before) = (self.position.index, outcomes.len());
        for step in steps {
            let Some((key, change)) = decide_step(&self.tree, step, time) else { continue };
            let is_first = self.position.index == index;
            let (position, requested) = if is_first {
                (self.position.after_command(time, true), requested.cloned())
            } else {
                (self.position.after_clock(time, true), None)
            };
            let happened = event(position, key, change);
            outcomes.push(self.fold(Outcome { requested, ..happened }));
        }
        outcomes.len() - before
    }

    /// Folds an outcome into all projections. Returns it with what the tree says of
    /// undoing it.
    fn fold(&mut self, outcome: Outcome) -> Outcome {
        self.position.follow(&outcome);
        let undo = self.tree.follow(&outcome);
        self.ring.fold(&outcome);
        self.expiry.fold(&outcome);
        self.machines.fold(&outcome);
        self.format.fold(&outcome);
        self.requests.fold(&outcome);
        self.digester.fold(&outcome);
        Outcome { undo, ..outcome }
    }
}

/// How a command was asked for.
fn requested(asked: &Asked) -> Arc<Requested> {
    let restore =
        if let Command::Restore(restore) = &*asked.command { Some(restore) } else { None };
    let at = restore.map(|restore| restore.at);
    Arc::new(Requested { id: asked.id.clone(), hash: asked.hash, at })
}

/// Where the proposer of a check stood.
fn position_of(check: &Check) -> Position {
    let Check { index, event, time, .. } = *check;
    Position { index, event, time }
}

fn event(position: Position, key: etcd_log::KeyPath, change: Change) -> Outcome {
    let Position { index, event: number, time } = position;
    let event = Event { number, index, time, key, change };
    Outcome::new(position, What::Event(Arc::new(event)))
}
