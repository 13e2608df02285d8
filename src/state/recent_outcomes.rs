//! Outcomes at hand: what came of the entries that this machine has just applied,
//! for those who wait for an answer here to what another machine has proposed.
//!
//! What was applied before the oldest of those who wait began to wait is let go; and
//! what is kept is bounded, so that an answer that does not come costs no memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_log::RaftIndex;
use etcd_projections::{Outcome, Rejection, What};

/// How many bytes of outcomes are kept at most, about; one entry's in any case. Several
/// round trips to the leader fit in.
const MOST_BYTES: usize = 64 << 20;

/// The outcomes of the last entries. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct RecentOutcomes {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// How many began to wait after each number of entries.
    waiting: BTreeMap<u64, usize>,
    /// How many entries have been noted so far.
    noted: u64,
    bytes: usize,
    entries: VecDeque<(RaftIndex, Vec<Outcome>)>,
}

/// While there is one, outcomes are kept.
#[derive(Debug)]
pub struct Ticket {
    outcomes: RecentOutcomes,
    since: u64,
}

impl RecentOutcomes {
    /// Begins to keep outcomes.
    pub fn keep(&self) -> Ticket {
        let mut kept = self.lock();
        let since = kept.noted;
        *kept.waiting.entry(since).or_default() += 1;
        Ticket { outcomes: self.clone(), since }
    }

    /// Notes the outcomes of an entry's commands.
    pub fn note(&self, entry: RaftIndex, outcomes: &[Outcome]) {
        let mut kept = self.lock();
        if kept.waiting.is_empty() {
            return;
        }
        kept.noted += 1;
        kept.bytes += size(outcomes);
        kept.entries.push_back((entry, outcomes.to_vec()));
        // The last one stays: whoever waits for it has not looked yet.
        while kept.bytes > MOST_BYTES && kept.entries.len() > 1 {
            kept.let_go();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Lets go of the oldest entry.
    fn let_go(&mut self) {
        self.bytes -= self.entries.pop_front().map_or(0, |(_, outcomes)| size(&outcomes));
    }
}

fn size(outcomes: &[Outcome]) -> usize {
    let size = |outcome: &Outcome| match &outcome.what {
        What::Event(event) => event.size(),
        What::Rejection(Rejection::TestFailed { found, expected }) => {
            128 + found.len() + expected.len()
        }
        What::Rejection(_) | What::Tick => 128,
    };
    outcomes.iter().map(size).sum()
}

impl Ticket {
    /// Returns outcomes of an entry that has been applied since the ticket was
    /// taken: so many, behind others. Nothing, if they are not kept any more, or if
    /// the machine came by them in another way.
    pub fn of(&self, entry: RaftIndex, skip: usize, count: usize) -> Option<Vec<Outcome>> {
        let kept = self.outcomes.lock();
        let at = kept.entries.binary_search_by_key(&entry, |(entry, _)| *entry).ok()?;
        kept.entries[at].1.get(skip..skip.checked_add(count)?).map(<[_]>::to_vec)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut kept = self.outcomes.lock();
        if let Some(count) = kept.waiting.get_mut(&self.since) {
            *count -= 1;
            if *count == 0 {
                kept.waiting.remove(&self.since);
            }
        }
        let oldest = kept.waiting.first_key_value().map_or(kept.noted, |(since, _)| *since);
        // The last entry noted is the last one kept.
        while kept.entries.len() as u64 > kept.noted - oldest {
            kept.let_go();
        }
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::Index;
    use etcd_projections::{Position, What};

    use super::*;

    fn outcomes(first: u64, count: u64) -> Vec<Outcome> {
        let position = |index| Position { index: Index(index), ..Position::default() };
        let outcome = |index| Outcome::new(position(index), What::Tick);
        (first..first + count).map(outcome).collect()
    }

    #[test]
    fn outcomes_are_kept_while_somebody_waits() {
        let kept = RecentOutcomes::default();
        kept.note(RaftIndex(1), &outcomes(1, 2));
        let ticket = kept.keep();
        assert_eq!(ticket.of(RaftIndex(1), 0, 1), None);
        kept.note(RaftIndex(2), &outcomes(3, 4));
        assert_eq!(ticket.of(RaftIndex(2), 1, 2), Some(outcomes(4, 2)));
        assert_eq!(ticket.of(RaftIndex(2), 3, 2), None);
        assert_eq!(ticket.of(RaftIndex(2), usize::MAX, 2), None);
        drop(ticket);
        assert_eq!(kept.keep().of(RaftIndex(2), 0, 1), None);
    }

    #[test]
    fn what_nobody_waits_for_any_longer_is_let_go() {
        let kept = RecentOutcomes::default();
        let first = kept.keep();
        kept.note(RaftIndex(1), &outcomes(1, 1));
        let second = kept.keep();
        kept.note(RaftIndex(2), &outcomes(2, 1));
        drop(first);
        assert_eq!(second.of(RaftIndex(1), 0, 1), None);
        assert_eq!(second.of(RaftIndex(2), 0, 1), Some(outcomes(2, 1)));
        drop(second);
        let kept = kept.lock();
        assert_eq!((kept.entries.len(), kept.bytes), (0, 0));
    }

    #[test]
    fn outcomes_of_one_entry_are_kept_however_large() {
        let kept = RecentOutcomes::default();
        let ticket = kept.keep();
        let count = MOST_BYTES as u64 / 128 + 1;
        kept.note(RaftIndex(1), &outcomes(1, count));
        assert_eq!(ticket.of(RaftIndex(1), 0, 1), Some(outcomes(1, 1)));
        kept.note(RaftIndex(2), &outcomes(count + 1, 1));
        assert_eq!(ticket.of(RaftIndex(1), 0, 1), None);
        assert_eq!(ticket.of(RaftIndex(2), 0, 1), Some(outcomes(count + 1, 1)));
    }

    #[test]
    fn refused_tests_count_with_their_values() {
        let (found, expected) = ("f".repeat(1000).into(), "e".repeat(500).into());
        let what = What::Rejection(Rejection::TestFailed { found, expected });
        assert_eq!(size(&[Outcome::new(Position::default(), what)]), 1628);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let kept = RecentOutcomes::default();
        let ticket = kept.keep();
        for entry in 0..600 {
            kept.note(RaftIndex(entry), &outcomes(1, 1000));
        }
        assert_eq!(ticket.of(RaftIndex(0), 0, 1), None);
        assert!(ticket.of(RaftIndex(599), 0, 1000).is_some());
        assert!(kept.lock().bytes <= MOST_BYTES);
    }
}
