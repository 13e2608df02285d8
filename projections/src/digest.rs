//! The digest: a rolling hash over all outcomes, to compare machines by.
//!
//! ```text
//! digest(n) = xxh3-128( digest(n - 1) · outcome n )
//! ```
//!
//! Two machines with the same digest at the same position have seen the same
//! history, and so hold the same state. The hash finds bugs and damage; it is no
//! proof against somebody who means harm.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use xxhash_rust::xxh3::xxh3_128;

use crate::{Change, Event, Outcome, Position, Projection, Rejection, What};

/// A rolling hash over all outcomes. Printed as 32 hexadecimal digits.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    position: Position,
    hash: u128,
    /// Where an outcome is laid out to be hashed; kept to spare allocations.
    buffer: Vec<u8>,
}

impl Digest {
    pub(crate) fn restore(position: Position, hash: &Self) -> Self {
        Self { position, hash: hash.hash, buffer: Vec::new() }
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
                self.option(*deadline, |digest, deadline| digest.number(deadline.0));
            }
            Change::Delete { prev, deadline } => {
                self.buffer.push(2);
                self.text(prev);
                self.option(*deadline, |digest, deadline| digest.number(deadline.0));
            }
            Change::Expire { prev, deadline } => {
                self.buffer.push(3);
                self.text(prev);
                self.number(deadline.0);
            }
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
        }
    }
}

impl Projection for Digest {
    fn position(&self) -> Position {
        self.position
    }

    fn fold(&mut self, outcome: &Outcome) {
        self.position.follow(outcome);
        self.buffer.clear();
        self.buffer.extend_from_slice(&self.hash.to_le_bytes());
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
        self.hash = xxh3_128(&self.buffer);
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Digest {}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.hash)
    }
}

impl FromStr for Digest {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self { hash: u128::from_str_radix(text, 16)?, ..Self::default() })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}
