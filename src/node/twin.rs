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
//! It is asked there twice, for neither time finds all. Where its own log says that it is,
//! a machine asks before it votes, as consensus starts (`make_sure_of_being_alone`). But a
//! copy may be older than the other one's move, and find in its log that it is where it
//! is: where it is by now, only the members know, and they can be asked once it runs.
//!
//! A frame that comes says nothing of the kind that would be believed, for anybody could
//! stop a machine with it: only the log counts, and what members answer who are asked.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::NodeId;

use super::Node;
use super::announcement::Announcement;
use super::rpc::BARRIER_LIMIT;
use crate::consensus::Role;
use crate::peers::{Request, Response};

/// How often a machine looks whether it is announced elsewhere.
const INTERVAL: Duration = Duration::from_millis(200);

/// How long a leader may take to say where a machine is.
const LIMIT: Duration = BARRIER_LIMIT.saturating_mul(2);

impl Node {
    /// Waits until this machine turns out to run somewhere else as well; returns where.
    pub async fn until_elsewhere(&self) -> Arc<str> {
        let mut announcement = self.inner.announcement.subscribe();
        loop {
            if let Announcement::Elsewhere(address) = &*announcement.borrow_and_update() {
                return Arc::clone(address);
            }
            tokio::select! {
                changed = announcement.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                }
                address = self.inner.consensus.until_elsewhere() => return address,
            }
        }
    }

    /// Goes on from one step to the next, in which nobody else may be found who goes
    /// before; returns whether it does.
    pub(super) fn goes_on(&self, from: &Announcement, to: &Announcement) -> bool {
        self.inner.announcement.send_if_modified(|announcement| {
            let goes_on = announcement == from;
            if goes_on {
                announcement.clone_from(to);
            }
            goes_on
        })
    }

    /// Stops, before it says anything, if another process of this machine runs where the
    /// members say that it is.
    pub(super) async fn look_for_twin_at(&self, address: &str) {
        if self.inner.peers.has_twin_at(address).await {
            self.goes_on(&Announcement::Unannounced, &Announcement::Elsewhere(Arc::from(address)));
        }
    }

    /// Looks out for an announcement of this machine that this process has not made.
    pub(super) async fn look_out(self) {
        let mut closing = self.closing();
        while !closing.has_begun() {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = closing.begun() => return,
            }
            let announcement = self.inner.announcement.borrow().clone();
            match announcement {
                Announcement::Unannounced => {
                    // It has moved, unless it is still there.
                    if let Some(address) = self.ask_where_it_is().await {
                        self.look_for_twin_at(&address).await;
                    }
                }
                Announcement::Announcing => {}
                Announcement::Announced => {
                    let mut found = self.other_address();
                    if found.is_none() && self.inner.consensus.role() == Role::NoLeader {
                        found = self.ask_where_it_is().await;
                    }
                    if let Some(address) = found {
                        self.goes_on(&Announcement::Announced, &Announcement::Elsewhere(address));
                    }
                }
                Announcement::Elsewhere(_) => return,
            }
        }
    }

    /// Returns where this machine is reached as this machine has applied the log, if that
    /// is not where it is.
    fn other_address(&self) -> Option<Arc<str>> {
        self.address_of_member(self.inner.machine.node)
            .filter(|address| **address != *self.own_address())
    }

    /// Asks the leader the same, whichever member that is.
    async fn ask_where_it_is(&self) -> Option<Arc<str>> {
        let request = Request::Knows { node: self.inner.machine.node };
        let asking = self.others().into_iter();
        let asking = asking.map(|node| self.inner.peers.ask(node, &request, &[], LIMIT));
        let answers = futures_util::future::join_all(asking).await;
        answers.into_iter().find_map(|answer| match answer {
            Ok(Response::Knows { address, .. }) => {
                address.filter(|known| **known != *self.own_address())
            }
            Ok(_) | Err(_) => None,
        })
    }

    fn own_address(&self) -> &str {
        self.inner.machine.peer_address()
    }

    fn address_of_member(&self, node: NodeId) -> Option<Arc<str>> {
        let now = self.now();
        let known = now.state.machines().iter().find(|known| known.node == node)?;
        Some(Arc::from(known.peer_address()))
    }

    /// Says whether this machine knows another one as a member; and to that one, if this
    /// machine leads, where the log says that it is.
    pub(super) async fn tell_of(&self, from: NodeId, node: NodeId) -> Response {
        let consensus = &self.inner.consensus;
        let is_led = consensus.leader().is_some();
        let mut address = None;
        if from == node && consensus.leads() {
            // It counts for good, so it must not be from before another leader's time.
            let has_passed = self.inner.barrier.pass(BARRIER_LIMIT).await.is_ok();
            address = self.address_of_member(node).filter(|_| has_passed && consensus.leads());
        }
        Response::Knows { is_member: self.is_member(node), is_led, address }
    }
}
