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
//! All of it is pure: no I/O, no clock, no randomness, no order that differs
//! between machines. Time arrives in the batch. Copying a [`State`] is O(1), for
//! its maps share what they have in common.
//!
//! The apply code is part of the log's format: an old log must fold to the same
//! digest for ever. `tests/recorded` of the whole project holds it to that.

#![deny(clippy::wildcard_enum_match_arm)]

mod decide;
mod digest;
mod directories;
mod event;
mod expiry;
mod key_tree;
mod machines;
mod outcome;
mod snapshot;
mod state;
mod system_keys;
mod trail;
mod watch_ring;

pub use decide::decide;
pub use event::{Change, Event};
pub use expiry::ExpiryIndex;
pub use key_tree::{Child, KeyTree, TreeNode};
pub use machines::Machines;
pub use outcome::{Outcome, Position, Projection, Rejection, What};
pub use snapshot::{RestoreError, SnapshotHeader, SnapshotItem};
pub use state::{Diverged, State};
pub use system_keys::{CLUSTER_KEY, is_reserved, machine_key};
pub use watch_ring::WatchRing;
