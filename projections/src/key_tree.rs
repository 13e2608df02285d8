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
//! * A directory outlives its last child, as in the original etcd, until somebody
//!   deletes it.
//! * Children are ordered by name, so listings are equal on all machines.
//! * The root is a directory that is always there.
//!
//! The files lie in one persistent map from key to node; the order of keys
//! ([`KeyPath`]) makes those of a directory neighbours. The directories lie in another
//! one (`directories`), each with its name alone.
//!
//! Deliberately not here: whether a command may run (`decide`), when a key
//! expires (`expiry`), who waits for a change.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::sync::Arc;

use etcd_log::{KeyPath, LogTime};
use imbl::OrdMap;

use crate::directories::Directories;
use crate::event::{Change, Event};
use crate::outcome::{Outcome, Position, Projection, Undo, What};
use crate::subtree::{Files, Walk};

/// What stands at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeNode {
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
pub type Child<'a> = (KeyPath, &'a TreeNode);

/// What every key holds right now.
#[derive(Clone, Debug, Default)]
pub struct KeyTree {
    position: Position,
    /// The files; no directory.
    files: OrdMap<KeyPath, TreeNode>,
    directories: Directories,
}

impl KeyTree {
    /// Returns what stands at a key.
    pub fn get(&self, key: &KeyPath) -> Option<&TreeNode> {
        let directory = || self.directories.find(key).map(|_| &TreeNode::Directory);
        self.files.get(key).or_else(directory)
    }

    /// Returns the children of a directory, ordered by name; none if it is not
    /// there, or is a file.
    pub fn children(&self, directory: &KeyPath) -> impl Iterator<Item = Child<'_>> {
        self.children_from(directory, "")
    }

    /// Returns the children of a directory, ordered by name, from a name on.
    pub fn children_from<'a>(
        &'a self,
        directory: &KeyPath,
        name: &str,
    ) -> impl Iterator<Item = Child<'a>> + use<'a> {
        let (below, name) = (directory.clone(), String::from(name));
        let files = self.files_from(directory, &name);
        let number = self.directories.find(directory).into_iter();
        let directories =
            number.flat_map(move |number| self.directories.children_from(number, &name));
        let directories = directories.map(move |(name, _)| below.child(name));
        merged(files, directories)
    }

    /// Returns all files below a directory, in the order of their keys as text; none, if
    /// it is not there, or is a file. Begins with the key of which `from` stands behind
    /// the directory's own slash, or the first one behind that; with the first, if it is
    /// empty.
    pub fn subtree<'a>(
        &'a self,
        directory: &KeyPath,
        from: &str,
    ) -> impl Iterator<Item = (&'a KeyPath, &'a TreeNode)> + use<'a> {
        self.subtree_by_steps(directory, from).flatten()
    }

    /// Returns the same, step by step: nothing, where a directory begins or ends. There may
    /// be many of those from one file to the next.
    pub fn subtree_by_steps<'a>(
        &'a self,
        directory: &KeyPath,
        from: &str,
    ) -> impl Iterator<Item = Option<(&'a KeyPath, &'a TreeNode)>> + use<'a> {
        let files = |directory: &KeyPath, name: &str| -> Files<'a, TreeNode> {
            Box::new(self.files_from(directory, name))
        };
        Walk::new(&self.directories, files, directory, from)
    }

    /// Returns the closest file above a key: what keeps the key from being made.
    pub fn file_above(&self, key: &KeyPath) -> Option<KeyPath> {
        // Above a file there are directories alone.
        let missing = self.directories.first_missing(&key.parent()?)?;
        self.files.contains_key(&missing).then_some(missing)
    }

    /// Returns all nodes but the root, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = Child<'_>> {
        let below = self.directories.in_order().flat_map(|(path, number)| {
            self.directories.children(number).map(move |(name, _)| path.child(name))
        });
        merged(self.files.iter(), below)
    }

    /// Returns all files, in the order of their keys.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&KeyPath, &TreeNode)> {
        self.files.iter()
    }

    /// Returns how many nodes there are, without the root.
    pub fn len(&self) -> usize {
        self.files.len() + self.directories.len()
    }

    /// Returns whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Restores a tree from its nodes.
    pub(crate) fn restore(
        position: Position,
        nodes: impl IntoIterator<Item = (KeyPath, TreeNode)>,
    ) -> Self {
        let mut tree = Self { position, ..Self::default() };
        for (key, node) in nodes {
            match node {
                TreeNode::File { .. } => drop(tree.files.insert(key, node)),
                TreeNode::Directory => {
                    tree.directories.make(&key);
                }
            }
        }
        tree
    }

    /// Returns the files in a directory, by name, from a name on.
    fn files_from<'a>(
        &'a self,
        directory: &KeyPath,
        name: &str,
    ) -> impl Iterator<Item = (&'a KeyPath, &'a TreeNode)> + use<'a> {
        let first = match name {
            "" => directory.before_children(),
            name => directory.child(name),
        };
        let above = directory.clone();
        self.files.range(first..).take_while(move |(key, _)| above.is_parent_of(key))
    }

    /// Folds in an outcome. Returns what it takes to undo it besides its event.
    pub(crate) fn follow(&mut self, outcome: &Outcome) -> Undo {
        self.position.follow(outcome);
        let What::Event(event) = &outcome.what else { return Undo::default() };
        match &event.change {
            Change::Set { value, deadline, .. } => {
                return self.set(&event.key, Arc::clone(value), *deadline);
            }
            Change::Delete { .. } | Change::Expire { .. } => {
                self.files.remove(&event.key);
            }
            Change::DeleteDir => self.directories.remove(&event.key),
        }
        Undo::default()
    }

    /// Takes an event back: the last one of those that are not taken back yet. The tree
    /// holds then what it did before.
    ///
    /// Whoever wants to know of one directory only may take back the events at it or
    /// below it alone: then the tree is right there and below, and nowhere else.
    ///
    /// The tree's position stays as it is, for an event does not say from where it came.
    pub fn undo(&mut self, event: &Event, undo: Undo) {
        let key = &event.key;
        match &event.change {
            Change::Set { prev: Some(prev), .. } => {
                self.set(key, Arc::clone(prev), undo.deadline);
            }
            Change::Set { prev: None, .. } => {
                self.files.remove(key);
                if let Some(directory) = key.parent() {
                    self.directories.unmake(&directory, undo.made);
                }
            }
            Change::Delete { prev, deadline } => {
                self.set(key, Arc::clone(prev), *deadline);
            }
            Change::Expire { prev, deadline } => {
                self.set(key, Arc::clone(prev), Some(*deadline));
            }
            Change::DeleteDir => {
                self.directories.make(key);
            }
        }
    }

    fn set(&mut self, key: &KeyPath, value: Arc<str>, deadline: Option<LogTime>) -> Undo {
        match self.files.insert(key.clone(), TreeNode::File { value, deadline }) {
            Some(TreeNode::File { deadline, .. }) => Undo { deadline, made: 0 },
            Some(TreeNode::Directory) | None => {
                let made = key.parent().map_or(0, |directory| self.directories.make(&directory));
                Undo { deadline: None, made }
            }
        }
    }
}

/// Returns files and directories together, both of which are in the order of their keys.
fn merged<'a>(
    files: impl Iterator<Item = (&'a KeyPath, &'a TreeNode)>,
    directories: impl Iterator<Item = KeyPath>,
) -> impl Iterator<Item = Child<'a>> {
    let (mut files, mut directories) = (files.peekable(), directories.peekable());
    std::iter::from_fn(move || next_of(&mut files, &mut directories))
}

fn next_of<'a>(
    files: &mut Peekable<impl Iterator<Item = (&'a KeyPath, &'a TreeNode)>>,
    directories: &mut Peekable<impl Iterator<Item = KeyPath>>,
) -> Option<Child<'a>> {
    let is_file_next = match (files.peek(), directories.peek()) {
        (Some((file, _)), Some(directory)) => (*file).cmp(directory) == Ordering::Less,
        (file, _) => file.is_some(),
    };
    if is_file_next {
        return files.next().map(|(key, node)| (key.clone(), node));
    }
    directories.next().map(|key| (key, &TreeNode::Directory))
}

impl Projection for KeyTree {
    fn position(&self) -> Position {
        self.position
    }

    fn fold(&mut self, outcome: &Outcome) {
        self.follow(outcome);
    }
}
