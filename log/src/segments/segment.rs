//! Segments: okaywal's files, as our own reader sees them.
//!
//! ```text
//! okw\0 │ n │ n bytes of version │ entry │ entry │ … │ zeros, or older bytes
//!
//! entry = 1 │ number, 8 bytes │ 2 │ length, 4 bytes │ frames │ CRC, 4 bytes │ 3
//! ```
//!
//! One okaywal entry is one commit of ours: one chunk, one fsync. The file's
//! name, `wal-N`, carries the number of its first entry.
//!
//! okaywal stops reading at the first marker that looks wrong and writes over
//! what follows, so this reader goes first, and lets okaywal open only what it
//! has found whole.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::LogError;
use crate::files::IoError;
use crate::segments::frame;

/// What okaywal stores as the version of every segment.
pub(crate) const VERSION: &[u8] = b"etcd";

/// How many bytes of okaywal's stand before the frames of a commit.
pub(crate) const BEFORE_FRAMES: usize = 1 + 8 + 1 + 4;

/// How many bytes of okaywal's stand behind the frames of a commit.
pub(crate) const BEHIND_FRAMES: usize = 4 + 1;

/// The length of a segment's own header.
pub(crate) const FILE_HEADER: usize = 5 + VERSION.len();

/// How many segments that were let go are kept over a restart, to be used again.
/// Making one takes a commit 12 ms.
pub(crate) const MOST_SPARE: usize = 4;

/// How many are kept as long as they are while the log is open: more than there are
/// between two checkpoints. Beyond it they give their room back; to be used again
/// then makes commits slower, for what they fill is not allocated.
/// The crash matrix has few segments, and is to see this as well.
pub(crate) const MOST_SPARE_WHILE_OPEN: usize = if cfg!(test) { 2 } else { 32 };

const NEW_ENTRY: u8 = 1;
const CHUNK: u8 = 2;
const END_OF_ENTRY: u8 = 3;

/// A segment found in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentFile {
    /// The number of its first commit.
    pub(crate) first_commit: u64,
    pub(crate) path: PathBuf,
}

/// One commit found whole as far as okaywal's own bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    /// Where its frames lie in the file.
    pub(crate) frames: Range<usize>,
    /// Where the next commit would begin.
    pub(crate) end: usize,
}

/// The segments of a directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    /// Those that may hold commits, oldest first.
    pub(crate) segments: Vec<SegmentFile>,
    /// Those that were let go, and wait to be used again.
    pub(crate) spare: Vec<PathBuf>,
}

/// Lists the segments of a directory.
///
/// # Errors
///
/// If the directory cannot be read, or holds a file that okaywal would take for
/// a segment and that is none of ours: `wal-1-bak`, say, for `wal-1`.
pub(crate) fn list(dir: &Path) -> Result<Listing, LogError> {
    let mut listing = Listing::default();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(listing),
        Err(error) => return Err(IoError::at("list", dir)(error).into()),
    };
    for entry in entries {
        let path = entry.map_err(IoError::at("list", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(first_commit) = number_for_okaywal(name) else { continue };
        if first_commit > 0 && name == format!("wal-{first_commit}") {
            listing.segments.push(SegmentFile { first_commit, path });
        } else if first_commit > 0 && name == format!("wal-{first_commit}-cp") {
            listing.spare.push(path);
        } else {
            return Err(LogError::Stray(path));
        }
    }
    listing.segments.sort_by_key(|segment| segment.first_commit);
    Ok(listing)
}

/// Returns the number that okaywal reads from a name, whatever follows it.
fn number_for_okaywal(name: &str) -> Option<u64> {
    let mut parts = name.split('-');
    (parts.next() == Some("wal")).then(|| parts.next()?.parse().ok()).flatten()
}

/// Returns the path of the segment that begins with this commit.
pub(crate) fn path(dir: &Path, first_commit: u64) -> PathBuf {
    dir.join(format!("wal-{first_commit}"))
}

/// Checks a segment's own header.
pub(crate) fn check_header(bytes: &[u8]) -> Result<(), String> {
    let length = u8::try_from(VERSION.len()).expect("the version is a word");
    let expected = [b"okw\0".as_slice(), &[length], VERSION].concat();
    match bytes.get(..FILE_HEADER) {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(format!("file begins with {found:02x?}, expected {expected:02x?}")),
        None => Err(format!("file has {} bytes, a header has {FILE_HEADER}", bytes.len())),
    }
}

/// Reads okaywal's bytes around the commit at `at`, which must have this number.
///
/// # Errors
///
/// With what is wrong, in words.
pub(crate) fn read_commit(bytes: &[u8], at: usize, number: u64) -> Result<Commit, String> {
    let rest = &bytes[at..];
    let before = rest
        .first_chunk::<BEFORE_FRAMES>()
        .ok_or_else(|| format!("a commit needs more than the {} bytes left", rest.len()))?;
    if before[0] != NEW_ENTRY {
        return Err(format!("no commit begins here: marker {}, expected {NEW_ENTRY}", before[0]));
    }
    let found = u64::from_le_bytes(before[1..9].try_into().expect("eight bytes"));
    if found != number {
        return Err(format!("commit has number {found}, expected {number}"));
    }
    if before[9] != CHUNK {
        return Err(format!("commit {number} has marker {}, expected {CHUNK}", before[9]));
    }
    let length = u32::from_le_bytes(before[10..14].try_into().expect("four bytes")) as usize;
    let room = rest.len().saturating_sub(BEFORE_FRAMES + BEHIND_FRAMES);
    if length > room {
        return Err(format!("commit {number} says it has {length} bytes, {room} are left"));
    }
    let frames = BEFORE_FRAMES..BEFORE_FRAMES + length;
    let crc = u32::from_le_bytes(rest[frames.end..][..4].try_into().expect("four bytes"));
    let expected = crc32c::crc32c(&rest[frames.clone()]);
    if crc != expected {
        return Err(format!("commit {number} has checksum {crc:08x}, expected {expected:08x}"));
    }
    let end = frames.end + BEHIND_FRAMES;
    if rest[end - 1] != END_OF_ENTRY {
        return Err(format!("commit {number} ends with {}, not {END_OF_ENTRY}", rest[end - 1]));
    }
    Ok(Commit { frames: at + frames.start..at + frames.end, end: at + end })
}

/// Looks for a frame anywhere in `bytes` that is whole and that matches: proof
/// that a broken spot before it is not just the torn end of the log.
pub(crate) fn find_frame(
    bytes: &[u8],
    matches: impl Fn(&frame::Header) -> bool,
) -> Option<(usize, frame::Header)> {
    (0..bytes.len()).find_map(|at| {
        let rest = &bytes[at..];
        if !frame::is_plausible(rest) {
            return None;
        }
        frame::check(rest).ok().filter(&matches).map(|header| (at, header))
    })
}

/// What stands behind the last whole commit of a segment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Survey {
    /// A frame of a commit that came after the one which should stand there, and
    /// where it is: proof that there was one, and that it is broken.
    pub(crate) later: Option<(usize, frame::Header)>,
    /// How many bytes there are of a commit that was cut short. Bytes of an older
    /// life of the segment do not count.
    pub(crate) torn: usize,
}

/// Looks through what stands behind the last whole commit of a segment, where the
/// commit of this number should.
///
/// That commit is there in part if it begins there, or if a frame of it stands
/// somewhere behind. Anything else is of an older life of the segment: whole frames
/// of lower commits, and the rest of one that was written over.
pub(crate) fn survey(rest: &[u8], commit: u64) -> Survey {
    let (mut at, mut torn) = (0, begun_length(rest, commit));
    while let Some((distance, header)) = find_frame(&rest[at..], |_| true) {
        let begins = at + distance;
        if header.commit > commit {
            return Survey { later: Some((begins, header)), torn: 0 };
        }
        at = begins + frame::HEADER + header.length;
        if header.commit == commit {
            torn = torn.max(at);
        }
    }
    Survey { later: None, torn }
}

/// Returns how many bytes there are of a commit of this number that begins here.
fn begun_length(rest: &[u8], commit: u64) -> usize {
    let head = [[NEW_ENTRY].as_slice(), &commit.to_le_bytes(), &[CHUNK]].concat();
    if rest.is_empty() || !head.starts_with(&rest[..rest.len().min(head.len())]) {
        return 0;
    }
    let length = rest.get(head.len()..BEFORE_FRAMES).and_then(|length| length.try_into().ok());
    let length = length.map_or(usize::MAX, |length| u32::from_le_bytes(length) as usize);
    rest.len().min(length.saturating_add(BEFORE_FRAMES + BEHIND_FRAMES))
}

/// Returns how many bytes there are up to the last one that is not zero.
pub(crate) fn length_without_zeros(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}
