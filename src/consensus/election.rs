//! Elections: when a machine stands, and whether the others would have it.
//!
//! ```text
//! no word of a leader for a random time ─▶ "would you vote for me?" ─ a majority would ─▶ stand
//!             ▲                                        │ somebody hears a leader
//!             └────────────────────────────────────────┘ who learns where we are, and speaks up
//! ```
//!
//! Without the request (pre-vote; Raft dissertation, section 9.6), a machine that
//! was paused or cut off would come back with a higher term and depose a healthy
//! leader, every time.
//!
//! The request also says where the asking machine is reached by now, and the
//! answers say who leads: so a machine that has moved is found again.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{LogId, NodeId};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::engine::Consensus;
use super::quorum;
use super::status::Role;
use super::timing::Jitter;
use crate::peers::{CallError, LeaderHint, Refusal, Request, Response};

/// How long a machine waits before it asks around when it has just started: not
/// long, for nobody may be leading.
const FIRST_WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(150));

/// Where this machine is reached, and where others may be.
#[derive(Clone, Debug)]
pub(super) struct Hints {
    /// The address of this machine.
    pub(super) address: Arc<str>,
    /// Addresses that were given on the command line.
    pub(super) others: Vec<String>,
}

/// Stands for election whenever it is time. Ends with the engine.
pub(super) async fn run(consensus: Consensus, hints: Hints) {
    let mut jitter = Jitter::new(consensus.timing.seed.map(|seed| seed ^ consensus.me.0));
    let begun = Instant::now();
    let mut since = begun;
    let mut wait = if consensus.is_alone() { Duration::ZERO } else { jitter.between(FIRST_WAIT) };
    loop {
        tokio::time::sleep_until(since + wait).await;
        if consensus.has_stopped() {
            return;
        }
        let heard = consensus.liveness.last_heard().filter(|heard| *heard > since);
        if let Some(heard) = heard {
            since = heard;
        } else {
            since = Instant::now();
            // A leader without a majority asks around, too: it may have been overruled.
            let may_stand = consensus.role() != Role::Leader;
            let would_be_elected = may_stand && consensus.would_be_elected(&hints).await;
            if would_be_elected && consensus.may_stand(begun) {
                let _stood = consensus.raft.trigger().elect().await;
            }
        }
        wait = jitter.between(consensus.timing.election);
    }
}

impl Consensus {
    /// Returns whether this machine is fit to lead; or nobody else is, it seems.
    ///
    /// Whoever has given way because of its disk leaves the first tries to others. While a
    /// write is under way for long, the vote would be written behind it, and stand for an
    /// election that is over by then.
    fn may_stand(&self, begun: Instant) -> bool {
        let (delay, _) = self.unsynced.delay(Duration::ZERO);
        let is_fit = delay < self.timing.election.0 && !self.liveness.stands_back();
        let patience = self.timing.election.1 * 3;
        is_fit || self.liveness.last_heard().unwrap_or(begun).elapsed() >= patience
    }

    /// Returns whether this machine has the only vote.
    pub fn is_alone(&self) -> bool {
        self.membership().voters.iter().all(|voters| voters.iter().all(|node| *node == self.me))
            && self.has_vote()
    }

    fn has_vote(&self) -> bool {
        quorum::is_voter(&self.membership().voters, &self.me)
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.raft.metrics().borrow().running_state.is_err()
    }

    /// Asks the others whether they would vote for this machine. Returns whether a
    /// majority would, and no leader has been heard meanwhile.
    async fn would_be_elected(&self, hints: &Hints) -> bool {
        let begun = Instant::now();
        let request =
            Request::PreVote { last: self.last_entry(), address: Arc::clone(&hints.address) };
        let membership = self.membership();
        let limit = self.timing.election.0;
        let mut asking = FuturesUnordered::new();
        for node in membership.nodes.keys().filter(|node| **node != self.me) {
            let request = &request;
            asking.push(async move { (*node, self.peers.ask(*node, request, &[], limit).await) });
        }
        let mut granted = vec![self.me];
        let elected = |granted: &[NodeId]| {
            let voters = &membership.voters;
            self.has_vote() && quorum::has_majority(voters, None, |node| granted.contains(&node))
        };
        while !elected(&granted) {
            let Some((node, answer)) = asking.next().await else { break };
            if matches!(answer, Ok(_) | Err(CallError::Refused { .. })) {
                self.liveness.reached(node);
            }
            if self.heed(answer) {
                granted.push(node);
            }
        }
        if !elected(&granted) {
            // A leader may be heard meanwhile, or the next round begin.
            tokio::spawn(self.clone().look_further(hints.clone(), request.clone(), limit));
            return false;
        }
        self.liveness.last_heard().is_none_or(|heard| heard < begun)
    }

    /// Asks those whose addresses were given, too: the others may all have moved.
    async fn look_further(self, hints: Hints, request: Request, limit: Duration) {
        let mut asking = FuturesUnordered::new();
        for address in &hints.others {
            let asked = self.peers.ask_at(address, &request, limit);
            asking.push(async move { (address, asked.await) });
        }
        while let Some((address, answer)) = asking.next().await {
            if let Ok((node, _)) = &answer {
                self.peers.learn(*node, address);
            }
            self.heed(answer.map(|(_, answer)| answer));
        }
        // It may have joined or moved after this machine heard of the others last; only it
        // can say that this one is no longer a member. Where it is, the log will say.
        let hint = self.liveness.take_leader_hint();
        // Others may take this machine for the leader still.
        if let Some(leader) = hint.filter(|leader| leader.node != self.me) {
            self.heed(self.peers.ask_hinted(&leader, &request, limit).await);
        }
    }

    /// Takes in an answer. Returns whether it is a vote.
    fn heed(&self, answer: Result<Response, CallError>) -> bool {
        match answer {
            Ok(Response::PreVote { granted, following }) => {
                if let Some(leader) = following {
                    self.liveness.hear_of(leader);
                }
                granted
            }
            Err(CallError::Refused { refusal: Refusal::Removed, .. }) => {
                self.liveness.removed();
                false
            }
            Err(CallError::Refused { refusal: Refusal::RunsElsewhere(address), .. }) => {
                self.liveness.runs_elsewhere(address);
                false
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// Says whether this machine would vote for another one.
    ///
    /// The term does not matter: who stands in one that is over learns so, and stands
    /// again in a later one.
    pub fn pre_vote(&self, last: Option<LogId>) -> Response {
        let leader = self.leader();
        let hears_leader = self.liveness.leader(self.timing.election.0).is_some();
        let granted = leader != Some(self.me) && !hears_leader && last >= self.last_entry();
        let following = leader.and_then(|node| self.following(node));
        Response::PreVote { granted, following }
    }

    /// Returns where a leader is reached: where this one is, if it leads, whatever the group
    /// has written down by now.
    pub fn following(&self, node: NodeId) -> Option<LeaderHint> {
        let address = if node == self.me {
            Some(Arc::clone(&self.address))
        } else {
            self.peers.address(node)
        };
        address.map(|address| LeaderHint { node, address })
    }
}
