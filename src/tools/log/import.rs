//! `etcd log import`: a data directory out of a recorded log.
//!
//! The directory gets a machine of its own, the only one of a cluster of its own. The
//! recorded history stays as it is; behind it the log says what has become of it:
//!
//! ```text
//! the group is this machine │ recorded history … │ sync of a new cluster, leaves
//! ```
//!
//! For the cluster that was recorded may still run: under its name, this machine would
//! take its members for its own, and they what it says for their leader's word.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_log::Batch;
use etcd_projections::Position;

use super::ToolError;
use super::new_log::write_log;
use super::recorded::Recorded;
use crate::storage::data_dir::{DataDir, DataDirError, Identity};
use crate::tools::force_new_cluster::begin_anew;
use crate::util::moment::Moment;
use crate::util::printable::Printable;

/// What to import, and as whom.
#[derive(Clone, Debug)]
pub struct Import {
    /// The recording; `-` for the standard input.
    pub file: PathBuf,
    /// The machine's name, if not that of the recording's first.
    pub name: Option<String>,
    /// Whether the recording may be without an end.
    pub without_end: bool,
    /// Up to when it is taken; all of it, if nothing is said.
    pub to: Option<Moment>,
}

/// Makes a data directory out of a recorded log.
///
/// # Errors
///
/// If the recording cannot be read, has no end or does not add up, or if the directory
/// is in use or not empty. Then nothing is left in it.
pub fn import(import: &Import, dir: &Path, out: &mut dyn Write) -> Result<(), ToolError> {
    let data_dir = DataDir::take(dir)?;
    match import_into(&data_dir, import) {
        Ok((identity, recorded)) => {
            let Position { index, time, .. } = recorded;
            let Identity { name, cluster, .. } = identity;
            writeln!(out, "imported {} commands, the last is {index} at {time}", index.0)?;
            let what = "is now a cluster of its own";
            let name = Printable(name);
            Ok(writeln!(out, "machine {name} {what}, {cluster}, which others can join")?)
        }
        Err(error) => {
            data_dir.leave();
            Err(error)
        }
    }
}

/// Returns who the directory belongs to by then, and where the recording ended.
fn import_into(data_dir: &DataDir, import: &Import) -> Result<(Identity, Position), ToolError> {
    if data_dir.identity()?.is_some() || data_dir.wal().exists() || data_dir.archive().exists() {
        return Err(DataDirError::NotEmpty(data_dir.path().to_owned()).into());
    }
    let mut recorded = Recorded::open(import)?;
    let founder = Identity::founder("imported");
    let mut is_over = false;
    let batches = std::iter::from_fn(|| {
        if is_over {
            return None;
        }
        let next = recorded.next().transpose();
        is_over = !matches!(next, Some(Ok(_)));
        next.or_else(|| Some(Ok(last_batch(&recorded, &founder))))
    });
    write_log(data_dir, founder.node, batches)?;
    let name = import.name.as_deref().map(Arc::from).or_else(|| recorded.first_name());
    let identity = Identity { name: name.unwrap_or_else(|| Arc::clone(&founder.name)), ..founder };
    // Only a directory that is whole belongs to somebody.
    data_dir.claim(&identity)?;
    Ok((identity, recorded.state().position()))
}

/// Returns the batch that makes the machine the only one of a cluster of its own. At the
/// recording's own time: an import lets nothing expire.
fn last_batch(recorded: &Recorded, identity: &Identity) -> Arc<Batch> {
    let state = recorded.state();
    let commands = begin_anew(state, identity.node, identity.cluster);
    Arc::new(Batch::new(state.position().time, commands))
}
