//! Health: while a majority is well, it takes writes, whatever the others do.
//!
//! ```text
//! a fault begins or ends, a membership changes ─▶ disturbed ──┐
//! a small write is answered by one of the majority ───────────┴─▶ 5 seconds for the next
//! ```
//!
//! A majority is well if each of its machines runs on a disk that works, and each can
//! talk to each other one of them, both ways. What links that are narrow have to carry
//! may take its time on top.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use etcd_log::NodeId;

/// How long a healthy majority may take for a write.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How many large values are under way at a time.
const LARGE: usize = 2;

/// Who answers writes, and what large ones are under way. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probes(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    elapsed: Duration,
    acknowledged: BTreeMap<Arc<str>, Duration>,
    large: Vec<Large>,
    /// When something was different last.
    disturbed: Duration,
}

/// A large value on its way.
#[derive(Clone, Debug)]
struct Large {
    through: Arc<str>,
    /// How long the links need for it.
    takes: Duration,
    begun: Duration,
    /// When it was written, or given up because the machine that it went through is gone.
    over: Option<Duration>,
}

impl Large {
    /// Whether it was on its way at this time, or began later.
    fn is_since(&self, time: Duration) -> bool {
        self.over.is_none_or(|over| over > time)
    }
}

impl Probes {
    /// Notes that a small write was answered by a machine.
    pub(crate) fn acknowledged(&self, name: &Arc<str>) {
        let mut inner = self.lock();
        let now = inner.elapsed;
        inner.acknowledged.insert(Arc::clone(name), now);
    }

    pub(crate) fn has_acknowledged(&self, name: &str) -> bool {
        self.lock().acknowledged.contains_key(name)
    }

    /// Notes that a large value is under way for which the links need so long; nothing, if
    /// enough are.
    pub(crate) fn begin_large(&self, through: &Arc<str>, takes: Duration) -> Option<usize> {
        let mut inner = self.lock();
        let (number, begun) = (inner.large.len(), inner.elapsed);
        let under_way = inner.large.iter().filter(|large| large.over.is_none()).count();
        (under_way < LARGE).then(|| {
            inner.large.push(Large { through: Arc::clone(through), takes, begun, over: None });
            number
        })
    }

    /// Notes that a large value was written.
    pub(crate) fn end_large(&self, number: usize) {
        let mut inner = self.lock();
        let now = inner.elapsed;
        inner.large[number].over.get_or_insert(now);
    }

    /// Notes that a machine is gone, with all that it was to write.
    pub(crate) fn gone(&self, name: &str) {
        let mut inner = self.lock();
        let now = inner.elapsed;
        for large in inner.large.iter_mut().filter(|large| *large.through == *name) {
            large.over.get_or_insert(now);
        }
    }

    /// How many large values were written, or given up.
    pub(crate) fn large(&self) -> usize {
        self.lock().large.iter().filter(|large| large.over.is_some()).count()
    }

    /// Notes that something is different.
    pub(crate) fn disturbed(&self) {
        let mut inner = self.lock();
        inner.disturbed = inner.elapsed;
    }

    pub(crate) fn set_elapsed(&self, elapsed: Duration) {
        self.lock().elapsed = elapsed;
    }

    /// Whether nothing has been different for so long that it is worth asking who is well.
    pub(crate) fn is_long(&self) -> bool {
        let inner = self.lock();
        inner.elapsed > inner.disturbed + PATIENCE
    }

    /// Checks that one of these has answered a write lately, and that each large one that
    /// goes through them gets on.
    pub(crate) fn check(&self, well: &[&str]) -> Result<(), String> {
        let inner = self.lock();
        let acknowledged = well.iter().filter_map(|name| inner.acknowledged.get(*name));
        let last = acknowledged.max().copied().unwrap_or_default();
        let (since, allowed) = inner.allowed(last);
        if since > allowed {
            return Err(format!("{well:?} are well, and write nothing for {allowed:?}"));
        }
        let under_way = inner.large.iter().filter(|large| large.over.is_none());
        for large in under_way.filter(|large| well.contains(&&*large.through)) {
            let (since, allowed) = inner.allowed(large.begun);
            if since > allowed {
                let takes = large.takes;
                let what = format!("needs {takes:?}, and is not written in {allowed:?}");
                return Err(format!("{well:?} are well, and a large value {what}"));
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Inner {
    /// For how long something is waited for that has been since then, or since something
    /// was different; and how long it may take.
    fn allowed(&self, begun: Duration) -> (Duration, Duration) {
        let begun = begun.max(self.disturbed);
        let on_links = self.large.iter().filter(|large| large.is_since(begun));
        let allowed = PATIENCE + on_links.map(|large| large.takes).sum::<Duration>();
        (self.elapsed.saturating_sub(begun), allowed)
    }
}

/// A machine, and how well it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patient {
    pub(crate) name: String,
    pub(crate) node: NodeId,
    /// The sets of voters, as it knows them.
    pub(crate) voters: Vec<BTreeSet<NodeId>>,
}

/// Returns the majorities that are well, each as large as can be: of machines that
/// work, and can talk to each other.
pub(crate) fn majorities<'p>(
    patients: &[&'p Patient],
    can_talk: impl Fn(&str, &str) -> bool,
) -> Vec<Vec<&'p str>> {
    let mut found: Vec<u32> = Vec::new();
    let sets = (0..1_u32 << patients.len()).rev().collect::<Vec<_>>();
    for set in sets {
        let of = || patients.iter().enumerate().filter(move |(at, _)| set & 1 << at != 0);
        let talk = |one: &Patient, other: &Patient| {
            one.name == other.name || (can_talk(&one.name, &other.name))
        };
        let is_majority = of().all(|(_, one)| {
            let others = of().all(|(_, other)| talk(one, other));
            // Whoever has just come knows of no voters, and is none.
            others
                && !one.voters.is_empty()
                && one.voters.iter().all(|voters| {
                    let there = of().filter(|(_, other)| voters.contains(&other.node)).count();
                    there > voters.len() / 2
                })
        });
        if set != 0 && is_majority && !found.iter().any(|larger| larger & set == set) {
            found.push(set);
        }
    }
    let names = |set: u32| {
        let of = patients.iter().enumerate().filter(move |(at, _)| set & 1 << at != 0);
        of.map(|(_, patient)| &*patient.name).collect()
    };
    found.into_iter().map(names).collect()
}
