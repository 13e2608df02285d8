//! What the connections of a leader to the others have in common.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use etcd_log::{LogId, NodeId};
use openraft::error::{NetworkError, RPCError, RaftError, Unreachable};
use openraft::{BasicNode, Vote};

use super::confirmed::Confirmed;
use super::liveness::Liveness;
use super::types::to_vote;
use super::unsynced::Unsynced;
use crate::peers::{CallError, Peers, Response};
use crate::util::clock::Clock;
use crate::util::rate_limit::RateLimit;

/// What came of something that another machine was asked.
pub(super) type RpcResult<T> = Result<T, RPCError<u64, BasicNode, RaftError<u64>>>;

/// An entry, and how it is sent.
pub(super) type Encoded = (LogId, Arc<[u8]>);

/// How many requests whether this machine leads may be with another one at a time.
const MOST_ASKED: usize = 4;

/// What all connections have in common.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) peers: Peers,
    pub(super) liveness: Liveness,
    pub(super) unsynced: Unsynced,
    pub(super) clock: Clock,
    /// The entry that was sent last, as it is sent: to every follower the same.
    pub(super) encoded: Mutex<Option<Encoded>>,
    pub(super) confirmed: Confirmed,
    /// How many times each machine is being asked whether this one leads.
    pub(super) asked: Arc<Mutex<BTreeMap<NodeId, usize>>>,
    /// Checkpoints that cannot be sent are reported now and then.
    pub(super) trouble: RateLimit,
}

impl Network {
    /// Makes the network over these peers.
    pub(super) fn new(peers: Peers, liveness: Liveness, unsynced: Unsynced, clock: Clock) -> Self {
        Self {
            peers,
            liveness,
            unsynced,
            clock,
            encoded: Mutex::default(),
            confirmed: Confirmed::default(),
            asked: Arc::default(),
            trouble: RateLimit::default(),
        }
    }

    /// Notes that a machine is asked whether this one leads, until what is returned is
    /// dropped; nothing, if it has been asked often enough.
    pub(super) fn ask_whether_it_leads(&self, node: NodeId) -> Option<LeaseCheck> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let times = asked.entry(node).or_default();
        if *times >= MOST_ASKED {
            return None;
        }
        *times += 1;
        Some(LeaseCheck { asked: Arc::clone(&self.asked), node })
    }

    /// Returns why nothing may be sent, if this machine leads no longer in the term of a
    /// vote.
    pub(super) fn given_way(&self, vote: &Vote<u64>) -> Option<Unreachable> {
        let is_silent = self.liveness.is_silent(to_vote(*vote).term);
        is_silent.then(|| Unreachable::new(&io::Error::other("this machine has given way")))
    }
}

/// A request whether this machine leads.
pub(super) struct LeaseCheck {
    asked: Arc<Mutex<BTreeMap<NodeId, usize>>>,
    node: NodeId,
}

impl Drop for LeaseCheck {
    fn drop(&mut self) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = asked.get_mut(&self.node) {
            *times -= 1;
        }
    }
}

/// Tells openraft why a machine has not answered.
pub(super) fn failed(error: &CallError) -> RPCError<u64, BasicNode, RaftError<u64>> {
    if error.is_late() {
        NetworkError::new(error).into()
    } else {
        // To wait a little before the next try is better than to spin.
        Unreachable::new(error).into()
    }
}

pub(super) fn unexpected(answer: &Response) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("that is no answer to it: {answer:?}"))
}

#[cfg(test)]
impl Network {
    /// Makes a network over these peers, that knows nothing else.
    pub(super) fn for_tests(peers: Peers) -> Arc<Self> {
        let (liveness, unsynced) = (Liveness::default(), Unsynced::default());
        Arc::new(Self::new(peers, liveness, unsynced, Clock::default()))
    }
}
