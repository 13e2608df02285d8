//! The sink of a replay: who reads what it comes by, and how far ahead it may be.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd_log::{EventNumber, Index, KeyPath};
use etcd_projections::{Event, Position};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::cursor::{Cursor, WatchError, wanted};
use crate::peers::HistoryRequest;

/// How many events a replay is ahead of its reader.
const AHEAD: usize = 256;

/// How many KiB of events a replay is ahead of its reader, about: one that is larger
/// goes alone. It waits here for as long as a client does not read, so that a thousand
/// such clients must not cost much.
const AHEAD_KIB: usize = 1 << 10;

/// How long a replay waits for its reader.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a replay comes by.
#[derive(Debug)]
pub(in crate::node) enum Replayed {
    Event(Arc<Event>),
    /// All up to this event have been seen, and the ring holds the next one.
    Reached(EventNumber),
    /// The replay ended before that.
    GivenUp,
}

/// A replay under way.
#[derive(Debug)]
pub(in crate::node) struct Replaying {
    found: mpsc::Receiver<Told>,
    passed: Arc<AtomicU64>,
}

impl Replaying {
    /// Returns the last event up to which all that was of interest has been taken
    /// from here; none, while the replay is not where its watch begins.
    pub(in crate::node) fn passed(&self) -> Option<EventNumber> {
        let passed = self.passed.load(Ordering::Acquire);
        // What was found up to there had been sent before. If nothing waits here
        // by now, it has been taken.
        (passed > 0 && self.found.is_empty()).then_some(EventNumber(passed))
    }

    pub(in crate::node) async fn next(&mut self) -> Result<Replayed, WatchError> {
        self.found.recv().await.map_or(Ok(Replayed::GivenUp), |told| told.found)
    }
}

/// What is on its way to the reader, and the room that it takes.
#[derive(Debug)]
struct Told {
    found: Result<Replayed, WatchError>,
    _room: Option<OwnedSemaphorePermit>,
}

/// Who reads from a replay, and what is of interest to them.
#[derive(Clone)]
pub(in crate::node) struct ReplaySink {
    sender: mpsc::Sender<Told>,
    /// How many KiB of events more may wait for the reader.
    room: Arc<Semaphore>,
    pub(in crate::node) cursor: Cursor,
    prefix: KeyPath,
    from: Index,
    passed: Arc<AtomicU64>,
    /// Where it ends, if not where the ring begins: with this event.
    pub(in crate::node) upto: Option<EventNumber>,
}

/// Makes both ends of a replay.
pub(in crate::node) fn new(
    cursor: Cursor,
    prefix: KeyPath,
    from: Index,
    upto: Option<EventNumber>,
) -> (ReplaySink, Replaying) {
    let (sender, found) = mpsc::channel(AHEAD);
    let passed = Arc::new(AtomicU64::new(0));
    let room = Arc::new(Semaphore::new(AHEAD_KIB));
    let replaying = Replaying { found, passed: Arc::clone(&passed) };
    (ReplaySink { sender, room, cursor, prefix, from, passed, upto }, replaying)
}

impl ReplaySink {
    /// Returns which events are of interest.
    pub(in crate::node) fn request(&self, upto: EventNumber) -> HistoryRequest {
        let number = match self.cursor {
            Cursor::Index(_) => None,
            Cursor::Number(number) => Some(number),
        };
        HistoryRequest { prefix: self.prefix.clone(), number, index: self.from, upto }
    }

    /// Returns the key at which or below which everything of interest lies.
    pub(in crate::node) fn prefix(&self) -> &KeyPath {
        &self.prefix
    }

    /// Goes on behind an event.
    pub(in crate::node) fn behind(self, event: EventNumber) -> Self {
        self.passed.store(event.0, Ordering::Release);
        Self { cursor: self.cursor.past(Some(event)), ..self }
    }

    /// Returns whether a state has come to where the watch begins.
    pub(in crate::node) fn is_reached_by(&self, position: Position) -> bool {
        match self.cursor {
            Cursor::Index(index) => position.index >= index,
            Cursor::Number(number) => position.event >= number,
        }
    }

    /// Waits until all that was found has been taken. Breaks off if nobody takes it.
    pub(in crate::node) async fn take_all(&self) -> ControlFlow<()> {
        let taken = self.sender.reserve_many(AHEAD);
        go_on_if(matches!(tokio::time::timeout(PATIENCE, taken).await, Ok(Ok(_))))
    }

    /// Returns whether an event is of interest.
    pub(in crate::node) fn wants(&self, event: &Event) -> bool {
        let reached = match self.cursor {
            Cursor::Index(index) => event.index >= index,
            Cursor::Number(number) => event.number >= number,
        };
        let is_beyond = self.upto.is_some_and(|upto| event.number > upto);
        reached && !is_beyond && wanted(event, self.from, &self.prefix)
    }

    /// Tells what was found in a step, and how far the replay has come. Breaks off if
    /// nobody wants to know any longer.
    pub(in crate::node) async fn show(
        &self,
        events: impl Iterator<Item = Arc<Event>>,
        position: Position,
    ) -> ControlFlow<()> {
        for event in events.filter(|event| self.wants(event)) {
            self.tell(Replayed::Event(event)).await?;
        }
        if self.is_reached_by(position) {
            self.passed.store(position.event.0, Ordering::Release);
        }
        go_on_if(!self.sender.is_closed())
    }

    /// Tells what was found. Breaks off if it is not taken.
    pub(in crate::node) async fn tell(&self, found: Replayed) -> ControlFlow<()> {
        let kib = match &found {
            Replayed::Event(event) => event.size().div_ceil(1024),
            Replayed::Reached(_) | Replayed::GivenUp => 0,
        };
        let kib = u32::try_from(kib.min(AHEAD_KIB)).expect("bounded");
        let room = Arc::clone(&self.room).acquire_many_owned(kib);
        let Ok(Ok(room)) = tokio::time::timeout(PATIENCE, room).await else {
            return ControlFlow::Break(());
        };
        let told = Told { found: Ok(found), _room: Some(room) };
        go_on_if(self.sender.send_timeout(told, PATIENCE).await.is_ok())
    }

    /// Tells why there will be no more.
    pub(in crate::node) async fn fail(&self, error: WatchError) {
        let told = Told { found: Err(error), _room: None };
        let _gone = self.sender.send_timeout(told, PATIENCE).await;
    }

    /// Waits until nobody wants to know any longer.
    pub(in crate::node) async fn is_gone(&self) {
        self.sender.closed().await;
    }
}

/// For how long a replay has had its place, and may hold it while others wait for one. The
/// time counts from where its watch begins, so that each turn brings the watch forward.
#[derive(Debug)]
pub(in crate::node) struct ReplayBudget {
    begun: Option<Instant>,
    turn: Duration,
}

impl ReplayBudget {
    /// Begins a turn of so long.
    pub(in crate::node) fn new(turn: Duration) -> Self {
        Self { begun: None, turn }
    }

    pub(in crate::node) fn is_over(&mut self, counts: bool) -> bool {
        if counts && self.begun.is_none() {
            self.begun = Some(Instant::now());
        }
        self.begun.is_some_and(|begun| begun.elapsed() > self.turn)
    }
}

fn go_on_if(goes_on: bool) -> ControlFlow<()> {
    if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

#[cfg(test)]
mod tests {
    use etcd_log::LogTime;
    use etcd_projections::Change;

    use super::*;
    use crate::util::limit;

    fn event(number: u64, bytes: usize) -> Replayed {
        let change =
            Change::Set { value: Arc::from("v".repeat(bytes)), prev: None, deadline: None };
        let (number, index, key) = (EventNumber(number), Index(number), KeyPath::root());
        Replayed::Event(Arc::new(Event { number, index, time: LogTime(1), key, change }))
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_reader_is_bounded_by_its_bytes() {
        limit::begin();
        let cursor = Cursor::Number(EventNumber(1));
        let (sink, mut replaying) = new(cursor, KeyPath::root(), Index(0), None);
        assert!(sink.tell(event(1, 600 << 10)).await.is_continue());
        assert!(sink.tell(event(2, 400 << 10)).await.is_continue());
        assert!(sink.tell(event(3, 100 << 10)).await.is_break(), "there is no room for it");
        assert!(matches!(replaying.next().await, Ok(Replayed::Event(_))));
        assert!(sink.tell(event(3, 100 << 10)).await.is_continue());
        assert!(matches!(replaying.next().await, Ok(Replayed::Event(_))));
        assert!(matches!(replaying.next().await, Ok(Replayed::Event(_))));
        // One that is larger than all the room goes alone.
        assert!(sink.tell(event(4, 3 << 20)).await.is_continue());
        assert!(sink.tell(event(5, 1)).await.is_break());
    }
}
