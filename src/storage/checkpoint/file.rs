//! A checkpoint's file: JSON lines, compressed, and a hash over all of it.
//!
//! ```text
//! {"format":2,"applied":{…},"membership":{…},…,"summary":{…}}   what the rest adds up to
//! {"directory":{"key":"/foo"}}                                  every node of the tree
//! {"file":{"key":"/foo/bar","value":"x"}}
//! {"event":{…}}                                                 every event of the ring
//! {"request":{…}}                                               every id of a request
//! ```
//!
//! The hash stands behind the compressed lines, in a frame that zstd skips:
//! `zstd -dc` shows a checkpoint as it is.
//!
//! ```text
//! zstd of the lines │ magic of a skippable frame │ 24 │ etcdckpt │ xxh3-128
//!                                 4                4       8          16
//! ```

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use etcd_log::{Digest, IoError, LogId, Membership, format_of};
use etcd_projections::{RestoreError, SnapshotHeader, SnapshotItem, State};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// The version of the format.
const FORMAT: u32 = 2;

/// What stands before the hash.
const TRAILER: [u8; 16] = *b"\x5e\x2a\x4d\x18\x18\0\0\0etcdckpt";

/// How long the end of the file is, hash included.
const TRAILER_BYTES: usize = 32;

/// How much is read or written at once.
const BUFFER_BYTES: usize = 256 << 10;

/// After how many bytes to sync: a disk that is told to write all of a checkpoint at
/// once keeps the log waiting meanwhile.
const SYNC_BYTES: usize = 2 << 20;

/// How hard zstd tries.
const LEVEL: i32 = 1;

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
    summary: SnapshotHeader,
}

/// Why a checkpoint cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// It cannot be decompressed, though its hash is right.
    #[error("{}: cannot be decompressed", path.display())]
    Compression {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
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
    /// The file is not what was written.
    #[error("{}: hash is {found}, expected {expected}", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// The hash of what it holds.
        found: Digest,
        /// The hash at its end.
        expected: Digest,
    },
    /// The end of the file is missing.
    #[error("{}: does not end as a checkpoint does", .0.display())]
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

/// Writes a checkpoint.
pub(super) fn write(file: &File, checkpoint: &Checkpoint) -> io::Result<()> {
    let hashing = Hashing { out: Syncing { file, unsynced: 0 }, hash: Xxh3::new() };
    let compressed = zstd::Encoder::new(BufWriter::with_capacity(BUFFER_BYTES, hashing), LEVEL)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, compressed);
    let (membership_at, membership) = checkpoint.membership.clone();
    let summary = checkpoint.state.snapshot_header();
    let applied = checkpoint.applied;
    write_line(&mut out, &Meta { format: FORMAT, applied, membership, membership_at, summary })?;
    for piece in checkpoint.state.snapshot_items() {
        write_line(&mut out, &piece)?;
    }
    let compressed = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    let hashing = compressed.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    let hash = hashing.hash.digest128().to_le_bytes();
    let mut file = file;
    file.write_all(&[TRAILER, hash].concat())
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Reads a checkpoint, with a ring of so many events.
///
/// Its hash is judged first, on a way through the file of its own: nothing of a
/// damaged checkpoint is believed, not even its format.
pub(super) fn read(path: &Path, ring_capacity: usize) -> Result<Checkpoint, CheckpointError> {
    let mut file = File::open(path).map_err(IoError::at("open", path))?;
    let length = check(&mut file, path)?;
    file.rewind().map_err(IoError::at("read", path))?;
    let mut lines = Lines::new(path, file.take(length))?;
    let first = lines.next()?.unwrap_or_default();
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
    let state = State::from_snapshot(&meta.summary, pieces, ring_capacity);
    if let Some(error) = failure {
        return Err(error);
    }
    let state =
        state.map_err(|source| CheckpointError::Incomplete { path: path.to_owned(), source })?;
    let state = state.led_to_by(meta.applied.map(|id| id.index));
    let membership = (meta.membership_at, meta.membership);
    Ok(Checkpoint { applied: meta.applied, membership, state })
}

/// Checks that a file is what was written. Returns how long the compressed lines
/// are.
fn check(file: &mut File, path: &Path) -> Result<u64, CheckpointError> {
    let bytes = file.metadata().map_err(IoError::at("read", path))?.len();
    let cut_short = || CheckpointError::CutShort(path.to_owned());
    let length = bytes.checked_sub(TRAILER_BYTES as u64).ok_or_else(cut_short)?;
    let mut end = [0; TRAILER_BYTES];
    file.read_exact_at(&mut end, length).map_err(IoError::at("read", path))?;
    let (trailer, hash) = end.split_first_chunk::<16>().expect("the end is longer");
    if *trailer != TRAILER {
        return Err(cut_short());
    }
    let expected = Digest(u128::from_le_bytes(hash.try_into().expect("sixteen bytes are left")));
    let mut hashing = Hashing { out: io::sink(), hash: Xxh3::new() };
    let mut lines = BufReader::with_capacity(BUFFER_BYTES, file.take(length));
    io::copy(&mut lines, &mut hashing).map_err(IoError::at("read", path))?;
    let found = Digest(hashing.hash.digest128());
    if found != expected {
        return Err(CheckpointError::Hash { path: path.to_owned(), found, expected });
    }
    Ok(length)
}

/// The lines of a checkpoint that is being read.
struct Lines<'a> {
    path: &'a Path,
    text: BufReader<zstd::Decoder<'static, BufReader<io::Take<File>>>>,
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(path: &'a Path, file: io::Take<File>) -> Result<Self, CheckpointError> {
        let text = zstd::Decoder::new(file).map_err(|source| unpackable(path, source))?;
        Ok(Self { path, text: BufReader::with_capacity(BUFFER_BYTES, text), number: 0 })
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, CheckpointError> {
        let mut line = Vec::new();
        let read = self.text.read_until(b'\n', &mut line);
        let length = read.map_err(|source| unpackable(self.path, source))?;
        self.number += 1;
        Ok((length > 0).then_some(line))
    }

    fn piece(&mut self) -> Result<Option<SnapshotItem>, CheckpointError> {
        self.next()?.map(|line| self.parse(&line)).transpose()
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self, line: &[u8]) -> Result<T, CheckpointError> {
        serde_json::from_slice(line).map_err(|source| CheckpointError::Unreadable {
            path: self.path.to_owned(),
            line: self.number,
            source,
        })
    }
}

fn unpackable(path: &Path, source: io::Error) -> CheckpointError {
    CheckpointError::Compression { path: path.to_owned(), source }
}

/// A file that is synced a little at a time.
struct Syncing<'a> {
    file: &'a File,
    unsynced: usize,
}

impl Write for Syncing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.unsynced += written;
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A writer that hashes what passes through it.
struct Hashing<W> {
    out: W,
    hash: Xxh3,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
