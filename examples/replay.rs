//! For whoever wants what a store holds without running one: rebuilds the state from an
//! export, and checks that it is the state that was exported.
//!
//! ```sh
//! etcd log export -d DIR | cargo run --example replay
//! ```

use std::error::Error;
use std::io::{self, BufRead, Write};

use etcd_log::Recording;
use etcd_projections::{State, TreeNode, WatchRing};

fn main() -> Result<(), Box<dyn Error>> {
    replay(io::stdin().lock(), &mut io::stdout().lock())
}

/// Reads an export and prints what it leads to. Apart from `main`, so that a test can
/// call it.
pub(crate) fn replay(export: impl BufRead, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let recording = Recording::read(export)?;
    // All of the state comes from the batches, time included: there is no other input.
    let mut state = State::new(WatchRing::DEFAULT_CAPACITY);
    for batch in &recording.batches {
        state.apply(batch);
    }
    for (key, node) in state.tree().iter() {
        match node {
            TreeNode::File { value, deadline: None } => writeln!(out, "{key} = {value:?}")?,
            TreeNode::File { value, deadline: Some(deadline) } => {
                writeln!(out, "{key} = {value:?} until {deadline}")?;
            }
            TreeNode::Directory => writeln!(out, "{key}/")?,
        }
    }
    writeln!(out, "{} commands, digest {}", state.position().index.0, state.digest())?;
    // The last line of an export says what the state was there.
    match recording.end.map(|end| end.digest) {
        None => writeln!(out, "without an end: it may have been cut off")?,
        Some(None) => writeln!(out, "whole; what the state was, it does not say")?,
        Some(Some(digest)) if digest == state.digest() => writeln!(out, "whole, and the same")?,
        Some(Some(digest)) => return Err(format!("the digest should be {digest}").into()),
    }
    Ok(())
}
