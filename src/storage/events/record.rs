//! A record: what came of one command, or of the clock, in a few bytes.
//!
//! ```text
//! tag │ time since the record before │ key │ set: value, previous value, deadlines, made
//!  1         if it is later            its length, and itself …
//!
//! tag = kind, in three bits │ 8: takes an index │ 16: is later │ 32: had a value before
//!       │ 64: has a deadline │ 128: the value before had a deadline
//! ```
//!
//! Numbers are of seven bits a byte, the lowest first. An event's number, index and time
//! are those of its position, and a position follows from the one before: none is
//! written. Deadlines are counted from the event's time.
//!
//! Why a command was refused is not kept: it changes nothing.

use std::sync::Arc;

use etcd_log::{KeyPath, LogTime};
use etcd_projections::{Change, Event, Outcome, Position, Undo, What};

/// What came of a command, or of the clock moving on, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where it led.
    pub position: Position,
    /// What it was.
    pub what: StoredWhat,
}

/// The kinds of outcome, as they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredWhat {
    /// Something happened; and what it takes to undo it.
    Event(Arc<Event>, Undo),
    /// A command was refused.
    Refused,
    /// Time passed, and nothing was due.
    Tick,
}

impl From<&Outcome> for Stored {
    fn from(outcome: &Outcome) -> Self {
        let what = match &outcome.what {
            What::Event(event) => StoredWhat::Event(Arc::clone(event), outcome.undo),
            What::Rejection(_) => StoredWhat::Refused,
            What::Tick => StoredWhat::Tick,
        };
        Self { position: outcome.position, what }
    }
}

impl Stored {
    /// Returns whether no command caused it.
    pub(super) fn is_of_the_clock(&self) -> bool {
        match &self.what {
            StoredWhat::Event(event, _) => matches!(event.change, Change::Expire { .. }),
            StoredWhat::Refused => false,
            StoredWhat::Tick => true,
        }
    }

    /// Returns about how many bytes of memory it takes.
    pub fn size(&self) -> usize {
        let event = match &self.what {
            StoredWhat::Event(event, _) => event.size(),
            StoredWhat::Refused | StoredWhat::Tick => 0,
        };
        size_of::<Self>() + event
    }
}

/// What somebody wants to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// All outcomes.
    All,
    /// The events at a key or below it.
    Below(KeyPath),
}

impl Interest {
    /// Returns whether an outcome is of interest.
    pub fn wants(&self, stored: &Stored) -> bool {
        match (self, &stored.what) {
            (Self::All, _) => true,
            (Self::Below(key), StoredWhat::Event(event, _)) => key.covers(&event.key),
            (Self::Below(_), StoredWhat::Refused | StoredWhat::Tick) => false,
        }
    }
}

const SET: u8 = 0;
const DELETE: u8 = 1;
const DELETE_DIR: u8 = 2;
const EXPIRE: u8 = 3;
const REFUSED: u8 = 4;
const TICK: u8 = 5;
const KIND: u8 = 7;

const TAKES_INDEX: u8 = 8;
const IS_LATER: u8 = 16;
const HAD_VALUE: u8 = 32;
const HAS_DEADLINE: u8 = 64;
const HAD_DEADLINE: u8 = 128;

/// Returns about how many bytes the record of an outcome has: a little more than it will.
pub(super) fn weight(outcome: &Outcome) -> usize {
    let What::Event(event) = &outcome.what else { return 8 };
    let values = match &event.change {
        Change::Set { value, prev, .. } => value.len() + prev.as_ref().map_or(0, |prev| prev.len()),
        Change::Delete { prev, .. } | Change::Expire { prev, .. } => prev.len(),
        Change::DeleteDir => 0,
    };
    16 + event.key.as_str().len() + values
}

/// Writes the record of an outcome that follows a position.
pub(super) fn encode(out: &mut Vec<u8>, before: Position, outcome: &Outcome) {
    let Position { index, time, .. } = outcome.position;
    let later = time.0 - before.time.0;
    let clock = flag(index > before.index, TAKES_INDEX) | flag(later > 0, IS_LATER);
    out.push(clock | tag(outcome));
    if later > 0 {
        number(out, later);
    }
    let What::Event(event) = &outcome.what else { return };
    text(out, event.key.as_str());
    change(out, &event.change, time);
    if let Some(deadline) = outcome.undo.deadline {
        since(out, deadline, time);
    }
    if matches!(event.change, Change::Set { prev: None, .. }) {
        number(out, u64::from(outcome.undo.made));
    }
}

/// The kind of an outcome, and which optional parts it has.
fn tag(outcome: &Outcome) -> u8 {
    let What::Event(event) = &outcome.what else {
        return if outcome.what == What::Tick { TICK } else { REFUSED };
    };
    let had_deadline = flag(outcome.undo.deadline.is_some(), HAD_DEADLINE);
    match &event.change {
        Change::Set { prev, deadline, .. } => {
            let had_value = flag(prev.is_some(), HAD_VALUE);
            SET | had_value | had_deadline | flag(deadline.is_some(), HAS_DEADLINE)
        }
        Change::Delete { deadline, .. } => DELETE | flag(deadline.is_some(), HAS_DEADLINE),
        Change::DeleteDir => DELETE_DIR,
        Change::Expire { .. } => EXPIRE | HAS_DEADLINE,
    }
}

fn change(out: &mut Vec<u8>, change: &Change, time: LogTime) {
    match change {
        Change::Set { value, prev, .. } => {
            text(out, value);
            if let Some(prev) = prev {
                text(out, prev);
            }
        }
        Change::Delete { prev, .. } | Change::Expire { prev, .. } => text(out, prev),
        Change::DeleteDir => {}
    }
    if let Some(deadline) = change.deadline() {
        since(out, deadline, time);
    }
}

fn flag(is_set: bool, bit: u8) -> u8 {
    if is_set { bit } else { 0 }
}

fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(low_byte(number) | 0x80);
        number >>= 7;
    }
    out.push(low_byte(number));
}

fn low_byte(number: u64) -> u8 {
    number.to_le_bytes()[0]
}

fn text(out: &mut Vec<u8>, text: &str) {
    number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Writes how long it is from a time to a deadline, which may have passed: the sign is
/// the lowest bit.
fn since(out: &mut Vec<u8>, deadline: LogTime, time: LogTime) {
    let since = deadline.0.wrapping_sub(time.0).cast_signed();
    number(out, ((since << 1) ^ (since >> 63)).cast_unsigned());
}

/// The records of a block, one after the other.
#[derive(Debug)]
pub(super) struct Records<'a> {
    rest: &'a [u8],
    /// Where the last record has led.
    pub(super) position: Position,
}

impl<'a> Records<'a> {
    /// Reads records that begin at a position.
    pub(super) fn new(raw: &'a [u8], before: Position) -> Self {
        Self { rest: raw, position: before }
    }

    /// Returns whether all have been read.
    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads the next record. Returns it if it is of interest; nothing, if it is not.
    /// Fails with no more than that there is no such record.
    pub(super) fn next(&mut self, interest: &Interest) -> Result<Option<Stored>, Malformed> {
        let tag = self.byte()?;
        let later = if tag & IS_LATER == 0 { 0 } else { self.number()? };
        let time = LogTime(self.position.time.0.checked_add(later).ok_or(Malformed)?);
        let makes_event = tag & KIND < REFUSED;
        self.position = if tag & TAKES_INDEX == 0 {
            self.position.after_clock(time, makes_event)
        } else {
            self.position.after_command(time, makes_event)
        };
        let position = self.position;
        let what = match tag & KIND {
            REFUSED => StoredWhat::Refused,
            TICK => StoredWhat::Tick,
            _ => {
                let parts = self.parts(tag, time)?;
                let is_wanted = match interest {
                    Interest::All => true,
                    Interest::Below(key) => key.covers(&parts.key),
                };
                return Ok(is_wanted.then(|| Stored { position, what: parts.event(position) }));
            }
        };
        Ok((*interest == Interest::All).then_some(Stored { position, what }))
    }

    fn parts(&mut self, tag: u8, time: LogTime) -> Result<Parts<'a>, Malformed> {
        let path = self.text()?;
        let key = KeyPath::clean(path).ok().filter(|key| key.as_str() == path).ok_or(Malformed)?;
        let kind = tag & KIND;
        let is_set = kind == SET;
        let value = if is_set { self.text()? } else { "" };
        let has_prev = matches!(kind, DELETE | EXPIRE) || (is_set && tag & HAD_VALUE != 0);
        let prev = if has_prev { Some(self.text()?) } else { None };
        let deadline = self.deadline(tag & HAS_DEADLINE != 0, time)?;
        let undone = self.deadline(tag & HAD_DEADLINE != 0, time)?;
        let made = if is_set && prev.is_none() { self.number()? } else { 0 };
        let made = u32::try_from(made).map_err(|_| Malformed)?;
        let is_known = matches!(kind, SET | DELETE | DELETE_DIR | EXPIRE);
        if !is_known || (kind == EXPIRE && deadline.is_none()) {
            return Err(Malformed);
        }
        Ok(Parts { key, kind, value, prev, deadline, undo: Undo { deadline: undone, made } })
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (byte, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*byte)
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(Malformed);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        str::from_utf8(text).map_err(|_| Malformed)
    }

    fn deadline(&mut self, is_there: bool, time: LogTime) -> Result<Option<LogTime>, Malformed> {
        if !is_there {
            return Ok(None);
        }
        let since = self.number()?;
        let since = (since >> 1) ^ 0_u64.wrapping_sub(since & 1);
        Ok(Some(LogTime(time.0.wrapping_add(since))))
    }
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What the record of an event says, before anything is copied that nobody wants.
struct Parts<'a> {
    key: KeyPath,
    kind: u8,
    value: &'a str,
    prev: Option<&'a str>,
    deadline: Option<LogTime>,
    undo: Undo,
}

impl Parts<'_> {
    fn event(self, position: Position) -> StoredWhat {
        let Self { key, deadline, undo, .. } = self;
        let prev = self.prev.map(Arc::from);
        let change = match (self.kind, prev, deadline) {
            (SET, prev, deadline) => Change::Set { value: Arc::from(self.value), prev, deadline },
            (DELETE, Some(prev), deadline) => Change::Delete { prev, deadline },
            (EXPIRE, Some(prev), Some(deadline)) => Change::Expire { prev, deadline },
            _ => Change::DeleteDir,
        };
        let Position { index, event: number, time } = position;
        StoredWhat::Event(Arc::new(Event { number, index, time, key, change }), undo)
    }
}
