//! The footer of a sealed file: what the file says about itself, and whether the
//! file is laid out accordingly.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::{END, FORMAT, HEADER, MAGIC, MOST_BLOCK_BYTES, TRAILER};
use crate::error::{Damage, LogError};
use crate::files::IoError;
use crate::segments::frame;
use crate::types::{Check, Digest, Index, LogId, LogTime, Membership, RaftIndex};

/// The longest footer: bounds what a reader allocates.
const MOST_FOOTER_BYTES: usize = 64 << 20;

/// What a file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Footer {
    pub(super) format: u32,
    /// The first entry.
    pub(crate) first: RaftIndex,
    /// The last entry.
    pub(crate) last: LogId,
    /// The last command before the first entry.
    pub(crate) before: Index,
    /// The last command.
    pub(crate) index: Index,
    /// The logged time at the end.
    pub(crate) time: LogTime,
    /// The last membership up to the end.
    pub(crate) membership: Option<Membership>,
    /// The hash of the footer of the file before; none in the first of all.
    pub(crate) previous: Option<Digest>,
    /// The hash of all blocks.
    pub(super) content: Digest,
    pub(super) blocks: Vec<Block>,
}

/// Where a block lies, and what it begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Block {
    pub(super) offset: u64,
    /// How many bytes it has in the file.
    pub(super) length: u32,
    /// How many bytes it has decompressed.
    pub(super) size: u32,
    /// Its first entry.
    pub(super) first: RaftIndex,
    /// The last command before it.
    pub(super) before: Index,
    /// The logged time before it.
    pub(super) time: LogTime,
    /// The first position that a batch in it speaks of, with its event number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) check: Option<Check>,
    pub(super) hash: Digest,
}

pub(super) fn open_file(path: &Path) -> Result<(File, u64), IoError> {
    let file = File::open(path).map_err(IoError::at("open", path))?;
    let bytes = file.metadata().map_err(IoError::at("read", path))?.len();
    Ok((file, bytes))
}

/// Reads a footer and its hash, and checks all that can be checked without the
/// blocks themselves.
pub(super) fn read(
    file: &File,
    path: &Path,
    bytes: u64,
    next: (RaftIndex, Index),
) -> Result<(Footer, Digest), LogError> {
    let wrong = |offset: u64, what: String| Damage::at(path, offset, next, what);
    let (text, start) = read_footer(file, bytes).map_err(|fault| match fault {
        Fault::Io(error) => IoError::at("read", path)(error).into(),
        Fault::Wrong(offset, what) => wrong(offset, what),
        Fault::NewerFormat(found) => {
            LogError::NewerFormat { path: path.to_owned(), found, known: FORMAT }
        }
    })?;
    let footer: Footer = serde_json::from_slice(&text)
        .map_err(|error| wrong(start, format!("the footer cannot be read: {error}")))?;
    check_layout(&footer, start).map_err(|what| wrong(start, what))?;
    Ok((footer, Digest(xxh3_128(&text))))
}

/// Why a footer cannot be used.
enum Fault {
    Io(io::Error),
    Wrong(u64, String),
    NewerFormat(u32),
}

/// Returns the footer's text and where it begins.
fn read_footer(file: &File, bytes: u64) -> Result<(Vec<u8>, u64), Fault> {
    if bytes < (HEADER + TRAILER) as u64 {
        let what = format!("file has {bytes} bytes, the shortest has {}", HEADER + TRAILER);
        return Err(Fault::Wrong(0, what));
    }
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).map_err(Fault::Io)?;
    let format = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
    let trailer_at = bytes - TRAILER as u64;
    let mut trailer = [0; TRAILER];
    file.read_exact_at(&mut trailer, trailer_at).map_err(Fault::Io)?;
    if &header[..8] != MAGIC {
        return Err(Fault::Wrong(0, format!("file begins with {:02x?}", &header[..8])));
    }
    if &trailer[20..] != END {
        return Err(Fault::Wrong(trailer_at, format!("file ends with {:02x?}", &trailer[20..])));
    }
    let length = u64::from(u32::from_le_bytes(trailer[..4].try_into().expect("four bytes")));
    if length > (trailer_at - HEADER as u64).min(MOST_FOOTER_BYTES as u64) {
        let what = format!("the footer says it has {length} bytes, the file has {bytes}");
        return Err(Fault::Wrong(trailer_at, what));
    }
    let start = trailer_at - length;
    let mut text = vec![0; usize::try_from(length).expect("bounded")];
    file.read_exact_at(&mut text, start).map_err(Fault::Io)?;
    let expected = u128::from_le_bytes(trailer[4..20].try_into().expect("sixteen bytes"));
    let found = xxh3_128(&text);
    if found != expected {
        let (found, expected) = (Digest(found), Digest(expected));
        let what = format!("the footer has hash {found}, expected {expected}");
        return Err(Fault::Wrong(start, what));
    }
    // The footer names the format too, under its hash: the header must agree.
    match frame::format_of(&text) {
        Some(named) if named == format && header[12..] == [0; 4] => {}
        named => {
            let named = named.unwrap_or_default();
            let what = format!("the header says format {format}, the footer {named}");
            return Err(Fault::Wrong(8, what));
        }
    }
    if format > FORMAT {
        return Err(Fault::NewerFormat(format));
    }
    Ok((text, start))
}

/// The blocks must fill the file up to the footer, and follow each other.
fn check_layout(footer: &Footer, end: u64) -> Result<(), String> {
    let mut offset = HEADER as u64;
    let mut before: Option<&Block> = None;
    for block in &footer.blocks {
        let follows = before
            .map_or((block.first, block.before) == (footer.first, footer.before), |before| {
                block.first > before.first && block.before >= before.before
            });
        if block.offset != offset || !follows || block.size as usize > MOST_BLOCK_BYTES {
            return Err(format!("the block of entry {} does not follow", block.first));
        }
        offset = offset.saturating_add(u64::from(block.length));
        before = Some(block);
    }
    let last = before.map(|block| (block.first, block.before));
    let ends = last.is_some_and(|(first, before)| {
        first <= footer.last.index && before <= footer.index && footer.before < footer.index
    });
    if offset != end || !ends {
        return Err(format!("the blocks end at byte {offset}, the footer begins at {end}"));
    }
    Ok(())
}
