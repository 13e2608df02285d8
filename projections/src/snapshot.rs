//! Snapshots: a state taken apart, item by item, and put together again.
//!
//! A checkpoint is a [`SnapshotHeader`], then every node of the tree, every event of the
//! ring, and every id of a request that is remembered. What other projections hold follows
//! from these: the deadlines and the machines from the nodes, the digest from the header.
//!
//! Deliberately not here: files and checksums. An item knows its JSON form only.

use std::sync::Arc;

use etcd_log::{Digest, Index, KeyPath, LogTime};
use serde::{Deserialize, Serialize};

use crate::digest::Digester;
use crate::event::Event;
use crate::expiry::ExpiryIndex;
use crate::key_tree::{KeyTree, TreeNode};
use crate::machines::Machines;
use crate::outcome::{FirstAnswer, Position};
use crate::requests::Requests;
use crate::state::State;
use crate::system_keys::is_machine;
use crate::watch_ring::WatchRing;

/// A state in a few numbers: what the items that follow must add up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotHeader {
    /// How far the state had come.
    pub position: Position,
    /// The hash over all outcomes up to there.
    pub digest: Digest,
    /// How many nodes the tree has, without the root.
    pub nodes: usize,
    /// How many events the ring holds.
    pub events: usize,
    /// The index of the newest event that is no longer in the ring.
    pub dropped: Index,
    /// How many ids of requests are remembered; absent for none.
    #[serde(default, skip_serializing_if = "is_none")]
    pub requests: usize,
    /// The newest command of which it is forgotten under which id it was asked for; absent
    /// for none.
    #[serde(default, skip_serializing_if = "is_before_the_first")]
    pub forgotten: Index,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_before_the_first(index: &Index) -> bool {
    *index == Index(0)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_none(count: &usize) -> bool {
    *count == 0
}

/// One part of a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum SnapshotItem {
    /// A key and its value.
    File {
        /// The key.
        key: KeyPath,
        /// Its value.
        value: Arc<str>,
        /// When it expires; absent for never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<LogTime>,
    },
    /// A directory.
    Directory {
        /// Its key.
        key: KeyPath,
    },
    /// An event in the ring.
    Event(Arc<Event>),
    /// What came of a command that was asked for under an id.
    Request(Arc<FirstAnswer>),
}

/// Items that do not add up to the state which their header promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// There are more or fewer of some.
    #[error("{what}: found {found}, expected {expected}")]
    Count {
        /// Which.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// The ids of requests are in no order that commands come in.
    #[error("ids of requests: not in the order of their commands")]
    Order,
}

impl State {
    /// Returns the state in a few numbers.
    pub fn snapshot_header(&self) -> SnapshotHeader {
        SnapshotHeader {
            position: self.position(),
            digest: self.digest(),
            nodes: self.tree.len(),
            events: self.ring.len(),
            dropped: self.ring.dropped(),
            requests: self.requests.len(),
            forgotten: self.requests.forgotten(),
        }
    }

    /// Takes the state apart.
    pub fn snapshot_items(&self) -> impl Iterator<Item = SnapshotItem> {
        let nodes = self.tree.iter().map(|(key, node)| match node {
            TreeNode::File { value, deadline } => {
                SnapshotItem::File { key, value: Arc::clone(value), deadline: *deadline }
            }
            TreeNode::Directory => SnapshotItem::Directory { key },
        });
        let events = self.ring.iter().map(|event| SnapshotItem::Event(Arc::clone(event)));
        let requests = self.requests.iter();
        nodes.chain(events).chain(requests.map(|first| SnapshotItem::Request(Arc::clone(first))))
    }

    /// Puts a state together again, with a ring of so many events.
    ///
    /// # Errors
    ///
    /// If there are more or fewer items than the header says, or not in their order.
    ///
    /// # Panics
    ///
    /// If the ring could not hold a single event.
    pub fn from_snapshot(
        header: &SnapshotHeader,
        items: impl IntoIterator<Item = SnapshotItem>,
        ring_capacity: usize,
    ) -> Result<Self, RestoreError> {
        let (mut events, mut requests) = (Vec::new(), Vec::new());
        let nodes = items.into_iter().filter_map(|item| match item {
            SnapshotItem::File { key, value, deadline } => {
                Some((key, TreeNode::File { value, deadline }))
            }
            SnapshotItem::Directory { key } => Some((key, TreeNode::Directory)),
            SnapshotItem::Event(event) => {
                events.push(event);
                None
            }
            SnapshotItem::Request(first) => {
                requests.push(first);
                None
            }
        });
        let position = header.position;
        let tree = KeyTree::restore(position, nodes);
        check("nodes of the tree", tree.len(), header.nodes)?;
        check("events of the ring", events.len(), header.events)?;
        check("ids of requests", requests.len(), header.requests)?;
        let expiry = ExpiryIndex::restore(position, deadlines(&tree));
        let machines = Machines::restore(position, machine_values(&tree));
        let ring = WatchRing::restore(ring_capacity, position, header.dropped, events);
        let requests = Requests::restore(position, header.forgotten, requests);
        let requests = requests.ok_or(RestoreError::Order)?;
        let digester = Digester::restore(position, header.digest);
        Ok(Self::restore(position, tree, ring, expiry, machines, requests, digester))
    }
}

fn check(what: &'static str, found: usize, expected: usize) -> Result<(), RestoreError> {
    if found == expected { Ok(()) } else { Err(RestoreError::Count { what, found, expected }) }
}

fn deadlines(tree: &KeyTree) -> impl Iterator<Item = (LogTime, KeyPath)> {
    tree.files().filter_map(|(key, node)| match node {
        TreeNode::File { deadline: Some(deadline), .. } => Some((*deadline, key.clone())),
        TreeNode::File { deadline: None, .. } | TreeNode::Directory => None,
    })
}

fn machine_values(tree: &KeyTree) -> impl Iterator<Item = (&KeyPath, &str)> {
    tree.files().filter_map(|(key, node)| match node {
        TreeNode::File { value, .. } if is_machine(key) => Some((key, &**value)),
        TreeNode::File { .. } | TreeNode::Directory => None,
    })
}
