//! Old events from the store: no state, and no more of the log than was asked for.

use std::ops::ControlFlow;
use std::sync::Arc;

use etcd_log::EventNumber;
use etcd_projections::Event;

use super::cursor::Cursor;
use super::sink::{ReplayBudget, ReplaySink, Replayed};
use super::{History, PAUSE};
use crate::storage::events::{Chunk, EventReader, EventStore, Interest, Stored, StoredWhat};
use crate::util::blocking::blocking;

/// How many bytes of events are read at once, about.
const CHUNK_BYTES: usize = 256 << 10;

impl History {
    /// Tells what is stored from the cursor on, until the ring holds what comes next.
    /// Returns the sink, with its cursor behind that, if the store does not reach so far.
    pub(super) async fn tell_stored(&self, sink: ReplaySink) -> Option<ReplaySink> {
        let Some(events) = self.events.clone() else { return Some(sink) };
        let _place = self.readers.take(&sink).await?;
        let (cursor, interest) = (sink.cursor, Interest::Below(sink.prefix().clone()));
        let begin = move || begin(&events, cursor, interest);
        let Some((mut reader, mut reached)) = blocking(begin).await else { return Some(sink) };
        let mut turn = ReplayBudget::default();
        loop {
            let read;
            (read, reader) = blocking(move || (reader.next(CHUNK_BYTES), reader)).await;
            let chunk = match read {
                Ok(chunk) => chunk,
                Err(gap) => return Some(sink.behind(gap.at.event)),
            };
            let is_all = chunk.is_none();
            if let Some(chunk) = chunk {
                reached = chunk.reached.event;
                show(&sink, chunk).await.continue_value()?;
            }
            self.end_stored(&sink, reached).await.continue_value()?;
            if is_all {
                // What is published is stored in a moment, unless the machine has no more.
                tokio::time::sleep(PAUSE).await;
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
/// looks for is not stored.
fn begin(
    events: &EventStore,
    cursor: Cursor,
    interest: Interest,
) -> Option<(EventReader, EventNumber)> {
    let position = match cursor {
        Cursor::Index(index) => events.position_before_index(index),
        Cursor::Number(number) => events.position_before_event(number),
    };
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
