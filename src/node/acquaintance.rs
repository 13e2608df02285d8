//! Acquaintance: which machines this one listens to.
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

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_log::NodeId;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::Node;
use crate::peers::{Answer, Question};

/// For how long it need not be looked up again that a machine is a member.
const FRESH: Duration = Duration::from_secs(1);

/// How long a machine is heard after it was known as a member last.
const HEARD: Duration = Duration::from_secs(10);

/// How long a member may take to say whether it knows a machine.
const LIMIT: Duration = Duration::from_millis(500);

/// How long after a question another one follows about the same machine.
const PAUSE: Duration = Duration::from_millis(500);

/// How many strangers are asked about at a time. An answer takes no longer than a round
/// trip, so that many with ids that they make up do not keep out one that is real.
const MOST: usize = 8;

/// Of how many strangers it is remembered that they were asked about.
const REMEMBERED: usize = 1000;

/// Whom this machine knows.
#[derive(Debug, Default)]
pub(super) struct Acquaintance {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When each machine was known as a member last.
    members: BTreeMap<NodeId, Instant>,
    /// When the others were asked last about each stranger.
    strangers: BTreeMap<NodeId, Instant>,
    /// How many they are being asked about.
    asked_about: usize,
}

impl Acquaintance {
    /// Notes that a machine is a member, or may be the one that leads.
    fn note(&self, node: NodeId) {
        let mut known = self.lock();
        known.members.retain(|_, at| at.elapsed() < HEARD);
        known.members.insert(node, Instant::now());
    }

    fn knew(&self, node: NodeId, within: Duration) -> bool {
        self.lock().members.get(&node).is_some_and(|at| at.elapsed() < within)
    }

    /// Returns whether it is time to ask about a machine, and notes that it is asked.
    fn is_to_be_asked_about(&self, node: NodeId) -> bool {
        let Known { strangers, asked_about, .. } = &mut *self.lock();
        strangers.retain(|_, at| at.elapsed() < PAUSE);
        let is_due = *asked_about < MOST && !strangers.contains_key(&node);
        if is_due {
            *asked_about += 1;
            if strangers.len() < REMEMBERED {
                strangers.insert(node, Instant::now());
            }
        }
        is_due
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
        let question = Question::Knows { node };
        let others = self.others();
        let others = others.into_iter().filter(|other| *other != node);
        let asking = others.map(|other| self.inner.peers.ask(other, &question, &[], LIMIT));
        let answers = join_all(asking).await;
        self.inner.acquaintance.lock().asked_about -= 1;
        // Who is alone is not led by anybody else.
        let has_others = !answers.is_empty();
        let (mut is_known, mut one_is_led) = (false, false);
        for answer in answers {
            if let Ok(Answer::Knows { is_member, is_led, .. }) = answer {
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
