//! Heeding: which machines this one listens to.
//!
//! ```text
//! a frame comes ─▶ from a member, as this machine has applied the log? ─▶ yes: it is heard
//!                    │ no: it may have joined since                        ▲
//!                    └─▶ ask the members: do you know it? ─▶ one does ─────┘
//!                                                   └─▶ none does: a stranger
//! ```
//!
//! A follower that is behind does not know who has joined since, and that may be the
//! leader, from whom alone it can learn so. So it asks those whom it knows. If none of
//! them hears a leader either, they know no more than this machine, or are gone for good:
//! then the stranger is heard, for he may be all that is left to lead.
//!
//! Whoever was a member is heard for a while longer: a leader that removes itself still
//! has to tell the others that it has. And who knows nobody yet listens to everybody of
//! its cluster.
//!
//! *Limit*: who a machine is, it says itself.

use std::time::Duration;

use etcd_log::NodeId;
use futures_util::future::join_all;

use super::acquaintance::{FRESH, HEARD};
use super::handle::Node;
use crate::peers::{Request, Response};

/// How long a member may take to say whether it knows a machine.
const LIMIT: Duration = Duration::from_millis(500);

impl Node {
    /// Returns whether a machine is listened to by now. If not, the others are asked.
    pub(super) fn heeds(&self, node: NodeId) -> bool {
        let acquaintance = &self.inner.acquaintance;
        if acquaintance.knew(node, FRESH) {
            return true;
        }
        if self.is_member(node) || self.knows_nobody() {
            acquaintance.note(node);
            return true;
        }
        if acquaintance.knew(node, HEARD) {
            return true;
        }
        if node != NodeId(0) && acquaintance.is_to_be_asked_about(node) {
            tokio::spawn(self.clone().ask_about(node));
        }
        false
    }

    pub(super) fn is_member(&self, node: NodeId) -> bool {
        let known = self.now().state.machines().iter().any(|machine| machine.node == node);
        known || self.inner.consensus.membership().nodes.contains_key(&node)
    }

    /// Whether nobody has told this machine yet who the members are.
    fn knows_nobody(&self) -> bool {
        self.now().state.machines().iter().next().is_none()
            && self.inner.consensus.membership().nodes.is_empty()
    }

    /// Returns the members that this machine knows, without itself.
    pub(super) fn others(&self) -> Vec<NodeId> {
        let machines = self.inner.published.machines();
        for machine in machines.iter() {
            let peers = &self.inner.peers;
            peers.note_name(machine.node, &machine.name);
            if peers.address(machine.node).is_none() {
                peers.learn(machine.node, machine.peer_address());
            }
        }
        let mut others: Vec<_> = machines.iter().map(|machine| machine.node).collect();
        others.extend(self.inner.consensus.membership().nodes.into_keys());
        others.sort();
        others.dedup();
        others.retain(|node| *node != self.inner.machine.node);
        others
    }

    async fn ask_about(self, node: NodeId) {
        let request = Request::Knows { node };
        let others = self.others();
        let others = others.into_iter().filter(|other| *other != node);
        let asking = others.map(|other| self.inner.peers.ask(other, &request, &[], LIMIT));
        let answers = join_all(asking).await;
        self.inner.acquaintance.was_asked_about();
        // Who is alone is not led by anybody else.
        let has_others = !answers.is_empty();
        let (mut is_known, mut one_is_led) = (false, false);
        for answer in answers {
            if let Ok(Response::Knows { is_member, is_led, .. }) = answer {
                is_known |= is_member;
                one_is_led |= is_led;
            }
        }
        if is_known {
            tracing::info!("machine {node} is listened to: a member knows it");
        } else if has_others && !one_is_led && self.inner.consensus.leader().is_none() {
            tracing::info!(
                "machine {node} is listened to: no member hears a leader, and it may be one"
            );
        } else {
            return;
        }
        self.inner.acquaintance.note(node);
    }
}
