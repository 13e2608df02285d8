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
//! What bites in openraft 0.9, and the answers here:
//!
//! * it syncs once per proposal: the proposer packs what waits into one, and an entry is
//!   on its way to the others before this machine's own disk has it (`unsynced`);
//! * after a restart it would resume leadership without an election: the machine's own
//!   vote is demoted when it is read back ([`log_store`]);
//! * it would elect on its own timer, and depose healthy leaders: that timer is off, and
//!   ours asks first (`election`);
//! * a leader that is cut off, or whose disk hangs, stays in office for ever: it is made
//!   to give way (`pulse`);
//! * it says nothing to a machine while entries are on their way there: a sign of life
//!   goes beside them (`pulse`);
//! * it gives up an append that takes longer than a heartbeat, and sends it again, for
//!   ever: it is finished instead (`append`);
//! * a snapshot build that fails is its end: it is handed checkpoints that are there
//!   already ([`state_machine`]);
//! * it says "ask the leader" of proposals that may yet be committed: we look whether they
//!   were appended (`in_flight`);
//! * it trusts its peers, and ends over what cannot be: what they say is judged first
//!   (`judge`);
//! * it ends when a machine no longer has what it had confirmed: it does not get to hear
//!   of it (`confirmed`);
//! * it appends whatever a leader says: an entry whose time or check seems wrong is refused
//!   for a while, so that another machine can lead (`doubt`).

mod append;
mod confirmed;
mod connection;
mod doubt;
mod election;
mod engine;
mod in_flight;
mod incoming_checkpoints;
mod judge;
mod liveness;
pub mod log_store;
mod membership;
mod network;
mod pulse;
mod quorum;
mod rpc;
mod send_checkpoint;
pub mod snapshot;
mod start;
pub mod state_machine;
mod status;
mod surroundings;
mod timing;
pub mod types;
mod unsynced;

pub use doubt::Doubts;
pub use engine::{Applied, Consensus, ConsensusError};
pub use incoming_checkpoints::CheckpointHeader;
pub use start::ConsensusOptions;
pub use status::Role;
pub use surroundings::{Oneself, Surroundings};
pub use timing::Timing;
pub use unsynced::Unsynced;
