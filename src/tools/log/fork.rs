//! `etcd log fork`: a new cluster, with the history of another up to a moment.
//!
//! ```text
//! the group is this machine │ history up to there … │ sync of a new cluster, leaves
//! ```
//!
//! It is what importing an export up to there comes to; whatever has the log is read, and
//! changed in nothing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_log::{Batch, Check, Command, Payload, RaftIndex};
use etcd_projections::Position;

use super::ToolError;
use super::new_log::write_log;
use super::progress::Progress;
use super::source::{LogPath, Source};
use super::walk::Read;
use crate::storage::data_dir::{DataDir, DataDirError, Identity};
use crate::tools::force_new_cluster::begin_anew;
use crate::util::moment::Moment;
use crate::util::printable::Printable;

/// What to fork, and when.
#[derive(Clone, Debug)]
pub struct Fork {
    /// The log.
    pub from: LogPath,
    /// Up to when its history is taken.
    pub at: Moment,
    /// Where the new machine lies: a directory that is new, or empty.
    pub into: PathBuf,
    /// The machine's name, if not that of the log's first.
    pub name: Option<String>,
}

/// Makes a new machine, alone in a new cluster, with a history up to a moment.
///
/// # Errors
///
/// If the log cannot be read, has lost its beginning, or does not come by the moment; or if
/// the directory is in use or not empty. Then nothing is left in it.
pub fn fork(fork: &Fork, out: &mut dyn Write) -> Result<(), ToolError> {
    let source = Source::open(&fork.from)?;
    let data_dir = DataDir::take(&fork.into)?;
    match fork_into(&data_dir, &source, fork) {
        Ok((identity, position)) => report(&identity, position, &fork.into, out),
        Err(error) => {
            data_dir.leave();
            Err(error)
        }
    }
}

fn fork_into(
    data_dir: &DataDir,
    source: &Source,
    fork: &Fork,
) -> Result<(Identity, Position), ToolError> {
    if data_dir.identity()?.is_some() || data_dir.wal().exists() || data_dir.archive().exists() {
        return Err(DataDirError::NotEmpty(data_dir.path().to_owned()).into());
    }
    if let Some(opened) = source.directory().filter(|opened| opened.log.first() > RaftIndex(0)) {
        return Err(ToolError::NoBeginning(opened.log.first()));
    }
    let bound = source.bound(fork.at)?;
    let name = fork.name.clone().map_or_else(|| first_name(source), Ok)?;
    let identity = Identity::founder(&name);
    let mut walk = source.walk(1)?.shown(Progress::of("fork", source));
    let mut is_over = false;
    let batches = std::iter::from_fn(|| {
        while !is_over {
            match walk.next(Some(bound)) {
                Ok(Some(step)) => match step.payload {
                    Payload::Batch(batch) => return Some(Ok(Arc::new(renumbered(&batch)))),
                    Payload::Blank | Payload::Membership(_) => {}
                },
                Ok(None) => {
                    is_over = true;
                    let reached = walk.check_end(Some(fork.at), Some(bound));
                    let state = walk.state();
                    let begin = begin_anew(state, identity.node, identity.cluster);
                    let last = Arc::new(Batch::new(state.position().time, begin));
                    return Some(reached.map(|()| last));
                }
                Err(error) => {
                    is_over = true;
                    return Some(Err(error));
                }
            }
        }
        None
    });
    write_log(data_dir, identity.node, batches)?;
    // Only a directory that is whole belongs to somebody.
    data_dir.claim(&identity)?;
    Ok((identity, walk.position()))
}

/// Returns a batch as it stands in a log whose entries have other numbers.
fn renumbered(batch: &Batch) -> Batch {
    let check = batch.check.map(|check| Check { entry: None, ..check });
    Batch { check, ..batch.clone() }
}

/// Returns the name of the first machine of a log.
fn first_name(source: &Source) -> Result<String, ToolError> {
    for read in source.unfolded()?.1 {
        let Read::Entry { payload: Payload::Batch(batch), .. } = read? else { continue };
        for command in &batch.commands {
            if let Command::Join(machine) = command {
                return Ok(machine.name.to_string());
            }
        }
    }
    Ok("forked".to_owned())
}

fn report(
    identity: &Identity,
    position: Position,
    into: &Path,
    out: &mut dyn Write,
) -> Result<(), ToolError> {
    let Position { index, time, .. } = position;
    let (name, cluster) = (Printable(&identity.name), identity.cluster);
    writeln!(out, "forked behind command {index}, at {time}")?;
    writeln!(out, "machine {name} is a cluster of its own, {cluster}, which others can join")?;
    Ok(writeln!(out, "start it: etcd -d {}", Printable(into.display()))?)
}
