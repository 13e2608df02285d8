//! The read barrier: makes reads linearizable, many at a time.
//!
//! ```text
//! reads ─▶ those that wait ─▶ leader: "do I lead now?" ─┬─▶ upto which entry? ─▶ each reads once
//!                            follower: asks the leader ──┘                      that is applied
//! ```
//!
//! One round serves all reads that waited when it began. A read that comes later
//! waits for the next round: the proof of a round counts only for reads that were
//! asked for before it (Raft, section 6.4 of the dissertation).

use std::time::Duration;

use etcd_log::{NodeId, RaftIndex};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::error::{Unavailable, unavailable};
use super::proposer::RETRY;
use crate::consensus::{Consensus, Role};
use crate::peers::{Peers, Request, Response};
use crate::state::published::{Published, StateReader};

/// How many reads may wait. Beyond it, reads wait to wait.
const QUEUE: usize = 16 << 10;

/// How long a round may take. Its reads have time limits of their own.
const ROUND_LIMIT: Duration = Duration::from_secs(1);

type Passed = Result<Option<RaftIndex>, Unavailable>;

/// The way through the barrier.
#[derive(Clone, Debug)]
pub(super) struct Barrier {
    queue: mpsc::Sender<oneshot::Sender<Passed>>,
    consensus: Consensus,
    published: StateReader,
}

impl Barrier {
    /// Starts the barrier's task.
    pub(super) fn start(consensus: Consensus, peers: Peers, published: StateReader) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(consensus.clone(), peers, waiting));
        Self { queue, consensus, published }
    }

    /// Waits until the published state contains every write that was answered
    /// before this call, trying again until `limit` has passed.
    pub(super) async fn pass(&self, limit: Duration) -> Result<(), Unavailable> {
        // A try waits for two rounds at most. Mostly it succeeds at once, and setting a
        // timer would be a good part of its cost.
        let deadline = Instant::now() + limit;
        if limit > 2 * ROUND_LIMIT
            && let Ok(upto) = self.pass_once().await
        {
            return self.applied(upto, deadline).await;
        }
        let passing = async {
            loop {
                match self.pass_once().await {
                    Ok(upto) => break upto,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            }
        };
        let passed = tokio::time::timeout_at(deadline, passing).await;
        let upto = passed.map_err(|_| unavailable(&self.consensus))?;
        self.applied(upto, deadline).await
    }

    /// Waits until this machine has applied an entry.
    async fn applied(&self, upto: Option<RaftIndex>, deadline: Instant) -> Result<(), Unavailable> {
        let has_applied = |now: &Published| now.applied.map(|id| id.index) >= upto;
        if has_applied(&self.published.now()) {
            return Ok(());
        }
        let applied = tokio::time::timeout_at(deadline, self.published.wait_for(has_applied)).await;
        applied.ok().flatten().map(drop).ok_or_else(|| unavailable(&self.consensus))
    }

    /// Tries once to pass, and returns which entry must be applied before a read.
    pub(super) async fn pass_once(&self) -> Passed {
        let (sender, passed) = oneshot::channel();
        self.queue.send(sender).await.map_err(|_| Unavailable::NoLeader)?;
        passed.await.unwrap_or(Err(Unavailable::NoLeader))
    }
}

async fn run(
    consensus: Consensus,
    peers: Peers,
    mut queue: mpsc::Receiver<oneshot::Sender<Passed>>,
) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, QUEUE).await > 0 {
        let round = round(&consensus, &peers);
        let round = tokio::time::timeout(ROUND_LIMIT, round).await;
        let result = round.unwrap_or(Err(Unavailable::NoMajority));
        for sender in waiting.drain(..) {
            // Whoever does not wait any longer needs no answer.
            let _gone = sender.send(result);
        }
    }
}

async fn round(consensus: &Consensus, peers: &Peers) -> Passed {
    match consensus.role() {
        Role::Leader => consensus.read_barrier().await.map_err(|_| Unavailable::NoMajority),
        Role::Follower(leader) => ask(peers, leader).await,
        Role::LeaderWithoutQuorum => Err(Unavailable::NoMajority),
        Role::NoLeader => Err(Unavailable::NoLeader),
    }
}

/// Passes the leader's barrier, together with the reads that wait there.
async fn ask(peers: &Peers, leader: NodeId) -> Passed {
    match peers.ask(leader, &Request::Barrier, &[], ROUND_LIMIT).await {
        Ok(Response::Barrier { upto }) => Ok(upto),
        Ok(_) | Err(_) => Err(Unavailable::NoLeader),
    }
}
