//! Recorded logs: every projection, at several indices, must be what it was when
//! the log was recorded. A change here is a change of the log's meaning.
//!
//! ```text
//! load NAME          read tests/recorded/NAME.jsonl; the ring holds 20 events here
//! at INDEX           everything that the log says up to this command
//! digest INDEX…      the digests only
//! end                everything, ticks after the last command included
//! ```
//!
//! Each script is a test, and says in its first lines what its output proves.
//!
//! ```text
//! cargo test --test durability recorded::scripts::locks
//! UPDATE_GOLDENFILES=1 cargo test --test durability recorded
//! ```
//!
//! The second records all of them anew: what has changed is read against what they claim.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use etcd_log::{Batch, RecordedBatch};
use etcd_projections::{SnapshotItem, State, TreeNode};
use test_each_file::test_each_path;

use crate::support::{limit, scripts_are_tests};

const RING: usize = 20;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn files(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory(name)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn load(path: &Path) -> Result<Vec<Batch>, Box<dyn Error>> {
    Ok(RecordedBatch::read_all(BufReader::new(File::open(path)?))?)
}

/// Replays up to a command, which may be in the middle of a batch.
fn replay(batches: &[Batch], to: u64) -> State {
    let mut state = State::new(RING);
    for batch in batches {
        let index = state.position().index.0;
        if index >= to {
            break;
        }
        state.apply(&batch.first(usize::try_from(to - index).unwrap_or(usize::MAX)));
    }
    state
}

test_each_path! { in "tests/scripts/recorded" as scripts => run }

fn run(script: &Path) {
    limit::begin();
    goldenscript::run(&mut Runner::default(), script).unwrap();
}

#[test]
fn every_script_is_a_test() {
    scripts_are_tests::check(
        Path::new(env!("CARGO_MANIFEST_DIR")),
        "tests/scripts/recorded",
        "recorded::scripts",
    );
}

/// Any recorded log, replayed from a checkpoint after any batch, leads to the
/// same state as replayed whole.
#[test]
fn any_checkpoint_leads_to_the_same_state() {
    let recordings = files("recorded");
    assert!(!recordings.is_empty());
    for recording in recordings {
        let batches = load(&recording).unwrap();
        let whole = shown(&replay(&batches, u64::MAX)).unwrap();
        for at in 0..batches.len() {
            let mut state = State::new(RING);
            batches[..at].iter().for_each(|batch| drop(state.apply(batch)));
            let pieces: Vec<SnapshotItem> = state.snapshot_items().collect();
            let mut state = State::from_snapshot(&state.snapshot_header(), pieces, RING).unwrap();
            batches[at..].iter().for_each(|batch| drop(state.apply(batch)));
            assert_eq!(shown(&state).unwrap(), whole, "checkpoint after batch {at}");
        }
    }
}

#[derive(Debug, goldenscript::Command)]
enum Action {
    Load(String),
    At(u64),
    Digest(Vec<u64>),
    End,
}

#[derive(Default)]
struct Runner {
    batches: Vec<Batch>,
}

impl goldenscript::Runner for Runner {
    type Command = Action;

    fn run(
        &mut self,
        action: &Action,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        match action {
            Action::Load(name) => {
                self.batches = load(&directory("recorded").join(format!("{name}.jsonl")))?;
                Ok(String::new())
            }
            Action::At(index) => shown(&replay(&self.batches, *index)),
            Action::End => shown(&replay(&self.batches, u64::MAX)),
            Action::Digest(indices) => {
                let digest = |index: &u64| replay(&self.batches, *index).digest();
                let lines: Vec<_> =
                    indices.iter().map(|index| format!("#{index} {}", digest(index))).collect();
                Ok(lines.join("\n"))
            }
        }
    }
}

fn shown(state: &State) -> Result<String, Box<dyn Error>> {
    let mut out = String::new();
    for (key, node) in state.tree().iter() {
        match node {
            TreeNode::File { value, .. } => writeln!(out, "tree {key} = {value}")?,
            TreeNode::Directory => writeln!(out, "tree {key}/")?,
        }
    }
    if let (Some(first), Some(last)) = (state.ring().first(), state.ring().last()) {
        writeln!(out, "ring {} {} to {} {}", first.number, first.index, last.number, last.index)?;
    }
    for (deadline, key) in state.expiry().iter() {
        writeln!(out, "deadline {deadline} {key}")?;
    }
    for machine in state.machines().iter() {
        writeln!(out, "machine {} {} {}", machine.name, machine.peer_url, machine.client_url)?;
    }
    for first in state.requests().iter() {
        let (id, changed) = (&first.requested.id, first.changed);
        writeln!(out, "request {id} by {}, changed {changed}", first.index)?;
    }
    let position = state.position();
    writeln!(out, "position {} {} {}", position.index, position.event, position.time)?;
    writeln!(out, "digest {}", state.digest())?;
    Ok(out)
}
