//! The table: what every key holds, and the last event that it was told by. Both change in
//! one transaction, so that they never contradict each other.

use etcd_log::{ClusterId, EventNumber};
use etcd_projections::{CLUSTER_KEY, Change, ClusterValue, Event};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

/// Of the log on disk only the order is needed: what a power failure takes comes again.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS keys (
        key TEXT PRIMARY KEY, value TEXT NOT NULL, command INTEGER NOT NULL, deadline TEXT
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY CHECK (one = 1), event INTEGER);
    INSERT OR IGNORE INTO position VALUES (1, 0);
";

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    /// The database refuses.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// An event is missing, or was there before.
    #[error("event {found} does not follow {last}")]
    Gap { found: EventNumber, last: EventNumber },
}

/// A table of keys in a database.
pub(crate) struct Table {
    database: Connection,
}

impl Table {
    /// Opens a database, and makes the table if it is not there.
    pub(crate) fn open(path: &str) -> Result<Self, TableError> {
        let database = Connection::open(path)?;
        database.execute_batch(SCHEMA)?;
        Ok(Self { database })
    }

    /// Returns the last event that the table was told by.
    pub(crate) fn position(&self) -> Result<EventNumber, TableError> {
        let read = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let number = self.database.query_row("SELECT event FROM position", [], read)?;
        Ok(EventNumber(number.unsigned_abs()))
    }

    /// Returns whose keys they are, once that is known: it stands among them.
    pub(crate) fn cluster(&self) -> Result<Option<ClusterId>, TableError> {
        let read = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
        let query = "SELECT value FROM keys WHERE key = ?1";
        let value = self.database.query_row(query, [CLUSTER_KEY], read).optional()?;
        Ok(value.and_then(|value| ClusterValue::parse(&value)).map(|value| value.cluster))
    }

    /// Applies the next events, all or none, and returns the last one.
    pub(crate) fn apply(
        &mut self,
        events: &[impl AsRef<Event>],
    ) -> Result<EventNumber, TableError> {
        let mut last = self.position()?;
        let transaction = self.database.transaction()?;
        for event in events.iter().map(AsRef::as_ref) {
            if event.number != last.next() {
                return Err(TableError::Gap { found: event.number, last });
            }
            apply(&transaction, event)?;
            last = event.number;
        }
        transaction.execute("UPDATE position SET event = ?1", [last.0.cast_signed()])?;
        transaction.commit()?;
        Ok(last)
    }
}

fn apply(table: &Transaction<'_>, event: &Event) -> Result<(), rusqlite::Error> {
    let (key, command) = (event.key.as_str(), event.index.0.cast_signed());
    match &event.change {
        Change::Set { value, deadline, .. } => {
            let deadline = deadline.map(|deadline| deadline.to_string());
            let set = "INSERT OR REPLACE INTO keys VALUES (?1, ?2, ?3, ?4)";
            table.prepare_cached(set)?.execute(params![key, &**value, command, deadline])?;
        }
        Change::Delete { .. } | Change::Expire { .. } => {
            table.prepare_cached("DELETE FROM keys WHERE key = ?1")?.execute([key])?;
        }
        // Directories are no rows: they follow from the keys.
        Change::DeleteDir => {}
    }
    Ok(())
}
