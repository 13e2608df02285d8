//! How long somebody waits for the past.
//!
//! What is read for him ends soon after he has gone: whoever reads checks that between two
//! chunks, and so reads that were tried again do not pile up.

use std::time::Duration;

use tokio::time::Instant;

use super::PastError;
use crate::node::Unavailable;
use crate::util::blocking::blocking;

/// When somebody waits no longer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// Returns when a time limit that begins now is over.
    pub(super) fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    /// Returns how much time is left.
    pub(super) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Says so if it has passed.
    pub(super) fn check(self) -> Result<(), Unavailable> {
        if self.0 < Instant::now() { Err(Unavailable::Late) } else { Ok(()) }
    }

    /// Does work that waits for the disk, and returns what comes of it in time. The work
    /// is to check the deadline as it goes.
    pub(super) async fn within<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, PastError> + Send + 'static,
    ) -> Result<T, PastError> {
        let working = blocking(move || {
            self.check()?;
            work()
        });
        let worked = tokio::time::timeout_at(self.0, working).await;
        worked.map_err(|_| Unavailable::Late)?
    }
}
