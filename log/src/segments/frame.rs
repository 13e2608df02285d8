//! Frames: how one record of the log lies on disk, and how it proves itself.
//!
//! ```text
//!  0        8       12    13    14      16         24       32         36    40
//!  │ salt   │ length │kind │ 0   │ left  │ sequence │ commit │ previous │ CRC │ payload, JSON …
//! ```
//!
//! * The **CRC** (CRC-32C) covers everything else, the payload included.
//! * `previous` is the CRC of the frame before, `sequence` counts frames: a
//!   **chain** over all segments that shows a frame lost, doubled or moved.
//! * `salt` is random and the same in all frames of a segment: bytes of an older
//!   life of a recycled file are never taken for frames of this one. Nor are a
//!   client's bytes, for the zero bytes of a header never stand in JSON.
//! * `commit` counts fsyncs, and `left` says how many frames of the same commit
//!   follow: what one fsync covers was acknowledged as a whole or not at all.
//!
//! The payload is JSON; before that of an entry stand 28 bytes that name it, so
//! that a scan need not parse what it only has to check:
//!
//! ```text
//!  0      8      16      24         28
//!  │ term │ node │ index │ commands │ JSON …
//! ```
//!
//! All numbers are little-endian. Deliberately not here: where frames stand in a
//! file (`segment`), and what they add up to (`scan`).

use serde::{Deserialize, Serialize};

use crate::types::{Entry, Index, LogId, NodeId, RaftIndex, Term, Vote};

/// The length of a frame without its payload, in bytes.
pub(crate) const HEADER: usize = 40;

/// The longest payload, in bytes: bounds what a reader allocates. A batch of
/// 4 MiB grows sixfold at worst when JSON escapes all of it.
pub(crate) const MAX_PAYLOAD: usize = 64 << 20;

// How long a payload is stands in four bytes, and where a frame ends is counted in them.
const _: () = assert!(HEADER + MAX_PAYLOAD <= u32::MAX as usize);

/// The version of the segments' format.
pub(crate) const FORMAT: u32 = 1;

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The first frame of every segment: all that older segments are needed for.
    Base(Base),
    /// An entry of the Raft log.
    Entry(Entry),
    /// This machine's vote.
    Vote(Vote),
    /// The last entries were overruled by another leader's.
    Truncate(Truncation),
    /// The entries up to here may be forgotten.
    Purge {
        /// The last entry that may be.
        upto: LogId,
    },
    /// The entries up to here are known to be on a majority of machines.
    Committed {
        /// The last such entry.
        upto: LogId,
    },
    /// The history up to here is no longer kept.
    Forgotten {
        /// The last entry that is gone.
        upto: LogId,
    },
    /// The log goes on behind a checkpoint from another machine.
    Install(Installed),
    /// The history that was missing has come.
    Backfilled {
        /// The last entry that it was missing up to.
        upto: LogId,
    },
}

/// A checkpoint from another machine, behind which a log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installed {
    /// The last entry that it contains.
    pub upto: LogId,
    /// The last command.
    pub index: Index,
}

/// What was overruled, and what is left. The latter could be counted, save where
/// what was overruled lies in a segment that is there no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truncation {
    /// The first entry that is gone.
    pub since: RaftIndex,
    /// The last entry that is left.
    pub last: Option<LogId>,
    /// The last command that is left.
    pub index: Index,
}

/// What a segment starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The version of the log's format.
    pub format: u32,
    /// Whose log it is.
    pub node: NodeId,
    /// This machine's vote.
    pub vote: Option<Vote>,
    /// The last entry that may be forgotten.
    pub purged: Option<LogId>,
    /// The last entry.
    pub last: Option<LogId>,
    /// The last entry known to be committed.
    pub committed: Option<LogId>,
    /// The index of the last command.
    pub index: Index,
    /// The last entry whose history is no longer kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<LogId>,
    /// The last entry that came in a checkpoint, while the history up to there is
    /// missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<LogId>,
}

/// What stands before the JSON of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryHead {
    pub(crate) id: LogId,
    /// How many commands the entry carries.
    pub(crate) commands: u32,
}

/// The length of an entry's head, in bytes.
const ENTRY_HEAD: usize = 28;

impl EntryHead {
    fn of(entry: &Entry) -> Self {
        let commands = u32::try_from(entry.commands()).expect("batches are bounded");
        Self { id: entry.id, commands }
    }

    fn to_bytes(self) -> [u8; ENTRY_HEAD] {
        let mut bytes = [0; ENTRY_HEAD];
        bytes[0..8].copy_from_slice(&self.id.term.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.node.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.id.index.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.commands.to_le_bytes());
        bytes
    }

    /// Reads the head of an entry's payload.
    ///
    /// # Errors
    ///
    /// With what is wrong, in words.
    pub(crate) fn read(payload: &[u8]) -> Result<Self, String> {
        let bytes = payload
            .first_chunk::<ENTRY_HEAD>()
            .ok_or_else(|| format!("an entry of {} bytes has no head", payload.len()))?;
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
        let id =
            LogId { term: Term(number(0)), node: NodeId(number(8)), index: RaftIndex(number(16)) };
        let commands = u32::from_le_bytes(bytes[24..28].try_into().expect("four bytes"));
        Ok(Self { id, commands })
    }
}

/// Where the chain of frames stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// The number of the last frame; 0 before the first.
    pub(crate) sequence: u64,
    /// Its CRC.
    pub(crate) crc: u32,
}

/// The header of a frame whose CRC has been found right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) salt: u64,
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) left: u16,
    pub(crate) sequence: u64,
    pub(crate) commit: u64,
    pub(crate) previous: u32,
    pub(crate) crc: u32,
}

/// Writes frames behind each other, for one commit.
pub(crate) struct Encoder<'a> {
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) chain: &'a mut Chain,
    pub(crate) salt: u64,
    pub(crate) commit: u64,
}

impl Encoder<'_> {
    /// Appends a frame, and returns where in the output it begins.
    ///
    /// # Panics
    ///
    /// If the payload is longer than [`MAX_PAYLOAD`]: the door bounds batches
    /// far below it.
    pub(crate) fn write(&mut self, record: &Record, left: u16) -> usize {
        match record {
            Record::Entry(entry) => self.write_entry(entry, left),
            Record::Base(base) => self.write_frame(BASE, left, &[], base),
            Record::Vote(vote) => self.write_frame(VOTE, left, &[], vote),
            Record::Truncate(truncation) => self.write_frame(TRUNCATE, left, &[], truncation),
            Record::Purge { upto } => self.write_frame(PURGE, left, &[], upto),
            Record::Committed { upto } => self.write_frame(COMMITTED, left, &[], upto),
            Record::Forgotten { upto } => self.write_frame(FORGOTTEN, left, &[], upto),
            Record::Install(installed) => self.write_frame(INSTALL, left, &[], installed),
            Record::Backfilled { upto } => self.write_frame(BACKFILLED, left, &[], upto),
        }
    }

    /// Appends the frame of an entry, as [`Self::write`] does.
    pub(crate) fn write_entry(&mut self, entry: &Entry, left: u16) -> usize {
        self.write_frame(ENTRY, left, &EntryHead::of(entry).to_bytes(), &entry.payload)
    }

    fn write_frame(&mut self, kind: u8, left: u16, head: &[u8], json: &impl Serialize) -> usize {
        let start = self.out.len();
        self.out.resize(start + HEADER, 0);
        self.out.extend_from_slice(head);
        serde_json::to_writer(&mut *self.out, json)
            .expect("records have string keys and memory does not fail");
        let length = self.out.len() - start - HEADER;
        assert!(length <= MAX_PAYLOAD, "a record of {length} bytes is over the limit");

        let sequence = self.chain.sequence + 1;
        let header = &mut self.out[start..start + HEADER];
        header[0..8].copy_from_slice(&self.salt.to_le_bytes());
        header[8..12].copy_from_slice(&u32::try_from(length).expect("bounded").to_le_bytes());
        header[12] = kind;
        header[14..16].copy_from_slice(&left.to_le_bytes());
        header[16..24].copy_from_slice(&sequence.to_le_bytes());
        header[24..32].copy_from_slice(&self.commit.to_le_bytes());
        header[32..36].copy_from_slice(&self.chain.crc.to_le_bytes());
        let crc = checksum(&self.out[start..]);
        self.out[start + 36..start + HEADER].copy_from_slice(&crc.to_le_bytes());

        *self.chain = Chain { sequence, crc };
        start
    }
}

/// Reads the header of the frame that `bytes` begin with, and checks the whole
/// frame's CRC.
///
/// # Errors
///
/// With what is wrong, in words.
pub(crate) fn check(bytes: &[u8]) -> Result<Header, String> {
    let header = bytes.first_chunk::<HEADER>().ok_or_else(|| {
        format!("a frame needs {HEADER} bytes of header, there are {}", bytes.len())
    })?;
    let length = u32_at(header, 8) as usize;
    let room = bytes.len() - HEADER;
    if length > room.min(MAX_PAYLOAD) {
        return Err(format!("frame says it holds {length} bytes, there is room for {room}"));
    }
    let header = Header {
        salt: u64_at(header, 0),
        length,
        kind: header[12],
        left: u16::from_le_bytes([header[14], header[15]]),
        sequence: u64_at(header, 16),
        commit: u64_at(header, 24),
        previous: u32_at(header, 32),
        crc: u32_at(header, 36),
    };
    let found = checksum(&bytes[..HEADER + length]);
    if found != header.crc {
        return Err(format!("frame has checksum {found:08x}, expected {:08x}", header.crc));
    }
    if bytes[13] != 0 || !(BASE..=BACKFILLED).contains(&header.kind) {
        return Err(format!("frame is of unknown kind {}", header.kind));
    }
    Ok(header)
}

/// Returns whether `bytes` could begin with a header at all: a cheap test before
/// [`check`] where every offset of a file is tried.
pub(crate) fn is_plausible(bytes: &[u8]) -> bool {
    bytes.first_chunk::<HEADER>().is_some_and(|header| {
        header[13] == 0
            && (BASE..=BACKFILLED).contains(&header[12])
            && u32_at(header, 8) as usize <= (bytes.len() - HEADER).min(MAX_PAYLOAD)
    })
}

/// Reads the record of a frame that [`check`] has found right.
///
/// # Errors
///
/// With what is wrong, in words.
pub(crate) fn decode(header: &Header, payload: &[u8]) -> Result<Record, String> {
    let record = match header.kind {
        ENTRY => return decode_entry(payload).map(Record::Entry),
        BASE => serde_json::from_slice(payload).map(Record::Base),
        VOTE => serde_json::from_slice(payload).map(Record::Vote),
        TRUNCATE => serde_json::from_slice(payload).map(Record::Truncate),
        PURGE => serde_json::from_slice(payload).map(|upto| Record::Purge { upto }),
        COMMITTED => serde_json::from_slice(payload).map(|upto| Record::Committed { upto }),
        FORGOTTEN => serde_json::from_slice(payload).map(|upto| Record::Forgotten { upto }),
        INSTALL => serde_json::from_slice(payload).map(Record::Install),
        BACKFILLED => serde_json::from_slice(payload).map(|upto| Record::Backfilled { upto }),
        kind => return Err(format!("frame is of unknown kind {kind}")),
    };
    record.map_err(|error| format!("frame {} cannot be read: {error}", header.sequence))
}

impl Entry {
    /// Writes the entry as it stands in the log, to be sent to another machine.
    ///
    /// # Panics
    ///
    /// Never: an entry is plain data.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(EntryHead::of(self).to_bytes());
        serde_json::to_writer(out, &self.payload).expect("an entry is plain data");
    }

    /// Reads an entry that [`Self::encode`] has written.
    ///
    /// # Errors
    ///
    /// With what is wrong, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        decode_entry(bytes)
    }
}

/// Reads an entry from the payload of its frame.
///
/// # Errors
///
/// With what is wrong, in words.
pub(crate) fn decode_entry(payload: &[u8]) -> Result<Entry, String> {
    let head = EntryHead::read(payload)?;
    let id = head.id;
    let payload = serde_json::from_slice(&payload[ENTRY_HEAD..])
        .map_err(|error| format!("entry {id} cannot be read: {error}"))?;
    let entry = Entry { id, payload };
    if EntryHead::of(&entry) != head {
        return Err(format!("entry {id} has {} commands, not {}", entry.commands(), head.commands));
    }
    Ok(entry)
}

/// Returns the JSON in the payload of an entry's frame.
pub(crate) fn json_of_entry(payload: &[u8]) -> &[u8] {
    payload.get(ENTRY_HEAD..).unwrap_or_default()
}

/// Returns the format that a record in JSON names, even if the rest of it is in
/// words of a later version.
pub fn format_of(payload: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    serde_json::from_slice::<Format>(payload).ok().map(|record| record.format)
}

pub(crate) const BASE: u8 = 1;
pub(crate) const ENTRY: u8 = 2;
const VOTE: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;
const COMMITTED: u8 = 6;
const FORGOTTEN: u8 = 7;
const INSTALL: u8 = 8;
const BACKFILLED: u8 = 9;

/// The CRC of a frame: of all its bytes but those of the CRC itself.
fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..36]), &frame[HEADER..])
}

fn u32_at(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8; HEADER], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(record: &Record) -> Vec<u8> {
        let mut out = Vec::new();
        let mut chain = Chain { sequence: 6, crc: 0xfeed };
        let mut encoder = Encoder { out: &mut out, chain: &mut chain, salt: 99, commit: 3 };
        assert_eq!(encoder.write(record, 1), 0);
        out
    }

    #[test]
    fn frame_is_read_back_as_written() {
        let record = Record::Purge { upto: LogId::default() };
        let bytes = encoded(&record);
        let header = check(&bytes).unwrap();
        assert_eq!((header.salt, header.sequence, header.commit), (99, 7, 3));
        assert_eq!((header.previous, header.left), (0xfeed, 1));
        assert_eq!(decode(&header, &bytes[HEADER..]).unwrap(), record);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encoded(&Record::Vote(Vote::default()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&flipped).is_err(), "bit {bit}");
        }
    }

    proptest! {
        /// Whatever the bytes, the reader neither panics nor believes a length
        /// beyond them.
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(header) = check(&bytes) {
                prop_assert!(HEADER + header.length <= bytes.len());
                let _record = decode(&header, &bytes[HEADER..HEADER + header.length]);
            }
        }
    }
}
