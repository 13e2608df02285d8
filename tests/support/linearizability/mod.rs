//! A checker of linearizability: is there an order of all operations on a key, each
//! at some moment between its call and its answer, in which every answer is right?
//!
//! Keys are independent of each other, so each is judged alone (Herlihy and Wing,
//! 1990, on locality). The search is that of Wing and Gong, 1993, with what has been
//! tried remembered (Lowe, 2017). An operation whose answer is not known may have
//! happened at any time after its call, or never.
#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(unreachable_pub, reason = "these are the words of a library of its own")]

#[cfg(test)]
mod every_order;
pub mod order;

use std::collections::{BTreeMap, HashSet};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Set(String),
    /// Sets, if there is no such key.
    Create(String),
    TestAndSet {
        prev: String,
        value: String,
    },
    Delete,
    TestAndDelete {
        prev: String,
    },
    Get,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done. It tells the value before; nothing, if there was none.
    Done(Option<String>),
    /// A test found another value.
    Found(String),
    /// There was no such key.
    NotFound,
    /// There was one. Nobody tells which value it had.
    Exists,
    /// The value that was read.
    Value(String),
    /// Nobody knows.
    Unknown,
}

/// An operation on a key, from its call to its answer.
#[derive(Clone, Debug)]
pub struct Operation {
    pub key: String,
    pub call: Call,
    pub answer: Answer,
    /// When it was called, and answered: any clock that goes on will do.
    pub called: u64,
    pub answered: u64,
}

/// Checks a history, and says which key has none of the orders that there could be.
pub fn check(history: &[Operation]) -> Result<(), String> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for (key, mut operations) in keys {
        operations.sort_by_key(|op| op.called);
        if !Search::of(&operations).finds_an_order() {
            let lines: Vec<_> = operations.iter().map(|op| format!("{op:?}")).collect();
            return Err(format!("{key} is not linearizable:\n{}", lines.join("\n")));
        }
    }
    Ok(())
}

type Value = Option<String>;

/// What has to be brought into an order, as it was called.
struct Search<'h> {
    /// What was answered. All of it has happened.
    known: Vec<&'h Operation>,
    /// What may have happened.
    unknown: Vec<&'h Operation>,
    /// The values that somebody has seen, or would have to.
    seen: HashSet<&'h str>,
}

/// How far a search has come: which operations are in order by now, and the value.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct State {
    /// All known operations before this one are in order.
    first: usize,
    /// Those after it that are, too.
    done: Vec<usize>,
    /// The unknown operations that are.
    guessed: Vec<usize>,
    /// Whether the last operation is one of these.
    is_guess: bool,
    value: Value,
}

impl<'h> Search<'h> {
    fn of(operations: &[&'h Operation]) -> Self {
        let is_unknown = |op: &&Operation| op.answer == Answer::Unknown;
        let (mut unknown, known): (Vec<_>, Vec<_>) =
            operations.iter().copied().partition(is_unknown);
        // What may never have happened, and of which nobody has seen a trace, says
        // nothing, where every answer tells the value that it found.
        let seen: HashSet<&str> = operations.iter().filter_map(|op| trace(op)).collect();
        let is_any_seen = known.iter().any(|op| op.answer == Answer::Exists);
        unknown.retain(|op| match &op.call {
            Call::Get => false,
            Call::Set(value) | Call::Create(value) | Call::TestAndSet { value, .. } => {
                is_any_seen || seen.contains(value.as_str())
            }
            Call::Delete | Call::TestAndDelete { .. } => true,
        });
        Self { known, unknown, seen }
    }

    fn finds_an_order(&self) -> bool {
        let (mut seen, mut stack) = (HashSet::new(), vec![State::default()]);
        while let Some(state) = stack.pop() {
            // Whatever is not known to have happened need not.
            if state.first == self.known.len() {
                return true;
            }
            for next in self.steps_from(&state) {
                if seen.insert(next.clone()) {
                    stack.push(next);
                }
            }
        }
        false
    }

    /// The states that may come next; some, if the others lead to no more.
    fn steps_from(&self, state: &State) -> Vec<State> {
        let (possible, earliest) = self.possible(state);
        let right = |at| Some((at, apply(self.known[at], &state.value)?));
        let right: Vec<_> = possible.into_iter().filter_map(right).collect();
        // What is right now and changes nothing may as well come now.
        if let Some((idle, value)) = right.iter().find(|(_, value)| *value == state.value) {
            return vec![state.with_known(*idle, value.clone())];
        }
        let known = right.into_iter().map(|(at, value)| state.with_known(at, value));
        known.chain(self.guesses(state, earliest)).collect()
    }

    /// The known operations that may come next, and when the first of them ends.
    fn possible(&self, state: &State) -> (Vec<usize>, u64) {
        let (mut possible, mut earliest) = (Vec::new(), u64::MAX);
        for at in (state.first..self.known.len()).filter(|at| !state.done.contains(at)) {
            if self.known[at].called > earliest {
                break;
            }
            earliest = earliest.min(self.known[at].answered);
            possible.push(at);
        }
        (possible, earliest)
    }

    /// What may have happened next. Only what leaves another value is worth a guess, and
    /// it is not if the next operation, a guess itself, does not depend on it.
    fn guesses(&self, state: &State, earliest: u64) -> Vec<State> {
        let (mut guesses, mut alike) = (Vec::new(), Vec::new());
        for (at, op) in self.unknown.iter().enumerate() {
            if op.called > earliest || state.guessed.contains(&at) {
                continue;
            }
            // Of those that may have happened and are all alike, the first one called can be
            // any of them.
            let kind = self.kind(op);
            if kind.is_some() && alike.contains(&kind) {
                continue;
            }
            alike.push(kind);
            let depends = !matches!(op.call, Call::Set(_) | Call::Delete);
            let value = apply(op, &state.value).expect("any answer is right");
            if value != state.value && (depends || !state.is_guess) {
                guesses.push(state.with_guess(at, value));
            }
        }
        guesses
    }
}

impl Search<'_> {
    /// Returns what an operation whose answer is not known is, if others may be alike: a
    /// delete; or what leaves a value that nobody has seen, if it was there, or was not.
    fn kind(&self, operation: &Operation) -> Option<Kind> {
        match &operation.call {
            Call::Delete => Some(Kind::Deletes),
            Call::Set(value) if !self.seen.contains(value.as_str()) => Some(Kind::Sets),
            Call::Create(value) if !self.seen.contains(value.as_str()) => Some(Kind::Creates),
            _ => None,
        }
    }
}

/// Operations whose answers are not known, and that are alike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Deletes,
    Sets,
    Creates,
}

impl State {
    fn with_known(&self, at: usize, value: Value) -> Self {
        let mut next = Self { value, is_guess: false, ..self.clone() };
        next.done.push(at);
        next.done.sort_unstable();
        while let Some(place) = next.done.iter().position(|done| *done == next.first) {
            next.done.remove(place);
            next.first += 1;
        }
        next
    }

    fn with_guess(&self, at: usize, value: Value) -> Self {
        let mut next = Self { value, is_guess: true, ..self.clone() };
        next.guessed.push(at);
        next.guessed.sort_unstable();
        next
    }
}

/// The value that an operation has seen, or would have to.
fn trace(operation: &Operation) -> Option<&str> {
    match (&operation.answer, &operation.call) {
        (Answer::Done(value), _) => value.as_deref(),
        (Answer::Found(value) | Answer::Value(value), _) => Some(value),
        (Answer::Unknown, Call::TestAndSet { prev, .. } | Call::TestAndDelete { prev }) => {
            Some(prev)
        }
        (Answer::NotFound | Answer::Exists | Answer::Unknown, _) => None,
    }
}

/// What an operation leaves, if its answer is right; nothing, if it is wrong.
fn apply(operation: &Operation, before: &Value) -> Option<Value> {
    let (call, answer) = (&operation.call, &operation.answer);
    if *answer == Answer::Unknown {
        return Some(match (call, before) {
            (Call::Set(value), _) | (Call::Create(value), None) => Some(value.clone()),
            (Call::TestAndSet { prev, value }, Some(found)) if prev == found => Some(value.clone()),
            (Call::Delete, _) => None,
            (Call::TestAndDelete { prev }, Some(found)) if prev == found => None,
            _ => before.clone(),
        });
    }
    match (call, answer, before) {
        (Call::Set(value), Answer::Done(prev), _) if prev == before => Some(Some(value.clone())),
        (Call::Create(value), Answer::Done(None), None) => Some(Some(value.clone())),
        (Call::Create(_), Answer::Exists, Some(_)) => Some(before.clone()),
        (Call::TestAndSet { prev, value }, Answer::Done(told), Some(found))
            if prev == found && told == before =>
        {
            Some(Some(value.clone()))
        }
        (Call::TestAndDelete { prev }, Answer::Done(told), Some(found))
            if prev == found && told == before =>
        {
            Some(None)
        }
        (
            Call::TestAndSet { prev, .. } | Call::TestAndDelete { prev },
            Answer::Found(found),
            Some(there),
        ) if found == there && prev != there => Some(before.clone()),
        (Call::Delete, Answer::Done(prev), Some(_)) if prev == before => Some(None),
        (
            Call::TestAndSet { .. } | Call::TestAndDelete { .. } | Call::Delete | Call::Get,
            Answer::NotFound,
            None,
        ) => Some(None),
        (Call::Get, Answer::Value(found), Some(there)) if found == there => Some(before.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(call: Call, answer: Answer, called: u64, answered: u64) -> Operation {
        Operation { key: "/k".to_owned(), call, answer, called, answered }
    }

    fn set(value: &str, prev: Option<&str>, called: u64, answered: u64) -> Operation {
        let answer = Answer::Done(prev.map(str::to_owned));
        op(Call::Set(value.to_owned()), answer, called, answered)
    }

    fn test_and_set(prev: &str, value: &str, told: Option<&str>, called: u64) -> Operation {
        let call = Call::TestAndSet { prev: prev.to_owned(), value: value.to_owned() };
        op(call, Answer::Done(told.map(str::to_owned)), called, called + 1)
    }

    fn delete(told: Option<&str>, called: u64) -> Operation {
        op(Call::Delete, Answer::Done(told.map(str::to_owned)), called, called + 1)
    }

    fn get(value: &str, called: u64, answered: u64) -> Operation {
        op(Call::Get, Answer::Value(value.to_owned()), called, answered)
    }

    #[test]
    fn stale_read_is_noticed() {
        let history = [set("a", None, 1, 2), set("b", Some("a"), 3, 4), get("a", 5, 6)];
        assert!(check(&history).is_err());
        let history = [set("a", None, 1, 2), set("b", Some("a"), 3, 6), get("a", 4, 5)];
        assert!(check(&history).is_ok(), "it was read while it was being overwritten");
    }

    #[test]
    fn lost_write_is_noticed() {
        let history = [set("a", None, 1, 2), op(Call::Get, Answer::NotFound, 3, 4)];
        assert!(check(&history).is_err());
    }

    #[test]
    fn unknown_may_have_happened_or_not_but_not_both() {
        let unknown = op(Call::Set("b".to_owned()), Answer::Unknown, 3, 4);
        let first = set("a", None, 1, 2);
        assert!(check(&[first.clone(), unknown.clone(), get("a", 5, 6)]).is_ok());
        assert!(check(&[first.clone(), unknown.clone(), get("b", 5, 6)]).is_ok());
        let late = [first.clone(), unknown.clone(), get("a", 5, 6), get("b", 7, 8)];
        assert!(check(&late).is_ok(), "it may happen long after");
        assert!(check(&[first, unknown, get("b", 5, 6), get("a", 7, 8)]).is_err());
    }

    #[test]
    fn write_that_happens_twice_is_noticed() {
        let once = set("a", None, 1, 2);
        let history = [once, set("b", Some("a"), 3, 4), get("b", 5, 6), get("a", 7, 8)];
        assert!(check(&history).is_err());
    }

    #[test]
    fn key_that_was_there_is_created_by_nobody() {
        let create = |value: &str, answer, called| {
            op(Call::Create(value.to_owned()), answer, called, called + 1)
        };
        let first = create("a", Answer::Done(None), 1);
        assert!(check(&[first.clone(), create("b", Answer::Exists, 3), get("a", 5, 6)]).is_ok());
        assert!(check(&[first.clone(), create("b", Answer::Done(None), 3)]).is_err());
        assert!(check(&[create("b", Answer::Exists, 1)]).is_err());
        // Somebody may have made it, and nobody has seen what.
        let unseen = op(Call::Set("x".to_owned()), Answer::Unknown, 1, 2);
        assert!(check(&[unseen, create("b", Answer::Exists, 3)]).is_ok());
    }

    #[test]
    fn value_before_that_was_another_is_noticed() {
        let once = || set("a", None, 1, 2);
        for (told, is_right) in [(Some("a"), true), (Some("b"), false), (None, false)] {
            for write in [set("c", told, 3, 4), test_and_set("a", "c", told, 3), delete(told, 3)] {
                let history = [once(), write];
                assert_eq!(check(&history).is_ok(), is_right, "{history:?}");
            }
        }
    }
}
