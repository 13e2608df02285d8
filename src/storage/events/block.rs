//! A block: some outcomes that follow each other, compressed, and what is known of them
//! without decompressing.
//!
//! The head and the filter have one sum, and the body another: whoever passes a block
//! over, because the filter says that it may, has read no more than that, checked.

use std::io;

use etcd_log::{EventNumber, Index, LogTime};
use etcd_projections::{Outcome, Position, What};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};
use zstd::bulk::Compressor;

use super::filter::KeySet;
use super::record::{self, Interest, Records, Stored};
use super::{BLOCK_BYTES, BLOCK_OUTCOMES};

/// How long a block's head is, without the filter.
pub(super) const HEAD: usize = 80;

/// How long a position is.
pub(super) const POSITION: usize = 24;

/// How hard zstd tries: it runs beside the writes.
const LEVEL: i32 = 1;

/// The most bytes of records that a block can have: all but full, and one more, with two
/// values as long as a batch can be.
const MOST_RAW_BYTES: u32 = 256 << 20;

/// Where a block lies in its file, and in history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockPlace {
    pub(super) offset: u64,
    /// How long it is.
    pub(super) length: u32,
    /// How long its filter is.
    pub(super) filter: u32,
    /// The position before its first outcome.
    pub(super) before: Position,
    /// That of its last outcome.
    pub(super) after: Position,
}

impl BlockPlace {
    /// How long the head is, with the filter.
    pub(super) fn head_length(&self) -> usize {
        HEAD + self.filter as usize
    }
}

/// What a block says of itself. It is right, as far as its sum goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) place: BlockPlace,
    raw: u32,
    count: u32,
    body_sum: u64,
}

impl Head {
    /// Reads the first bytes of a head: what lies behind them is not known to be right.
    /// Fails with what is wrong.
    pub(super) fn read(bytes: &[u8; HEAD], offset: u64) -> Result<Self, String> {
        let number = |at: usize| u32_at(bytes, at);
        let (filter, body, raw, count) = (number(8), number(12), number(16), number(20));
        let (before, after) = (position_at(bytes, 32), position_at(bytes, 56));
        let length = HEAD as u64 + u64::from(filter) + u64::from(body);
        let length = u32::try_from(length).map_err(|_| format!("block of {length} bytes"))?;
        if before >= after || count == 0 || raw > MOST_RAW_BYTES {
            return Err(format!("block of {count} outcomes and {raw} bytes ends at {after:?}"));
        }
        let place = BlockPlace { offset, length, filter, before, after };
        Ok(Self { place, raw, count, body_sum: u64_at(bytes, 24) })
    }

    /// Reads a head and its filter, and checks them. Fails with what is wrong.
    pub(super) fn check(bytes: &[u8], offset: u64) -> Result<Self, String> {
        let first = bytes.first_chunk().ok_or("block is cut short")?;
        let (expected, found) = (u64_at(bytes, 0), xxh3_64_with_seed(&bytes[8..], offset));
        if found != expected {
            return Err(format!("head has sum {found:016x}, expected {expected:016x}"));
        }
        let head = Self::read(first, offset)?;
        if head.place.head_length() != bytes.len() {
            let (found, expected) = (bytes.len(), head.place.head_length());
            return Err(format!("head and filter have {found} bytes, expected {expected}"));
        }
        Ok(head)
    }

    /// Checks a body. Fails with what is wrong.
    pub(super) fn check_body(&self, body: &[u8]) -> Result<(), String> {
        let (expected, found) = (self.body_sum, xxh3_64(body));
        if found == expected && body.len() + self.place.head_length() == self.place.length as usize
        {
            return Ok(());
        }
        Err(format!("body has sum {found:016x}, expected {expected:016x}"))
    }

    /// Reads what is of interest from a body, each with the position before it. Fails
    /// with what is wrong.
    pub(super) fn decode(
        &self,
        body: &[u8],
        interest: &Interest,
    ) -> Result<Vec<(Position, Stored)>, String> {
        self.check_body(body)?;
        let raw = zstd::bulk::decompress(body, self.raw as usize);
        let raw = raw.map_err(|error| format!("block cannot be decompressed: {error}"))?;
        let mut records = Records::new(&raw, self.place.before);
        let (mut found, mut count) = (Vec::new(), 0);
        while !records.is_at_end() {
            let before = records.position;
            let record = records.next(interest);
            let record = record.map_err(|_| format!("record {count} cannot be read"))?;
            found.extend(record.map(|record| (before, record)));
            count += 1;
        }
        if (count, records.position) != (self.count, self.place.after) {
            return Err(format!("block has {count} outcomes and ends at {:?}", records.position));
        }
        Ok(found)
    }
}

/// A block that is being filled.
pub(super) struct BlockBuilder {
    compressor: Compressor<'static>,
    keys: KeySet,
    raw: Vec<u8>,
    bytes: Vec<u8>,
    before: Position,
    after: Position,
    count: usize,
    weight: usize,
}

impl BlockBuilder {
    /// Makes an empty one.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            compressor: Compressor::new(LEVEL)?,
            keys: KeySet::default(),
            raw: Vec::with_capacity(2 * BLOCK_BYTES),
            bytes: Vec::with_capacity(BLOCK_BYTES),
            before: Position::default(),
            after: Position::default(),
            count: 0,
            weight: 0,
        })
    }

    /// Begins a block at a position. What was in it is forgotten.
    pub(super) fn begin(&mut self, before: Position) {
        self.keys.clear();
        self.raw.clear();
        (self.before, self.after) = (before, before);
        (self.count, self.weight) = (0, 0);
    }

    /// Adds the next outcome.
    pub(super) fn push(&mut self, outcome: &Outcome) {
        if let What::Event(event) = &outcome.what {
            self.keys.add(&event.key);
        }
        record::encode(&mut self.raw, self.after, outcome);
        self.after = outcome.position;
        self.count += 1;
        self.weight += record::weight(outcome);
    }

    /// Returns whether it holds as much as it should.
    pub(super) fn is_full(&self) -> bool {
        is_block(self.count, self.weight)
    }

    /// Returns where its last outcome led.
    pub(super) fn position(&self) -> Position {
        self.after
    }

    /// Ends the block, which is to lie at an offset. Returns its bytes, and its place.
    pub(super) fn finish(&mut self, offset: u64) -> io::Result<(&[u8], BlockPlace)> {
        let body = self.compressor.compress(&self.raw)?;
        let out = &mut self.bytes;
        out.clear();
        out.resize(HEAD, 0);
        self.keys.write(out);
        let filter = length(out.len() - HEAD)?;
        let head = [filter, length(body.len())?, length(self.raw.len())?, length(self.count)?];
        for (at, number) in (8..).step_by(4).zip(head) {
            out[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        out[24..32].copy_from_slice(&xxh3_64(&body).to_le_bytes());
        out[32..56].copy_from_slice(&position_bytes(self.before));
        out[56..80].copy_from_slice(&position_bytes(self.after));
        let sum = xxh3_64_with_seed(&out[8..], offset);
        out[..8].copy_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(&body);
        let (before, after) = (self.before, self.after);
        let place = BlockPlace { offset, length: length(out.len())?, filter, before, after };
        Ok((out, place))
    }
}

/// Returns whether so many outcomes, of so many bytes together, are enough for a block.
pub(super) fn is_block(count: usize, weight: usize) -> bool {
    count >= BLOCK_OUTCOMES || weight >= BLOCK_BYTES
}

fn length(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(io::Error::other)
}

pub(super) fn position_bytes(position: Position) -> [u8; POSITION] {
    let Position { index, event, time } = position;
    let mut bytes = [0; POSITION];
    for (at, number) in (0..).step_by(8).zip([index.0, event.0, time.0]) {
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

pub(super) fn position_at(bytes: &[u8], at: usize) -> Position {
    Position {
        index: Index(u64_at(bytes, at)),
        event: EventNumber(u64_at(bytes, at + 8)),
        time: LogTime(u64_at(bytes, at + 16)),
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
