//! A sealed file: entries that are settled, compressed, and never changed again.
//!
//! ```text
//! etcdseal │ format, 0 │ block │ block │ … │ footer, JSON │ its length │ its hash │ sealends
//!    8          8                                              4           16          8
//!
//! block = zstd of: length │ head of an entry │ JSON │ length │ head │ JSON │ …
//! ```
//!
//! * An entry's bytes are those of its frame in the segment, copied as they are.
//! * The footer names every block, its place and its hash, what the log said of
//!   positions in it, and the hash of the footer of the file before: a chain over
//!   the whole archive, of which each link vouches for all of its file.
//! * Nothing is decompressed before its hash was found right.
//!
//! Deliberately not here: which entries are settled (`archiver`), and how files
//! follow each other (`archive`).

mod footer;
mod reader;
mod writer;

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::error::{Damage, LogError};
use crate::segments::frame::MAX_PAYLOAD;
use crate::types::{Digest, Index, LogTime, Membership, RaftIndex};

use footer::Footer;
pub(crate) use reader::SealedReader;
pub(crate) use writer::SealedWriter;

/// The version of this format.
const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"etcdseal";
const END: &[u8; 8] = b"sealends";

/// How long the file's own header is.
const HEADER: usize = 16;

/// How long the part behind the footer is.
const TRAILER: usize = 4 + 16 + 8;

/// How many bytes of entries go into a block: a reader that seeks has to read
/// one, and a larger one hardly compresses better.
pub(crate) const BLOCK_BYTES: usize = 256 << 10;

/// The most bytes that a block can have: all but full, and one entry more.
const MOST_BLOCK_BYTES: usize = BLOCK_BYTES + MAX_PAYLOAD;

// How long a block is stands in four bytes, compressed and not: what does not compress
// grows by less than one in a hundred.
const _: () = assert!(MOST_BLOCK_BYTES + MOST_BLOCK_BYTES / 100 <= u32::MAX as usize);

/// What a new file follows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Predecessor {
    pub(crate) before: Index,
    pub(crate) time: LogTime,
    pub(crate) membership: Option<Membership>,
    pub(crate) previous: Option<Digest>,
}

/// A file that is whole as far as its footer goes.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) path: PathBuf,
    /// How long the file is.
    pub(crate) bytes: u64,
    /// The hash of its footer.
    pub(crate) hash: Digest,
    /// The footer, without its blocks: an archive has many files.
    pub(crate) footer: Footer,
}

/// Returns where a file lies while it is being written.
pub(crate) fn draft(dir: &Path) -> PathBuf {
    dir.join("draft.tmp")
}

/// Returns the path of the file with these commands.
pub(crate) fn path(dir: &Path, first: Index, last: Index) -> PathBuf {
    dir.join(format!("{:020}-{:020}.sealed", first.0, last.0))
}

impl Sealed {
    fn new(path: PathBuf, bytes: u64, hash: Digest, footer: Footer) -> Self {
        Self { path, bytes, hash, footer: Footer { blocks: Vec::new(), ..footer } }
    }

    /// Reads a file's footer, and checks that the file is laid out as it says.
    /// `next` is the entry and the command that should begin there.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is damaged, or of a later version.
    pub(crate) fn open(path: &Path, next: (RaftIndex, Index)) -> Result<Self, LogError> {
        let (file, bytes) = footer::open_file(path)?;
        let (footer, hash) = footer::read(&file, path, bytes, next)?;
        Ok(Self::new(path.to_owned(), bytes, hash, footer))
    }

    /// Opens the file to read its entries.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no longer the file that was found.
    pub(crate) fn reader(&self) -> Result<SealedReader, LogError> {
        let (file, bytes) = footer::open_file(&self.path)?;
        let next = (self.footer.first, self.footer.before.next());
        let (footer, hash) = footer::read(&file, &self.path, bytes, next)?;
        if hash != self.hash {
            let what = format!("the footer has hash {hash}, it was {}", self.hash);
            return Err(Damage::at(&self.path, 0, next, what));
        }
        Ok(SealedReader::new(self.path.clone(), file, footer))
    }

    /// Reads the whole file and compares it with its footer, unless it is to stop
    /// before.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not as it was written.
    pub(crate) fn verify(&self, is_to_stop: impl Fn() -> bool) -> Result<(), LogError> {
        let reader = self.reader()?;
        let mut content = Xxh3::new();
        for block in reader.compressed_blocks() {
            if is_to_stop() {
                return Ok(());
            }
            content.update(&block?);
        }
        let (found, expected) = (Digest(content.digest128()), self.footer.content);
        if found == expected {
            return Ok(());
        }
        let next = (self.footer.first, self.footer.before.next());
        let what = format!("the blocks have hash {found}, expected {expected}");
        Err(Damage::at(&self.path, HEADER as u64, next, what))
    }
}
