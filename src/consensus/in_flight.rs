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
    proposed: Arc<Mutex<Proposed>>,
}

#[derive(Debug, Default)]
struct Proposed {
    batch: Option<Arc<Batch>>,
    appended: bool,
}

impl InFlight {
    /// Notes that a batch is about to be proposed.
    pub(crate) fn begin(&self, batch: &Arc<Batch>) {
        *self.lock() = Proposed { batch: Some(Arc::clone(batch)), appended: false };
    }

    /// Notes that a batch is about to be appended. Returns whether it is the one in
    /// flight.
    pub(crate) fn appended(&self, batch: &Arc<Batch>) -> bool {
        let mut proposed = self.lock();
        if proposed.batch.as_ref().is_some_and(|proposed| Arc::ptr_eq(proposed, batch)) {
            proposed.appended = true;
            return true;
        }
        false
    }

    /// Returns whether the batch in flight has been appended, and forgets it.
    pub(crate) fn end(&self) -> bool {
        std::mem::take(&mut *self.lock()).appended
    }

    fn lock(&self) -> MutexGuard<'_, Proposed> {
        self.proposed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_batch_in_flight_counts_as_appended() {
        let (in_flight, batch) = (InFlight::default(), Arc::new(Batch::default()));
        let same_words = Arc::new(Batch::default());
        in_flight.begin(&batch);
        assert!(!in_flight.appended(&same_words));
        assert!(!in_flight.end());
        in_flight.begin(&batch);
        assert!(in_flight.appended(&batch));
        assert!(in_flight.end());
        // It is forgotten then.
        assert!(!in_flight.appended(&batch) && !in_flight.end());
    }
}
