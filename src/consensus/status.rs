//! How this machine stands to the others: who leads, and who the members are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{LogId, Membership, NodeId, RaftIndex, Term, Vote};
use openraft::ServerState;

use super::engine::Consensus;
use super::timing::Timing;
use super::types::{to_membership, to_vote};

/// A machine that has said nothing for so long is missing: it has been asked a few times.
const LATELY: Duration = Duration::from_secs(3);

/// How this machine stands to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads, and a majority has said so lately.
    Leader,
    /// It led when it heard of the others last, which is too long ago; or it has given way
    /// because of its disk.
    LeaderWithoutQuorum,
    /// It hears this leader.
    Follower(NodeId),
    /// It hears no leader.
    NoLeader,
}

impl Consensus {
    /// Returns how this machine stands to the others.
    pub fn role(&self) -> Role {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let within = self.timing.election.1;
        if metrics.state != ServerState::Leader {
            return self.liveness.leader(within).map_or(Role::NoLeader, Role::Follower);
        }
        let vote = to_vote(metrics.vote);
        let membership = metrics.membership_config.membership();
        if !self.liveness.is_silent(vote.term)
            && self.liveness.has_majority(self.me, membership, within)
        {
            return Role::Leader;
        }
        // Another one may lead by now: a disk that hangs lets this one take no note of it.
        self.liveness.leader_beyond(vote, within).map_or(Role::LeaderWithoutQuorum, Role::Follower)
    }

    /// Returns the vote by which this machine leads, as openraft has it: it may have been
    /// overruled.
    pub(super) fn leads_by(&self) -> Option<Vote> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        (metrics.state == ServerState::Leader).then(|| to_vote(metrics.vote))
    }

    /// Returns whether a majority has answered this leader lately.
    pub(super) fn hears_majority(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        self.liveness.has_majority(self.me, membership, self.timing.election.1)
    }

    /// Returns which of the others that have a vote have said nothing lately, whether or
    /// not a leader is there.
    pub fn missing(&self) -> Vec<NodeId> {
        let within = LATELY.max(2 * self.timing.election.1);
        let is_missing = |node: &NodeId| {
            *node != self.me
                && !self.liveness.has_reached(*node, within)
                && self.liveness.leader(within) != Some(*node)
        };
        let voters: BTreeSet<_> = self.membership().voters.into_iter().flatten().collect();
        voters.into_iter().filter(is_missing).collect()
    }

    /// Returns whether this machine has a vote for good: it has applied the change of the
    /// group that gave it one.
    pub fn has_vote_for_good(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = &metrics.membership_config;
        let config = membership.membership().get_joint_config();
        let votes = matches!(&config[..], [voters] if voters.contains(&self.me.0));
        votes && metrics.last_applied >= *membership.log_id()
    }

    /// Returns whether the others are a majority of themselves, as far as this leader
    /// has heard lately.
    pub fn has_quorum_without(&self, node: NodeId) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        self.liveness.has_majority_without(self.me, membership, self.timing.election.1, Some(node))
    }

    /// Returns whether a machine has answered this leader lately.
    pub fn hears(&self, node: NodeId) -> bool {
        self.liveness.has_answered(node, self.timing.election.1)
    }

    /// Returns whether a machine wanted something appended that seems wrong here.
    pub fn doubts(&self, node: NodeId) -> bool {
        self.doubts.of(node)
    }

    /// Returns the machine that leads, as far as this one knows.
    pub fn leader(&self) -> Option<NodeId> {
        match self.role() {
            Role::Leader => Some(self.me),
            Role::Follower(leader) => Some(leader),
            Role::LeaderWithoutQuorum | Role::NoLeader => None,
        }
    }

    /// Returns whether this machine leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.role() == Role::Leader
    }

    /// Returns the term in which this machine leads, or thinks that it does.
    pub fn leads_in(&self) -> Option<Term> {
        self.leads_by().map(|vote| vote.term)
    }

    /// Returns the times of Raft.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Returns the term that this machine has seen last.
    pub fn term(&self) -> Term {
        Term(self.raft.server_metrics().borrow().vote.leader_id.term)
    }

    /// Returns the members of the group, as this machine has them in its log.
    pub fn membership(&self) -> Membership {
        to_membership(self.raft.server_metrics().borrow().membership_config.membership())
    }

    /// Returns up to which entry each other member's log agrees with this one's; only
    /// the leader knows.
    pub fn matched(&self) -> BTreeMap<NodeId, RaftIndex> {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow();
        let matched = metrics.replication.iter().flatten();
        let matched =
            matched.filter_map(|(node, id)| Some((NodeId(*node), RaftIndex((*id)?.index))));
        matched.collect()
    }

    /// Returns the last entry of this machine's log.
    pub fn last_entry(&self) -> Option<LogId> {
        (self.log_state)().last
    }

    /// Notes that this machine was told that it is no longer a member.
    pub fn removed(&self) {
        self.liveness.removed();
    }

    /// Waits until a member says that another process of this machine runs; returns where.
    pub async fn until_elsewhere(&self) -> Arc<str> {
        self.liveness.until_elsewhere().await
    }

    /// Waits until this machine is told that it is no longer a member.
    pub async fn until_removed(&self) {
        self.liveness.until_removed().await;
    }

    /// Returns which machine this is.
    pub fn me(&self) -> NodeId {
        self.me
    }
}
