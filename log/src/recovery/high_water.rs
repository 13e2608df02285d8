//! The high-water mark: a file beside the segments, `witness`, that says how far the
//! log went.
//!
//! ```text
//!  0        8                12
//!  │ commit │ CRC of the log │ CRC of these 12 bytes │
//! ```
//!
//! It is written after each commit's fsync and before anybody is told, and is
//! never synced itself. So it is never ahead of what is on disk; and a process
//! that is killed leaves it exact. A log that ends before it has lost what was
//! acknowledged: without the mark, a damaged last commit could not be told from
//! one that a crash cut short.
//!
//! *Limits*: after a power failure it may be up to half a minute old, or gone, and
//! then a damaged last commit is taken for a torn one.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::files::IoError;
use crate::segments::frame::Chain;

/// How long the file is, in bytes.
const LENGTH: usize = 16;

/// How far the log went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HighWaterMark {
    /// The number of the last commit.
    pub(crate) commit: u64,
    /// The CRC of its last frame.
    pub(crate) crc: u32,
}

/// What there is of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No file.
    Nothing,
    /// A file that says nothing.
    Unreadable,
    /// A file that says how far.
    Mark(HighWaterMark),
}

/// The file of a log that is being written.
pub(crate) struct HighWaterFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
}

impl HighWaterFile {
    pub(crate) fn open(disk: &dyn Disk, dir: &Path) -> Result<Self, IoError> {
        let path = path(dir);
        let file = if path.exists() { disk.open(&path) } else { disk.create(&path) };
        let mut file = file.map_err(IoError::at("open", &path))?;
        // What stands behind would keep all that is written from being read.
        file.set_len(LENGTH as u64).map_err(IoError::at("cut", &path))?;
        Ok(Self { file, path })
    }

    /// Writes how far the log goes.
    pub(crate) fn write(&mut self, commit: u64, chain: Chain) -> Result<(), IoError> {
        let bytes = HighWaterMark { commit, crc: chain.crc }.to_bytes();
        self.file.write_at(&bytes, 0).map_err(IoError::at("write", &self.path))
    }
}

impl HighWaterMark {
    fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0..8].copy_from_slice(&self.commit.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..12]);
        bytes[12..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let commit = u64::from_le_bytes(bytes[0..8].try_into().expect("eight bytes"));
        let crc = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
        let found = Self { commit, crc };
        (found.to_bytes() == *bytes).then_some(found)
    }
}

/// Returns where the mark of a directory of segments lies.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("witness")
}

/// Reads what the mark says.
pub(crate) fn read(dir: &Path) -> Result<Found, LogError> {
    let path = path(dir);
    // One byte more than there should be: enough to see that it is too long.
    let mut bytes = Vec::new();
    let read = File::open(&path)
        .and_then(|file| file.take(LENGTH as u64 + 1).read_to_end(&mut bytes).map(|_| bytes));
    match read {
        Ok(bytes) if bytes.is_empty() => Ok(Found::Nothing),
        Ok(bytes) => Ok(HighWaterMark::from_bytes(&bytes).map_or(Found::Unreadable, Found::Mark)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(IoError::at("read", &path)(error).into()),
    }
}
