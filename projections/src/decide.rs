//! Deciding: may a command run, and what happens if it does?
//!
//! ```text
//! (tree, command, logged time) ─▶ key and change, or rejection
//! ```
//!
//! Pure: the same tree and command give the same answer on every machine and at
//! every replay. The order of the checks is part of the format.

use std::sync::Arc;

use etcd_log::{
    Command, Index, KeyPath, LogTime, Machine, Restore, RestoreChange, TestAndSet, Ttl,
};

use crate::cluster::ClusterValue;
use crate::event::Change;
use crate::key_tree::{KeyTree, TreeNode};
use crate::machines;
use crate::outcome::Rejection;
use crate::system_keys::{cluster_key, is_reserved, machine_key};

/// What a command comes to, if it is not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided<'c> {
    /// A change of this key.
    Change(KeyPath, Change),
    /// One change after the other, each decided in its turn ([`decide_step`]).
    Steps(&'c [RestoreChange]),
}

/// Decides what a command does to the tree at a logged time, behind the last command. Whether
/// it was done before under its id, is not looked at here.
///
/// # Errors
///
/// If the command is refused: it then takes an index, and changes nothing.
pub fn decide<'c>(
    tree: &KeyTree,
    command: &'c Command,
    time: LogTime,
    last: Index,
) -> Result<Decided<'c>, Rejection> {
    let (key, change) = match command {
        Command::Set { key, value, ttl } => set(tree, key, value, *ttl, time)?,
        Command::Create { key, value, ttl } => create(tree, key, value, *ttl, time)?,
        Command::TestAndSet(command) => test_and_set(tree, command, time)?,
        Command::Delete { key } => delete(tree, key)?,
        Command::TestAndDelete { key, prev_value } => test_and_delete(tree, key, prev_value)?,
        Command::DeleteDir { key } => delete_dir(tree, key)?,
        Command::Restore(restore) => return steps(restore, last),
        Command::As(asked) => return decide(tree, &asked.command, time, last),
        Command::Sync { cluster, format } => {
            let value = ClusterValue { cluster: *cluster, format: *format };
            overwrite(tree, cluster_key(), value.to_string())
        }
        Command::Upgrade { format } => {
            let value = ClusterValue::of(tree).ok_or(Rejection::KeyNotFound)?;
            let format = value.format.max(*format);
            overwrite(tree, cluster_key(), ClusterValue { format, ..value }.to_string())
        }
        Command::Join(machine) => join(tree, machine)?,
        Command::Leave { name } => leave(tree, name)?,
    };
    Ok(Decided::Change(key, change))
}

/// Decides what one step of a restore does, if it does anything: a key may have expired
/// since it was worked out.
pub fn decide_step(
    tree: &KeyTree,
    step: &RestoreChange,
    time: LogTime,
) -> Option<(KeyPath, Change)> {
    let decided = match step {
        RestoreChange::Delete(key) => delete(tree, key),
        RestoreChange::DeleteDir(key) => delete_dir(tree, key),
        RestoreChange::Set { key, value, ttl } => set(tree, key, value, *ttl, time),
    };
    decided.ok()
}

/// What a restore does was worked out from the state behind one command, and counts
/// there alone.
fn steps(restore: &Restore, last: Index) -> Result<Decided<'_>, Rejection> {
    if restore.base != last {
        return Err(Rejection::Overtaken { base: restore.base });
    }
    Ok(Decided::Steps(&restore.changes))
}

fn create(
    tree: &KeyTree,
    key: &KeyPath,
    value: &Arc<str>,
    ttl: Option<Ttl>,
    time: LogTime,
) -> Result<(KeyPath, Change), Rejection> {
    if look_up(tree, key)?.is_some() {
        return Err(Rejection::KeyExists(key.clone()));
    }
    set(tree, key, value, ttl, time)
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

fn test_and_delete(
    tree: &KeyTree,
    key: &KeyPath,
    expected: &Arc<str>,
) -> Result<(KeyPath, Change), Rejection> {
    let (found, deadline) = look_up(tree, key)?.ok_or(Rejection::KeyNotFound)?;
    if found != *expected {
        return Err(Rejection::TestFailed { found, expected: Arc::clone(expected) });
    }
    Ok((key.clone(), Change::Delete { prev: found, deadline }))
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
