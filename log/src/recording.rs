//! Recorded logs: the commands of a log as JSON lines, one batch a line.
//!
//! ```text
//! {"index":1,"time":"2026-11-22T10:00:00.000000000Z","commands":[{"sync":{…}},{"join":{…}}]}
//! {"index":3,"time":"2026-11-22T10:00:07.250000000Z","commands":[{"set":{…}}]}
//! ```
//!
//! `index` is that of the batch's first command; of a tick, that of the command
//! that would come next. It is there for people and as a check: a line that does
//! not follow the one before is refused.

use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};

use crate::{Batch, Check, Command, Index, LogTime};

/// The longest line, in bytes. A batch of 4 MiB grows sixfold at worst when JSON
/// escapes all of it.
const LINE_BYTES: usize = 32 << 20;

/// One line of a recorded log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedBatch {
    /// The index of the first command.
    pub index: Index,
    /// The batch's time.
    pub time: LogTime,
    /// The commands.
    pub commands: Vec<Command>,
    /// What the proposer's state was before; absent from most batches. A recording has
    /// no entries, so that it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
}

/// A recorded log that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The operating system refused, or the text is not UTF-8.
    #[error("cannot be read")]
    Io(#[from] io::Error),
    /// It is not a batch.
    #[error("line {line}: not a batch of commands")]
    Unreadable {
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It is longer than any batch that a machine would write.
    #[error("line {line}: {length} bytes are more than a batch may have ({LINE_BYTES})")]
    TooLong {
        /// The line's number, from 1.
        line: usize,
        /// Its length.
        length: usize,
    },
    /// It does not follow the line before.
    #[error("line {line}: batch begins with command {found}, expected {expected}")]
    Gap {
        /// The line's number, from 1.
        line: usize,
        /// The index that it gives.
        found: Index,
        /// The index that comes next.
        expected: Index,
    },
}

impl RecordedBatch {
    /// Records a batch whose first command has this index.
    pub fn new(index: Index, batch: &Batch) -> Self {
        let Batch { time, commands, check } = batch.clone();
        Self { index, time, commands, check: check.map(without_entry) }
    }

    fn into_batch(self) -> Batch {
        let Self { index: _, time, commands, check } = self;
        // Whoever takes the batch over numbers the entries anew.
        Batch { time, commands, check: check.map(without_entry) }
    }

    /// Reads a recorded log, from its first line to its last.
    ///
    /// # Errors
    ///
    /// If a line cannot be read, is not a batch, or not the next one.
    pub fn read_all(lines: impl BufRead) -> Result<Vec<Batch>, RecordingError> {
        let (mut batches, mut next) = (Vec::new(), Index(1));
        for (at, line) in lines.lines().enumerate() {
            if let Some(recorded) = Self::read(at + 1, &line?, next)? {
                next = Index(next.0 + recorded.commands.len() as u64);
                batches.push(recorded.into_batch());
            }
        }
        Ok(batches)
    }

    /// Reads the next line, whose first command must be `expected`. An empty line
    /// is none.
    fn read(line: usize, text: &str, expected: Index) -> Result<Option<Self>, RecordingError> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        if text.len() > LINE_BYTES {
            return Err(RecordingError::TooLong { line, length: text.len() });
        }
        let batch: Self = serde_json::from_str(text)
            .map_err(|source| RecordingError::Unreadable { line, source })?;
        if batch.index != expected {
            return Err(RecordingError::Gap { line, found: batch.index, expected });
        }
        Ok(Some(batch))
    }
}

fn without_entry(check: Check) -> Check {
    Check { entry: None, ..check }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn line_that_does_not_follow_is_refused() {
        let line = r#"{"index":3,"time":"1970-01-01T00:00:01Z","commands":[]}"#;
        assert!(RecordedBatch::read(1, line, Index(3)).unwrap().is_some());
        let error = RecordedBatch::read(7, line, Index(4)).unwrap_err();
        assert_eq!(error.to_string(), "line 7: batch begins with command #3, expected #4");
    }

    proptest! {
        /// Whatever the text, reading it does not panic.
        #[test]
        fn any_text_is_judged(text in ".*") {
            let _read = RecordedBatch::read(1, &text, Index(1));
        }
    }
}
