//! The log: the only truth of the store, and the words it is written in.
//!
//! ```text
//! commands ─▶ batch ─▶ entry ─▶ frame ─▶ okaywal segment ─▶ sealed file
//! └─ what a client wants     └─ one Raft index   │             └─ settled, compressed
//!                                                └─ checksummed, chained
//! ```
//!
//! A log that is opened, written, closed, and read again:
//!
//! ```
//! use std::sync::{Arc, mpsc};
//!
//! use etcd_log::{Batch, Command, Entry, KeyPath, LogId, LogStorage as _, LogTime, NodeId};
//! use etcd_log::{Payload, RaftIndex, Term, Wal, WalOptions, Write};
//!
//! # let home = tempfile::tempdir()?;
//! let node = NodeId(0xa1);
//! let on_fatal = Arc::new(|error| panic!("the log failed: {error}"));
//! let (dir, archive) = (home.path().join("wal"), home.path().join("archive"));
//! let options = WalOptions::new(dir, archive, node, on_fatal);
//! let (wal, _recovered) = Wal::open(&options)?;
//!
//! let (key, value) = (KeyPath::clean("/greeting")?, Arc::from("hello"));
//! let batch = Batch::new(LogTime(1), vec![Command::Set { key, value, ttl: None }]);
//! let id = LogId { term: Term(1), node, index: RaftIndex(0) };
//! let entry = Arc::new(Entry { id, payload: Payload::Batch(Arc::new(batch)) });
//!
//! // It can be read at once, and is safe when somebody is told.
//! let (sender, safe) = mpsc::channel();
//! let tell = move |result| drop(sender.send(result));
//! wal.write(Write::Append(vec![Arc::clone(&entry)]), Box::new(tell));
//! assert_eq!(wal.entries(RaftIndex(0)..RaftIndex(1), usize::MAX)?, [Arc::clone(&entry)]);
//! safe.recv()??;
//! wal.close()?;
//!
//! let (wal, _recovered) = Wal::open(&options)?;
//! assert_eq!(wal.state().last, Some(id));
//! let read: Result<Vec<_>, _> = wal.reader().iter(RaftIndex(0)..RaftIndex(9)).collect();
//! assert_eq!(read?, [entry]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
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
//! | [`recording`] | a log as text, for tests that outlive a format: all about it on one page |
//! | `segments` | how an entry lies in a segment, which entries the log holds, which segments are full |
//! | `memory` | [`MemoryLog`], which holds nothing but the tail |
//! | `disk` | the border to the disk, and okaywal's side of the segments |
//! | `archive` | settled history, in sealed files, and how much of it is kept |
//! | `recovery` | a directory of segments judged before any is used: `scan`, `high_water`, `repair` |
//! | `stream` | [`EntryStream`]: the entries of a log, read a piece at a time |
//! | `reader` | [`LogReader`]: one stream of entries from archive, segments and memory |
//! | `history` | [`History`]: whatever is kept of a log, opened by its path, as one stream of batches |
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

pub mod recording;

mod segments;

mod memory;

mod disk;

mod archive;

mod recovery;

mod stream;

mod reader;

mod history;

mod wal;

#[cfg(any(test, feature = "simulated-disk"))]
#[expect(clippy::unwrap_used, reason = "it is for tests, which fail by panicking")]
mod testing;

pub use archive::retention::{InvalidRetain, Retain};
pub use error::{Damage, Gap, LogError};
pub use files::{IoError, sync_dir, write_durably};
pub use history::{Batches, History, HistoryError};
pub use memory::MemoryLog;
pub use notice::{Notice, OnFatal, OnNotice};
pub use reader::LogReader;
pub use recording::{
    End, Part, RecordedBatch, RecordedEnd, RecordedPart, Recording, RecordingError, RecordingReader,
};
pub use recovery::scanned::{Recovered, TornTail, Visit};
pub use segments::frame::{Base, Installed, Record, Truncation, format_of};
pub use storage::{Done, LogState, LogStorage, WRITE_ENTRIES, Write};
pub use stream::EntryStream;
#[cfg(feature = "simulated-disk")]
#[doc(hidden)]
pub use testing::crashing;
pub use types::{
    Asked, Batch, Check, ClusterId, Command, Digest, Entry, EventNumber, Index, IndexedBatch,
    InvalidKey, InvalidRequestId, KeyPath, LogFormat, LogId, LogTime, Machine, Membership, NodeId,
    Payload, RaftIndex, RequestHash, RequestId, Restore, RestoreChange, Term, TestAndSet, Ttl,
    Vote,
};
pub use wal::Wal;
pub use wal::backfill::{Backfill, BackfillError};
pub use wal::options::WalOptions;
