//! The hold: what a machine that has just started does not show yet.
//!
//! It knows only up to its last checkpoint and what it has been told is committed; what
//! it had acknowledged before it was stopped may be more than that. So nobody sees its
//! state before it has proved once that it has all of it:
//!
//! ```text
//! start ─▶ held ─┬─ a linearizable read succeeds ─▶ shown
//!                └─ it has others, and they are silent for a few seconds ─▶ shown, stale
//! ```
//!
//! Whoever is alone has everything in its own log, and waits until it is applied, however
//! long that takes. Whoever has others and cannot reach them would be silent for ever.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Unavailable;
use super::read_barrier::Barrier;
use crate::consensus::Consensus;

/// How long a machine waits for others before it shows what it has.
const LIMIT: Duration = Duration::from_secs(3);

/// How long one try to prove it may take.
const TRY: Duration = Duration::from_secs(1);

/// Whether the state is still held back. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    /// Whether the state may be shown.
    shown: watch::Sender<bool>,
}

impl Hold {
    /// Holds the state back until it may be shown.
    pub(super) fn start(consensus: Consensus, barrier: Barrier) -> Self {
        let (shown, _) = watch::channel(false);
        let hold = Self { shown: shown.clone() };
        tokio::spawn(async move {
            let begun = Instant::now();
            while barrier.pass(TRY).await.is_err() {
                if begun.elapsed() >= LIMIT && !consensus.is_alone() {
                    break;
                }
            }
            shown.send_replace(true);
        });
        hold
    }

    /// Waits until the state may be shown, up to `limit`.
    ///
    /// # Errors
    ///
    /// If it may not be by then.
    pub(super) async fn passed(&self, limit: Duration) -> Result<(), Unavailable> {
        if *self.shown.borrow() {
            return Ok(());
        }
        let mut shown = self.shown.subscribe();
        let waiting = shown.wait_for(|shown| *shown);
        let waited = tokio::time::timeout(limit, waiting).await;
        waited.map(drop).map_err(|_| Unavailable::NoLeader)
    }
}
