//! Consensus: which entries the machines agree on, and in which order.
//!
//! ```text
//! propose(batch) ─▶ openraft ─▶ LogStore ─▶ etcd-log      write, sync
//!                       │
//!                       └─────▶ StateMachine              apply, publish
//! ```
//!
//! Everything that knows openraft is in this folder; nothing outside names it. A
//! single machine is a Raft group of one voter, not a special case.
//!
//! What bites in openraft 0.9, and the answers here: it syncs once per proposal,
//! so the proposer packs what waits into one; it would resume leadership without
//! an election after a restart, so the machine's own vote is demoted when it is
//! read back ([`log_store`]); it would elect on its own timer and depose healthy
//! leaders, so that timer is off; it builds snapshots in the apply path, so that
//! only takes a copy in O(1) ([`state_machine`]).
//!
//! *Limits*: machines do not join yet. So the network reaches nobody, there is no
//! election timer (a machine stands once, at its start), and no checkpoint travels
//! from one machine to another.

mod engine;
pub mod log_store;
mod network;
pub mod state_machine;
pub mod types;

pub use engine::{Consensus, ConsensusError, ConsensusOptions, ProposeError};
