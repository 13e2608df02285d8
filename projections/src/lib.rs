//! Outcomes, and the folds over them: everything that a client sees.
//!
//! ```text
//! batch ─▶ State::apply ─▶ 1. the clock moves on: due keys expire   ─▶ events
//!                          2. for each command: decide(tree, …)     ─▶ event, or rejection
//!                                              │ outcomes, in order
//!          ┌──────────┬─────────────┬──────────┴─┬──────────┐
//!      key tree   watch ring   expiry index   machines   digest
//! ```
//!
//! A key that is set, read, and expires when the logged clock has moved on:
//!
//! ```
//! use std::sync::Arc;
//!
//! use etcd_log::{Batch, Command, KeyPath, LogTime, Ttl};
//! use etcd_projections::{Change, State, TreeNode, What};
//!
//! let key = KeyPath::clean("/lock")?;
//! let mut state = State::new(1000);
//! let set = Command::Set { key: key.clone(), value: Arc::from("mine"), ttl: Ttl::new(5) };
//! let outcomes = state.apply(&Batch::new(LogTime(0), vec![set]));
//!
//! // One outcome a command: here an event, which takes the first index.
//! let What::Event(event) = &outcomes[0].what else { panic!("refused: {outcomes:?}") };
//! assert_eq!((event.index.0, &event.key), (1, &key));
//! let deadline = LogTime(0).plus_seconds(5);
//! let file = TreeNode::File { value: Arc::from("mine"), deadline: Some(deadline) };
//! assert_eq!(state.tree().get(&key), Some(&file));
//!
//! // A batch without commands only moves the clock.
//! let outcomes = state.apply(&Batch::new(deadline, Vec::new()));
//! let What::Event(event) = &outcomes[0].what else { panic!("not due: {outcomes:?}") };
//! assert!(matches!(event.change, Change::Expire { .. }));
//! assert_eq!(state.tree().get(&key), None);
//! assert_eq!(state.position().index.0, 1);
//! # Ok::<(), etcd_log::InvalidKey>(())
//! ```
//!
//! To test a projection of your own against a recorded log, see [`mod@replay`].
//!
//! All of it is pure: no I/O, no clock, no randomness, no order that differs
//! between machines. Time arrives in the batch. Copying a [`State`] is O(1), for
//! its maps share what they have in common.
//!
//! The apply code is part of the log's format: an old log must fold to the same
//! digest for ever. `tests/recorded` of the whole project holds it to that.

#![deny(clippy::wildcard_enum_match_arm)]

// In reading order: none imports one that stands below it. A blank line keeps rustfmt
// from another order.
mod system_keys;

mod event;

mod outcome;

mod directories;

mod subtree;

mod key_tree;

mod cluster;

mod watch_ring;

mod expiry;

mod machines;

mod id_index;

mod requests;

mod digest;

mod trail;

mod decide;

mod state;

mod snapshot;

pub mod replay;

pub use cluster::ClusterValue;
pub use decide::{Decided, decide, decide_step};
pub use event::{Change, Event};
pub use expiry::ExpiryIndex;
pub use key_tree::{Child, KeyTree, TreeNode};
pub use machines::Machines;
pub use outcome::{
    Came, FirstAnswer, Outcome, Position, Projection, Rejection, Requested, Undo, What, of_commands,
};
pub use replay::{ReplayError, Resuming, replay, replay_with};
pub use requests::Requests;
pub use snapshot::{RestoreError, SnapshotHeader, SnapshotItem};
pub use state::{Diverged, State};
pub use system_keys::{CLUSTER_KEY, is_reserved, machine_key};
pub use watch_ring::WatchRing;
