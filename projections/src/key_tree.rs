//! The key tree: what every key holds right now.
//!
//! Keys form a tree, like a file system. A node is a *file* with a value or a
//! *directory* with children:
//!
//! ```text
//! #3 set /a/x=1      /
//! #4 set /a/y=2      └─ a            directory
//! #5 delete /a/x        └─ y = 2     file
//! ```
//!
//! * A node never changes kind: the events that would do it are never made.
//! * A directory outlives its last child, as in the original etcd.
//! * Children are ordered by name, so listings are equal on all machines.
//! * The root is a directory that is always there.
//!
//! All nodes lie in one persistent map from key to node; the order of keys
//! ([`KeyPath`]) makes the children of a directory neighbours.
//!
//! Deliberately not here: whether a command may run (`decide`), when a key
//! expires (`expiry`), who waits for a change.

use std::sync::Arc;

use etcd_log::{KeyPath, LogTime};
use imbl::OrdMap;

use crate::{Change, Outcome, Position, Projection, What};

/// What stands at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A value.
    File {
        /// The value, never empty.
        value: Arc<str>,
        /// When it expires; absent for never.
        deadline: Option<LogTime>,
    },
    /// A directory.
    Directory,
}

/// A child of a directory.
pub type Child<'a> = (&'a KeyPath, &'a Node);

/// What every key holds right now.
#[derive(Clone, Debug, Default)]
pub struct KeyTree {
    position: Position,
    nodes: OrdMap<KeyPath, Node>,
}

impl KeyTree {
    /// Returns what stands at a key.
    pub fn get(&self, key: &KeyPath) -> Option<&Node> {
        if key.is_root() { Some(&Node::Directory) } else { self.nodes.get(key) }
    }

    /// Returns the children of a directory, ordered by name; none if it is not
    /// there, or is a file.
    pub fn children(&self, directory: &KeyPath) -> impl Iterator<Item = Child<'_>> {
        let directory = directory.clone();
        self.nodes
            .range(directory.before_children()..)
            .take_while(move |(key, _)| directory.is_parent_of(key))
    }

    /// Returns the closest file above a key: what keeps the key from being made.
    pub fn file_above(&self, key: &KeyPath) -> Option<KeyPath> {
        let mut above = key.parent();
        while let Some(key) = above {
            match self.get(&key) {
                Some(Node::Directory) => return None,
                Some(Node::File { .. }) => return Some(key),
                None => above = key.parent(),
            }
        }
        None
    }

    /// Returns all nodes but the root, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = Child<'_>> {
        self.nodes.iter()
    }

    /// Returns how many nodes there are, without the root.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Restores a tree from its nodes.
    pub(crate) fn restore(position: Position, nodes: OrdMap<KeyPath, Node>) -> Self {
        Self { position, nodes }
    }

    fn set(&mut self, key: &KeyPath, value: Arc<str>, deadline: Option<LogTime>) {
        if self.nodes.insert(key.clone(), Node::File { value, deadline }).is_none() {
            self.make_directories(key);
        }
    }

    /// Makes the directories above a new key, from the lowest one up to the
    /// first that is there.
    fn make_directories(&mut self, key: &KeyPath) {
        let mut above = key.parent();
        while let Some(directory) = above.filter(|key| self.get(key).is_none()) {
            above = directory.parent();
            self.nodes.insert(directory, Node::Directory);
        }
    }
}

impl Projection for KeyTree {
    fn position(&self) -> Position {
        self.position
    }

    fn fold(&mut self, outcome: &Outcome) {
        self.position.follow(outcome);
        let What::Event(event) = &outcome.what else { return };
        match &event.change {
            Change::Set { value, deadline, .. } => {
                self.set(&event.key, Arc::clone(value), *deadline);
            }
            Change::Delete { .. } | Change::Expire { .. } => {
                self.nodes.remove(&event.key);
            }
        }
    }
}
