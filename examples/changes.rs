//! For whoever wants a read model of his own: how often each key has changed, folded from
//! what came of each command.
//!
//! ```sh
//! cargo run --example changes -- tests/recorded/locks.jsonl
//! ```
//!
//! Any export will do (`etcd log export -d DIR > FILE`).

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};

use etcd_log::{KeyPath, Recording};
use etcd_projections::{Outcome, Position, Projection, State, What};

/// How often each key has changed: set, deleted, or expired.
#[derive(Default)]
struct Changes {
    position: Position,
    by_key: BTreeMap<KeyPath, u64>,
    refused: u64,
}

impl Projection for Changes {
    fn position(&self) -> Position {
        self.position
    }

    fn fold(&mut self, outcome: &Outcome) {
        // It panics where an outcome is missing: from there on each number would be wrong.
        self.position.follow(outcome);
        match &outcome.what {
            What::Event(event) => *self.by_key.entry(event.key.clone()).or_default() += 1,
            What::Rejection(_) => self.refused += 1,
            What::Tick => {}
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("which file?")?;
    changes(BufReader::new(File::open(path)?), &mut io::stdout().lock())
}

/// Reads a recorded log and prints the keys that have changed most often first. Apart
/// from `main`, so that a test can call it.
pub(crate) fn changes(log: impl BufRead, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let mut state = State::new(1);
    let mut changes = Changes::default();
    for batch in Recording::read(log)?.batches {
        // The state decides what comes of a batch, and the model follows.
        state.apply(&batch).iter().for_each(|outcome| changes.fold(outcome));
    }
    assert_eq!(changes.position(), state.position(), "no outcome was left out");
    let mut sorted: Vec<_> = changes.by_key.into_iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    for (key, times) in sorted {
        writeln!(out, "{times:6} {key}")?;
    }
    writeln!(out, "{:6} refused", changes.refused)?;
    Ok(())
}
