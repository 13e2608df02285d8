//! A checker of the order that the log gave: answers name the index of the state that
//! gave them, and must fit together.
//!
//! ```text
//! #5 set a=1     #6 set a=2     #7 delete a
//!       ▲ a read at #5 or later, but before #6, finds 1, on whatever machine
//! ```
//!
//! * An index is given to one command, and later commands get later ones.
//! * A read that must be fresh sees all that was answered before it was asked for.
//! * Any other may be old, but a machine never goes back behind what it has shown or
//!   acknowledged, and a read that wants an index sees that one at least.
//! * What is found is what was written last, up to the index that is shown: nothing that
//!   was overwritten by then, and nothing that comes later.
//!
//! Of a write whose answer is not known nobody knows the index. It has one by the first
//! read that finds it.

use std::collections::BTreeMap;

use super::{Answer, Call, Operation, Value};

/// An answer that names an index.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Who gave it: the same name, if it was started again.
    pub machine: String,
    /// When it was asked for, and answered: any clock that goes on will do.
    pub called: u64,
    pub answered: u64,
    /// The index.
    pub index: u64,
    pub what: What,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A write was done, and left this.
    Wrote { key: String, value: Value },
    /// A write was refused. That takes an index, too.
    Refused,
    /// This was found.
    Read { key: String, value: Value, freshness: Freshness },
}

/// How fresh a read was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    Linearizable,
    Stale,
    AtLeast(u64),
}

/// Checks answers against each other, and against the writes of a history whose answers
/// are not known.
pub fn check(shown: &[Shown], history: &[Operation]) -> Result<(), String> {
    check_in_time(shown)?;
    let mut keys: BTreeMap<&str, Key<'_>> = BTreeMap::new();
    for op in history.iter().filter(|op| op.answer == Answer::Unknown) {
        keys.entry(&op.key).or_default().unknown.push(op);
    }
    for one in shown {
        match &one.what {
            What::Wrote { key, .. } => keys.entry(key).or_default().add_write(one)?,
            What::Read { key, .. } => keys.entry(key).or_default().reads.push(one),
            What::Refused => {}
        }
    }
    keys.into_values().try_for_each(Key::check)
}

/// Checks that no index goes back: in the order in which things were asked for and
/// answered.
fn check_in_time(shown: &[Shown]) -> Result<(), String> {
    let mut moments: Vec<(u64, bool, &Shown)> = Vec::new();
    for one in shown {
        // What is answered at the moment when another is asked for is not before it.
        moments.extend([(one.called, false, one), (one.answered, true, one)]);
    }
    moments.sort_by_key(|(at, is_answer, _)| (*at, *is_answer));
    let mut newest: Option<&Shown> = None;
    let mut newest_on: BTreeMap<&str, &Shown> = BTreeMap::new();
    for (_, is_answer, one) in moments {
        if is_answer {
            let later = |known: &&Shown| known.index < one.index;
            if newest.as_ref().is_none_or(later) {
                newest = Some(one);
            }
            let on = newest_on.entry(&one.machine).or_insert(one);
            if later(on) {
                *on = one;
            }
            continue;
        }
        let least = match &one.what {
            What::Wrote { .. } | What::Refused => newest.map(|newest| (newest, newest.index + 1)),
            What::Read { freshness: Freshness::Linearizable, .. } => {
                newest.map(|newest| (newest, newest.index))
            }
            What::Read { freshness: Freshness::Stale | Freshness::AtLeast(_), .. } => {
                newest_on.get(&*one.machine).map(|newest| (*newest, newest.index))
            }
        };
        if let Some((before, _)) = least.filter(|(_, least)| one.index < *least) {
            return Err(format!("{one:?} goes back behind {before:?}"));
        }
        if let What::Read { freshness: Freshness::AtLeast(wanted), .. } = one.what
            && one.index < wanted
        {
            return Err(format!("{one:?} does not show what it was to show"));
        }
    }
    Ok(())
}

/// What is known of a key.
#[derive(Default)]
struct Key<'h> {
    writes: BTreeMap<u64, &'h Shown>,
    unknown: Vec<&'h Operation>,
    reads: Vec<&'h Shown>,
}

impl<'h> Key<'h> {
    fn add_write(&mut self, write: &'h Shown) -> Result<(), String> {
        match self.writes.insert(write.index, write) {
            Some(other) => Err(format!("{write:?} has the index of {other:?}")),
            None => Ok(()),
        }
    }

    fn check(mut self) -> Result<(), String> {
        self.reads.sort_by_key(|read| read.index);
        // By the first read that finds it, what was not known has happened.
        let mut found: BTreeMap<&str, u64> = BTreeMap::new();
        let mut before: Option<&Shown> = None;
        for read in &self.reads {
            let What::Read { value, .. } = &read.what else { continue };
            if let Some(before) = before.filter(|before| before.index == read.index)
                && !matches!(&before.what, What::Read { value: other, .. } if other == value)
            {
                return Err(format!("{read:?} differs from {before:?}"));
            }
            before = Some(read);
            let last = self.writes.range(..=read.index).next_back();
            if *value == last.and_then(|(_, write)| left(write)) {
                continue;
            }
            let since = match value {
                Some(value) => *found.entry(value).or_insert(read.index),
                None => read.index,
            };
            let is_overwritten = last.is_some_and(|(index, _)| *index > since);
            if is_overwritten || !self.may_have_happened(value, read) {
                let last = last.map(|(_, write)| write);
                return Err(format!("{read:?} does not fit: written last was {last:?}"));
            }
        }
        Ok(())
    }

    /// Whether a write whose answer is not known may have left this before it was read.
    fn may_have_happened(&self, value: &Value, read: &Shown) -> bool {
        let mut called = self.unknown.iter().filter(|op| op.called < read.answered);
        called.any(|op| match (&op.call, value) {
            (
                Call::Set(set) | Call::Create(set) | Call::TestAndSet { value: set, .. },
                Some(found),
            ) => set == found,
            (Call::Delete | Call::TestAndDelete { .. }, None) => true,
            _ => false,
        })
    }
}

/// What a write has left.
fn left(write: &Shown) -> Value {
    match &write.what {
        What::Wrote { value, .. } => value.clone(),
        What::Read { .. } | What::Refused => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "/k";

    fn shown(machine: &str, called: u64, index: u64, what: What) -> Shown {
        Shown { machine: machine.to_owned(), called, answered: called + 1, index, what }
    }

    fn wrote(called: u64, index: u64, value: Option<&str>) -> Shown {
        let value = value.map(str::to_owned);
        shown("m1", called, index, What::Wrote { key: KEY.to_owned(), value })
    }

    fn read(
        machine: &str,
        called: u64,
        index: u64,
        value: Option<&str>,
        freshness: Freshness,
    ) -> Shown {
        let value = value.map(str::to_owned);
        shown(machine, called, index, What::Read { key: KEY.to_owned(), value, freshness })
    }

    fn stale(machine: &str, called: u64, index: u64, value: Option<&str>) -> Shown {
        read(machine, called, index, value, Freshness::Stale)
    }

    fn unknown(call: Call, called: u64) -> Operation {
        let (key, answer) = (KEY.to_owned(), Answer::Unknown);
        Operation { key, call, answer, called, answered: u64::MAX }
    }

    /// Two values, written one after the other, and what was shown besides.
    fn two(more: &[Shown], unknown: &[Operation]) -> Result<(), String> {
        let mut all = vec![wrote(1, 5, Some("a")), wrote(3, 7, Some("b"))];
        all.extend_from_slice(more);
        check(&all, unknown)
    }

    #[test]
    fn stale_read_may_be_old_elsewhere_and_not_where_it_was_acknowledged() {
        assert_eq!(two(&[stale("m2", 10, 5, Some("a"))], &[]), Ok(()));
        assert_eq!(two(&[stale("m2", 10, 4, None)], &[]), Ok(()));
        assert!(two(&[stale("m1", 10, 5, Some("a"))], &[]).is_err());
        let overlapping = Shown { called: 2, answered: 12, ..stale("m1", 2, 5, Some("a")) };
        assert_eq!(two(&[overlapping], &[]), Ok(()), "it was asked for before");
    }

    #[test]
    fn machine_never_goes_back() {
        let later = stale("m2", 10, 7, Some("b"));
        assert!(two(&[later.clone(), stale("m2", 12, 6, Some("a"))], &[]).is_err());
        assert_eq!(two(&[later, stale("m3", 12, 6, Some("a"))], &[]), Ok(()));
    }

    #[test]
    fn fresh_read_sees_what_any_machine_has_shown() {
        let fresh = |index, value| read("m2", 20, index, Some(value), Freshness::Linearizable);
        assert_eq!(two(&[fresh(7, "b")], &[]), Ok(()));
        assert!(two(&[fresh(6, "a")], &[]).is_err());
        assert!(two(&[stale("m3", 10, 9, Some("b")), fresh(8, "b")], &[]).is_err());
    }

    #[test]
    fn read_shows_the_index_that_it_wants() {
        let at_least = |wanted| read("m2", 10, 6, Some("a"), Freshness::AtLeast(wanted));
        assert_eq!(two(&[at_least(6)], &[]), Ok(()));
        assert!(two(&[at_least(7)], &[]).is_err());
    }

    #[test]
    fn read_finds_what_was_written_last_up_to_its_index() {
        for (index, value, is_right) in [
            (4, Some("a"), false),
            (6, Some("b"), false),
            (7, Some("a"), false),
            (7, None, false),
            (7, Some("never"), false),
            (8, Some("b"), true),
        ] {
            let found = two(&[stale("m2", 10, index, value)], &[]);
            assert_eq!(found.is_ok(), is_right, "{value:?} at {index}");
        }
    }

    #[test]
    fn what_is_not_known_may_have_happened_once() {
        let lost = [unknown(Call::Set("x".to_owned()), 9)];
        let x = |machine, called, index| stale(machine, called, index, Some("x"));
        assert_eq!(two(&[x("m2", 10, 8)], &lost), Ok(()));
        assert!(two(&[x("m2", 7, 8)], &lost).is_err(), "it was found before it was called");
        // It was there before b, and is again behind it.
        assert!(two(&[x("m2", 10, 6), x("m3", 12, 8)], &lost).is_err());
        assert!(two(&[stale("m2", 10, 8, None)], &lost).is_err());
        assert_eq!(two(&[stale("m2", 10, 8, None)], &[unknown(Call::Delete, 9)]), Ok(()));
    }

    #[test]
    fn one_index_is_one_state() {
        let lost = [unknown(Call::Set("x".to_owned()), 9)];
        let other = [stale("m2", 10, 8, Some("b")), stale("m3", 10, 8, Some("x"))];
        assert!(two(&other, &lost).is_err());
        let twice = [wrote(1, 5, Some("a")), wrote(3, 5, Some("b"))];
        assert!(check(&twice, &[]).is_err());
        let back = [wrote(1, 5, Some("a")), wrote(3, 4, Some("b"))];
        assert!(check(&back, &[]).is_err());
    }
}
