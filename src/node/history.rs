//! History: events older than the ring, by replaying the log.
//!
//! ```text
//! newest checkpoint before the wanted event ─▶ the log after it ─▶ events, as they were
//! ```
//!
//! A replay goes on until the ring holds what comes next, however much is written
//! meanwhile. It runs on a thread of its own, for it can keep a core busy for
//! seconds; it holds a state, so there are only so many at a time, and the others
//! wait. One whose client is gone ends; one whose client does not read for a
//! while, or takes its time while others wait, is given up, and its watch begins
//! another one where it stopped.
//!
//! A machine that began with a checkpoint of another one's has no log from before
//! it until it has fetched that; until then it asks a machine that has.
//!
//! *Limits*: a replay starts from the nearest checkpoint before it, some 5 million
//! commands earlier at most. What lies before the first entry that is kept, or has
//! no checkpoint before it, is gone.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcd_log::{Entry, EventNumber, Index, KeyPath, LogError, LogId, RaftIndex};
use etcd_projections::{Event, Outcome, Position, State, What};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::Stream;

use super::elsewhere::Elsewhere;
use super::watch::{Cursor, WatchError, wanted};
use crate::blocking::{blocking, spawn_busy};
use crate::checkpoint::{self, Checkpoint, CheckpointFile, CheckpointStore};
use crate::log_source::LogSource;
use crate::peers::HistoryQuestion;
use crate::published::Reader;
use crate::replay::{Replay, ReplayError, Step};

/// How many replays run at a time: each holds a state, and a core.
const REPLAYS: usize = 2;

/// How many events a replay is ahead of its reader.
const AHEAD: usize = 256;

/// How long a replay waits for its reader.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a watch waits that comes at the wrong moment.
const PAUSE: Duration = Duration::from_millis(50);

/// For how long a replay may hold its place while others wait for one.
const TURN: Duration = Duration::from_secs(10);

/// The way to old events. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct History {
    log: LogSource,
    checkpoints: CheckpointStore,
    published: Reader,
    elsewhere: Elsewhere,
    ring_capacity: usize,
    places: Arc<Semaphore>,
    /// How many replays wait for a place.
    waiting: Arc<AtomicUsize>,
}

/// What a replay comes by.
#[derive(Debug)]
pub(super) enum Found {
    Event(Arc<Event>),
    /// All up to this event have been seen, and the ring holds the next one.
    Reached(EventNumber),
    /// The replay ended before that.
    GivenUp,
}

/// A replay under way.
#[derive(Debug)]
pub(super) struct Replaying {
    found: mpsc::Receiver<Result<Found, WatchError>>,
    passed: Arc<AtomicU64>,
}

impl Replaying {
    /// Returns the last event up to which all that was of interest has been taken
    /// from here; none, while the replay is not where its watch begins.
    pub(super) fn passed(&self) -> Option<EventNumber> {
        let passed = self.passed.load(Ordering::Acquire);
        // What was found up to there had been sent before. If nothing waits here
        // by now, it has been taken.
        (passed > 0 && self.found.is_empty()).then_some(EventNumber(passed))
    }

    pub(super) async fn next(&mut self) -> Result<Found, WatchError> {
        self.found.recv().await.unwrap_or(Ok(Found::GivenUp))
    }
}

/// Who reads from a replay, and what is of interest to them.
pub(super) struct Audience {
    sender: mpsc::Sender<Result<Found, WatchError>>,
    cursor: Cursor,
    prefix: KeyPath,
    from: Index,
    passed: Arc<AtomicU64>,
    /// Where it ends, if not where the ring begins: with this event.
    upto: Option<EventNumber>,
}

impl Audience {
    /// Returns where it begins.
    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Returns which events are of interest.
    pub(super) fn question(&self, upto: EventNumber) -> HistoryQuestion {
        let number = match self.cursor {
            Cursor::Index(_) => None,
            Cursor::Number(number) => Some(number),
        };
        HistoryQuestion { prefix: self.prefix.clone(), number, index: self.from, upto }
    }

    /// Goes on behind an event.
    fn behind(self, event: EventNumber) -> Self {
        self.passed.store(event.0, Ordering::Release);
        Self { cursor: self.cursor.past(Some(event)), ..self }
    }

    /// Returns whether a state has come to where the watch begins.
    fn is_reached_by(&self, position: Position) -> bool {
        match self.cursor {
            Cursor::Index(index) => position.index >= index,
            Cursor::Number(number) => position.event >= number,
        }
    }

    /// Waits until all that was found has been taken. Returns whether to go on.
    async fn take_all(&self) -> bool {
        let taken = self.sender.reserve_many(AHEAD);
        matches!(tokio::time::timeout(PATIENCE, taken).await, Ok(Ok(_)))
    }

    fn wants(&self, event: &Event) -> bool {
        let reached = match self.cursor {
            Cursor::Index(index) => event.index >= index,
            Cursor::Number(number) => event.number >= number,
        };
        let is_beyond = self.upto.is_some_and(|upto| event.number > upto);
        reached && !is_beyond && wanted(event, self.from, &self.prefix)
    }

    /// Tells what was found in a step, and how far the replay has come. Returns
    /// whether to go on.
    async fn show(&self, outcomes: Vec<Outcome>, position: Position) -> bool {
        for event in events(outcomes).filter(|event| self.wants(event)) {
            if !self.tell(Found::Event(event)).await {
                return false;
            }
        }
        if self.is_reached_by(position) {
            self.passed.store(position.event.0, Ordering::Release);
        }
        !self.sender.is_closed()
    }

    /// Tells what was found. Returns whether to go on.
    pub(super) async fn tell(&self, found: Found) -> bool {
        self.sender.send_timeout(Ok(found), PATIENCE).await.is_ok()
    }
}

/// For how long a replay has had its place. The time counts from where its watch
/// begins, so that each turn brings the watch forward.
struct Turn {
    begun: Option<Instant>,
}

impl Turn {
    fn is_over(&mut self, counts: bool) -> bool {
        if counts && self.begun.is_none() {
            self.begun = Some(Instant::now());
        }
        self.begun.is_some_and(|begun| begun.elapsed() > TURN)
    }
}

impl History {
    pub(super) fn new(
        log: LogSource,
        checkpoints: CheckpointStore,
        published: Reader,
        elsewhere: Elsewhere,
        ring_capacity: usize,
    ) -> Self {
        let places = Arc::new(Semaphore::new(REPLAYS));
        let waiting = Arc::default();
        Self { log, checkpoints, published, elsewhere, ring_capacity, places, waiting }
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
        let (sender, found) = mpsc::channel(AHEAD);
        let passed = Arc::new(AtomicU64::new(0));
        let audience = Audience { sender, cursor, prefix, from, passed: Arc::clone(&passed), upto };
        let history = self.clone();
        tokio::spawn(async move {
            history.waiting.fetch_add(1, Ordering::Relaxed);
            let place = tokio::select! {
                place = Arc::clone(&history.places).acquire_owned() => place.ok(),
                () = audience.sender.closed() => None,
            };
            history.waiting.fetch_sub(1, Ordering::Relaxed);
            if let Some(place) = place {
                spawn_busy(async move { history.run(audience, place).await });
            }
        });
        Replaying { found, passed }
    }

    async fn run(&self, audience: Audience, place: OwnedSemaphorePermit) {
        let sender = audience.sender.clone();
        if let Err(error) = self.replay_until_ring(audience).await {
            let _gone = sender.send_timeout(Err(error), PATIENCE).await;
        }
        drop(place);
    }

    async fn replay_until_ring(&self, mut audience: Audience) -> Result<(), WatchError> {
        let applied = self.applied();
        let mut start = self.start(audience.cursor, applied).await;
        let mut range = entries_after(start.applied, applied);
        if range.start < self.log.first() {
            let Some(file) = self.first_file() else {
                if self.log.missing().is_some() {
                    // A checkpoint is just being installed.
                    return self.pause().await;
                }
                let oldest = self.oldest();
                return Err(WatchError::Gone { cursor: audience.cursor, oldest });
            };
            if audience.upto.is_some() {
                // Whoever asks has to ask a machine that knows.
                return Ok(());
            }
            if !self.elsewhere.tell(&audience, file.event).await? {
                return Ok(());
            }
            audience = audience.behind(file.event);
            let checkpoints = self.checkpoints.clone();
            let read = blocking(move || checkpoints.read(&file.path)).await;
            // It may have made room for newer ones by now: then another turn is needed.
            let Ok(here) = read else { return Ok(()) };
            start = here;
            range = entries_after(start.applied, applied);
        }
        let audience = &audience;
        let mut turn = Turn { begun: None };
        let mut replay = Replay::new(start.state, self.log.read(range.clone()));
        let mut next = range.start;
        loop {
            while let Some(step) = self.next_step(&mut replay).await? {
                let position = replay.state().position();
                next = step.entry.id.index.next();
                if !audience.show(step.outcomes, position).await {
                    return Ok(());
                }
                if let Some(upto) = audience.upto.filter(|upto| position.event >= *upto) {
                    let _told = audience.tell(Found::Reached(upto)).await;
                    return Ok(());
                }
                if turn.is_over(audience.is_reached_by(position)) && self.others_wait() {
                    return Ok(());
                }
            }
            // The ring goes on while the reader takes what was found: only when
            // nothing is left is it known whether the ring holds what comes next.
            if !audience.take_all().await {
                return Ok(());
            }
            let reached = replay.state().position().event;
            if audience.upto.is_none() && self.is_in_ring(reached.next()) {
                let _told = audience.tell(Found::Reached(reached)).await;
                return Ok(());
            }
            range = next..self.applied().map_or(next, |id| id.index.next());
            if range.is_empty() {
                // Another machine wants more than this one has, or a checkpoint has come.
                return self.pause().await;
            }
            replay = Replay::new(replay.into_state(), self.log.read(range.clone()));
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

    /// Takes the next step of a replay; none, if a checkpoint from another machine has
    /// taken the place of what was being read.
    async fn next_step<S>(&self, replay: &mut Replay<S>) -> Result<Option<Step>, ReplayError>
    where
        S: Stream<Item = Result<Arc<Entry>, LogError>> + Unpin,
    {
        match replay.next().await {
            Err(ReplayError::Log(LogError::NoLongerKept { .. }))
                if self.log.missing().is_some() =>
            {
                Ok(None)
            }
            step => step,
        }
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

    fn others_wait(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// The first command after which a watch can begin: the log may be kept from
    /// before it, but without a state to apply it to.
    fn oldest(&self) -> Index {
        let first = self.log.first();
        if first == RaftIndex(0) {
            return Index(1);
        }
        let files = self.checkpoints.list().unwrap_or_default();
        let oldest = files.iter().find(|file| checkpoint::leads_into(file, first));
        oldest.map_or_else(|| self.published.now().state.position().index, |file| file.index).next()
    }
}

/// The entries after one that has been applied, up to another one.
fn entries_after(start: Option<LogId>, upto: Option<LogId>) -> Range<RaftIndex> {
    let next = start.map_or(RaftIndex(0), |id| id.index.next());
    next..upto.map_or(next, |id| id.index.next())
}

fn events(outcomes: Vec<Outcome>) -> impl Iterator<Item = Arc<Event>> {
    outcomes.into_iter().filter_map(|outcome| match outcome.what {
        What::Event(event) => Some(event),
        What::Rejection(_) | What::Tick => None,
    })
}
