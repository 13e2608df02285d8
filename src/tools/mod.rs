//! The programs beside the server: what reads and makes logs, asks a cluster, and makes a
//! new one out of a survivor.

pub mod certificates;
mod client;
pub mod force_new_cluster;
pub mod log;
pub mod machines;

pub use client::ClientError;
