//! Outcomes: what came of a command, or of the clock moving on.

use std::fmt;
use std::sync::Arc;

use etcd_log::{EventNumber, Index, KeyPath, LogTime, RequestHash, RequestId};
use serde::{Deserialize, Serialize};

use crate::event::Event;

/// How far a fold has come.
///
/// The order of positions is that of history: none of their parts ever goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The index of the last command; 0 before the first.
    pub index: Index,
    /// The number of the last event; 0 before the first.
    pub event: EventNumber,
    /// The logged time.
    pub time: LogTime,
}

/// What came of the next command, or of the clock moving on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Where the outcome leads.
    pub position: Position,
    /// What came of it.
    pub what: What,
    /// What an event does not say of the tree before it. It follows from the log, as all
    /// else does; the digest covers it by what it follows from.
    pub undo: Undo,
    /// Under which id its command was asked for, if under one: of several events, the first
    /// says so.
    pub requested: Option<Arc<Requested>>,
}

impl Outcome {
    /// Makes one that nothing else is said of.
    pub fn new(position: Position, what: What) -> Self {
        Self { position, what, undo: Undo::default(), requested: None }
    }
}

/// How somebody asked for a command, to know it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requested {
    /// The id that it was asked for under.
    pub id: RequestId,
    /// The hash of what was said.
    pub hash: RequestHash,
    /// For a restore, the command behind which it was so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Index>,
}

/// What came of a command that was asked for under an id, when it came first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstAnswer {
    /// How it was asked for.
    pub requested: Arc<Requested>,
    /// The command's index.
    pub index: Index,
    /// When that was, in logged time.
    pub time: LogTime,
    /// What came of it.
    pub came: Came,
    /// How many keys it has changed.
    pub changed: u32,
}

/// What can come of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Came {
    /// Something happened: of several events, the first.
    Event(Arc<Event>),
    /// It was refused.
    Refused(Rejection),
    /// What it was is let go; the log knows.
    LetGo,
}

impl Came {
    /// Returns how many bytes its texts have.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Event(event) => event.key.as_str().len() + event.change.values(),
            Self::Refused(rejection) => rejection.size(),
            Self::LetGo => 0,
        }
    }
}

impl Rejection {
    /// Returns how many bytes its own texts have.
    pub fn size(&self) -> usize {
        match self {
            Self::TestFailed { found, expected } => found.len() + expected.len(),
            Self::NotAFile(key)
            | Self::NotADirectory(key)
            | Self::NotEmpty(key)
            | Self::KeyExists(key)
            | Self::Reserved(key) => key.as_str().len(),
            Self::InvalidMachine(name) => name.len(),
            Self::KeyNotFound
            | Self::Overtaken { .. }
            | Self::NothingToDo
            | Self::Repeated(_)
            | Self::RequestIdUsed
            | Self::RequestForgotten => 0,
        }
    }
}

/// What it takes to undo an event, besides the event. Nothing, for most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undo {
    /// When the value would have expired that a set has replaced; absent for never.
    pub deadline: Option<LogTime>,
    /// How many directories a set has made above its key.
    pub made: u32,
}

/// The kinds of outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Something happened.
    Event(Arc<Event>),
    /// A command was refused: it took an index, and made no event.
    Rejection(Rejection),
    /// Time passed, and nothing was due.
    Tick,
}

/// Why a command was refused. As deterministic as an event: every machine
/// refuses the same commands for the same reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Rejection {
    /// There is no such key.
    KeyNotFound,
    /// The key holds another value than the test asked for.
    TestFailed {
        /// What it holds.
        found: Arc<str>,
        /// What the test asked for.
        expected: Arc<str>,
    },
    /// A directory stands where a value was to be written or deleted.
    NotAFile(KeyPath),
    /// A value stands where a directory would be needed.
    NotADirectory(KeyPath),
    /// A directory is to be deleted that holds something.
    NotEmpty(KeyPath),
    /// The key is there, and was not to be.
    KeyExists(KeyPath),
    /// It was worked out from what was there behind another command.
    Overtaken {
        /// Behind which one.
        base: Index,
    },
    /// Nothing of it was left to be done.
    NothingToDo,
    /// It was asked for before, under the same id. Whoever asks gets the first answer.
    #[serde(skip)]
    Repeated(Arc<FirstAnswer>),
    /// Another command was asked for under the same id.
    #[serde(skip)]
    RequestIdUsed,
    /// Ids have been forgotten since it was tried first: it may be done.
    #[serde(skip)]
    RequestForgotten,
    /// The key belongs to the system.
    Reserved(KeyPath),
    /// A machine's name or address cannot be written down as a key and its value.
    InvalidMachine(Arc<str>),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyNotFound => f.write_str("key not found"),
            Self::TestFailed { found, expected } => write!(f, "test {found}=={expected} fails"),
            Self::NotAFile(key) => write!(f, "not a file: {key}"),
            Self::NotADirectory(key) => write!(f, "not a directory: {key}"),
            Self::NotEmpty(key) => write!(f, "not empty: {key}"),
            Self::KeyExists(key) => write!(f, "key already exists: {key}"),
            Self::Overtaken { base } => write!(f, "another command came behind {base}"),
            Self::NothingToDo => f.write_str("nothing to do"),
            Self::Repeated(first) => write!(f, "it was asked for before, by {}", first.index),
            Self::RequestIdUsed => f.write_str("request id was used for another command"),
            Self::RequestForgotten => f.write_str("request id may have been forgotten"),
            Self::Reserved(key) => write!(f, "reserved for the system: {key}"),
            Self::InvalidMachine(name) => write!(f, "invalid machine: {name}"),
        }
    }
}

/// Returns what came of each command, given the outcomes behind a command: of one that
/// made several events, the first.
pub fn of_commands(last: Index, outcomes: &[Outcome]) -> impl Iterator<Item = &Outcome> {
    let mut last = last;
    // An expiry has the index of the command before it.
    outcomes.iter().filter(move |outcome| {
        let is_next = outcome.position.index > last;
        last = outcome.position.index;
        is_next
    })
}

impl Position {
    /// Returns where a command leads that makes an event, or none.
    pub fn after_command(self, time: LogTime, makes_event: bool) -> Self {
        let index = self.index.next();
        Self { index, ..self.after_clock(time, makes_event) }
    }

    /// Returns where the clock leads by moving on, with an expiry or without.
    pub fn after_clock(self, time: LogTime, makes_event: bool) -> Self {
        let event = if makes_event { self.event.next() } else { self.event };
        Self { index: self.index, event, time }
    }

    /// Moves on to the position of the next outcome.
    ///
    /// # Panics
    ///
    /// If the outcome does not directly follow. A gap means that the pipeline
    /// lost one, and every later answer would be wrong.
    pub fn follow(&mut self, outcome: &Outcome) {
        let next = outcome.position;
        let makes_event = matches!(outcome.what, What::Event(_));
        let by_command = self.after_command(next.time, makes_event);
        let by_clock = self.after_clock(next.time, makes_event);
        assert!(
            next != *self && next.time >= self.time && (next == by_command || next == by_clock),
            "outcome at {next:?} does not follow {self:?}"
        );
        *self = next;
    }
}

/// A read model folded from the log, one outcome at a time.
pub trait Projection {
    /// Returns the position of the last outcome folded in; zero before the first.
    fn position(&self) -> Position;

    /// Folds in what came of the next command, or of the clock moving on: an
    /// event, or nothing but the new position.
    ///
    /// # Panics
    ///
    /// If `outcome` does not directly follow [`Projection::position`].
    fn fold(&mut self, outcome: &Outcome);
}
