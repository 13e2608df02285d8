//! The batch in flight, and whether it has got into the log of this machine.
//!
//! openraft says "ask the leader" both of a proposal that it has not touched and
//! of one that it had appended and that was overruled later. The second may yet
//! become part of the log, on another machine: it must never be proposed again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_log::Batch;

/// The batch that was proposed last. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    batch: Arc<Mutex<Option<(Arc<Batch>, bool)>>>,
}

impl InFlight {
    /// Notes that a batch is about to be proposed.
    pub(crate) fn begin(&self, batch: &Arc<Batch>) {
        *self.lock() = Some((Arc::clone(batch), false));
    }

    /// Notes that a batch is about to be appended.
    pub(crate) fn appended(&self, batch: &Arc<Batch>) {
        if let Some((proposed, appended)) = &mut *self.lock()
            && Arc::ptr_eq(proposed, batch)
        {
            *appended = true;
        }
    }

    /// Returns whether the batch in flight has been appended, and forgets it.
    pub(crate) fn end(&self) -> bool {
        self.lock().take().is_some_and(|(_, appended)| appended)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Arc<Batch>, bool)>> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
