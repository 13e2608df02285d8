//! Liveness: which machines have been heard, and when.
//!
//! A follower that has heard its leader votes for nobody else for a while, and a
//! leader that has not heard a majority for a while falls silent (`pulse`). Both
//! are judged here, by the clock that only goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_log::{NodeId, Term, Vote};
use openraft::BasicNode;
use openraft::Membership;
use tokio::sync::watch;
use tokio::time::Instant;

use super::quorum;
use crate::peers::LeaderHint;

/// Who has been heard. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Liveness {
    heard: Arc<Mutex<Contacts>>,
    removed: Arc<watch::Sender<bool>>,
    /// Where another process of this machine runs.
    elsewhere: Arc<watch::Sender<Option<Arc<str>>>>,
}

#[derive(Debug, Default)]
struct Contacts {
    /// The leader that spoke last, in which term, and when.
    leader: Option<(Vote, Instant)>,
    /// The leader that another machine hears.
    leader_hint: Option<LeaderHint>,
    /// When what each machine answered last was asked.
    answered: BTreeMap<NodeId, Instant>,
    /// When each machine said anything last.
    reached: BTreeMap<NodeId, Instant>,
    /// The term in which this machine leads no longer, whatever openraft thinks.
    silent: Option<Term>,
    /// Until when this machine leaves it to others to lead.
    stands_back: Option<Instant>,
}

impl Liveness {
    /// Notes that a leader has spoken, and was accepted.
    pub(crate) fn heard_leader(&self, vote: Vote) {
        self.lock().leader = Some((vote, Instant::now()));
    }

    /// Returns the leader that was heard within this time.
    pub(crate) fn leader(&self, within: Duration) -> Option<NodeId> {
        let (vote, at) = self.lock().leader?;
        (at.elapsed() < within).then_some(vote.node)
    }

    /// Returns the leader that was heard within this time, if it overrules this vote.
    pub(crate) fn leader_beyond(&self, vote: Vote, within: Duration) -> Option<NodeId> {
        let (heard, _) = self.lock().leader?;
        let leader = self.leader(within)?;
        ((heard.term, heard.node) > (vote.term, vote.node)).then_some(leader)
    }

    /// Returns when a leader was heard last.
    pub(crate) fn last_heard(&self) -> Option<Instant> {
        self.lock().leader.map(|(_, at)| at)
    }

    /// Notes which leader another machine hears.
    pub(crate) fn hear_of(&self, leader: LeaderHint) {
        self.lock().leader_hint = Some(leader);
    }

    /// Returns the leader that another machine hears, once.
    pub(crate) fn take_leader_hint(&self) -> Option<LeaderHint> {
        self.lock().leader_hint.take()
    }

    /// Notes that a machine has accepted what it was asked at this time.
    pub(crate) fn answered(&self, node: NodeId, asked: Instant) {
        let mut heard = self.lock();
        let at = heard.answered.entry(node).or_insert(asked);
        *at = asked.max(*at);
        heard.reached.insert(node, Instant::now());
    }

    /// Notes that a machine has said something, be it that it votes for another one.
    pub(crate) fn reached(&self, node: NodeId) {
        self.lock().reached.insert(node, Instant::now());
    }

    /// Returns whether a machine has said anything within this time.
    pub(crate) fn has_reached(&self, node: NodeId, within: Duration) -> bool {
        self.lock().reached.get(&node).is_some_and(|at| at.elapsed() < within)
    }

    /// Notes that this machine leads no longer in a term: nothing is sent in it.
    pub(crate) fn fall_silent(&self, term: Term) {
        self.lock().silent = Some(term);
    }

    /// Returns whether this machine leads no longer in a term.
    pub(crate) fn is_silent(&self, term: Term) -> bool {
        self.lock().silent.is_some_and(|silent| silent >= term)
    }

    /// Leaves it to others to lead for a while.
    pub(crate) fn stand_back(&self, time: Duration) {
        self.lock().stands_back = Some(Instant::now() + time);
    }

    /// Returns whether this machine leaves it to others to lead.
    pub(crate) fn stands_back(&self) -> bool {
        self.lock().stands_back.is_some_and(|until| Instant::now() < until)
    }

    /// Returns whether a machine has answered what was asked within this time.
    pub(crate) fn has_answered(&self, node: NodeId, within: Duration) -> bool {
        self.lock().answered.get(&node).is_some_and(|at| at.elapsed() < within)
    }

    /// Returns whether a majority, this machine among it, has answered what was
    /// asked within this time.
    pub(crate) fn has_majority(
        &self,
        me: NodeId,
        membership: &Membership<u64, BasicNode>,
        within: Duration,
    ) -> bool {
        self.has_majority_without(me, membership, within, None)
    }

    /// Returns the same for the members but one.
    pub(crate) fn has_majority_without(
        &self,
        me: NodeId,
        membership: &Membership<u64, BasicNode>,
        within: Duration,
        without: Option<NodeId>,
    ) -> bool {
        let heard = self.lock();
        let has_answered = |node| heard.answered.get(&node);
        let is_near = |node: u64| {
            node == me.0 || has_answered(NodeId(node)).is_some_and(|at| at.elapsed() < within)
        };
        quorum::has_majority(membership.get_joint_config(), without.map(|node| node.0), is_near)
    }

    /// Notes that this machine is no longer a member of the cluster.
    pub(crate) fn removed(&self) {
        self.removed.send_replace(true);
    }

    /// Notes that another process of this machine runs at an address.
    pub(crate) fn runs_elsewhere(&self, address: Arc<str>) {
        self.elsewhere.send_replace(Some(address));
    }

    /// Waits until another process of this machine turns out to run; returns where.
    pub(crate) async fn until_elsewhere(&self) -> Arc<str> {
        let mut elsewhere = self.elsewhere.subscribe();
        let found = elsewhere.wait_for(Option::is_some).await;
        match found.ok().and_then(|found| found.clone()) {
            Some(address) => address,
            // The sending end lives as long as this one.
            None => std::future::pending().await,
        }
    }

    /// Waits until this machine is no longer a member of the cluster.
    pub(crate) async fn until_removed(&self) {
        let mut removed = self.removed.subscribe();
        // The sending end lives as long as this one.
        let _removed = removed.wait_for(|removed| *removed).await.is_ok();
    }

    fn lock(&self) -> MutexGuard<'_, Contacts> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const LATELY: Duration = Duration::from_mins(1);

    fn members(voters: &[&[u64]]) -> Membership<u64, BasicNode> {
        let voters = voters.iter().map(|set| set.iter().copied().collect::<BTreeSet<_>>());
        let voters: Vec<_> = voters.collect();
        let nodes = voters.iter().flatten().map(|node| (*node, BasicNode::new("")));
        let nodes: BTreeMap<_, _> = nodes.collect();
        Membership::new(voters, nodes)
    }

    #[test]
    fn machine_counts_itself_only_if_it_has_a_vote() {
        let liveness = Liveness::default();
        liveness.answered(NodeId(2), Instant::now());
        let near = |voters: &[&[u64]]| liveness.has_majority(NodeId(1), &members(voters), LATELY);
        assert!(near(&[&[1, 2, 3]]) && !near(&[&[2, 3, 4]]));
        let without = liveness.has_majority_without(
            NodeId(1),
            &members(&[&[1, 2, 3]]),
            LATELY,
            Some(NodeId(2)),
        );
        assert!(!without);
    }

    #[test]
    fn what_was_asked_too_long_ago_does_not_count() {
        let (liveness, membership) = (Liveness::default(), members(&[&[1, 2, 3]]));
        let within = Duration::ZERO;
        liveness.answered(NodeId(2), Instant::now());
        assert!(!liveness.has_majority(NodeId(1), &membership, within));
        assert!(!liveness.has_answered(NodeId(2), within));
        assert!(liveness.has_majority(NodeId(1), &membership, LATELY));
        let vote = |term, node| Vote { term: Term(term), node: NodeId(node), committed: true };
        liveness.heard_leader(vote(2, 3));
        assert_eq!((liveness.leader(LATELY), liveness.leader(within)), (Some(NodeId(3)), None));
        // Whoever led before is known from before it led itself.
        assert_eq!(liveness.leader_beyond(vote(3, 1), LATELY), None);
        assert_eq!(liveness.leader_beyond(vote(1, 1), LATELY), Some(NodeId(3)));
    }

    #[test]
    fn silence_is_kept_for_a_term() {
        let liveness = Liveness::default();
        assert!(!liveness.is_silent(Term(1)));
        liveness.fall_silent(Term(3));
        assert!(liveness.is_silent(Term(2)) && liveness.is_silent(Term(3)));
        assert!(!liveness.is_silent(Term(4)), "it was elected again");
    }
}
