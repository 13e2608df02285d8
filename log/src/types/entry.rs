//! Entries: the Raft log's own words, free of any one Raft library.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::Batch;
use super::numbers::{Index, NodeId, RaftIndex, Term};

/// Which entry stands at an index: two logs with the same id there are equal up
/// to it (Raft, section 5.3, the log matching property).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogId {
    /// The term in which a leader wrote the entry.
    pub term: Term,
    /// That leader.
    pub node: NodeId,
    /// The entry's place.
    pub index: RaftIndex,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.index, self.term)
    }
}

/// Whom this machine follows or stands for, and in which term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// The term voted in.
    pub term: Term,
    /// The candidate, or the leader.
    pub node: NodeId,
    /// Whether a majority is known to have voted so: the candidate leads.
    pub committed: bool,
}

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let standing = if self.committed { "leads" } else { "stands" };
        write!(f, "{} {standing} in {}", self.node, self.term)
    }
}

/// The members of the Raft group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The voters; two sets while the group changes from one to the other
    /// (joint consensus; Raft, section 6).
    pub voters: Vec<BTreeSet<NodeId>>,
    /// Where each member is reached: voters, and learners, who have no vote yet.
    pub nodes: BTreeMap<NodeId, Arc<str>>,
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Payload {
    /// A new leader's first entry, which commits those before it.
    Blank,
    /// A change of the Raft group.
    Membership(Membership),
    /// Commands, and the time.
    Batch(Arc<Batch>),
}

/// One entry of the Raft log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which entry it is.
    pub id: LogId,
    /// What it carries.
    pub payload: Payload,
}

/// A batch, and its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedBatch {
    /// The index of its first command; of a tick, that of the command which would come
    /// next.
    pub index: Index,
    /// The entry that carries it; none in a recorded log, which has no entries.
    pub entry: Option<RaftIndex>,
    /// The batch.
    pub batch: Arc<Batch>,
}

impl Entry {
    /// Returns how many commands the entry carries, each of which takes an index.
    pub fn commands(&self) -> u64 {
        self.batch().map_or(0, |batch| batch.commands.len() as u64)
    }

    /// Returns the batch, if the entry carries one.
    pub fn batch(&self) -> Option<&Arc<Batch>> {
        match &self.payload {
            Payload::Batch(batch) => Some(batch),
            Payload::Blank | Payload::Membership(_) => None,
        }
    }

    /// Returns about how many bytes the entry takes where it is written or sent.
    pub fn written_size(&self) -> usize {
        self.batch().map_or(256, |batch| batch.written_size())
    }

    /// Returns about how many bytes of memory the entry takes.
    pub fn size(&self) -> usize {
        self.batch().map_or(256, |batch| batch.size())
    }
}
