//! What a machine is told of itself and of what is around it.

use std::sync::Arc;

use etcd_log::{ClusterId, LogFormat, Machine};

use super::timing::Timing;
use crate::peers::Connect;
use crate::util::clock::Clock;

/// Who a machine is.
#[derive(Clone, Debug)]
pub struct Oneself {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// How the others and the clients know it.
    pub machine: Machine,
    /// The newest format of a log that it reads.
    pub reads: LogFormat,
    /// Whether it founds the cluster, if its log is empty; or else waits to be let in.
    pub founds: bool,
}

/// What is around a machine.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// How it reaches the others.
    pub network: Arc<dyn Connect>,
    /// Where others may be found that have moved.
    pub hints: Vec<String>,
    /// How long they wait for each other.
    pub timing: Timing,
    /// The time.
    pub clock: Clock,
}
