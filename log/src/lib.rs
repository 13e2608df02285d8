//! The log: the only truth of the store, and the words it is written in.
//!
//! ```text
//! commands ─▶ batch ─▶ entry ─▶ frame ─▶ okaywal segment ─▶ sealed file
//! └─ what a client wants     └─ one Raft index   │             └─ settled, compressed
//!                                                └─ checksummed, chained
//! ```
//!
//! The modules, in reading order: the words ([`Index`], [`KeyPath`], [`Command`],
//! [`Entry`]), how an entry lies on disk (`frame`, `segment`), how a directory of
//! segments is checked (`scan`, `segment_scan`, `witness`, `repair`), how it is
//! written and read (`wal`, `tail`, `writer`, `watchdog`, `reader`), how what is
//! settled moves to the archive and out of it (`sealed`, `archive`, `archivist`,
//! `keeper`, `retention`, `notice`), the border to the disk (`disk`,
//! `okaywal_segments`), the in-memory twin for tests, and the recorded form
//! (`recording`).
//!
//! Deliberately not here: whether a command may run, and what comes of it. That
//! is the business of the crate `etcd-projections`.

mod archive;
mod disk;
mod error;
mod files;
mod memory;
mod notice;
mod reader;
mod recording;
mod recovery;
mod segments;
mod storage;
#[cfg(any(test, feature = "simulated-disk"))]
#[expect(clippy::unwrap_used, reason = "it is for tests, which fail by panicking")]
mod testing;
mod types;
mod wal;

pub use archive::retention::{InvalidRetain, Retain};
pub use error::{Damage, Gap, LogError};
pub use files::{IoError, sync_dir, write_durably};
pub use memory::MemoryLog;
pub use notice::Notice;
pub use reader::LogReader;
pub use recording::{End, RecordedBatch, RecordedEnd, Recording, RecordingError};
pub use recovery::scan::{Recovered, TornTail, Visit};
pub use segments::frame::{Base, FORMAT as LOG_FORMAT, Installed, Record, Truncation, format_of};
pub use storage::{Done, LogState, LogStorage, Write};
#[cfg(feature = "simulated-disk")]
#[doc(hidden)]
pub use testing::crashing;
pub use types::{
    Batch, Check, ClusterId, Command, Digest, Entry, EventNumber, Index, InvalidKey, KeyPath,
    LogId, LogTime, Machine, Membership, NodeId, Payload, RaftIndex, Term, TestAndSet, Ttl, Vote,
};
pub use wal::backfill::{FillError, Filler};
pub use wal::{OnFatal, OnNotice, Wal, WalOptions};
