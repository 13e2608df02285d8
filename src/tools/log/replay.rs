//! `etcd log replay`: the state, rebuilt from the log alone.

use std::io::Write;
use std::path::Path;

use etcd_log::{Index, KeyPath};
use etcd_projections::{KeyTree, State, TreeNode, WatchRing};

use super::ToolError;
use super::opened::Opened;
use crate::util::printable::Printable;

/// Replays a log up to a command, and prints the state.
///
/// # Errors
///
/// If the log cannot be read, or the output not be written.
pub async fn replay(dir: &Path, to: Index, out: &mut dyn Write) -> Result<(), ToolError> {
    let opened = Opened::open(dir)?;
    let mut replay = opened.replay(WatchRing::DEFAULT_CAPACITY)?.until(to);
    while replay.next().await?.is_some() {}
    print(replay.state(), out)
}

/// Prints a state: its tree, its ring's span, its deadlines, and its digest.
fn print(state: &State, out: &mut dyn Write) -> Result<(), ToolError> {
    writeln!(out, "tree: {} keys and directories", state.tree().len())?;
    print_below(state.tree(), &KeyPath::root(), out)?;
    match (state.ring().first(), state.ring().last()) {
        (Some(first), Some(last)) => writeln!(
            out,
            "ring: events {} to {}, index {} to {}",
            first.number.0, last.number.0, first.index.0, last.index.0
        )?,
        _ => writeln!(out, "ring: empty")?,
    }
    writeln!(out, "deadlines: {}", state.expiry().len())?;
    for (deadline, key) in state.expiry().iter() {
        writeln!(out, "  {deadline} {}", Printable(key))?;
    }
    let position = state.position();
    writeln!(out, "index: {}", position.index.0)?;
    writeln!(out, "event: {}", position.event.0)?;
    writeln!(out, "time: {}", position.time)?;
    writeln!(out, "digest: {}", state.digest())?;
    Ok(())
}

/// Prints what lies below a directory, each directory before its children.
fn print_below(tree: &KeyTree, directory: &KeyPath, out: &mut dyn Write) -> Result<(), ToolError> {
    for (key, node) in tree.children(directory) {
        let shown = Printable(&key);
        match node {
            TreeNode::File { value, deadline: None } => writeln!(out, "  {shown} = {value:?}")?,
            TreeNode::File { value, deadline: Some(deadline) } => {
                writeln!(out, "  {shown} = {value:?} until {deadline}")?;
            }
            TreeNode::Directory => {
                writeln!(out, "  {shown}/")?;
                print_below(tree, &key, out)?;
            }
        }
    }
    Ok(())
}
