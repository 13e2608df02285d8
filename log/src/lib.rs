//! The log: the only truth of the store, and the words it is written in.
//!
//! ```text
//! commands ─▶ batch ─▶ entry ─▶ frame ─▶ okaywal segment ─▶ sealed file
//! └─ what a client wants     └─ one Raft index   │             └─ settled, compressed
//!                                                └─ checksummed, chained
//! ```
//!
//! The modules, in reading order. Each imports only those before it, but for its tests:
//!
//! | module | what it is |
//! |---|---|
//! | `types` | the words: [`Index`], [`KeyPath`], [`Command`], [`Batch`], [`Entry`] |
//! | `files`, `error` | what can go wrong, and with which file |
//! | `storage` | what a Raft engine needs of a log: [`LogStorage`], and what can be written |
//! | `notice` | what happens in a log, for people to know |
//! | `recording` | a log as text, for tests that outlive a format |
//! | `segments` | how an entry lies in a segment, which entries the log holds, which segments are full |
//! | `memory` | [`MemoryLog`], which holds nothing but the tail |
//! | `disk` | the border to the disk, and okaywal's side of the segments |
//! | `archive` | settled history, in sealed files, and how much of it is kept |
//! | `recovery` | a directory of segments judged before any is used: `scan`, `high_water`, `repair` |
//! | `reader` | [`LogReader`]: one stream of entries from archive, segments and memory |
//! | `wal` | [`Wal`]: the threads that write, seal, and drop |
//! | `testing` | disks that crash, and what the tests share |
//!
//! Deliberately not here: whether a command may run, and what comes of it. That
//! is the business of the crate `etcd-projections`.

// In reading order; a blank line keeps rustfmt from another.
mod types;

mod files;

mod error;

mod storage;

mod notice;

mod recording;

mod segments;

mod memory;

mod disk;

mod archive;

mod recovery;

mod reader;

mod wal;

#[cfg(any(test, feature = "simulated-disk"))]
#[expect(clippy::unwrap_used, reason = "it is for tests, which fail by panicking")]
mod testing;

pub use archive::retention::{InvalidRetain, Retain};
pub use error::{Damage, Gap, LogError};
pub use files::{IoError, sync_dir, write_durably};
pub use memory::MemoryLog;
pub use notice::{Notice, OnFatal, OnNotice};
pub use reader::LogReader;
pub use recording::{End, RecordedBatch, RecordedEnd, Recording, RecordingError};
pub use recovery::scanned::{Recovered, TornTail, Visit};
pub use segments::frame::{Base, FORMAT as LOG_FORMAT, Installed, Record, Truncation, format_of};
pub use storage::{Done, LogState, LogStorage, Write};
#[cfg(feature = "simulated-disk")]
#[doc(hidden)]
pub use testing::crashing;
pub use types::{
    Batch, Check, ClusterId, Command, Digest, Entry, EventNumber, Index, InvalidKey, KeyPath,
    LogId, LogTime, Machine, Membership, NodeId, Payload, RaftIndex, Term, TestAndSet, Ttl, Vote,
};
pub use wal::Wal;
pub use wal::backfill::{Backfill, BackfillError};
pub use wal::options::WalOptions;
