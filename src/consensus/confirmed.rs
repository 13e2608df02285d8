//! What the others have confirmed to this leader.
//!
//! A machine that says it has an entry has it for good: on that the leader counts what is
//! committed. One that does not have it any longer runs on an older copy of its directory,
//! or on a disk that was set back. openraft has no word for that, and ends; so it does not
//! get to hear of it. The machine is not counted, and the log says why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_log::{LogId, NodeId, Vote};

use crate::util::rate_limit::RateLimit;

/// The last entry that each machine has confirmed, and to which leader. Cloning gives
/// another handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Confirmed {
    by: Arc<Mutex<BTreeMap<NodeId, (Vote, LogId)>>>,
    told: Arc<RateLimit>,
}

/// A machine does not have what it has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("machine {node} has lost entry {lost}, which it had confirmed")]
pub(super) struct Lost {
    node: NodeId,
    lost: LogId,
}

impl Confirmed {
    /// Notes that a machine has an entry, and all before it.
    pub(super) fn note(&self, node: NodeId, leader: Vote, upto: LogId) {
        let mut by = self.by();
        let known = by.entry(node).or_insert((leader, upto));
        if known.0 != leader || known.1 < upto {
            *known = (leader, upto);
        }
    }

    /// Judges whether a machine may say that it does not have an entry.
    pub(super) fn judge_conflict(
        &self,
        node: NodeId,
        leader: Vote,
        missed: LogId,
    ) -> Result<(), Lost> {
        let confirmed = self.by().get(&node).filter(|(to, _)| *to == leader).map(|(_, upto)| *upto);
        if confirmed.is_none_or(|upto| upto < missed) {
            return Ok(());
        }
        let lost = Lost { node, lost: missed };
        if self.told.is_due() {
            tracing::error!(
                "{lost}: it runs on an older copy of its directory; remove it, and let it join anew"
            );
        }
        Err(lost)
    }

    fn by(&self) -> MutexGuard<'_, BTreeMap<NodeId, (Vote, LogId)>> {
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::{RaftIndex, Term};

    use super::*;

    #[test]
    fn what_was_confirmed_to_a_leader_is_not_missed_by_it() {
        let confirmed = Confirmed::default();
        let leader = |term| Vote { term: Term(term), node: NodeId(1), committed: true };
        let id = |index| LogId { term: Term(1), node: NodeId(1), index: RaftIndex(index) };
        let misses = |node, term, index| {
            confirmed.judge_conflict(NodeId(node), leader(term), id(index)).is_ok()
        };
        assert!(misses(2, 3, 5));
        confirmed.note(NodeId(2), leader(3), id(5));
        confirmed.note(NodeId(2), leader(3), id(4));
        assert!(misses(2, 3, 6) && !misses(2, 3, 5) && !misses(2, 3, 4));
        assert!(misses(3, 3, 5) && misses(2, 4, 5));
        confirmed.note(NodeId(2), leader(4), id(3));
        assert!(misses(2, 4, 5) && !misses(2, 4, 3));
    }
}
