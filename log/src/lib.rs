//! The log: the only truth of the store, and the words it is written in.
//!
//! ```text
//! commands ─▶ batch ─▶ entry ─▶ frame ─▶ okaywal segment ─▶ disk
//! └─ what a client wants     └─ one Raft index   └─ checksummed, chained
//! ```
//!
//! The modules, in reading order: the words ([`Index`], [`KeyPath`], [`Command`],
//! [`Entry`]), how an entry lies on disk (`frame`, `segment`), how a directory of
//! segments is checked (`scan`), how it is written and read (`wal`, `writer`,
//! `reader`), the in-memory twin for tests, and the recorded form (`recording`).
//!
//! Deliberately not here: whether a command may run, and what comes of it. That
//! is the business of the crate `etcd-projections`.

mod command;
mod entry;
mod error;
mod files;
mod frame;
mod key_path;
mod memory;
mod numbers;
mod reader;
mod recording;
mod scan;
mod segment;
mod storage;
mod tail;
mod wal;
mod watchdog;
mod writer;

pub use command::{Batch, Check, Command, Machine, TestAndSet, Ttl};
pub use entry::{Entry, LogId, Membership, Payload, Vote};
pub use error::{Damage, LogError};
pub use files::{IoError, sync_dir, write_durably};
pub use frame::{Base, Record, format_of};
pub use key_path::{InvalidKey, KeyPath};
pub use memory::MemoryLog;
pub use numbers::{ClusterId, Digest, EventNumber, Index, LogTime, NodeId, RaftIndex, Term};
pub use reader::LogReader;
pub use recording::{RecordedBatch, RecordingError};
pub use scan::{Recovered, TornTail, Visit};
pub use storage::{Done, LogState, LogStorage, Write};
pub use wal::{OnFatal, Wal, WalOptions};
