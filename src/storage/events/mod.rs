//! The event store: what came of every command and of the clock, on disk, so that
//! what happened long ago is found without replaying the log.
//!
//! It is a cache of what the one fold has made of the log, written beside it by every
//! machine. It is never the truth: losing it costs time, never data. So nothing in it is
//! synced, everything is checked when it is read, and what does not check out is a *gap*,
//! which whoever reads is told of and falls back on a replay.
//!
//! ```text
//! apply ─▶ EventWriter ─▶ pending, in memory ─▶ Recorder ─▶ files of blocks
//!               never waits      └──────┬───────────────────────┘
//!                                   EventStore ─▶ EventReader, by position
//! ```
//!
//! # Files
//!
//! ```text
//! events/00000000000000000512-977-1373574667000000000.events
//!        └ index              │   └ logged time, before the first outcome
//!                             └ event number
//!
//! etcdevts │ format, 0 │ cluster │ position │ sum │ block │ block │ … │ table
//!    8          8           8         24       8
//!
//! block = sum │ lengths of filter, body, raw │ count │ sum of the body │ before │ after │ filter │ body
//!          8                12                   4           8            24       24
//! table = for each block: offset │ length │ length of its filter │ before │ after,
//!                            8        4              4               24      24
//!         then: count │ sum │ etcdends
//!                 4      8       8
//! ```
//!
//! * Numbers are little-endian; a position is an index, an event number and a time. A sum
//!   is an xxh3-64, that of a block's head with its offset as the seed.
//! * A file holds one contiguous run of outcomes: each block begins where the one before
//!   it ends. No two files hold the same outcome.
//! * The filter says which keys a block does *not* hold anything at or below (`filter`).
//! * The body is compressed; what it holds is laid out in `record`.
//! * The table comes when a file is closed, so that opening it takes one read. One without
//!   is looked through, and what does not check out at its end is cut off.
//!
//! Deliberately not here: who wants to know what (`node::history`), and how long the past
//! is worth keeping (the log's retention).

mod block;
mod file;
mod files;
mod filler;
mod filter;
mod open_files;
mod pending;
mod reader;
mod record;
mod recorder;
mod store;
mod writer;

#[cfg(test)]
mod damage;
#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod laws;

pub use filler::EventFiller;
pub use reader::{Chunk, EventReader, Gap};
pub use record::{Interest, Stored, StoredWhat};
pub use store::EventStore;
pub use writer::EventWriter;

/// How many bytes of records go into a block, about: a reader that seeks decodes one.
const BLOCK_BYTES: usize = 128 << 10;

/// How many outcomes go into a block at most: decoding one takes a millisecond then.
const BLOCK_OUTCOMES: usize = 4096;

/// After how many bytes a file is closed: retention removes whole ones.
const FILE_BYTES: u64 = 64 << 20;
