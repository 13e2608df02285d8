//! The state: all projections, and the one pipeline that folds them.
//!
//! A live machine, a start, an old watch and the log's tools all call
//! [`State::apply`]: there is no second implementation of it.

use std::sync::Arc;

use etcd_log::{Batch, Check, Command, Digest, Index, LogTime};

use crate::digest::Digester;
use crate::{
    Change, Event, ExpiryIndex, KeyTree, Machines, Outcome, Position, Projection as _, WatchRing,
    What, decide,
};

/// A state that is not the proposer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state at command {index} has digest {found}, the proposer's had {expected}")]
pub struct Diverged {
    index: Index,
    found: Digest,
    expected: Digest,
}

/// Everything that the log says, up to some position. Cloning it is O(1).
#[derive(Clone, Debug)]
pub struct State {
    position: Position,
    pub(crate) tree: KeyTree,
    pub(crate) ring: WatchRing,
    pub(crate) expiry: ExpiryIndex,
    pub(crate) machines: Machines,
    pub(crate) digester: Digester,
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
            digester: Digester::default(),
        }
    }

    /// Puts the projections together again.
    pub(crate) fn restore(
        position: Position,
        tree: KeyTree,
        ring: WatchRing,
        expiry: ExpiryIndex,
        machines: Machines,
        digester: Digester,
    ) -> Self {
        Self { position, tree, ring, expiry, machines, digester }
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

    /// Returns the hash over all outcomes so far.
    pub fn digest(&self) -> Digest {
        self.digester.digest()
    }

    /// Applies the next committed batch: moves the logged clock on, lets due keys
    /// expire, and decides each command. Returns all outcomes, in order; those of
    /// the commands are the last ones, one each.
    ///
    /// The clock never goes back: a batch from an earlier time counts as one from
    /// the last batch's time. Every outcome leads to another position, so that a
    /// position stands for one state.
    pub fn apply(&mut self, batch: &Batch) -> Vec<Outcome> {
        let time = batch.time.max(self.position.time);
        let mut outcomes = Vec::with_capacity(batch.commands.len().max(1));
        while let Some(outcome) = self.expire(time) {
            self.fold(&outcome);
            outcomes.push(outcome);
        }
        for command in &batch.commands {
            let outcome = self.decide(command, time);
            self.fold(&outcome);
            outcomes.push(outcome);
        }
        if outcomes.is_empty() && time > self.position.time {
            let position = self.position.after_clock(time, false);
            let outcome = Outcome { position, what: What::Tick };
            self.fold(&outcome);
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Compares the state with what a proposer's was at the same position; says
    /// nothing if the state stands elsewhere.
    ///
    /// # Errors
    ///
    /// If the two differ: this machine, or the proposer, is not what the log says.
    pub fn compare(&self, check: &Check) -> Result<(), Diverged> {
        let Check { index, event, time, digest } = *check;
        let found = self.digest();
        if self.position != (Position { index, event, time }) || found == digest {
            return Ok(());
        }
        Err(Diverged { index, found, expected: digest })
    }

    /// Returns the expiry of the next key that is due, if one is.
    fn expire(&self, time: LogTime) -> Option<Outcome> {
        let (deadline, key) = self.expiry.next().filter(|(deadline, _)| *deadline <= time)?;
        let position = self.position.after_clock(time, true);
        let Some(crate::Node::File { value, .. }) = self.tree.get(key) else {
            unreachable!("{key} has a deadline and no value")
        };
        let change = Change::Expire { prev: Arc::clone(value), deadline };
        Some(event(position, key.clone(), change))
    }

    fn decide(&self, command: &Command, time: LogTime) -> Outcome {
        match decide(&self.tree, command, time) {
            Ok((key, change)) => event(self.position.after_command(time, true), key, change),
            Err(rejection) => Outcome {
                position: self.position.after_command(time, false),
                what: What::Rejection(rejection),
            },
        }
    }

    fn fold(&mut self, outcome: &Outcome) {
        self.position.follow(outcome);
        self.tree.fold(outcome);
        self.ring.fold(outcome);
        self.expiry.fold(outcome);
        self.machines.fold(outcome);
        self.digester.fold(outcome);
    }
}

fn event(position: Position, key: etcd_log::KeyPath, change: Change) -> Outcome {
    let Position { index, event: number, time } = position;
    let event = Event { number, index, time, key, change };
    Outcome { position, what: What::Event(Arc::new(event)) }
}
