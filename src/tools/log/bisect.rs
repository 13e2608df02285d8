//! `etcd log bisect`: the first command behind which something is so.
//!
//! ```text
//! no │ no          │ no         │ yes        checkpoints, searched by halves
//!                  └─ no no no yes           the log behind the last that says no
//! ```
//!
//! A condition that came, went and came again has several beginnings: what is found is one
//! of them, the first behind a checkpoint at which it was not so. Without checkpoints that
//! is the first of all.

use std::io::Write;

use etcd_log::{KeyPath, Payload};
use etcd_projections::{Change, KeyTree, Outcome, Position, TreeNode, What};
use serde::Serialize;

use super::ToolError;
use super::look::Look;
use super::progress::Progress;
use super::show::{Told, told};
use super::source::{LogPath, Source};
use super::text::write_json;
use super::walk::Walk;
use crate::storage::checkpoint::{CheckpointFile, leads_into};
use crate::util::error_chain::ErrorChain;
use crate::util::printable::Printable;

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A key holds a value.
    Holds {
        /// The key.
        key: KeyPath,
        /// Its value.
        value: String,
    },
    /// A key or a directory is there.
    Exists(KeyPath),
    /// There are more keys below a directory than so many.
    Over {
        /// The directory.
        directory: KeyPath,
        /// How many.
        count: usize,
    },
}

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    position: Position,
    /// How many commands were replayed for it.
    replayed: u64,
    /// How many checkpoints were looked into.
    checkpoints: u64,
}

/// Finds the first command behind which a condition holds.
///
/// # Errors
///
/// If it never does, if the log cannot be read, or the output not be written.
pub fn bisect(
    from: &LogPath,
    condition: &Condition,
    (json, look): (bool, Look),
    out: &mut dyn Write,
) -> Result<(), ToolError> {
    let source = Source::open(from)?;
    let mut search = Search { source: &source, condition, checkpoints: 0 };
    let mut walk = search.start()?.shown(Progress::of("bisect", &source));
    let begun = walk.position();
    let mut so_far = SoFar::of(condition, walk.state().tree());
    if so_far.holds() {
        return Err(ToolError::HoldsAlready { what: condition.to_string(), oldest: begun.index });
    }
    let mut before = begun;
    while let Some(step) = walk.next(None)? {
        let Payload::Batch(batch) = &step.payload else { continue };
        for told in told(batch, before, &step.outcomes) {
            so_far.follow(told.outcome);
            if so_far.holds() {
                let position = told.outcome.position;
                let replayed = position.index.0 - begun.index.0;
                let found = Found { position, replayed, checkpoints: search.checkpoints };
                return if json { write_json(out, &found) } else { found.write(&told, look, out) };
            }
        }
        before = walk.position();
    }
    Err(ToolError::NeverHolds { what: condition.to_string(), last: before.index })
}

impl Found {
    fn write(&self, told: &Told<'_>, look: Look, out: &mut dyn Write) -> Result<(), ToolError> {
        told.write_text(look, out)?;
        let Self { position: _, replayed, checkpoints } = self;
        let aside = look.aside();
        writeln!(
            out,
            "{aside}{replayed} commands replayed, {checkpoints} checkpoints read{aside:#}"
        )?;
        Ok(())
    }
}

/// The search by halves.
struct Search<'a> {
    source: &'a Source,
    condition: &'a Condition,
    checkpoints: u64,
}

impl Search<'_> {
    /// Walks from the last checkpoint at which the condition does not hold yet; from the
    /// beginning, if there is none.
    fn start(&mut self) -> Result<Walk, ToolError> {
        let mut files = usable(self.source)?;
        let (mut low, mut high) = (0, files.len());
        let mut start = None;
        while low < high {
            let middle = usize::midpoint(low, high);
            self.checkpoints += 1;
            let Some(walk) = walk_from(self.source, &files[middle])? else {
                files.remove(middle);
                high -= 1;
                continue;
            };
            if SoFar::of(self.condition, walk.state().tree()).holds() {
                high = middle;
            } else {
                (low, start) = (middle + 1, Some(walk));
            }
        }
        start.map_or_else(|| self.source.walk(1), Ok)
    }
}

/// Returns the checkpoints from which the log can be walked on, oldest first.
pub(super) fn usable(source: &Source) -> Result<Vec<CheckpointFile>, ToolError> {
    let Some(opened) = source.directory() else { return Ok(Vec::new()) };
    let mut files = opened.checkpoints(1).list()?;
    let (first, end) = (opened.log.first(), opened.settled.end);
    files.retain(|file| leads_into(file, first) && file.raft_index < end);
    Ok(files)
}

/// Walks on from a checkpoint; nothing, if it is damaged: the log makes up for it.
pub(super) fn walk_from(source: &Source, file: &CheckpointFile) -> Result<Option<Walk>, ToolError> {
    match source.walk_from(file) {
        Err(ToolError::Checkpoint(error)) => {
            tracing::warn!("checkpoint skipped: {}", ErrorChain(&error));
            Ok(None)
        }
        walk => walk.map(Some),
    }
}

/// How a condition stands.
struct SoFar<'a> {
    condition: &'a Condition,
    /// Whether the key holds the value, or is there; how many keys there are.
    count: usize,
}

impl<'a> SoFar<'a> {
    fn of(condition: &'a Condition, tree: &KeyTree) -> Self {
        let count = match condition {
            Condition::Holds { key, value } => {
                let holds = |node: &TreeNode| matches!(node, TreeNode::File { value: found, .. } if **found == **value);
                usize::from(tree.get(key).is_some_and(holds))
            }
            Condition::Exists(key) => usize::from(tree.get(key).is_some()),
            Condition::Over { directory, .. } => tree.subtree(directory, "").count(),
        };
        Self { condition, count }
    }

    fn holds(&self) -> bool {
        match self.condition {
            Condition::Holds { .. } | Condition::Exists(_) => self.count > 0,
            Condition::Over { count, .. } => self.count > *count,
        }
    }

    /// Takes in what happened.
    fn follow(&mut self, outcome: &Outcome) {
        let What::Event(event) = &outcome.what else { return };
        let is_at = |key: &KeyPath| event.key == *key;
        match (self.condition, &event.change) {
            (Condition::Holds { key, value: wanted }, Change::Set { value, .. }) if is_at(key) => {
                self.count = usize::from(**value == **wanted);
            }
            // Directories are made on the way.
            (Condition::Exists(key), Change::Set { .. }) if key.covers(&event.key) => {
                self.count = 1;
            }
            (Condition::Holds { key, .. } | Condition::Exists(key), change)
                if is_at(key) && !matches!(change, Change::Set { .. }) =>
            {
                self.count = 0;
            }
            (Condition::Over { directory, .. }, change)
                if directory.covers(&event.key) && !is_at(directory) =>
            {
                match change {
                    Change::Set { prev: None, .. } => self.count += 1,
                    Change::Delete { .. } | Change::Expire { .. } => self.count -= 1,
                    Change::Set { .. } | Change::DeleteDir => {}
                }
            }
            _ => {}
        }
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Holds { key, value } => write!(f, "{} is {value:?}", Printable(key)),
            Self::Exists(key) => write!(f, "{} is there", Printable(key)),
            Self::Over { directory, count } => {
                write!(f, "more than {count} keys lie below {}", Printable(directory))
            }
        }
    }
}
