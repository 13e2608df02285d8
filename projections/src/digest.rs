//! The digest: a rolling hash over all outcomes, to compare machines by.
//!
//! ```text
//! digest(n) = xxh3-128( digest(n - 1) · outcome n )
//! ```
//!
//! Two machines with the same digest at the same position have seen the same
//! history, and so hold the same state. The hash finds bugs and damage; it is no
//! proof against somebody who means harm.

use etcd_log::Digest;
use xxhash_rust::xxh3::xxh3_128;

use crate::event::{Change, Event};
use crate::outcome::{Outcome, Position, Projection, Rejection, Requested, What};

/// The fold that makes the digest.
#[derive(Debug, Default)]
pub(crate) struct Digester {
    position: Position,
    digest: Digest,
    /// Where outcomes are laid out. It holds nothing between two of them.
    buffer: Vec<u8>,
}

impl Clone for Digester {
    fn clone(&self) -> Self {
        Self::restore(self.position, self.digest)
    }
}

impl Digester {
    pub(crate) fn restore(position: Position, digest: Digest) -> Self {
        Self { position, digest, buffer: Vec::new() }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }
}

impl Projection for Digester {
    fn position(&self) -> Position {
        self.position
    }

    fn fold(&mut self, outcome: &Outcome) {
        self.position.follow(outcome);
        self.buffer.clear();
        let mut layout = Layout { buffer: &mut self.buffer };
        layout.buffer.extend_from_slice(&self.digest.0.to_le_bytes());
        layout.outcome(outcome);
        self.digest = Digest(xxh3_128(&self.buffer));
    }
}

/// An outcome, laid out to be hashed. The layout is part of the log's format.
struct Layout<'a> {
    buffer: &'a mut Vec<u8>,
}

impl Layout<'_> {
    fn outcome(&mut self, outcome: &Outcome) {
        self.number(outcome.position.index.0);
        self.number(outcome.position.event.0);
        self.number(outcome.position.time.0);
        match &outcome.what {
            What::Event(event) => {
                self.buffer.push(1);
                self.event(event);
            }
            What::Rejection(rejection) => {
                self.buffer.push(2);
                self.rejection(rejection);
            }
            What::Tick => self.buffer.push(3),
        }
        // Where there is none, nothing is laid out: it came with format 3.
        if let Some(requested) = &outcome.requested {
            self.requested(requested);
        }
    }

    fn requested(&mut self, requested: &Requested) {
        let Requested { id, hash, at } = requested;
        self.buffer.push(4);
        self.text(id.as_str());
        self.number(hash.0);
        self.option(*at, |layout, at| layout.number(at.0));
    }

    fn number(&mut self, number: u64) {
        self.buffer.extend_from_slice(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.buffer.extend_from_slice(text.as_bytes());
    }

    /// Lays out an optional part: zero if absent, else one and the part.
    fn option<T>(&mut self, option: Option<T>, part: impl FnOnce(&mut Self, T)) {
        self.buffer.push(u8::from(option.is_some()));
        if let Some(value) = option {
            part(self, value);
        }
    }

    fn event(&mut self, event: &Event) {
        self.number(event.number.0);
        self.number(event.index.0);
        self.number(event.time.0);
        self.text(event.key.as_str());
        match &event.change {
            Change::Set { value, prev, deadline } => {
                self.buffer.push(1);
                self.text(value);
                self.option(prev.as_deref(), Self::text);
                self.option(*deadline, |layout, deadline| layout.number(deadline.0));
            }
            Change::Delete { prev, deadline } => {
                self.buffer.push(2);
                self.text(prev);
                self.option(*deadline, |layout, deadline| layout.number(deadline.0));
            }
            Change::Expire { prev, deadline } => {
                self.buffer.push(3);
                self.text(prev);
                self.number(deadline.0);
            }
            Change::DeleteDir => self.buffer.push(4),
        }
    }

    fn rejection(&mut self, rejection: &Rejection) {
        match rejection {
            Rejection::KeyNotFound => self.buffer.push(1),
            Rejection::TestFailed { found, expected } => {
                self.buffer.push(2);
                self.text(found);
                self.text(expected);
            }
            Rejection::NotAFile(key) => {
                self.buffer.push(3);
                self.text(key.as_str());
            }
            Rejection::NotADirectory(key) => {
                self.buffer.push(4);
                self.text(key.as_str());
            }
            Rejection::Reserved(key) => {
                self.buffer.push(5);
                self.text(key.as_str());
            }
            Rejection::InvalidMachine(name) => {
                self.buffer.push(6);
                self.text(name);
            }
            Rejection::NotEmpty(key) => {
                self.buffer.push(7);
                self.text(key.as_str());
            }
            Rejection::KeyExists(key) => {
                self.buffer.push(8);
                self.text(key.as_str());
            }
            Rejection::Overtaken { base } => {
                self.buffer.push(9);
                self.number(base.0);
            }
            Rejection::NothingToDo => self.buffer.push(10),
            Rejection::Repeated(first) => {
                self.buffer.push(11);
                self.number(first.index.0);
            }
            Rejection::RequestIdUsed => self.buffer.push(12),
            Rejection::RequestForgotten => self.buffer.push(13),
        }
    }
}
