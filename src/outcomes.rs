//! Outcomes at hand: what came of the entries that this machine has just applied,
//! for those who wait for an answer here to what another machine has proposed.
//!
//! Nothing is kept while nobody waits; and what is kept is bounded, so that an
//! answer that does not come costs no memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_log::RaftIndex;
use etcd_projections::Outcome;

/// How many outcomes are kept at most. Several round trips to the leader fit in,
/// with the largest batches.
const MOST: usize = 64 << 10;

/// The outcomes of the last entries. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    waiting: usize,
    count: usize,
    entries: VecDeque<(RaftIndex, Vec<Outcome>)>,
}

/// While there is one, outcomes are kept.
#[derive(Debug)]
pub struct Ticket {
    outcomes: Outcomes,
}

impl Outcomes {
    /// Begins to keep outcomes.
    pub fn keep(&self) -> Ticket {
        self.lock().waiting += 1;
        Ticket { outcomes: self.clone() }
    }

    /// Notes the outcomes of an entry's commands.
    pub fn note(&self, entry: RaftIndex, outcomes: &[Outcome]) {
        let mut kept = self.lock();
        if kept.waiting == 0 {
            return;
        }
        kept.count += outcomes.len();
        kept.entries.push_back((entry, outcomes.to_vec()));
        while kept.count > MOST {
            let gone = kept.entries.pop_front().map_or(0, |(_, outcomes)| outcomes.len());
            kept.count -= gone;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        kept.waiting -= 1;
        if kept.waiting == 0 {
            *kept = Kept::default();
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
        let outcome = |index| Outcome { position: position(index), what: What::Tick };
        (first..first + count).map(outcome).collect()
    }

    #[test]
    fn outcomes_are_kept_while_somebody_waits() {
        let kept = Outcomes::default();
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
    fn what_is_kept_is_bounded() {
        let kept = Outcomes::default();
        let ticket = kept.keep();
        for entry in 0..200 {
            kept.note(RaftIndex(entry), &outcomes(1, 1000));
        }
        assert_eq!(ticket.of(RaftIndex(0), 0, 1), None);
        assert!(ticket.of(RaftIndex(199), 0, 1000).is_some());
        assert!(kept.lock().count <= MOST);
    }
}
