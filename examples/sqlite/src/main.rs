//! For whoever wants to ask a store in SQL: its keys as a table, exact after any crash, from
//! a live cluster, a machine's directory, or an exported log alike.
//!
//! ```sh
//! cargo run -p etcd-sqlite -- keys.db http://127.0.0.1:4001    # follows, until it is ended
//! cargo run -p etcd-sqlite -- keys.db default.etcd             # of a machine that is stopped
//! sqlite3 keys.db 'SELECT key, value FROM keys'
//! ```
//!
//! It may be ended at any moment, and goes on where the table stands, from any of the three.

mod source;
mod table;

use std::io::{self, Write as _};

use futures_util::StreamExt as _;
use tokio::task::unconstrained;

use table::Table;

/// How many events go into one transaction at most: what is there already is not waited for.
const MOST_EVENTS: usize = 2000;

#[tokio::main]
async fn main() -> Result<(), source::Failure> {
    let mut words = std::env::args().skip(1);
    let (Some(database), Some(source)) = (words.next(), words.next()) else {
        return Err("which DATABASE, and which SOURCE?".into());
    };
    let mut table = Table::open(&database)?;
    let events = source::events(&source, table.position()?, table.cluster()?)?;
    let mut chunks = events.ready_chunks(MOST_EVENTS);
    // Tokio would have a task pause after a hundred events: they would go in small portions.
    while let Some(chunk) = unconstrained(chunks.next()).await {
        // What comes before an error is kept.
        let mut error = None;
        let events =
            chunk.into_iter().map_while(|event| event.map_err(|why| error = Some(why)).ok());
        let position = table.apply(&events.collect::<Vec<_>>())?;
        writeln!(io::stdout(), "{}", position.0)?;
        error.map_or(Ok(()), Err)?;
    }
    Ok(())
}
