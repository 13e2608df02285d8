//! `etcd log export`: a log as lines of JSON, one batch a line.

use std::io::Write;
use std::path::Path;

use etcd_log::{Index, RecordedBatch};

use super::ToolError;
use super::opened::Opened;

/// Writes a log as a recorded one.
///
/// # Errors
///
/// If the log cannot be read, or the output not be written.
pub fn export(dir: &Path, out: &mut dyn Write) -> Result<(), ToolError> {
    let opened = Opened::open(dir)?;
    let mut next = opened.log.find(Index(0))?.1.next();
    for entry in opened.log.iter(opened.settled.clone()) {
        let entry = entry?;
        if let Some(batch) = entry.batch() {
            let line = RecordedBatch::new(next, batch);
            serde_json::to_writer(&mut *out, &line).map_err(std::io::Error::from)?;
            writeln!(out)?;
            next = Index(next.0 + entry.commands());
        }
    }
    Ok(())
}
