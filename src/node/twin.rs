//! Twins: two processes on copies of one directory would share one vote.
//!
//! ```text
//! start: the log says that I am elsewhere ─▶ ask there ─▶ I answer, in another process: stop
//!                                               │ nobody: I have moved
//!                                               └─▶ announce it ─▶ serve ─▶ announced elsewhere: stop
//! ```
//!
//! The log says where a machine is. So whoever was announced first learns from it that
//! there is another one, and stops: the last to be announced stays. One that gets no log
//! any more, because it goes to the other, asks the leader what it says.
//!
//! A frame that comes says nothing of the kind that would be believed, for anybody could
//! stop a machine with it: only the log counts, and what members answer who are asked.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::NodeId;

use super::Node;
use super::answers::BARRIER_LIMIT;
use super::members::address_of;
use crate::consensus::Role;
use crate::peers::{Answer, Question};

/// How often a machine looks whether it is announced elsewhere.
const INTERVAL: Duration = Duration::from_millis(200);

/// How long a leader may take to say where a machine is.
const LIMIT: Duration = BARRIER_LIMIT.saturating_mul(2);

impl Node {
    /// Waits until this machine turns out to run somewhere else as well; returns where.
    pub async fn until_elsewhere(&self) -> Arc<str> {
        let mut elsewhere = self.inner.elsewhere.subscribe();
        // The sending end lives as long as this node.
        let found = elsewhere.wait_for(Option::is_some).await;
        match found.ok().and_then(|found| found.clone()) {
            Some(address) => address,
            None => std::future::pending().await,
        }
    }

    /// Returns whether another process of this machine runs where the log says that it is.
    pub(super) async fn has_twin_at(&self, address: &str) -> bool {
        let is_twin = self.inner.peers.has_twin_at(address).await;
        if is_twin {
            self.inner.elsewhere.send_replace(Some(Arc::from(address)));
        }
        is_twin
    }

    /// Looks out for an announcement of this machine that this process has not made.
    pub(super) async fn look_out(self) {
        let mut closing = self.closing();
        let elsewhere = &self.inner.elsewhere;
        while !closing.has_begun() && elsewhere.borrow().is_none() {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = closing.begun() => return,
            }
            let is_introduced = *self.inner.introduced.borrow();
            let announced = if is_introduced { self.other_address() } else { None };
            if announced.is_some() {
                elsewhere.send_replace(announced);
            } else if (!is_introduced || self.inner.consensus.role() == Role::Lost)
                && let Some(address) = self.ask_where_it_is().await
            {
                if is_introduced {
                    elsewhere.send_replace(Some(address));
                } else {
                    // It has moved, unless it is still there.
                    self.has_twin_at(&address).await;
                }
            }
        }
    }

    /// Returns where this machine is reached as this machine has applied the log, if that
    /// is not where it is.
    fn other_address(&self) -> Option<Arc<str>> {
        self.address_of_member(self.inner.machine.node).filter(|address| **address != *self.place())
    }

    /// Asks the leader the same, whichever member that is.
    async fn ask_where_it_is(&self) -> Option<Arc<str>> {
        let question = Question::Knows { node: self.inner.machine.node };
        let asking = self.others().into_iter();
        let asking = asking.map(|node| self.inner.peers.ask(node, &question, &[], LIMIT));
        let answers = futures_util::future::join_all(asking).await;
        answers.into_iter().find_map(|answer| match answer {
            Ok(Answer::Knows { address, .. }) => address.filter(|known| **known != *self.place()),
            Ok(_) | Err(_) => None,
        })
    }

    fn place(&self) -> &str {
        address_of(&self.inner.machine.peer_url)
    }

    fn address_of_member(&self, node: NodeId) -> Option<Arc<str>> {
        let now = self.now();
        let known = now.state.machines().iter().find(|known| known.node == node)?;
        Some(Arc::from(address_of(&known.peer_url)))
    }

    /// Says whether this machine knows another one as a member; and to that one, if this
    /// machine leads, where the log says that it is.
    pub(super) async fn tell_of(&self, from: NodeId, node: NodeId) -> Answer {
        let consensus = &self.inner.consensus;
        let is_led = consensus.leader().is_some();
        let mut address = None;
        if from == node && consensus.leads() {
            // It counts for good, so it must not be from before another leader's time.
            let has_passed = self.inner.barrier.pass(BARRIER_LIMIT).await.is_ok();
            address = self.address_of_member(node).filter(|_| has_passed && consensus.leads());
        }
        Answer::Knows { is_member: self.is_member(node), is_led, address }
    }
}
