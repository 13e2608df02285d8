//! History: events older than the ring, by replaying the log.
//!
//! ```text
//! newest checkpoint before the wanted event ─▶ the log after it ─▶ events, as they were
//! ```
//!
//! A replay holds a state, so there are only so many at a time; the others wait.
//! One that nobody reads from for a while is given up, so that a client that
//! went to sleep holds up nobody. Its watch starts another one when it wakes.
//!
//! *Limits*: a replay starts from one of the last few checkpoints, or from the
//! beginning of the log.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{EventNumber, Index, KeyPath, LogReader, RaftIndex};
use etcd_projections::{Event, Outcome, State, What};
use tokio::sync::{Semaphore, mpsc};

use super::watch::{Cursor, WatchError, wanted};
use crate::checkpoint::{Checkpoint, CheckpointFile, CheckpointStore};
use crate::published::{Published, Reader};
use crate::replay::Replay;

/// How many replays run at a time: each holds a state, and a core.
const REPLAYS: usize = 4;

/// How many events a replay is ahead of its reader.
const AHEAD: usize = 256;

/// How long a replay waits for its reader.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way to old events. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct History {
    log: LogReader,
    checkpoints: CheckpointStore,
    published: Reader,
    ring_capacity: usize,
    permits: Arc<Semaphore>,
}

/// What a replay comes by.
#[derive(Debug)]
pub(super) enum Found {
    Event(Arc<Event>),
    /// All up to this event have been seen.
    Reached(EventNumber),
    /// Nobody read for too long.
    GivenUp,
}

/// A replay under way.
#[derive(Debug)]
pub(super) struct Replaying {
    found: mpsc::Receiver<Result<Found, WatchError>>,
}

impl Replaying {
    pub(super) async fn next(&mut self) -> Result<Found, WatchError> {
        self.found.recv().await.unwrap_or(Ok(Found::GivenUp))
    }
}

impl History {
    pub(super) fn new(
        log: LogReader,
        checkpoints: CheckpointStore,
        published: Reader,
        ring_capacity: usize,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(REPLAYS));
        Self { log, checkpoints, published, ring_capacity, permits }
    }

    /// Replays the events from the cursor on that lie below the prefix and have
    /// this index or a later one, up to what is published when it starts.
    pub(super) fn replay(&self, cursor: Cursor, prefix: KeyPath, from: Index) -> Replaying {
        let (sender, found) = mpsc::channel(AHEAD);
        let history = self.clone();
        let wants = move |event: &Event| {
            let reached = match cursor {
                Cursor::Index(index) => event.index >= index,
                Cursor::Number(number) => event.number >= number,
            };
            reached && wanted(event, from, &prefix)
        };
        tokio::spawn(async move {
            let result = history.run(cursor, wants, &sender).await;
            if let Err(error) = result {
                let _gone = sender.send(Err(error)).await;
            }
        });
        Replaying { found }
    }

    async fn run(
        &self,
        cursor: Cursor,
        wants: impl Fn(&Event) -> bool,
        sender: &mpsc::Sender<Result<Found, WatchError>>,
    ) -> Result<(), WatchError> {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        let target = self.published.now();
        let start = self.start(cursor, &target).await;
        let next = start.applied.map_or(RaftIndex(0), |id| id.index.next());
        let end = target.applied.map_or(next, |id| id.index.next());
        if next < self.log.first() {
            return Err(WatchError::Gone { cursor, oldest: self.oldest() });
        }
        let mut replay = Replay::new(start.state, self.log.read(next..end));
        while let Some(step) = replay.next().await? {
            for event in events(step.outcomes).filter(|event| wants(event)) {
                if sender.send_timeout(Ok(Found::Event(event)), PATIENCE).await.is_err() {
                    return Ok(());
                }
            }
        }
        let reached = Found::Reached(replay.state().position().event);
        let _gone = sender.send_timeout(Ok(reached), PATIENCE).await;
        Ok(())
    }

    /// Returns the newest checkpoint before the cursor, or the empty state.
    async fn start(&self, cursor: Cursor, target: &Published) -> Checkpoint {
        let applied = target.applied.map(|id| id.index);
        let before = move |file: &CheckpointFile| {
            Some(file.raft_index) <= applied
                && match cursor {
                    Cursor::Index(index) => file.index < index,
                    Cursor::Number(number) => file.event < number,
                }
        };
        let checkpoints = self.checkpoints.clone();
        let newest = tokio::task::spawn_blocking(move || checkpoints.newest(before)).await;
        // A checkpoint is a cache: without one, the replay starts at the beginning.
        let newest = newest.ok().and_then(Result::ok).flatten();
        newest.unwrap_or_else(|| Checkpoint::empty(State::new(self.ring_capacity)))
    }

    fn oldest(&self) -> Index {
        self.log.find(Index(0)).1.next()
    }
}

fn events(outcomes: Vec<Outcome>) -> impl Iterator<Item = Arc<Event>> {
    outcomes.into_iter().filter_map(|outcome| match outcome.what {
        What::Event(event) => Some(event),
        What::Rejection(_) | What::Tick => None,
    })
}
