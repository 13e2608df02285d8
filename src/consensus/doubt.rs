//! Doubts: what a leader wants appended, and this machine thinks to be wrong.
//!
//! A leader whose clock is far ahead would let all expire that has a time to live; one
//! whose state is not what the log says would stop all others with its next check.
//! Neither notices. So what is not known to be committed is judged before it is
//! appended: is its time one that this machine could have written, and is its check
//! what this machine has come to?
//!
//! ```text
//! entry that seems wrong ─▶ refused, and no word of its leader's counts ─┬─▶ another one is elected
//!                                                                        ├─▶ the majority has it: so be it
//!                                                                        └─▶ neither: so be it, after a while
//! ```
//!
//! Where a majority doubts, another machine leads soon and the entry is gone. Where it
//! does not, the entry is committed without this machine, which takes it then. And
//! where nobody can decide it, as of two machines, the cluster must not stand still:
//! better that keys expire early than that nobody can write.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_log::{Entry, LogId, LogTime, NodeId, RaftIndex, Vote};
use tokio::time::Instant;

use crate::state::log_clock::{JUMP, LogClock};
use crate::state::published::StateReader;
use crate::util::error_chain::ErrorChain;

/// How long to refuse: several elections.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far ahead of this machine's time a batch may be: as far as a clock that jumps is
/// followed. Clocks that are set from the same source differ by much less.
const AHEAD: Duration = JUMP;

/// What this machine thinks of leaders. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Doubts {
    clock: LogClock,
    published: StateReader,
    doubt: Arc<Mutex<Option<Doubt>>>,
    /// The time of what was taken all the same: what follows it goes on from there, though
    /// it is not applied yet.
    taken: Arc<AtomicU64>,
}

/// An entry that seems wrong.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// Whose it is.
    leader: Vote,
    entry: LogId,
    /// When it came first.
    since: Instant,
}

impl Doubt {
    /// Whether it still counts, while this is known to be committed.
    fn remains(&self, committed: Option<LogId>) -> bool {
        self.since.elapsed() < PATIENCE && committed.map(|id| id.index) < Some(self.entry.index)
    }
}

impl Doubts {
    /// Makes the judge of a machine with this time and this state.
    pub fn new(clock: LogClock, published: StateReader) -> Self {
        Self { clock, published, doubt: Arc::default(), taken: Arc::default() }
    }

    /// Returns whether a leader is doubted that knows this to be committed.
    pub(super) fn remain(&self, leader: Vote, committed: Option<LogId>) -> bool {
        self.lock().is_some_and(|doubt| doubt.leader == leader && doubt.remains(committed))
    }

    /// Returns whether a machine is doubted: it gets no vote.
    pub(super) fn of(&self, node: NodeId) -> bool {
        self.lock().is_some_and(|doubt| doubt.leader.node == node && doubt.remains(None))
    }

    /// Returns which entry has to be applied here before a check can be judged that a leader
    /// wants appended, who knows this to be committed; nothing, if all can be.
    pub(super) fn needs_applied(
        &self,
        committed: Option<LogId>,
        entries: &[Entry],
    ) -> Option<RaftIndex> {
        let (applied, committed) = (self.applied(), committed.map(|id| id.index));
        let uncommitted = entries.iter().filter(|entry| Some(entry.id.index) > committed);
        let checks = uncommitted.filter_map(|entry| entry.batch()?.check.as_ref()?.entry);
        checks.filter(|entry| Some(*entry) <= committed && Some(*entry) > applied).max()
    }

    /// Waits until an entry is applied here, for so long at most.
    pub(super) async fn until_applied(&self, entry: RaftIndex, limit: Duration) {
        let applied = self.published.wait_for(|now| now.applied.map(|id| id.index) >= Some(entry));
        // What is not applied in time is judged as far as it can be.
        let _in_time = tokio::time::timeout(limit, applied).await;
    }

    fn applied(&self) -> Option<RaftIndex> {
        self.published.applied().map(|id| id.index)
    }

    /// Judges what a leader wants appended, who knows this to be committed.
    ///
    /// # Errors
    ///
    /// If it must not be appended: why not.
    pub(super) fn judge(
        &self,
        leader: Vote,
        committed: Option<LogId>,
        entries: &[Entry],
    ) -> Result<(), String> {
        if self.remain(leader, committed) {
            return Err("it doubts this leader".to_owned());
        }
        let Some((entry, why)) = self.objection(committed, entries) else { return Ok(()) };
        let mut doubt = self.lock();
        // The same entry may come from the same machine in another term.
        let known = doubt.filter(|known| known.entry == entry);
        let since = known.map_or_else(Instant::now, |known| known.since);
        let new = Doubt { leader, entry, since };
        *doubt = Some(new);
        drop(doubt);
        if !new.remains(committed) {
            tracing::warn!("entry {entry} is taken all the same, for nobody else leads: {why}");
            let times = entries.iter().filter_map(Entry::batch).map(|batch| batch.time.0);
            self.taken.fetch_max(times.max().unwrap_or(0), Ordering::Relaxed);
            return Ok(());
        }
        if known.is_none() {
            tracing::warn!("entry {entry} of machine {} is refused for now: {why}", leader.node);
        }
        Err(why)
    }

    /// Returns the first entry that seems wrong and is not known to be committed, and
    /// why.
    fn objection(&self, committed: Option<LogId>, entries: &[Entry]) -> Option<(LogId, String)> {
        let mut logged = self.published.logged().max(LogTime(self.taken.load(Ordering::Relaxed)));
        for entry in entries {
            let Some(batch) = entry.batch() else { continue };
            if Some(entry.id.index) <= committed.map(|id| id.index) {
                logged = logged.max(batch.time);
                continue;
            }
            let here = self.clock.now(logged);
            let ahead = Duration::from_nanos(batch.time.0.saturating_sub(here.0));
            if ahead > AHEAD {
                let ahead = ahead.as_secs();
                return Some((entry.id, format!("its time is {ahead} s ahead of this machine's")));
            }
            let compared = batch.check.as_ref().map(|check| self.published.compare(check));
            if let Some(Err(diverged)) = compared {
                return Some((entry.id, ErrorChain(&diverged).to_string()));
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Option<Doubt>> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::{Batch, Check, Digest, EventNumber, Index, LogTime, Payload, RaftIndex, Term};
    use etcd_projections::State;

    use super::*;
    use crate::state::published::{self, Publisher};
    use crate::util::clock::Clock;
    use crate::util::limit;

    const SECOND: u64 = 1_000_000_000;
    const YEAR: u64 = 31_536_000;

    /// A follower whose clock stands at second 1000, until it is set.
    struct Follower {
        doubts: Doubts,
        publisher: Publisher,
        seconds: Arc<AtomicU64>,
    }

    impl Follower {
        fn new() -> Self {
            let seconds = Arc::new(AtomicU64::new(1000));
            let read = Arc::clone(&seconds);
            let clock = Clock::new(move || LogTime(read.load(Ordering::Relaxed) * SECOND));
            let (publisher, reader) = published::channel(State::new(10), None);
            let doubts = Doubts::new(LogClock::new(clock), reader);
            Self { doubts, publisher, seconds }
        }

        fn judge(&self, term: u64, committed: u64, entries: &[Entry]) -> bool {
            self.doubts.judge(vote(term), Some(id(committed)), entries).is_ok()
        }
    }

    fn vote(term: u64) -> Vote {
        Vote { term: Term(term), node: NodeId(term), committed: true }
    }

    fn id(index: u64) -> LogId {
        LogId { term: Term(1), node: NodeId(1), index: RaftIndex(index) }
    }

    fn entry(index: u64, batch: Batch) -> Entry {
        Entry { id: id(index), payload: Payload::Batch(Arc::new(batch)) }
    }

    fn at(index: u64, seconds: u64) -> Entry {
        entry(index, Batch::new(LogTime(seconds * SECOND), Vec::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn leader_whose_clock_is_a_year_ahead_is_refused_for_a_while() {
        limit::begin();
        let follower = Follower::new();
        assert!(follower.judge(1, 6, &[at(7, 1000), at(8, 1060)]));
        let wrong = [at(9, 1060), at(10, 1000 + YEAR)];
        assert!(!follower.judge(1, 8, &wrong));
        // Nothing of this leader counts then, and it gets no vote.
        assert!(follower.doubts.remain(vote(1), Some(id(9))) && follower.doubts.of(NodeId(1)));
        assert!(!follower.judge(1, 8, &[]));
        // Another one does.
        assert!(!follower.doubts.remain(vote(2), Some(id(9))));
        assert!(follower.judge(2, 8, &[at(9, 1001)]));
        // Whoever leads in between, the same entry is not refused for longer.
        tokio::time::advance(PATIENCE / 2).await;
        assert!(!follower.judge(3, 8, &wrong));
        tokio::time::advance(PATIENCE / 2).await;
        assert!(follower.judge(3, 8, &wrong) && follower.judge(3, 8, &[]));
        // What follows is not refused anew, though nothing of it is applied yet.
        assert!(follower.judge(3, 10, &[at(11, 1001 + YEAR)]));
        assert!(!follower.doubts.of(NodeId(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_committed_is_taken() {
        limit::begin();
        let follower = Follower::new();
        let wrong = at(9, 1000 + YEAR);
        assert!(!follower.judge(1, 8, std::slice::from_ref(&wrong)));
        assert!(!follower.doubts.remain(vote(1), Some(id(9))));
        assert!(follower.judge(1, 9, std::slice::from_ref(&wrong)));
        // What follows it goes on from there.
        assert!(follower.judge(1, 9, &[wrong, at(10, 1001 + YEAR)]));
        follower.publisher.apply(id(9), false, |state| {
            state.apply_entry(
                RaftIndex(9),
                Some(&Batch::new(LogTime((1000 + YEAR) * SECOND), vec![])),
            )
        });
        assert!(follower.judge(1, 9, &[at(10, 1001 + YEAR)]));
    }

    #[tokio::test(start_paused = true)]
    async fn leader_that_is_behind_or_was_here_before_is_not_doubted() {
        limit::begin();
        let follower = Follower::new();
        assert!(follower.judge(1, 6, &[at(7, 1)]));
        // A follower that comes back has a clock, whatever its state is.
        follower.seconds.store(5000, Ordering::Relaxed);
        tokio::time::advance(Duration::from_secs(4000)).await;
        assert!(follower.judge(1, 6, &[at(8, 5000)]));
    }

    #[tokio::test(start_paused = true)]
    async fn leader_whose_check_is_wrong_is_refused() {
        limit::begin();
        let follower = Follower::new();
        let second = LogTime(SECOND);
        follower.publisher.apply(id(5), false, |state| {
            state.apply_entry(RaftIndex(5), Some(&Batch::new(second, Vec::new())))
        });
        let digest = follower.publisher.now().state.digest();
        let check = |entry, digest| {
            let (index, event) = (Index(0), EventNumber(0));
            let check = Check { entry: Some(RaftIndex(entry)), index, event, time: second, digest };
            entry_with(check)
        };
        assert!(follower.judge(1, 5, &[check(5, digest)]));
        // Of what it has not applied it cannot tell.
        assert!(follower.judge(1, 5, &[check(6, Digest(1))]));
        assert!(!follower.judge(1, 5, &[check(5, Digest(1))]));
        // What is committed can be applied first, and then it can.
        let needed = |committed: u64, entry: u64| {
            follower.doubts.needs_applied(Some(id(committed)), &[check(entry, digest)])
        };
        assert_eq!([needed(6, 6), needed(6, 5), needed(5, 6)], [Some(RaftIndex(6)), None, None]);
        assert_eq!(needed(7, 6), None, "the check itself is committed");
    }

    /// Whoever waits gets on when it is applied, and in any case after a while.
    #[tokio::test(start_paused = true)]
    async fn what_is_applied_is_waited_for_and_not_for_ever() {
        limit::begin();
        let follower = Follower::new();
        let begun = Instant::now();
        follower.doubts.until_applied(RaftIndex(5), Duration::from_millis(500)).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(500));
        let (applied, ()) = tokio::join!(
            follower.doubts.until_applied(RaftIndex(5), Duration::from_secs(500)),
            async {
                follower
                    .publisher
                    .apply(id(5), false, |state| state.apply_entry(RaftIndex(5), None));
            }
        );
        assert_eq!((applied, begun.elapsed()), ((), Duration::from_millis(500)));
    }

    fn entry_with(check: Check) -> Entry {
        entry(7, Batch { check: Some(check), ..Batch::new(LogTime(2 * SECOND), Vec::new()) })
    }
}
