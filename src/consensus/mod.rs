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
//! leaders, so that timer is off, and ours asks first (`election`); a leader that is
//! cut off, or whose disk hangs, stays in office for ever, so it is made to give way; and
//! nothing is said to a machine while entries are on their way to it, so a sign of life
//! goes beside them (`pulse`); an append that takes longer than a heartbeat is given up
//! and sent again, for ever, so it is finished instead (`append`); a failed snapshot build is its end, so it is handed checkpoints that
//! are there already ([`state_machine`]); it says "ask the leader" of proposals that
//! may yet be committed, so we look whether they were appended (`in_flight`); it trusts
//! its peers, so what they say is judged first (`judge`).

mod answers;
mod append;
mod confirmed;
mod contact;
mod doubt;
mod election;
mod engine;
mod in_flight;
mod judge;
pub mod log_store;
mod membership;
mod network;
mod pulse;
mod received;
mod send_checkpoint;
pub mod snapshot;
mod standing;
pub mod state_machine;
mod timing;
pub mod types;
mod unsynced;

pub use answers::Offer;
pub use doubt::Doubts;
pub use engine::{Applied, Consensus, ConsensusError, ConsensusOptions, ProposeError};
pub use standing::Role;
pub use timing::Timing;
pub use unsynced::Unsynced;
