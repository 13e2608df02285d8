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
//! The modules, in reading order: who a machine is and where its files are
//! ([`data_dir`], [`disk`], [`checkpoint`]), what machines say to each other ([`peers`]),
//! how they agree on the log ([`consensus`]), how its fold is seen ([`published`],
//! [`replay`]), what a machine can be asked ([`node`]), in which words ([`api`]), how it
//! is put together ([`machine`]) and gets into a cluster ([`join`]); and the four
//! programs behind one command line ([`cli`]): [`serve`], [`log_tool`],
//! [`machine_tool`] and [`recover`].

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
