//! What this leader has sent to the others before its own disk had it.
//!
//! ```text
//! batch ─┬─▶ this machine's disk ─────────────────┐
//!        └─▶ the others' disks ─▶ a majority ─────┴─▶ committed: applied, answered, told
//! ```
//!
//! A leader writes to its own disk while the others write to theirs (Raft
//! dissertation, section 10.2.1): two waits become one. openraft is told at once
//! that the batch is on disk here; so everything that follows from its count has
//! to wait until that is true:
//!
//! * applying, and with it every answer and every read;
//! * telling the others what is committed;
//! * agreeing, as a follower later on, that the entry is here.
//!
//! A vote needs no wait of its own: it is written behind the batch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_log::RaftIndex;
use tokio::sync::Notify;

/// The entries that are not on this machine's disk yet. Cloning gives another
/// handle.
#[derive(Clone, Debug, Default)]
pub struct Unsynced {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<VecDeque<RaftIndex>>,
    synced: Notify,
}

impl Unsynced {
    /// Notes that an entry is on its way to the disk.
    pub(crate) fn begin(&self, entry: RaftIndex) {
        self.lock().push_back(entry);
    }

    /// Notes that the entry which was on its way for longest is on disk: entries get
    /// there in order.
    pub(crate) fn end(&self) {
        self.lock().pop_front();
        self.shared.synced.notify_waiters();
    }

    /// Waits until the entries up to this one are on disk.
    pub(crate) async fn wait_for(&self, entry: RaftIndex) {
        self.wait_until(|entries| entries.iter().all(|unsynced| *unsynced > entry)).await;
    }

    /// Waits until all entries are on disk.
    pub(crate) async fn wait_for_all(&self) {
        self.wait_until(VecDeque::is_empty).await;
    }

    async fn wait_until(&self, is_so: impl Fn(&VecDeque<RaftIndex>) -> bool) {
        loop {
            if is_so(&self.lock()) {
                return;
            }
            let synced = self.shared.synced.notified();
            tokio::pin!(synced);
            // From here on none is missed.
            synced.as_mut().enable();
            if is_so(&self.lock()) {
                return;
            }
            synced.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<RaftIndex>> {
        self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn what_is_not_on_disk_is_waited_for() {
        let unsynced = Unsynced::default();
        assert!(unsynced.wait_for(RaftIndex(9)).now_or_never().is_some());
        unsynced.begin(RaftIndex(5));
        unsynced.begin(RaftIndex(6));
        // What lies before is on disk.
        assert!(unsynced.wait_for(RaftIndex(4)).now_or_never().is_some());
        assert!(unsynced.wait_for(RaftIndex(5)).now_or_never().is_none());
        let mut waiting = Box::pin(unsynced.wait_for(RaftIndex(5)));
        assert!((&mut waiting).now_or_never().is_none());
        unsynced.end();
        assert!(waiting.now_or_never().is_some());
        assert!(unsynced.wait_for(RaftIndex(6)).now_or_never().is_none());
        assert!(unsynced.wait_for_all().now_or_never().is_none());
        unsynced.end();
        assert!(unsynced.wait_for_all().now_or_never().is_some());
    }
}
