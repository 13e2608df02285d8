//! A checkpoint's file: JSON lines, and a checksum over all of them.
//!
//! ```text
//! {"format":1,"applied":{…},"membership":{…},…,"summary":{…}}   what the rest adds up to
//! {"directory":{"key":"/foo"}}                                  every node of the tree
//! {"file":{"key":"/foo/bar","value":"x"}}
//! {"event":{…}}                                                 every event of the ring
//! {"checksum":"…"}                                              xxh3-128 of the lines before
//! ```

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use etcd_log::{IoError, LogId, Membership, format_of};
use etcd_projections::{Piece, RestoreError, State, Summary};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// The version of the format.
const FORMAT: u32 = 1;

/// A state, and what Raft needs to know to go on from it.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The last entry that the state contains.
    pub applied: Option<LogId>,
    /// The last membership up to there, and the entry that brought it.
    pub membership: (Option<LogId>, Membership),
    /// The state.
    pub state: State,
}

impl Checkpoint {
    /// Returns the state before the first entry.
    pub fn empty(state: State) -> Self {
        Self { applied: None, membership: (None, Membership::default()), state }
    }
}

/// The first line of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    /// The version of the format.
    format: u32,
    /// The last entry that the state contains.
    applied: Option<LogId>,
    /// The last membership up to there.
    membership: Membership,
    /// The entry that brought it.
    membership_at: Option<LogId>,
    /// What the pieces that follow add up to.
    summary: Summary,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    checksum: String,
}

/// Why a checkpoint cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A line is not what should stand there.
    #[error("{}: line {line} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The lines are not those that were written.
    #[error("{}: checksum is {found}, expected {expected}", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The checksum of the lines.
        found: String,
        /// The checksum in the last line.
        expected: String,
    },
    /// The last line is missing.
    #[error("{}: ends without its last line", .0.display())]
    CutShort(PathBuf),
    /// A later version wrote it.
    #[error("{}: format {found} is newer than the {FORMAT} that this version knows", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The pieces do not add up.
    #[error("{}: does not add up", path.display())]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// What is missing, or too much.
        source: RestoreError,
    },
}

/// Writes the lines of a checkpoint.
pub(super) fn write(file: &File, checkpoint: &Checkpoint) -> io::Result<()> {
    let mut out = Hashing { out: BufWriter::with_capacity(1 << 18, file), hash: Xxh3::new() };
    let (membership_at, membership) = checkpoint.membership.clone();
    let summary = checkpoint.state.summary();
    let applied = checkpoint.applied;
    out.line(&Meta { format: FORMAT, applied, membership, membership_at, summary })?;
    for piece in checkpoint.state.pieces() {
        out.line(&piece)?;
    }
    let checksum = format!("{:032x}", out.hash.digest128());
    out.line(&Footer { checksum })?;
    out.out.flush()
}

/// Reads a checkpoint, with a ring of so many events.
///
/// Its checksum is judged first, on a way through the file of its own: nothing of
/// a damaged checkpoint is believed, not even its format.
pub(super) fn read(path: &Path, ring_capacity: usize) -> Result<Checkpoint, CheckpointError> {
    check(path)?;
    let mut lines = Lines::open(path)?;
    let first = lines.next()?.ok_or_else(|| CheckpointError::CutShort(path.to_owned()))?;
    if let Some(found) = format_of(&first).filter(|format| *format > FORMAT) {
        return Err(CheckpointError::NewerFormat { path: path.to_owned(), found });
    }
    let meta: Meta = lines.parse(&first)?;
    let mut failure = None;
    let pieces = std::iter::from_fn(|| match lines.piece() {
        Ok(piece) => piece,
        Err(error) => {
            failure = Some(error);
            None
        }
    });
    let state = State::from_pieces(&meta.summary, pieces, ring_capacity);
    if let Some(error) = failure {
        return Err(error);
    }
    let state =
        state.map_err(|source| CheckpointError::Incomplete { path: path.to_owned(), source })?;
    let membership = (meta.membership_at, meta.membership);
    Ok(Checkpoint { applied: meta.applied, membership, state })
}

/// Checks that the lines are those that were written.
fn check(path: &Path) -> Result<(), CheckpointError> {
    let mut lines = Lines::open(path)?;
    let mut hash = Xxh3::new();
    while let Some(line) = lines.next()? {
        if !is_footer(&line) {
            hash.update(&line);
            continue;
        }
        let found = format!("{:032x}", hash.digest128());
        let expected = lines.parse::<Footer>(&line)?.checksum;
        if found == expected && lines.next()?.is_none() {
            return Ok(());
        }
        let path = path.to_owned();
        return Err(CheckpointError::Checksum { path, found, expected });
    }
    Err(CheckpointError::CutShort(path.to_owned()))
}

fn is_footer(line: &[u8]) -> bool {
    line.starts_with(br#"{"checksum""#)
}

/// The lines of a checkpoint that is being read.
struct Lines<'a> {
    path: &'a Path,
    file: BufReader<File>,
    number: usize,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(IoError::at("open", path))?;
        Ok(Self { path, file: BufReader::with_capacity(1 << 18, file), number: 0 })
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, CheckpointError> {
        let mut line = Vec::new();
        let read = self.file.read_until(b'\n', &mut line);
        let length = read.map_err(IoError::at("read", self.path))?;
        self.number += 1;
        Ok((length > 0).then_some(line))
    }

    /// Returns the next piece; nothing, if the footer comes.
    fn piece(&mut self) -> Result<Option<Piece>, CheckpointError> {
        let line = self.next()?.ok_or_else(|| CheckpointError::CutShort(self.path.to_owned()))?;
        if is_footer(&line) { Ok(None) } else { self.parse(&line).map(Some) }
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self, line: &[u8]) -> Result<T, CheckpointError> {
        serde_json::from_slice(line).map_err(|source| CheckpointError::Unreadable {
            path: self.path.to_owned(),
            line: self.number,
            source,
        })
    }
}

/// A writer of lines that hashes what it writes.
struct Hashing<W> {
    out: W,
    hash: Xxh3,
}

impl<W: Write> Hashing<W> {
    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.hash.update(&line);
        self.out.write_all(&line)
    }
}
