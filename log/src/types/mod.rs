//! The words that the log is written in: what everybody else speaks of.

mod command;
mod entry;
mod format;
mod key_path;
mod numbers;
mod request;

pub use command::{Batch, Check, Command, Machine, Restore, RestoreChange, TestAndSet, Ttl};
pub use entry::{Entry, IndexedBatch, LogId, Membership, Payload, Vote};
pub use format::LogFormat;
pub use key_path::{InvalidKey, KeyPath};
pub use numbers::{
    ClusterId, Digest, EventNumber, Index, LogTime, NodeId, RaftIndex, RequestHash, Term,
};
pub use request::{Asked, InvalidRequestId, RequestId};
