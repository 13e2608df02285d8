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
//! The heart of it is a fold that needs none of the shell:
//!
//! ```
//! use etcd_log::{KeyPath, Recording};
//! use etcd_projections::{Change, State, TreeNode};
//!
//! // Two batches of a log: a key that lives for five seconds; six seconds later, nothing.
//! let log = r#"
//! {"index":1,"time":"2013-07-11T20:31:07Z","commands":[{"set":{"key":"/a","value":"b","ttl":5}}]}
//! {"index":2,"time":"2013-07-11T20:31:13Z","commands":[]}
//! "#;
//! let batches = Recording::read(log.as_bytes())?.batches;
//! let (mut state, key) = (State::new(10), KeyPath::clean("/a")?);
//!
//! state.apply(&batches[0]);
//! let holds = state.tree().get(&key);
//! assert!(matches!(holds, Some(TreeNode::File { value, .. }) if &**value == "b"));
//!
//! // The log's time goes on, and the key expires: an event that took no command.
//! state.apply(&batches[1]);
//! assert_eq!(state.tree().get(&key), None);
//! let last = state.ring().last().expect("a set, and an expiry");
//! assert!(matches!(last.change, Change::Expire { .. }));
//! assert_eq!((last.index.0, last.number.0), (1, 2));
//!
//! // Whoever folds this log, on whatever machine and in whatever year, gets this digest.
//! assert_eq!(state.digest().to_string(), "0631c5d68d11754355f2e0d415425cad");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The folders, from the top
//!
//! | folder | what is in it, and what it keeps |
//! |---|---|
//! | [`cli`] | the command line: what is not understood never gets further |
//! | [`tools`] | the programs beside the server: they read and make logs, and ask machines that run |
//! | [`server`] | one process: started in steps, and stopped with all that it accepted done |
//! | [`api`] | what clients say: bad input is answered here, and never reaches the log |
//! | [`node`] | what a machine can be asked: nothing is acknowledged before it is applied |
//! | [`consensus`] | Raft, all that knows openraft: nobody is believed before he is judged |
//! | [`state`] | the fold, as it is seen: applying never waits for a reader |
//! | [`storage`] | checkpoints and the directory: a cache of the log, and whose it is |
//! | [`peers`] | what machines say to each other: bounded, hashed, within its time |
//! | [`tls`] | who is on the other side of a connection, for as long as that can be believed |
//! | [`util`] | what everything else may use |
//!
//! # Thirteen words
//!
//! * *command*: what somebody wants; it may be refused. *Event*: what happened; it cannot fail.
//! * *batch*: the commands of one Raft entry, and the leader's time; without any, a *tick*.
//! * *index*: the number of a command. *Event number*: that of an event.
//! * *logged time*: the time in the batches, the only clock that the state depends on.
//! * *outcome*: what came of a command, an event or a *rejection*.
//! * *projection*: a read model, folded from outcomes.
//! * *checkpoint*: the projections at an index, on disk: a cache of the log.
//! * *WAL*: the *segments*, files of the log that are being written. *Archive*: the *sealed
//!   files* of settled history, which never change.
//! * *high-water mark*: how far the log went for certain, so that a lost end is noticed.
//! * *barrier*: the proof that this machine leads, or whom it follows does, for reads.
//! * *node*: a process of ours. *Machine*: a member of the cluster, by its name and its
//!   addresses. *Learner*: a member without a vote yet.
//! * *request*: a command that somebody asked for under an id of his own: it is done once.
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
//! 3. `node/history/stored.rs` reads on from there in the store of `storage/events/mod.rs`, and
//!    `node/history/sink.rs` takes what is wanted.
//! 4. Where the store has a gap, `node/history/mod.rs` finds the checkpoint before it, and
//!    `storage/log_stream.rs` the log; `state/replay.rs` folds the one over the other.
//! 5. Behind that the ring goes on, event by event, by their numbers.
//! 6. From there `state/watch_hub.rs` wakes it when something happens that its filter may pass.
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
//! * All that must pass: `.ci/run`: form, lints, documentation, and the tests, those in the
//!   documentation and the examples among them. The tests alone: `cargo test --workspace`.
//! * The tests of the whole are a program each, by what they test: `api` what clients are told,
//!   `durability` what must last, `cluster` several processes, `program` starts, stops and tools,
//!   `simulation` many machines in one thread, `tidy` what no compiler checks. One test: `cargo
//!   test --test cluster leader_that`. One that hangs is ended after ten minutes, and named;
//!   `TEST_LIMIT=60` makes that a minute.
//! * A golden script is a test: `cargo test -p etcd-log --test scripts torn_tail`, `cargo test
//!   --test durability recorded::scripts::locks`. With `UPDATE_GOLDENFILES=1` before it, it is
//!   recorded anew: read the difference against the claim at its top. The logs that they read,
//!   in `tests/recorded`, never change: they fold to the same digests for ever.
//! * A simulation that fails says its seed: `SIM_SEED=17 cargo test --test simulation one_seed`
//!   repeats it, and tells all that happened.
//! * What anybody may send is fuzzed for a second each: `FUZZ_SECONDS=600 cargo test --release
//!   --lib fuzz` takes longer, and `FUZZ_SEED=17` repeats what was told of one that failed.
//! * A folder imports those below it in the table above, and no files import each other in a
//!   circle across folders: `tests/tidy.rs` names the line that does. A new folder gets a place
//!   in its list, and a line in the table.
//! * A new dependency has its reason beside it, in `Cargo.toml` of the workspace.
//! * To use the crates from outside: `examples/replay.rs`, `examples/changes.rs`,
//!   `examples/directories.rs`, `examples/lock.rs`, `examples/sqlite/src/main.rs`. A running
//!   cluster is followed by a crate of its own, `follow/src/lib.rs`.

pub mod api;
pub mod cli;
pub mod consensus;
pub mod node;
pub mod peers;
pub mod server;
pub mod state;
pub mod storage;
pub mod tls;
pub mod tools;
pub mod util;
