//! The words that the log is written in: what everybody else speaks of.

mod command;
mod entry;
mod key_path;
mod numbers;

pub use command::{Batch, Check, Command, Machine, TestAndSet, Ttl};
pub use entry::{Entry, IndexedBatch, LogId, Membership, Payload, Vote};
pub use key_path::{InvalidKey, KeyPath};
pub use numbers::{ClusterId, Digest, EventNumber, Index, LogTime, NodeId, RaftIndex, Term};
