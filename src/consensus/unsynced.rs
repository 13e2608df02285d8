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
//!
//! Applying waits for this disk alone: others have the batch by then. How long it has
//! to is counted, for a leader whose disk keeps all waiting had better not lead. The
//! same goes for whatever else openraft writes: while its own core waits for the disk,
//! it neither sends nor hears.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_log::RaftIndex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Up to here a wait for the disk is an ordinary one, and does not count: other machines'
/// disks take as long now and then.
const ORDINARY: Duration = Duration::from_millis(100);

/// For how long it is remembered how long a wait was.
const REMEMBERED: Duration = Duration::from_mins(1);

/// The entries that are not on this machine's disk yet. Cloning gives another
/// handle.
#[derive(Clone, Debug, Default)]
pub struct Unsynced {
    shared: Arc<Waits>,
}

#[derive(Debug, Default)]
struct Waits {
    entries: Mutex<VecDeque<RaftIndex>>,
    synced: Notify,
    delays: Mutex<Delays>,
}

/// How long this machine has waited for its disk.
#[derive(Debug, Default)]
struct Delays {
    /// Since when applying waits now.
    since: Option<Instant>,
    /// When each write began that openraft waits for, by number, in order; and the next
    /// number.
    writes: VecDeque<(u64, Instant)>,
    next: u64,
    /// When each wait ended that was no ordinary one, and how long it was.
    past: VecDeque<(Instant, Duration)>,
}

impl Delays {
    /// Notes how long a wait was that is over. Of a follower nobody asks for it: what was
    /// long ago goes all the same.
    fn note(&mut self, delay: Duration) {
        self.past.retain(|(ended, _)| ended.elapsed() < REMEMBERED);
        if delay > ORDINARY {
            self.past.push_back((Instant::now(), delay));
        }
    }
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

    /// Waits until the entries up to this one are on disk, to apply them.
    pub(crate) async fn wait_to_apply(&self, entry: RaftIndex) {
        if self.lock().iter().all(|unsynced| *unsynced > entry) {
            return;
        }
        let since = Instant::now();
        self.delays().since = Some(since);
        self.wait_for(entry).await;
        let mut delays = self.delays();
        delays.since = None;
        delays.note(since.elapsed());
    }

    /// Notes that openraft writes something that it waits for, and returns what notes
    /// that it is on disk when it is dropped.
    pub(crate) fn writing(&self) -> Writing {
        let mut delays = self.delays();
        let number = delays.next;
        delays.next += 1;
        delays.writes.push_back((number, Instant::now()));
        Writing { unsynced: self.clone(), number }
    }

    /// Returns how long this machine has been waiting for its disk by now; and how long
    /// in all, of the time that has passed lately.
    pub(crate) fn delay(&self, lately: Duration) -> (Duration, Duration) {
        let mut delays = self.delays();
        delays.past.retain(|(ended, _)| ended.elapsed() < lately);
        let oldest = delays.writes.front().map(|(_, since)| *since);
        let since = [oldest, delays.since].into_iter().flatten().min();
        let now = since.map(|since| since.elapsed()).unwrap_or_default();
        let past = delays.past.iter().map(|(_, delay)| *delay).sum::<Duration>();
        (now, now + past)
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

    fn delays(&self) -> MutexGuard<'_, Delays> {
        self.shared.delays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<RaftIndex>> {
        self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write that openraft waits for.
#[derive(Debug)]
pub(crate) struct Writing {
    unsynced: Unsynced,
    number: u64,
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut delays = self.unsynced.delays();
        let at = delays.writes.iter().position(|(number, _)| *number == self.number);
        let since = at.and_then(|at| delays.writes.remove(at)).map(|(_, since)| since);
        // While applying waits, the time is counted there.
        if let Some(since) = since.filter(|_| delays.since.is_none()) {
            delays.note(since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::util::limit;

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

    #[tokio::test(start_paused = true)]
    async fn time_that_applying_waits_for_the_disk_is_counted() {
        limit::begin();
        let (unsynced, lately) = (Unsynced::default(), Duration::from_secs(10));
        let wait = async |millis| {
            unsynced.begin(RaftIndex(1));
            let waiting = unsynced.clone();
            let waiting = tokio::spawn(async move { waiting.wait_to_apply(RaftIndex(1)).await });
            tokio::time::sleep(Duration::from_millis(millis)).await;
            let (now, _) = unsynced.delay(lately);
            assert_eq!(now.as_millis(), u128::from(millis), "it is waiting");
            unsynced.end();
            waiting.await.unwrap();
        };
        wait(50).await;
        assert_eq!(unsynced.delay(lately), Default::default(), "that was an ordinary wait");
        wait(3000).await;
        wait(2000).await;
        let (now, in_all) = unsynced.delay(lately);
        assert_eq!((now.as_millis(), in_all.as_millis()), (0, 5000));
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(unsynced.delay(lately).1.as_millis(), 2000, "the first one is long ago");
    }

    #[tokio::test(start_paused = true)]
    async fn slow_disk_of_whom_nobody_asks_is_not_remembered_for_ever() {
        limit::begin();
        let unsynced = Unsynced::default();
        for _ in 0..1000 {
            let writing = unsynced.writing();
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(writing);
        }
        assert!(unsynced.delays().past.len() <= 60);
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_openraft_writes_counts() {
        limit::begin();
        let (unsynced, lately) = (Unsynced::default(), Duration::from_secs(10));
        let (vote, append) = (unsynced.writing(), unsynced.writing());
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(vote);
        let (now, in_all) = unsynced.delay(lately);
        assert_eq!((now.as_secs(), in_all.as_secs()), (2, 4), "the other is not there yet");
        drop(append);
        assert_eq!(unsynced.delay(lately).0, Duration::ZERO);
    }
}
