//! Places: how many look into the past at a time, while the others wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::sink::ReplaySink;

/// So many places. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// How many wait for one.
    waiting: Arc<AtomicUsize>,
}

impl Places {
    pub(super) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), waiting: Arc::default() }
    }

    /// Waits for a place; returns none, if nobody wants to know any longer.
    pub(super) async fn take(&self, sink: &ReplaySink) -> Option<OwnedSemaphorePermit> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = tokio::select! {
            place = Arc::clone(&self.free).acquire_owned() => place.ok(),
            () = sink.is_gone() => None,
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        place
    }

    /// Returns whether somebody waits for a place.
    pub(super) fn others_wait(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}
