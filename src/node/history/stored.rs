//! Old events from the store: no state, and no more of the log than was asked for.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{EventNumber, Index};
use etcd_projections::Event;
use tokio::time::Instant;

use super::cursor::Cursor;
use super::sink::{ReplayBudget, ReplaySink, Replayed};
use super::{History, PAUSE};
use crate::storage::events::{Chunk, EventReader, EventStore, Interest, Stored, StoredWhat};
use crate::util::blocking::blocking;

/// How many bytes of events are read at once, about.
const CHUNK_BYTES: usize = 256 << 10;

/// For how long one may hold a place while others wait for one: beginning anew takes a block.
const TURN: Duration = Duration::from_secs(2);

impl History {
    /// Tells what is stored from the cursor on, until the ring holds what comes next.
    /// Returns the sink, with its cursor behind that, if the store does not reach so far.
    pub(super) async fn tell_stored(&self, sink: ReplaySink) -> Option<ReplaySink> {
        let Some(events) = self.events.clone() else { return Some(sink) };
        let _place = self.readers.take(&sink).await?;
        let (cursor, interest) = (sink.cursor, Interest::Below(sink.prefix().clone()));
        // What the log has let go is gone, though a file may still have it.
        let oldest = self.log.oldest().1;
        let store = events.clone();
        let begin = move || begin(&store, cursor, interest, oldest);
        let Some((mut reader, mut reached)) = blocking(begin).await else { return Some(sink) };
        let mut turn = ReplayBudget::new(TURN);
        loop {
            let started = Instant::now();
            let read;
            (read, reader) = blocking(move || (reader.next(CHUNK_BYTES), reader)).await;
            let took = started.elapsed();
            let chunk = match read {
                Ok(chunk) => chunk,
                Err(gap) => return Some(sink.behind(gap.at.event)),
            };
            let is_all = chunk.is_none();
            let mut rest = Duration::ZERO;
            if let Some(chunk) = chunk {
                reached = chunk.reached.event;
                rest = self.pace.rest_after(took, chunk.stored.len(), events.newest().index);
                show(&sink, chunk).await.continue_value()?;
            }
            self.end_stored(&sink, reached).await.continue_value()?;
            if is_all {
                // What is published is stored in a moment, unless the machine has no more.
                tokio::time::sleep(PAUSE).await;
            }
            if !rest.is_zero() {
                // Even the shortest sleep takes a millisecond.
                tokio::time::sleep(rest).await;
            }
            let others_want_it = turn.is_over(true) && self.readers.others_wait();
            if others_want_it || (is_all && sink.upto.is_some()) {
                return None;
            }
        }
    }

    /// Breaks off, and says so, if that is all: the ring holds what comes next, or nobody
    /// wants more.
    async fn end_stored(&self, sink: &ReplaySink, reached: EventNumber) -> ControlFlow<()> {
        if let Some(upto) = sink.upto {
            if reached < upto {
                return ControlFlow::Continue(());
            }
            let _told = sink.tell(Replayed::Reached(upto)).await;
            return ControlFlow::Break(());
        }
        if !self.is_in_ring(reached.next()) {
            return ControlFlow::Continue(());
        }
        // The ring goes on while the reader takes what was found.
        sink.take_all().await?;
        if self.is_in_ring(reached.next()) {
            let _told = sink.tell(Replayed::Reached(reached)).await;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

/// Returns a reader from a cursor on, and the event before; nothing, if what the cursor
/// looks for is not stored, or lies before a command.
fn begin(
    events: &EventStore,
    cursor: Cursor,
    interest: Interest,
    oldest: Index,
) -> Option<(EventReader, EventNumber)> {
    let position = match cursor {
        Cursor::Index(index) => events.position_before_index(index),
        Cursor::Number(number) => events.position_before_event(number),
    };
    let position = position.filter(|position| position.index >= oldest);
    position.map(|position| (events.after(position, interest), position.event))
}

async fn show(sink: &ReplaySink, chunk: Chunk) -> ControlFlow<()> {
    sink.show(chunk.stored.into_iter().filter_map(event), chunk.reached).await
}

fn event(stored: Stored) -> Option<Arc<Event>> {
    match stored.what {
        StoredWhat::Event(event, _) => Some(event),
        StoredWhat::Refused | StoredWhat::Tick => None,
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::{Batch, ClusterId, Command, KeyPath, LogTime, MemoryLog, NodeId};
    use etcd_projections::State;
    use tempfile::TempDir;

    use super::*;
    use crate::node::history::remote::RemoteHistory;
    use crate::peers::{Peers, Sockets};
    use crate::state::published;
    use crate::storage::checkpoint::CheckpointStore;
    use crate::storage::disk_space::DiskRoom;
    use crate::storage::events::EventWriter;
    use crate::storage::log_stream::LogSource;
    use crate::util::limit;

    const RING: usize = 3;

    /// A machine that has stored what came of so many commands, from one on, and has no
    /// log: what is told comes from the store.
    fn without_log(dir: &TempDir, from: u64, to: u64) -> (History, Vec<Arc<Event>>) {
        let mut state = State::new(RING);
        let (mut all, mut store) = (Vec::new(), None);
        for number in 1..=to {
            let before = state.position();
            let key = KeyPath::clean(&format!("/{}/{number}", number % 2)).unwrap();
            let set = Command::Set { key, value: Arc::from("v"), ttl: None };
            let outcomes = state.apply(&Batch::new(LogTime(number), vec![set]));
            all.extend(outcomes.iter().map(Stored::from).filter_map(event));
            if number >= from {
                let open = || {
                    let store = EventStore::open(dir.path(), ClusterId(1), before).unwrap();
                    let disk = DiskRoom::default();
                    (EventWriter::start(store.clone(), disk).unwrap(), store)
                };
                store.get_or_insert_with(open).0.push(before, outcomes);
            }
        }
        let (_, published) = published::channel(state, None);
        let remote = RemoteHistory {
            me: NodeId(1),
            peers: Peers::new(NodeId(1), ClusterId(1), Arc::new(Sockets::Plain)),
            published: published.clone(),
            caught: Arc::default(),
        };
        let checkpoints = CheckpointStore::new(dir.path().join("none"), RING);
        let (log, store) = (LogSource::new(MemoryLog::new()), store.map(|(_, store)| store));
        (History::new(log, checkpoints, store, published, remote, RING), all)
    }

    /// What is told, and where the ring goes on; nowhere, if it was given up.
    async fn told(
        history: &History,
        cursor: Cursor,
        prefix: &str,
        upto: Option<u64>,
    ) -> (Vec<Arc<Event>>, Option<EventNumber>) {
        let prefix = KeyPath::clean(prefix).unwrap();
        let mut replaying = history.begin(cursor, prefix, Index(0), upto.map(EventNumber));
        let mut events = Vec::new();
        loop {
            match replaying.next().await.unwrap() {
                Replayed::Event(event) => events.push(event),
                Replayed::Reached(number) => return (events, Some(number)),
                Replayed::GivenUp => return (events, None),
            }
        }
    }

    #[tokio::test]
    async fn old_events_need_no_log() {
        limit::begin();
        let dir = TempDir::new().unwrap();
        let (history, all) = without_log(&dir, 1, 500);
        for cursor in [Cursor::Index(Index(1)), Cursor::Number(EventNumber(1))] {
            assert_eq!(
                told(&history, cursor, "/", None).await,
                (all.clone(), Some(EventNumber(500)))
            );
        }
        let odd = all[250..].iter().filter(|event| event.number.0 % 2 == 1);
        let odd: Vec<_> = odd.cloned().collect();
        let cursor = Cursor::Index(Index(251));
        assert_eq!(told(&history, cursor, "/1", None).await, (odd, Some(EventNumber(500))));
        // Another machine wants no more than it has not got.
        let (found, reached) = told(&history, cursor, "/", Some(300)).await;
        assert_eq!((found, reached), (all[250..300].to_vec(), Some(EventNumber(300))));
    }

    #[tokio::test]
    async fn what_is_not_stored_is_not_passed_over() {
        limit::begin();
        let dir = TempDir::new().unwrap();
        let (history, all) = without_log(&dir, 100, 200);
        let cursor = Cursor::Index(Index(99));
        assert_eq!(told(&history, cursor, "/", None).await, (Vec::new(), None));
        let cursor = Cursor::Index(Index(100));
        let from_there = (all[99..].to_vec(), Some(EventNumber(200)));
        assert_eq!(told(&history, cursor, "/", None).await, from_there);
    }
}
