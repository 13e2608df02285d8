//! Pieces: a state taken apart, piece by piece, and put together again.
//!
//! A checkpoint is a [`Summary`], then every node of the tree, then every event
//! of the ring. What other projections hold follows from these: the deadlines
//! and the machines from the nodes, the digest from the summary.
//!
//! Deliberately not here: files and checksums. A piece knows its JSON form only.

use std::sync::Arc;

use etcd_log::{Digest, Index, KeyPath, LogTime};
use serde::{Deserialize, Serialize};

use crate::digest::Digester;
use crate::event::Event;
use crate::expiry::ExpiryIndex;
use crate::key_tree::{KeyTree, Node};
use crate::machines::Machines;
use crate::outcome::Position;
use crate::state::State;
use crate::system_keys::is_machine;
use crate::watch_ring::WatchRing;

/// A state in a few numbers: what the pieces that follow must add up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
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
}

/// A piece of a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Piece {
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
}

/// Pieces that do not add up to the state which their summary promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: found {found}, expected {expected}")]
pub struct RestoreError {
    what: &'static str,
    found: usize,
    expected: usize,
}

impl State {
    /// Returns the state in a few numbers.
    pub fn summary(&self) -> Summary {
        Summary {
            position: self.position(),
            digest: self.digest(),
            nodes: self.tree.len(),
            events: self.ring.len(),
            dropped: self.ring.dropped(),
        }
    }

    /// Takes the state apart.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        let nodes = self.tree.iter().map(|(key, node)| match node {
            Node::File { value, deadline } => {
                Piece::File { key, value: Arc::clone(value), deadline: *deadline }
            }
            Node::Directory => Piece::Directory { key },
        });
        nodes.chain(self.ring.iter().map(|event| Piece::Event(Arc::clone(event))))
    }

    /// Puts a state together again, with a ring of so many events.
    ///
    /// # Errors
    ///
    /// If there are more or fewer pieces than the summary says.
    ///
    /// # Panics
    ///
    /// If the ring could not hold a single event.
    pub fn from_pieces(
        summary: &Summary,
        pieces: impl IntoIterator<Item = Piece>,
        ring_capacity: usize,
    ) -> Result<Self, RestoreError> {
        let mut events = Vec::new();
        let nodes = pieces.into_iter().filter_map(|piece| match piece {
            Piece::File { key, value, deadline } => Some((key, Node::File { value, deadline })),
            Piece::Directory { key } => Some((key, Node::Directory)),
            Piece::Event(event) => {
                events.push(event);
                None
            }
        });
        let position = summary.position;
        let tree = KeyTree::restore(position, nodes);
        check("nodes of the tree", tree.len(), summary.nodes)?;
        check("events of the ring", events.len(), summary.events)?;
        let expiry = ExpiryIndex::restore(position, deadlines(&tree));
        let machines = Machines::restore(position, machine_values(&tree));
        let ring = WatchRing::restore(ring_capacity, position, summary.dropped, events);
        let digester = Digester::restore(position, summary.digest);
        Ok(Self::restore(position, tree, ring, expiry, machines, digester))
    }
}

fn check(what: &'static str, found: usize, expected: usize) -> Result<(), RestoreError> {
    if found == expected { Ok(()) } else { Err(RestoreError { what, found, expected }) }
}

fn deadlines(tree: &KeyTree) -> impl Iterator<Item = (LogTime, KeyPath)> {
    tree.files().filter_map(|(key, node)| match node {
        Node::File { deadline: Some(deadline), .. } => Some((*deadline, key.clone())),
        Node::File { deadline: None, .. } | Node::Directory => None,
    })
}

fn machine_values(tree: &KeyTree) -> impl Iterator<Item = (&KeyPath, &str)> {
    tree.files().filter_map(|(key, node)| match node {
        Node::File { value, .. } if is_machine(key) => Some((key, &**value)),
        Node::File { .. } | Node::Directory => None,
    })
}
