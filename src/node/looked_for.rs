//! Which machines are being looked for.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use etcd_log::NodeId;

/// Which machines are being looked for: each in one place at a time, however many are named.
#[derive(Debug, Default)]
pub(super) struct LookedFor(Mutex<BTreeSet<NodeId>>);

impl LookedFor {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
