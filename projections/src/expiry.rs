//! The expiry index: which key is due next.
//!
//! ```text
//! #3 set /a ttl=5  at 0s      5s  /a
//! #4 set /b ttl=9  at 1s     10s  /b
//! #5 set /a ttl=9  at 2s     11s  /a      the old deadline of /a is gone
//! ```
//!
//! A key has one deadline or none. Keys that are due at the same time are due in
//! the order of their keys.
//!
//! Deliberately not here: what time it is. A key expires when the logged time
//! has reached its deadline, which `State` sees to.

use etcd_log::{KeyPath, LogTime};
use imbl::{OrdMap, OrdSet};

use crate::event::Change;
use crate::outcome::{Outcome, Position, Projection, What};

/// Which key is due next.
#[derive(Clone, Debug, Default)]
pub struct ExpiryIndex {
    position: Position,
    by_time: OrdSet<(LogTime, KeyPath)>,
    by_key: OrdMap<KeyPath, LogTime>,
}

impl ExpiryIndex {
    /// Returns the next key that is due, and when.
    pub fn next(&self) -> Option<(LogTime, &KeyPath)> {
        self.by_time.get_min().map(|(deadline, key)| (*deadline, key))
    }

    /// Returns how many keys are due at a time, counted up to `most`.
    pub fn due(&self, time: LogTime, most: usize) -> usize {
        self.by_time.iter().take(most).take_while(|(deadline, _)| *deadline <= time).count()
    }

    /// Returns the latest time up to `time` at which not more keys than these are due;
    /// or else more by as many as share the deadline of the last one. That is later
    /// than any time that has been reached: the next key is due at it, at least.
    ///
    /// # Panics
    ///
    /// If not even one may be.
    pub fn time_for(&self, time: LogTime, most: usize) -> LogTime {
        assert!(most > 0, "time would stand still");
        if self.due(time, most + 1) <= most {
            return time;
        }
        self.by_time.iter().nth(most - 1).map_or(time, |(deadline, _)| *deadline)
    }

    /// Returns all deadlines, soonest first.
    pub fn iter(&self) -> impl Iterator<Item = (LogTime, &KeyPath)> {
        self.by_time.iter().map(|(deadline, key)| (*deadline, key))
    }

    /// Returns how many keys have a deadline.
    pub fn len(&self) -> usize {
        self.by_time.len()
    }

    /// Returns whether no key has a deadline.
    pub fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }

    /// Restores the index from its deadlines.
    pub(crate) fn restore(
        position: Position,
        deadlines: impl IntoIterator<Item = (LogTime, KeyPath)>,
    ) -> Self {
        let mut index = Self { position, ..Self::default() };
        for (deadline, key) in deadlines {
            index.set(&key, Some(deadline));
        }
        index
    }

    fn set(&mut self, key: &KeyPath, deadline: Option<LogTime>) {
        let before = match deadline {
            Some(deadline) => self.by_key.insert(key.clone(), deadline),
            // Most keys have no deadline; looking first spares copying the map.
            None if self.by_key.is_empty() => None,
            None => self.by_key.remove(key),
        };
        if let Some(before) = before {
            self.by_time.remove(&(before, key.clone()));
        }
        if let Some(deadline) = deadline {
            self.by_time.insert((deadline, key.clone()));
        }
        assert_eq!(self.by_time.len(), self.by_key.len(), "a key has one deadline: {key}");
    }
}

impl Projection for ExpiryIndex {
    fn position(&self) -> Position {
        self.position
    }

    fn fold(&mut self, outcome: &Outcome) {
        self.position.follow(outcome);
        let What::Event(event) = &outcome.what else { return };
        match &event.change {
            Change::Set { deadline, .. } => self.set(&event.key, *deadline),
            Change::Delete { .. } | Change::Expire { .. } => self.set(&event.key, None),
            Change::DeleteDir => {}
        }
    }
}
