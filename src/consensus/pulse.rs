//! The pulse: what a leader says beside its entries, and when it gives way.
//!
//! ```text
//! leader ─┬─ entries ──────────────────▶ follower     long on their way, or on its disk
//!         └─ "I am there"  "I am there" ─▶            whenever it has not answered lately
//!                        ◀─ answers: a majority is there
//! ```
//!
//! openraft sends no heartbeat to a follower while entries are on their way to it; so
//! this is said beside them, and needs neither disk nor openraft. And openraft leaves a
//! leader in office that nobody answers, or whose disk hangs: it would be heard for
//! ever, and nobody else elected. Such a leader falls silent, and gives way (check
//! quorum; Raft dissertation, section 6.2):
//!
//! * if no majority has answered it for an election time-out;
//! * if its own disk keeps waiting what others have on theirs, and they are a majority
//!   of themselves: for as long as an election takes, or for half of the time lately.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use etcd_log::{NodeId, Vote};
use openraft::raft::VoteRequest;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::engine::{Consensus, Parts};
use super::types::{from_log_id, from_vote};
use crate::peers::{Request, Response};

/// What "lately" means for a disk that is slow for long.
const LATELY: Duration = Duration::from_secs(10);

/// For how many beats in a row a majority must be silent.
const UNHEARD: u32 = 3;

/// For how long a machine whose disk was too slow does not stand for election.
const STANDS_BACK: Duration = Duration::from_secs(10);

/// Who has no id.
const NOBODY: NodeId = NodeId(0);

/// What the leader's task keeps from one beat to the next.
#[derive(Default)]
struct Beats {
    /// The signs of life that have not been answered yet.
    unanswered: BTreeMap<NodeId, JoinHandle<()>>,
    /// For how many beats no majority has answered.
    unheard: u32,
    /// The try to step down that is under way.
    stepping_down: Option<JoinHandle<()>>,
}

/// Why a leader gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// No majority has answered.
    Unheard,
    /// Its disk keeps all waiting.
    Disk(Duration),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unheard => f.write_str("no majority answers"),
            Self::Disk(delay) => {
                write!(f, "its disk kept the others waiting for {} ms", delay.as_millis())
            }
        }
    }
}

/// Speaks up while this machine leads, and gives way when it is time. Ends with the
/// engine.
pub(super) async fn run(consensus: Consensus) {
    let mut beats = Beats::default();
    while !consensus.has_stopped() {
        tokio::time::sleep(consensus.timing.heartbeat).await;
        match consensus.leads_by() {
            None => beats = Beats::default(),
            Some(vote) if consensus.liveness.is_silent(vote.term) => {
                beats.step_down(&consensus, vote);
            }
            Some(vote) => match beats.reason_to_give_way(&consensus) {
                None => beats.speak(&consensus, vote),
                Some(reason) => give_way(&consensus, vote, reason),
            },
        }
    }
}

/// Falls silent in a term.
fn give_way(consensus: &Consensus, vote: Vote, reason: Reason) {
    tracing::warn!("this machine leads no longer in term {}: {reason}", vote.term.0);
    if let Reason::Disk(_) = reason {
        consensus.liveness.stand_back(STANDS_BACK);
    }
    consensus.liveness.fall_silent(vote.term);
}

impl Beats {
    /// Says to every machine that has not answered lately that this one leads.
    fn speak(&mut self, consensus: &Consensus, vote: Vote) {
        let Parts { liveness, timing, .. } = &**consensus;
        for node in consensus.membership().nodes.into_keys() {
            let is_asked = self.unanswered.get(&node).is_some_and(|asked| !asked.is_finished());
            let has_answered = liveness.has_answered(node, timing.heartbeat * 2);
            if node != consensus.me && !is_asked && !has_answered {
                self.unanswered.insert(node, tokio::spawn(speak_to(consensus.clone(), node, vote)));
            }
        }
    }

    /// Returns why this leader had better give way, if it had.
    fn reason_to_give_way(&mut self, consensus: &Consensus) -> Option<Reason> {
        let Parts { timing, unsynced, .. } = &**consensus;
        // A machine that was paused has the answers, and has not read them yet: beats are
        // counted, and not time.
        self.unheard = if consensus.hears_majority() { 0 } else { self.unheard + 1 };
        if self.unheard > 0 {
            return (self.unheard >= UNHEARD).then_some(Reason::Unheard);
        }
        let (now, in_all) = unsynced.delay(LATELY);
        let is_slow = now >= timing.election.1 || in_all >= LATELY / 2;
        (is_slow && consensus.has_quorum_without(consensus.me)).then_some(Reason::Disk(in_all))
    }

    /// Makes openraft see that it leads no longer. It has no word for that; so it is told
    /// that nobody stands in the next term: a machine with an id that none has, and that is
    /// lower than any other, so that whoever really stands then gets this machine's vote. A
    /// disk that hangs keeps that from being written: then openraft goes on believing, in
    /// silence.
    fn step_down(&mut self, consensus: &Consensus, vote: Vote) {
        if self.stepping_down.as_ref().is_some_and(|before| !before.is_finished()) {
            return;
        }
        let later = Vote { term: vote.term.next(), node: NOBODY, committed: false };
        let last = consensus.last_entry().map(from_log_id);
        let (raft, request) = (consensus.raft.clone(), VoteRequest::new(from_vote(later), last));
        self.stepping_down = Some(tokio::spawn(async move {
            // If it is refused, it is tried again at the next beat.
            let _voted = raft.vote(request).await;
        }));
    }
}

/// Says to a machine that this one leads, and notes its answer.
async fn speak_to(consensus: Consensus, node: NodeId, vote: Vote) {
    let asked = Instant::now();
    let request = Request::Pulse { vote, time: consensus.clock.now() };
    let limit = consensus.timing.election.0;
    let answer = consensus.peers.ask(node, &request, &[], limit).await;
    // Whoever follows another one by now tells openraft so, with the next entries.
    if let Ok(Response::Pulse { vote: known }) = answer
        && (known.term, known.node) <= (vote.term, vote.node)
    {
        consensus.liveness.answered(node, asked);
    }
}
