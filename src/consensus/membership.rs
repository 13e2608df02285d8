//! Changes of the Raft group, one at a time (Raft, section 6).

use std::collections::{BTreeMap, BTreeSet};

use etcd_log::NodeId;
use openraft::{BasicNode, ChangeMembers};

use super::engine::{Consensus, ConsensusError, failed};
use super::quorum;

impl Consensus {
    /// Finishes a change of the group that was cut short: leaves the joint configuration.
    ///
    /// # Errors
    ///
    /// As [`Self::add_learner`].
    pub async fn leave_joint_config(&self) -> Result<(), ConsensusError> {
        let change = ChangeMembers::AddVoterIds(BTreeSet::new());
        self.change("leave the joint configuration", change, false).await
    }

    /// Lets a machine into the group, without a vote at first.
    ///
    /// # Errors
    ///
    /// If this machine does not lead, or another change is under way.
    pub async fn add_learner(&self, node: NodeId, address: &str) -> Result<(), ConsensusError> {
        let learner = BTreeMap::from([(node.0, BasicNode::new(address))]);
        self.change("add a learner", ChangeMembers::AddNodes(learner), true).await
    }

    /// Gives a learner its vote.
    ///
    /// # Errors
    ///
    /// As [`Self::add_learner`].
    pub async fn promote(&self, node: NodeId) -> Result<(), ConsensusError> {
        let voter = BTreeSet::from([node.0]);
        self.change("add a voter", ChangeMembers::AddVoterIds(voter), true).await
    }

    /// Removes a machine from the group.
    ///
    /// # Errors
    ///
    /// As [`Self::add_learner`].
    pub async fn remove(&self, node: NodeId) -> Result<(), ConsensusError> {
        let nodes = BTreeSet::from([node.0]);
        let votes = quorum::is_voter(&self.membership().voters, &node);
        let change = if votes {
            ChangeMembers::RemoveVoters(nodes)
        } else {
            ChangeMembers::RemoveNodes(nodes)
        };
        self.change("remove a member", change, false).await
    }

    /// Notes where a member is reached by now.
    ///
    /// # Errors
    ///
    /// As [`Self::add_learner`].
    pub async fn set_address(&self, node: NodeId, address: &str) -> Result<(), ConsensusError> {
        let moved = BTreeMap::from([(node.0, BasicNode::new(address))]);
        self.change("move a member", ChangeMembers::SetNodes(moved), true).await
    }

    async fn change(
        &self,
        action: &'static str,
        change: ChangeMembers<u64, BasicNode>,
        retain: bool,
    ) -> Result<(), ConsensusError> {
        let changed = self.raft.change_membership(change, retain).await;
        changed.map(drop).map_err(|error| failed(action, error))
    }
}
