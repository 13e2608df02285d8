//! The first etcd, rebuilt as an event-sourced, replicated key-value store: the
//! replicated Raft log is the only truth, and everything a client sees is a fold
//! over it.
//!
//! ```text
//!  curl ─▶ api ─▶ node: proposer ─▶ consensus ─▶ log, one fsync a batch ─▶ majority
//!                 (packs what waits into one batch)       │ committed batches, in order
//!                                                         ▼
//!              api ◀─ node: reads, watches ◀─ published ◀─ state (etcd-projections)
//! ```
//!
//! This crate is the shell: every effect is here, and no decision. What a command
//! does is decided in `etcd-projections`; how a log lies on disk, in `etcd-log`.
//!
//! # The folders, from the top
//!
//! | folder | what is in it, and what it keeps |
//! |---|---|
//! | [`cli`] | the command line: what is not understood never gets further |
//! | [`tools`] | the programs beside the server, on directories that nobody runs on |
//! | [`server`] | one process: started in steps, and stopped with all that it accepted done |
//! | [`api`] | what clients say: bad input is answered here, and never reaches the log |
//! | [`node`] | what a machine can be asked: nothing is acknowledged before it is applied |
//! | [`consensus`] | Raft, all that knows openraft: nobody is believed before he is judged |
//! | [`state`] | the fold, as it is seen: applying never waits for a reader |
//! | [`storage`] | checkpoints and the directory: a cache of the log, and whose it is |
//! | [`peers`] | what machines say to each other: bounded, hashed, within its time |
//! | [`util`] | what everything else may use |
//!
//! # Ten words
//!
//! * *command*: what somebody wants; it may be refused. *Event*: what happened; it cannot fail.
//! * *batch*: the commands of one Raft entry, and the leader's time; without any, a *tick*.
//! * *index*: the number of a command. *Event number*: that of an event.
//! * *logged time*: the time in the batches, the only clock that the state depends on.
//! * *outcome*: what came of a command, an event or a *rejection*.
//! * *projection*: a read model, folded from outcomes.
//! * *checkpoint*: the projections at an index, on disk. *Segment*: a file of the log that
//!   is being written. *Sealed file*: one of settled history, which never changes.
//! * *barrier*: the proof that this machine leads, or whom it follows does, for reads.
//! * *learner*: a member without a vote yet. *Machine*: a member, by its name.
//! * *pulse*: a leader's sign of life beside its entries.
//!
//! # The life of a PUT
//!
//! 1. `api/http/connection.rs` has the connection, `api/v1/keys.rs` reads the form: a command.
//! 2. `node/proposer/queue.rs` lets it wait, by its bytes; `node/proposer/mod.rs` packs a batch.
//! 3. `consensus/engine.rs` proposes it; `consensus/log_store.rs` writes it, while
//!    `consensus/append.rs` sends it to the others.
//! 4. `consensus/rpc.rs` of a follower judges it, and answers once its disk has it.
//! 5. `consensus/state_machine.rs` applies it, and `state/published.rs` shows what it led to.
//! 6. `node/proposer/mod.rs` hands out the outcomes, and `api/v1/json.rs` writes the line.
//!
//! # The life of a watch from an old index
//!
//! 1. `api/v1/watch.rs` asks for it; `node/hold.rs` lets it through once this machine is whole.
//! 2. `node/watch.rs` looks into the ring of `etcd-projections`: it does not go back so far.
//! 3. `node/history/mod.rs` finds the checkpoint before it, and `storage/log_stream.rs` the log.
//! 4. `state/replay.rs` folds the one over the other; `node/history/sink.rs` takes what is wanted.
//! 5. Behind the replay the ring goes on, event by event, by their numbers.
//! 6. From there `state/watch_hub.rs` wakes it when something happens below its prefix.
//!
//! # The life of an expiry
//!
//! 1. A set carries a time to live; `etcd-projections` notes the deadline in logged time.
//! 2. `node/proposer/expiry.rs` waits for it where this machine leads, by `state/log_clock.rs`.
//! 3. It proposes a tick, no later than so many deadlines that applying takes long.
//! 4. Every machine applies it, and the key is gone everywhere, in the same place of the log.
//! 5. The event takes no index: it lies between two commands, and has a number.
//! 6. A watch tells it as it tells a delete.
//!
//! # How to work here
//!
//! * One test: `cargo test --test cluster leader_that`. One golden script, which is a test
//!   too: `cargo test -p etcd-log --test scripts torn_tail`.
//! * All scripts of a runner recorded anew: `UPDATE_GOLDENFILES=1 cargo test -p etcd-log
//!   --test scripts`, then read the difference against the claim at the top of the script.
//! * A seed of the simulation: `SIM_SEED=17 cargo test --test simulation one_seed`.
//! * All that must pass: `.ci/run`.

pub mod api;
pub mod cli;
pub mod consensus;
pub mod node;
pub mod peers;
pub mod server;
pub mod state;
pub mod storage;
pub mod tools;
pub mod util;
