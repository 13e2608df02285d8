//! Which machines are being looked for, and which were found twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_log::NodeId;
use tokio::time::Instant;

/// How long it counts that a machine was found in two places: then it is looked for again.
const COUNTS: Duration = Duration::from_secs(5);

/// What is known of machines that say that they have moved.
#[derive(Debug, Default)]
pub(super) struct LookedFor {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Each is looked for in one place at a time, however many are named.
    looking: BTreeSet<NodeId>,
    /// Who runs in two processes: one more at the first address, beside that at the second.
    twice: BTreeMap<NodeId, (Arc<str>, Arc<str>, Instant)>,
}

impl LookedFor {
    /// Returns whether it is time to look for a machine, and notes that it is looked for.
    pub(super) fn begin(&self, node: NodeId) -> bool {
        self.lock().looking.insert(node)
    }

    /// Notes that a machine is looked for no longer.
    pub(super) fn end(&self, node: NodeId) {
        self.lock().looking.remove(&node);
    }

    /// Notes that a machine was found at an address, and in another process where it is known
    /// to be.
    pub(super) fn found_twice(&self, node: NodeId, address: &Arc<str>, known: Arc<str>) {
        self.lock().twice.insert(node, (Arc::clone(address), known, Instant::now()));
    }

    /// Returns where a machine is known to be, if the process at an address is another one of
    /// it.
    pub(super) fn known_elsewhere(&self, node: NodeId, address: &str) -> Option<Arc<str>> {
        let inner = self.lock();
        let (found, known, at) = inner.twice.get(&node)?;
        (**found == *address && at.elapsed() < COUNTS).then(|| Arc::clone(known))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
