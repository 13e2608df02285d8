//! History: events older than the ring, from the store of events; or by replaying the
//! log, where the store has a gap.
//!
//! ```text
//! wanted event ─▶ the store, as far as it goes on ─▶ the ring
//!                  └ a gap ─▶ newest checkpoint before it ─▶ the log after it ─▶ the ring
//! ```
//!
//! A replay goes on until the ring holds what comes next, however much is written
//! meanwhile. It runs on a thread of its own, for it can keep a core busy for
//! seconds; it holds a state, so there are only so many at a time, and the others
//! wait. One whose client is gone ends; one whose client does not read for a
//! while, or takes its time while others wait, is given up, and its watch begins
//! another one where it stopped. While much is written, all who read from the store take
//! a third of a core together.
//!
//! A machine that began with a checkpoint of another one's has no log from before
//! it until it has fetched that; until then it asks a machine that has.
//!
//! What the log has let go is gone, also where the store still has it.
//!
//! *Limits*: a replay starts from the nearest checkpoint before it, some 5 million
//! commands earlier at most. What lies before the first entry that is kept, or has
//! no checkpoint before it, is gone.

pub(super) mod backfill;
mod cursor;
mod fill;
mod pace;
mod places;
pub(super) mod remote;
mod serve;
pub(super) mod sink;
mod stored;

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{Entry, EventNumber, Index, KeyPath, LogError, LogId, RaftIndex};
use etcd_projections::{Event, Outcome, State, What};
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::Stream;

use crate::state::published::StateReader;
use crate::state::replay::{Replay, ReplayError};
use crate::storage::checkpoint::{self, Checkpoint, CheckpointFile, CheckpointStore};
use crate::storage::events::EventStore;
use crate::storage::log_stream::LogSource;
use crate::util::blocking::{blocking, spawn_busy};
use pace::Pace;
use places::Places;
use remote::RemoteHistory;
use sink::{ReplayBudget, ReplaySink, Replayed, Replaying};

pub use cursor::{Cursor, WatchError};

/// How many replays run at a time: each holds a state, and a core.
const REPLAYS: usize = 2;

/// How many read from the store at a time: each holds what is left of a block.
const READERS: usize = 32;

/// For how long a replay may hold its place while others wait for one.
const TURN: Duration = Duration::from_secs(10);

/// How long a watch waits that comes at the wrong moment.
const PAUSE: Duration = Duration::from_millis(50);

/// The way to old events. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct History {
    log: LogSource,
    checkpoints: CheckpointStore,
    published: StateReader,
    remote: RemoteHistory,
    ring_capacity: usize,
    events: Option<EventStore>,
    readers: Places,
    pace: Pace,
    replays: Places,
}

impl History {
    pub(super) fn new(
        log: LogSource,
        checkpoints: CheckpointStore,
        events: Option<EventStore>,
        published: StateReader,
        remote: RemoteHistory,
        ring_capacity: usize,
    ) -> Self {
        let (readers, replays) = (Places::new(READERS), Places::new(REPLAYS));
        let pace = Pace::default();
        Self { log, checkpoints, published, remote, ring_capacity, events, readers, pace, replays }
    }

    /// Returns what is stored of what happened, if anything is.
    pub(super) fn events(&self) -> Option<&EventStore> {
        self.events.as_ref()
    }

    /// Returns the log that is read.
    pub(super) fn log(&self) -> &LogSource {
        &self.log
    }

    /// Replays the events from the cursor on that lie below the prefix and have
    /// this index or a later one, until the ring holds what comes next.
    pub(super) fn replay(&self, cursor: Cursor, prefix: KeyPath, from: Index) -> Replaying {
        self.begin(cursor, prefix, from, None)
    }

    /// Replays as [`Self::replay`] does, from this machine's log alone, and up to an
    /// event: for another machine.
    pub(super) fn replay_here(
        &self,
        cursor: Cursor,
        prefix: KeyPath,
        from: Index,
        upto: EventNumber,
    ) -> Replaying {
        self.begin(cursor, prefix, from, Some(upto))
    }

    fn begin(
        &self,
        cursor: Cursor,
        prefix: KeyPath,
        from: Index,
        upto: Option<EventNumber>,
    ) -> Replaying {
        let (sink, replaying) = sink::new(cursor, prefix, from, upto);
        let history = self.clone();
        tokio::spawn(async move {
            let Some(sink) = history.tell_stored(sink).await else { return };
            if let Some(place) = history.replays.take(&sink).await {
                spawn_busy(async move { history.run(sink, place).await });
            }
        });
        replaying
    }

    async fn run(&self, sink: ReplaySink, place: OwnedSemaphorePermit) {
        let failing = sink.clone();
        if let Err(error) = self.replay_until_ring(sink).await {
            failing.fail(error).await;
        }
        drop(place);
    }

    async fn replay_until_ring(&self, sink: ReplaySink) -> Result<(), WatchError> {
        match self.beginning(sink).await? {
            Some((sink, start)) => self.catch_up(&sink, start).await,
            None => self.pause().await,
        }
    }

    /// Returns what the replay begins with. What lies before that is told by another
    /// machine. Nothing, if that is not to be had at the moment.
    async fn beginning(
        &self,
        sink: ReplaySink,
    ) -> Result<Option<(ReplaySink, Checkpoint)>, WatchError> {
        let start = self.start(sink.cursor, self.applied()).await;
        if next_entry(start.applied) >= self.log.first() {
            return Ok(Some((sink, start)));
        }
        let Some(file) = self.first_file() else {
            if self.log.missing().is_some() {
                // A checkpoint is just being installed.
                return Ok(None);
            }
            return Err(WatchError::Gone { cursor: sink.cursor, oldest: self.oldest() });
        };
        // Another machine that asks has to ask one that knows.
        if sink.upto.is_some() || !self.remote.tell(&sink, file.event).await? {
            return Ok(None);
        }
        let checkpoints = self.checkpoints.clone();
        let read = blocking(move || checkpoints.read(&file.path)).await;
        // It may have made room for newer ones by now: then another turn is needed.
        Ok(read.ok().map(|start| (sink.behind(file.event), start)))
    }

    /// Replays until the ring holds what comes next.
    async fn catch_up(&self, sink: &ReplaySink, start: Checkpoint) -> Result<(), WatchError> {
        let mut turn = ReplayBudget::new(TURN);
        let mut next = next_entry(start.applied);
        let mut state = start.state;
        loop {
            let range = next..next_entry(self.applied());
            if range.is_empty() {
                // Another machine wants more than this one has, or a checkpoint has come.
                return self.pause().await;
            }
            let mut replay = Replay::new(state, self.log.read(range));
            match self.show_all(&mut replay, &mut next, sink, &mut turn).await? {
                // The ring goes on while the reader takes what was found: only when
                // nothing is left is it known whether the ring holds what comes next.
                ReplayEnd::All if sink.take_all().await.is_continue() => {}
                ReplayEnd::All | ReplayEnd::Enough => return Ok(()),
                ReplayEnd::Overtaken => return self.pause().await,
            }
            state = replay.into_state();
            let reached = state.position().event;
            if sink.upto.is_none() && self.is_in_ring(reached.next()) {
                let _told = sink.tell(Replayed::Reached(reached)).await;
                return Ok(());
            }
        }
    }

    /// Shows what a replay comes by. `next` is the entry that follows then.
    async fn show_all<S>(
        &self,
        replay: &mut Replay<S>,
        next: &mut RaftIndex,
        sink: &ReplaySink,
        turn: &mut ReplayBudget,
    ) -> Result<ReplayEnd, WatchError>
    where
        S: Stream<Item = Result<Arc<Entry>, LogError>> + Unpin,
    {
        loop {
            let step = match replay.next().await {
                Ok(Some(step)) => step,
                Ok(None) => return Ok(ReplayEnd::All),
                Err(ReplayError::Log(LogError::NoLongerKept { .. }))
                    if self.log.missing().is_some() =>
                {
                    return Ok(ReplayEnd::Overtaken);
                }
                Err(error) => return Err(error.into()),
            };
            let position = replay.state().position();
            *next = step.entry.id.index.next();
            if sink.show(events(step.outcomes), position).await.is_break() {
                return Ok(ReplayEnd::Enough);
            }
            if let Some(upto) = sink.upto.filter(|upto| position.event >= *upto) {
                let _told = sink.tell(Replayed::Reached(upto)).await;
                return Ok(ReplayEnd::Enough);
            }
            if turn.is_over(sink.is_reached_by(position)) && self.replays.others_wait() {
                return Ok(ReplayEnd::Enough);
            }
        }
    }

    /// Returns the newest checkpoint before the cursor, or the empty state.
    async fn start(&self, cursor: Cursor, applied: Option<LogId>) -> Checkpoint {
        let first = self.log.first();
        let before = move |file: &CheckpointFile| {
            Some(file.raft_index) <= applied.map(|id| id.index)
                && checkpoint::leads_into(file, first)
                && match cursor {
                    Cursor::Index(index) => file.index < index,
                    Cursor::Number(number) => file.event < number,
                }
        };
        // A checkpoint is a cache: without one, the replay starts at the beginning, if
        // that is still kept.
        let checkpoints = self.checkpoints.clone();
        let newest = blocking(move || checkpoints.newest(before)).await.ok().flatten();
        newest.map_or_else(
            || Checkpoint::empty(State::new(self.ring_capacity)),
            |(checkpoint, _)| checkpoint,
        )
    }

    /// Returns the first checkpoint that this machine can replay from, while it has not
    /// got the history from before it.
    fn first_file(&self) -> Option<CheckpointFile> {
        self.log.missing()?;
        let first = self.log.first();
        let files = self.checkpoints.list().unwrap_or_default();
        files.into_iter().find(|file| checkpoint::leads_into(file, first))
    }

    /// Gives up for now: the watch comes again.
    async fn pause(&self) -> Result<(), WatchError> {
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    /// The last entry applied here.
    fn applied(&self) -> Option<LogId> {
        self.published.now().applied
    }

    fn is_in_ring(&self, number: EventNumber) -> bool {
        self.published.now().state.ring().holds_from(number)
    }

    /// The first command after which a watch can begin: the log may be kept from
    /// before it, but without a state to apply it to.
    pub(super) fn oldest(&self) -> Index {
        let first = self.log.first();
        if first == RaftIndex(0) {
            return Index(1);
        }
        let files = self.checkpoints.list().unwrap_or_default();
        let oldest = files.iter().find(|file| checkpoint::leads_into(file, first));
        oldest.map_or_else(|| self.published.now().state.position().index, |file| file.index).next()
    }
}

/// How a replay went.
enum ReplayEnd {
    /// All there was to be read has been shown.
    All,
    /// Nobody wants more from here, or it is somebody else's turn.
    Enough,
    /// A checkpoint from another machine has taken the place of what was being read.
    Overtaken,
}

fn events(outcomes: Vec<Outcome>) -> impl Iterator<Item = Arc<Event>> {
    outcomes.into_iter().filter_map(|outcome| match outcome.what {
        What::Event(event) => Some(event),
        What::Rejection(_) | What::Tick => None,
    })
}

/// The entry after the last one applied.
fn next_entry(applied: Option<LogId>) -> RaftIndex {
    applied.map_or(RaftIndex(0), |id| id.index.next())
}
