//! Recorded logs: the commands of a log as JSON lines, one batch a line, and an end. All
//! of the format is on this page.
//!
//! ```text
//! {"index":1,"time":"2026-11-22T10:00:00.000000000Z","commands":[{"sync":{…}},{"join":{…}}]}
//! {"index":3,"time":"2026-11-22T10:00:07.250000000Z","commands":[{"set":{…}}]}
//! {"index":4,"time":"2026-11-22T10:00:09.000000000Z","commands":[]}
//! {"end":{"index":3,"time":"2026-11-22T10:00:09.000000000Z","digest":"…"}}
//! ```
//!
//! # A line
//!
//! A JSON object in UTF-8, ended by `\n`, of 32 MiB at most. An empty line says nothing.
//!
//! | field | what it is |
//! |---|---|
//! | `index` | that of the batch's first command, from 1, without gaps; of a *tick*, which has no commands, that of the command which would come next |
//! | `time` | the leader's clock: RFC 3339 with nanoseconds. It may go back; then the time before it counts |
//! | `commands` | any number of the commands below, each of which takes an index, whether it is refused or not |
//! | `check` | now and then, what the proposer's state was *before* the batch: `index`, `event` (its number), `time`, `digest` |
//!
//! | command | fields |
//! |---|---|
//! | `set` | `key`, `value`, and `ttl` in whole seconds if it is to expire |
//! | `testAndSet` | `key`, `prevValue`, `value`, `ttl` as above |
//! | `delete`, `deleteDir` | `key` |
//! | `sync` | `cluster`: founds one. The first command of every log |
//! | `join` | `name`, `node`, `peerUrl`, `clientUrl`: a machine, or its new addresses |
//! | `leave` | `name` |
//!
//! A key is clean: one slash before each part, and none at the end. Identities are 16
//! hexadecimal digits, digests 32.
//!
//! # What is kept
//!
//! * **It means the same for ever.** A recording folds to the same events, in the same
//!   order, and to the same digest in every version and on every machine. A command with
//!   another meaning gets another name. The recordings in `tests/recorded` never change.
//! * **It is all there is.** Time is in it, and expiries follow from it; nothing else has a
//!   say in what comes of it.
//! * **A digest is a hash over all outcomes so far**, refusals included: two states with the
//!   same digest have come the same way. `etcd-projections` computes it, and compares it
//!   with each `check` and with the end.
//! * **The end names the last command** and, unless the log's beginning was gone, the digest
//!   there. A recording without one was cut off, or made by a version that wrote none.
//!   Whether such a one will do is for whoever reads it to say.
//! * **A part says that it is one.** What does not begin with command 1 has a first line
//!   `{"part":{"from":41}}`. It can be looked at, and not be folded: it is refused here.
//!
//! # What is refused
//!
//! With the number of the line, and before anything behind it is believed: what is no JSON
//! of this form, a field or a command that is not known, a line too long, an index that does
//! not follow, an end that names another command than the last, anything behind the end.
//!
//! [`Recording`] has all of it in memory, [`RecordingReader`] one batch at a time.

mod reader;

use std::io::{self, BufRead};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::{Batch, Check, Command, Digest, Index, LogTime};

pub use self::reader::RecordingReader;

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

/// The last line of a recorded log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedEnd {
    /// What there is to say at the end.
    pub end: End,
}

/// How a recorded log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The index of the last command.
    pub index: Index,
    /// The logged time.
    pub time: LogTime,
    /// The hash over all outcomes; absent if the beginning was no longer kept, and
    /// nobody could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// The first line of a recording that is a part of a log, and does not begin with its first
/// command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedPart {
    /// What there is to say at the beginning.
    pub part: Part,
}

/// Where a part of a log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The index of its first command.
    pub from: Index,
}

/// A recorded log, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// The batches, from the first command on.
    pub batches: Vec<Batch>,
    /// The index of the last command; zero, if there is none.
    pub last: Index,
    /// Its end, if it has one.
    pub end: Option<End>,
}

/// A recorded log that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The operating system refused.
    #[error("cannot be read")]
    Io(#[from] io::Error),
    /// It is neither a batch nor an end.
    #[error("line {line}: not a batch of commands; the last good command is {last}")]
    Unreadable {
        /// The line's number, from 1.
        line: usize,
        /// The last command before it.
        last: Index,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It says that what follows is a part of a log.
    #[error(
        "line {line}: this is a part of a log, from command {from} on: without what came before, nobody knows what came of it"
    )]
    Part {
        /// The line's number, from 1.
        line: usize,
        /// The first command of the part.
        from: Index,
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
    /// It speaks of another end.
    #[error("line {line}: the end is said to be command {found}, but the last command is {last}")]
    OtherEnd {
        /// The line's number, from 1.
        line: usize,
        /// The last command that it names.
        found: Index,
        /// The last one there is.
        last: Index,
    },
    /// Something stands behind the end.
    #[error("line {line}: stands behind the end")]
    BehindEnd {
        /// The line's number, from 1.
        line: usize,
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

    /// Reads the batches of a recorded log, with an end or without.
    ///
    /// # Errors
    ///
    /// As [`Recording::read`].
    pub fn read_all(lines: impl BufRead) -> Result<Vec<Batch>, RecordingError> {
        Ok(Recording::read(lines)?.batches)
    }
}

impl Recording {
    /// Reads a recorded log, from its first line to its last. It need not have an end.
    ///
    /// # Errors
    ///
    /// If a line cannot be read, is not a batch, or not the next one.
    pub fn read(lines: impl BufRead) -> Result<Self, RecordingError> {
        let mut reader = RecordingReader::new(lines);
        let batches = reader.by_ref().map(|batch| batch.map(|read| read.batch));
        let batches = batches.map(|batch| batch.map(Arc::unwrap_or_clone));
        let batches = batches.collect::<Result<_, _>>()?;
        Ok(Self { batches, last: reader.last_command(), end: reader.end() })
    }
}

fn without_entry(check: Check) -> Check {
    Check { entry: None, ..check }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: &str = r#"{"index":1,"time":"1970-01-01T00:00:01Z","commands":[{"delete":{"key":"/a"}},{"delete":{"key":"/b"}}]}"#;
    const TICK: &str = r#"{"index":3,"time":"1970-01-01T00:00:02Z","commands":[]}"#;
    const END: &str = r#"{"end":{"index":2,"time":"1970-01-01T00:00:02.000000000Z"}}"#;

    fn read(lines: &[&str]) -> Result<Recording, String> {
        Recording::read(lines.join("\n").as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn line_that_does_not_follow_is_refused() {
        assert_eq!(read(&[FIRST, "", TICK, TICK]).unwrap().batches.len(), 3);
        for lines in [&[TICK][..], &[FIRST, FIRST]] {
            let error = read(lines).unwrap_err();
            assert!(error.contains("batch begins with command #"), "{error}");
        }
    }

    /// A file that is no recording may have no line at all.
    #[test]
    fn line_without_an_end_is_refused_before_it_fills_the_memory() {
        let endless = io::BufReader::new(io::repeat(b'x'));
        let error = Recording::read(endless).unwrap_err().to_string();
        assert!(error.starts_with("line 1: 33554434 bytes are more than"), "{error}");
    }

    #[test]
    fn end_is_the_last_line_and_names_the_last_command() {
        let whole = read(&[FIRST, TICK, END]).unwrap();
        let end = whole.end.unwrap();
        assert_eq!((whole.last, end.index, end.digest), (Index(2), Index(2), None));
        assert_eq!(serde_json::to_string(&RecordedEnd { end }).unwrap(), END);
        assert_eq!(read(&[FIRST, TICK]).unwrap().end, None);
        let wrong = read(&[END]).unwrap_err();
        assert_eq!(wrong, "line 1: the end is said to be command #2, but the last command is #0");
        assert_eq!(read(&[FIRST, END, TICK]).unwrap_err(), "line 3: stands behind the end");
    }

    #[test]
    fn part_of_a_log_is_refused() {
        let line = serde_json::to_string(&RecordedPart { part: Part { from: Index(3) } }).unwrap();
        assert_eq!(line, r#"{"part":{"from":3}}"#);
        let error = read(&[&line, TICK]).unwrap_err();
        assert!(
            error.starts_with("line 1: this is a part of a log, from command #3 on"),
            "{error}"
        );
    }

    #[test]
    fn line_that_was_cut_off_names_the_last_command() {
        let whole = [FIRST, TICK, END].join("\n");
        for length in 0..whole.len() {
            match Recording::read(&whole.as_bytes()[..length]) {
                Ok(read) => assert_eq!(read.end, None, "{length} bytes"),
                Err(RecordingError::Unreadable { last, .. }) => {
                    let last_whole = if length > FIRST.len() { 2 } else { 0 };
                    assert_eq!(last, Index(last_whole), "{length} bytes");
                }
                Err(error) => panic!("{length} bytes: {error}"),
            }
        }
    }

    proptest! {
        /// Whatever the bytes, reading them does not panic.
        #[test]
        fn any_text_is_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in ".*") {
            let _read = (Recording::read(&bytes[..]), Recording::read(text.as_bytes()));
        }
    }
}
