//! openraft's types, filled in with ours, and the way between the two.

use std::sync::Arc;

use etcd_log::{Batch, Entry, LogId, Membership, NodeId, Payload, RaftIndex, Term, Vote};
use etcd_projections::Outcome;
use openraft::{BasicNode, EntryPayload, LeaderId, StoredMembership};

use crate::storage::checkpoint::{Checkpoint, CheckpointFile};

openraft::declare_raft_types!(
    /// openraft's types, filled in with ours.
    pub TypeConfig:
        D = Arc<Batch>,
        R = Reply,
        NodeId = u64,
        Node = BasicNode,
        SnapshotData = SnapshotData,
);

/// A checkpoint, as openraft passes it around: a file; and what it holds, if it has
/// just come from another machine.
#[derive(Clone, Debug, Default)]
pub struct SnapshotData {
    /// The file.
    pub file: CheckpointFile,
    /// The last entry that it contains.
    pub applied: LogId,
    /// What it holds, read and checked.
    pub checkpoint: Option<Arc<Checkpoint>>,
}

/// What came of an entry: an outcome for each command of its batch.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The outcomes, in the order of the commands.
    pub outcomes: Vec<Outcome>,
}

/// Turns an entry of openraft's into ours.
pub fn to_entry(entry: openraft::Entry<TypeConfig>) -> Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(batch) => Payload::Batch(batch),
        EntryPayload::Membership(membership) => Payload::Membership(to_membership(&membership)),
    };
    Entry { id: to_log_id(entry.log_id), payload }
}

/// Turns an entry of ours into openraft's.
pub fn from_entry(entry: &Entry) -> openraft::Entry<TypeConfig> {
    let payload = match &entry.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Batch(batch) => EntryPayload::Normal(Arc::clone(batch)),
        Payload::Membership(membership) => EntryPayload::Membership(from_membership(membership)),
    };
    openraft::Entry { log_id: from_log_id(entry.id), payload }
}

/// Turns a log id of openraft's into ours.
pub fn to_log_id(id: openraft::LogId<u64>) -> LogId {
    let LeaderId { term, node_id } = id.leader_id;
    LogId { term: Term(term), node: NodeId(node_id), index: RaftIndex(id.index) }
}

/// Turns a log id of ours into openraft's.
pub fn from_log_id(id: LogId) -> openraft::LogId<u64> {
    openraft::LogId::new(LeaderId::new(id.term.0, id.node.0), id.index.0)
}

/// Turns a vote of openraft's into ours.
pub fn to_vote(vote: openraft::Vote<u64>) -> Vote {
    let LeaderId { term, node_id } = vote.leader_id;
    Vote { term: Term(term), node: NodeId(node_id), committed: vote.committed }
}

/// Turns a vote of ours into openraft's.
pub fn from_vote(vote: Vote) -> openraft::Vote<u64> {
    let leader_id = LeaderId::new(vote.term.0, vote.node.0);
    openraft::Vote { leader_id, committed: vote.committed }
}

/// Turns a membership of openraft's into ours.
pub fn to_membership(membership: &openraft::Membership<u64, BasicNode>) -> Membership {
    let voters = membership.get_joint_config().iter();
    let nodes = membership.nodes();
    Membership {
        voters: voters.map(|voters| voters.iter().copied().map(NodeId).collect()).collect(),
        nodes: nodes.map(|(id, node)| (NodeId(*id), Arc::from(&*node.addr))).collect(),
    }
}

/// Turns a membership of ours into openraft's.
pub fn from_membership(membership: &Membership) -> openraft::Membership<u64, BasicNode> {
    let voters = membership.voters.iter();
    let voters = voters.map(|voters| voters.iter().map(|id| id.0).collect()).collect();
    let nodes = membership.nodes.iter().map(|(id, addr)| (id.0, BasicNode::new(addr)));
    openraft::Membership::new(voters, nodes.collect::<std::collections::BTreeMap<_, _>>())
}

/// Turns a membership and where it stands into openraft's.
pub fn from_stored(at: Option<LogId>, members: &Membership) -> StoredMembership<u64, BasicNode> {
    StoredMembership::new(at.map(from_log_id), from_membership(members))
}
