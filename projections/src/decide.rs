//! Deciding: may a command run, and what happens if it does?
//!
//! ```text
//! (tree, command, logged time) ─▶ key and change, or rejection
//! ```
//!
//! Pure: the same tree and command give the same answer on every machine and at
//! every replay. The order of the checks is part of the format.

use std::sync::Arc;

use etcd_log::{Command, KeyPath, LogTime, Machine, TestAndSet, Ttl};

use crate::event::Change;
use crate::key_tree::{KeyTree, TreeNode};
use crate::machines;
use crate::outcome::Rejection;
use crate::system_keys::{cluster_key, is_reserved, machine_key};

/// Decides what a command does to the tree at a logged time.
///
/// # Errors
///
/// If the command is refused: it then takes an index, and changes nothing.
pub fn decide(
    tree: &KeyTree,
    command: &Command,
    time: LogTime,
) -> Result<(KeyPath, Change), Rejection> {
    match command {
        Command::Set { key, value, ttl } => set(tree, key, value, *ttl, time),
        Command::TestAndSet(command) => test_and_set(tree, command, time),
        Command::Delete { key } => delete(tree, key),
        Command::DeleteDir { key } => delete_dir(tree, key),
        Command::Sync { cluster } => Ok(overwrite(tree, cluster_key(), cluster.to_string())),
        Command::Join(machine) => join(tree, machine),
        Command::Leave { name } => leave(tree, name),
    }
}

fn set(
    tree: &KeyTree,
    key: &KeyPath,
    value: &Arc<str>,
    ttl: Option<Ttl>,
    time: LogTime,
) -> Result<(KeyPath, Change), Rejection> {
    let prev = match look_up(tree, key)? {
        Some((prev, _)) => Some(prev),
        None => match tree.file_above(key) {
            Some(file) => return Err(Rejection::NotADirectory(file)),
            None => None,
        },
    };
    let deadline = deadline(ttl, time);
    Ok((key.clone(), Change::Set { value: Arc::clone(value), prev, deadline }))
}

fn test_and_set(
    tree: &KeyTree,
    command: &TestAndSet,
    time: LogTime,
) -> Result<(KeyPath, Change), Rejection> {
    let TestAndSet { key, prev_value, value, ttl } = command;
    let (found, _) = look_up(tree, key)?.ok_or(Rejection::KeyNotFound)?;
    if found != *prev_value {
        return Err(Rejection::TestFailed { found, expected: Arc::clone(prev_value) });
    }
    let (value, deadline) = (Arc::clone(value), deadline(*ttl, time));
    Ok((key.clone(), Change::Set { value, prev: Some(found), deadline }))
}

fn delete(tree: &KeyTree, key: &KeyPath) -> Result<(KeyPath, Change), Rejection> {
    let (prev, deadline) = look_up(tree, key)?.ok_or(Rejection::KeyNotFound)?;
    Ok((key.clone(), Change::Delete { prev, deadline }))
}

fn delete_dir(tree: &KeyTree, key: &KeyPath) -> Result<(KeyPath, Change), Rejection> {
    if is_reserved(key) || key.is_root() {
        return Err(Rejection::Reserved(key.clone()));
    }
    match tree.get(key).ok_or(Rejection::KeyNotFound)? {
        TreeNode::File { .. } => Err(Rejection::NotADirectory(key.clone())),
        TreeNode::Directory if tree.children(key).next().is_some() => {
            Err(Rejection::NotEmpty(key.clone()))
        }
        TreeNode::Directory => Ok((key.clone(), Change::DeleteDir)),
    }
}

fn join(tree: &KeyTree, machine: &Machine) -> Result<(KeyPath, Change), Rejection> {
    let invalid = || Rejection::InvalidMachine(Arc::clone(&machine.name));
    let key = machine_key(&machine.name).ok_or_else(invalid)?;
    if !machines::can_encode(machine) {
        return Err(invalid());
    }
    Ok(overwrite(tree, key, machines::encode(machine)))
}

fn leave(tree: &KeyTree, name: &Arc<str>) -> Result<(KeyPath, Change), Rejection> {
    let key = machine_key(name).ok_or_else(|| Rejection::InvalidMachine(Arc::clone(name)))?;
    match tree.get(&key) {
        Some(TreeNode::File { value, deadline }) => {
            Ok((key, Change::Delete { prev: Arc::clone(value), deadline: *deadline }))
        }
        Some(TreeNode::Directory) | None => Err(Rejection::KeyNotFound),
    }
}

/// Returns the value and the deadline of a file that a client may write, if it
/// is there.
#[expect(clippy::type_complexity, reason = "a value and its deadline, or nothing, or a reason")]
fn look_up(
    tree: &KeyTree,
    key: &KeyPath,
) -> Result<Option<(Arc<str>, Option<LogTime>)>, Rejection> {
    if is_reserved(key) {
        return Err(Rejection::Reserved(key.clone()));
    }
    match tree.get(key) {
        Some(TreeNode::File { value, deadline }) => Ok(Some((Arc::clone(value), *deadline))),
        Some(TreeNode::Directory) => Err(Rejection::NotAFile(key.clone())),
        None => Ok(None),
    }
}

/// Sets one of the system's own keys.
fn overwrite(tree: &KeyTree, key: KeyPath, value: String) -> (KeyPath, Change) {
    let prev = match tree.get(&key) {
        Some(TreeNode::File { value, .. }) => Some(Arc::clone(value)),
        Some(TreeNode::Directory) | None => None,
    };
    (key, Change::Set { value: Arc::from(value), prev, deadline: None })
}

fn deadline(ttl: Option<Ttl>, time: LogTime) -> Option<LogTime> {
    ttl.map(|ttl| time.plus_seconds(ttl.get()))
}
