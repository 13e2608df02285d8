//! For whoever wants a number that no store keeps: how many keys there are in each
//! directory, counted from what is kept of a log.
//!
//! ```sh
//! cargo run --example directories -- tests/recorded/workload.jsonl
//! ```
//!
//! An export will do, the directory of a machine that is stopped, or a copy of one.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Write};

use etcd_log::History;
use etcd_projections::{Change, Event, State, What};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("of which log?")?;
    directories(History::open(path)?.without_end(), &mut io::stdout().lock())
}

/// Prints how many keys each directory holds, those further below it left out. Apart from
/// `main`, so that a test can call it.
pub(crate) fn directories(log: History, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let (mut state, mut keys) = (State::new(1), BTreeMap::new());
    for batch in log {
        for outcome in state.replay(&batch?)? {
            if let What::Event(event) = outcome.what {
                count(&event, &mut keys);
            }
        }
    }
    for (directory, keys) in keys {
        writeln!(out, "{keys:6} {directory}")?;
    }
    Ok(())
}

fn count(event: &Event, keys: &mut BTreeMap<String, u64>) {
    let (directory, _) = event.key.as_str().rsplit_once('/').expect("a key begins with one");
    let count = keys.entry(format!("{directory}/")).or_default();
    match &event.change {
        // A key that is set again was counted before.
        Change::Set { prev, .. } => *count += u64::from(prev.is_none()),
        Change::Delete { .. } | Change::Expire { .. } => *count -= 1,
        Change::DeleteDir => {}
    }
}
