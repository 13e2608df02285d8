//! Reconciling: the leader brings the Raft group to what the log says, step by step.
//!
//! ```text
//! between two sets of voters? ─▶ finish that
//!   └─▶ a node that the log does not name? ─▶ remove it, and tell it so
//!         └─▶ a machine that is no node yet? ─▶ add it, without a vote
//!               └─▶ another address? ─▶ note it
//!                     └─▶ no vote, and near the end of the log? ─▶ give it one
//! ```
//!
//! A step is worked out from what is there, and from nothing that was noted before: it
//! does not matter who took the last one, or whether it was cut short.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{Membership, NodeId, RaftIndex};
use etcd_projections::Machines;

use super::members::{INTERVAL, STANDING_LIMIT};
use super::{Freshness, Node};
use crate::consensus::ConsensusError;
use crate::util::error_chain::ErrorChain;

/// How far behind a learner's log may be when it gets its vote, in entries: it has
/// them before they would be missed.
const NEAR: u64 = 100;

/// How long a step of the group may take.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// A step that brings the group nearer to what the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Finish a change that was cut short between two sets of voters.
    LeaveJointConfig,
    Remove(NodeId),
    Add(NodeId, Arc<str>),
    Move(NodeId, Arc<str>),
    Promote(NodeId),
}

impl Node {
    /// Brings the Raft group to what the log says, while this machine leads.
    pub(super) async fn reconcile(self) {
        let mut closing = self.closing();
        while !closing.has_begun() {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = closing.begun() => return,
            }
            if self.inner.consensus.leads() && self.next_step().is_some() {
                self.take_step().await;
            }
        }
    }

    async fn take_step(&self) {
        // What was applied last may be from before other leaders' times.
        if self.read(Freshness::Linearizable, STANDING_LIMIT).await.is_err() {
            return;
        }
        let Some(step) = self.next_step() else { return };
        tracing::debug!("the group follows the log: {step:?}");
        // openraft may never answer a leader that was overruled meanwhile.
        match tokio::time::timeout(STEP_LIMIT, self.carry_out(&step)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!("the group could not follow yet: {}", ErrorChain(&error));
                return;
            }
            Err(_) => return,
        }
        if let Step::Remove(node) = step {
            self.say_farewell(node);
        }
    }

    /// What has to be done next for the group to be what the log says.
    fn next_step(&self) -> Option<Step> {
        let consensus = &self.inner.consensus;
        let membership = consensus.membership();
        let machines = self.inner.published.machines();
        // As long as nobody has been introduced, nothing is wanted.
        machines.iter().next()?;
        let near = consensus.last_entry()?.index.0.saturating_sub(NEAR);
        let matched = consensus.matched();
        let is_near = |node| {
            matched.get(&node).is_some_and(|at| *at >= RaftIndex(near)) && consensus.hears(node)
        };
        next_step(&membership, &machines, is_near)
    }

    async fn carry_out(&self, step: &Step) -> Result<(), ConsensusError> {
        let consensus = &self.inner.consensus;
        match step {
            Step::LeaveJointConfig => consensus.leave_joint_config().await,
            Step::Remove(node) => consensus.remove(*node).await,
            Step::Add(node, address) => consensus.add_learner(*node, address).await,
            Step::Move(node, address) => consensus.set_address(*node, address).await,
            Step::Promote(node) => consensus.promote(*node).await,
        }
    }
}

fn next_step(
    membership: &Membership,
    machines: &Machines,
    is_near: impl Fn(NodeId) -> bool,
) -> Option<Step> {
    if membership.voters.len() > 1 {
        return Some(Step::LeaveJointConfig);
    }
    let is_wanted = |node| machines.iter().any(|machine| machine.node == node);
    if let Some(node) = membership.nodes.keys().find(|node| !is_wanted(**node)) {
        return Some(Step::Remove(*node));
    }
    machines.iter().find_map(|machine| {
        let (node, address) = (machine.node, machine.peer_address());
        let votes = membership.voters.iter().any(|voters| voters.contains(&node));
        match membership.nodes.get(&node) {
            None => Some(Step::Add(node, Arc::from(address))),
            Some(known) if **known != *address => Some(Step::Move(node, Arc::from(address))),
            Some(_) if !votes && is_near(node) => Some(Step::Promote(node)),
            Some(_) => None,
        }
    })
}

#[cfg(test)]
mod scripts;
