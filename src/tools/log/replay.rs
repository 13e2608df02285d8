//! `etcd log replay`: the state, rebuilt from the log alone.

use std::io::Write;

use etcd_log::KeyPath;
use etcd_projections::{KeyTree, State, TreeNode, WatchRing};

use super::ToolError;
use super::progress::Progress;
use super::source::{LogPath, Source};
use super::text;
use crate::api::v1::json;
use crate::util::moment::Moment;
use crate::util::printable::Printable;

/// Replays a log up to a moment.
///
/// # Errors
///
/// If the log cannot be read, or does not come by there.
pub fn replay(from: &LogPath, to: Option<Moment>) -> Result<State, ToolError> {
    let source = Source::open(from)?;
    let bound = to.map(|to| source.bound(to)).transpose()?;
    let walk = source.walk(WatchRing::DEFAULT_CAPACITY)?;
    let mut walk = walk.shown(Progress::of("replay", &source));
    walk.check_start(to, bound)?;
    walk.go(bound)?;
    walk.check_end(to, bound)?;
    Ok(walk.into_state())
}

/// Writes a state as lines of JSON: each file, as a listing of the API tells it.
///
/// # Errors
///
/// If the output cannot be written.
pub fn write_lines(state: &State, out: &mut dyn Write) -> Result<(), ToolError> {
    let position = state.position();
    for (key, node) in state.tree().subtree(&KeyPath::root(), "") {
        text::write_lines(out, &json::node(key, node, position.index, position.time))?;
    }
    Ok(())
}

/// Prints a state: its tree, its ring's span, its deadlines, and its digest.
///
/// # Errors
///
/// If the output cannot be written.
pub fn print(state: &State, out: &mut dyn Write) -> Result<(), ToolError> {
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
