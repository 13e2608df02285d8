//! Clusters of real processes: joining, leaving, moving; faults that pass and faults that
//! last; strangers and liars on the peer ports.
//!
//! Each test has a cluster of its own, on ports that it keeps, so that as many run at a
//! time as the harness has threads.

mod cluster;
mod cluster_faults;
mod expiry;
mod following;
mod lasting_faults;
#[path = "../support/linearizability/mod.rs"]
mod linearizability;
mod past;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod upgrade;
