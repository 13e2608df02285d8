//! Farewell: how a machine gets to know that it is no longer a member.
//!
//! ```text
//! "you have been removed" ─▶ ask the members: would you vote for me? ─▶ the leader: removed
//!   whoever says so            those that the log names, and who leads       it counts
//! ```
//!
//! Anybody can say it, so nobody is believed: it is a hint to ask. Whom to ask, this
//! machine knows from its own log and its command line; the leader proves that it leads
//! before it says that another machine is no member (`answers`).

use std::time::Duration;

use etcd_log::NodeId;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::{Node, rpc};
use crate::peers::{CallError, LeaderHint, Refusal, Request, Response};

/// How long each may take to answer: a leader has to prove first that it leads.
const LIMIT: Duration = rpc::BARRIER_LIMIT.saturating_mul(2);

/// How many leaders are asked that others name: there is one, and some that were.
const LEADERS: usize = 8;

/// What a machine is told that asks whether it is still a member.
enum Told {
    Removed,
    AskLeader(LeaderHint),
    Nothing,
}

impl Node {
    /// Takes in that somebody says this machine was removed.
    pub(super) async fn hear_farewell(&self) -> Result<Response, Refusal> {
        // Whoever repeats it waits until the first one is looked into.
        let _one_at_a_time = self.inner.farewell.try_lock().map_err(|_| Refusal::NotReady)?;
        if !self.has_been_removed().await {
            return Err(Refusal::NotReady);
        }
        self.inner.consensus.removed();
        Ok(Response::Done)
    }

    /// Asks the cluster whether this machine has been removed.
    async fn has_been_removed(&self) -> bool {
        let address = self.inner.machine.peer_address();
        let request = Request::PreVote { last: None, address: address.into() };
        let mut leaders = Vec::new();
        let (mut asking, mut led) = (FuturesUnordered::new(), FuturesUnordered::new());
        for node in self.others() {
            asking.push(self.ask_member(node, &request));
        }
        let mut hints: FuturesUnordered<_> =
            self.inner.hints.iter().map(|hint| self.ask_hint(hint, &request)).collect();
        loop {
            let told = tokio::select! {
                Some(told) = asking.next() => told,
                Some(told) = hints.next() => told,
                Some(told) = led.next() => told,
                else => return false,
            };
            match told {
                Told::Removed => return true,
                Told::AskLeader(leader)
                    if leaders.len() < LEADERS && !leaders.contains(&leader) =>
                {
                    leaders.push(leader.clone());
                    led.push(self.ask_leader(leader, &request));
                }
                Told::AskLeader(_) | Told::Nothing => {}
            }
        }
    }

    async fn ask_member(&self, node: NodeId, request: &Request) -> Told {
        told(self.inner.peers.ask(node, request, &[], LIMIT).await)
    }

    async fn ask_leader(&self, leader: LeaderHint, request: &Request) -> Told {
        told(self.inner.peers.ask_hinted(&leader, request, LIMIT).await)
    }

    async fn ask_hint(&self, address: &str, request: &Request) -> Told {
        told(self.inner.peers.ask_at(address, request, LIMIT).await.map(|(_, answer)| answer))
    }
}

fn told(answer: Result<Response, CallError>) -> Told {
    match answer {
        Ok(Response::PreVote { following: Some(leader), .. }) => Told::AskLeader(leader),
        Err(CallError::Refused { refusal: Refusal::Removed, .. }) => Told::Removed,
        Ok(_) | Err(_) => Told::Nothing,
    }
}
