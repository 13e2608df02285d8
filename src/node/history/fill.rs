//! Filling in the store of events where it has a gap: by replaying the log of that time,
//! one gap at a time, beside everything else.
//!
//! So a machine whose log is older than its store, or that was stopped hard, or whose
//! store was damaged, has all of its log in the store again after a while.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use etcd_log::RaftIndex;
use etcd_projections::{Position, State};
use tokio::time::Instant;

use super::{History, next_entry};
use crate::node::{Closing, Node};
use crate::state::replay::Replay;
use crate::storage::checkpoint::{self, Checkpoint, CheckpointFile};
use crate::storage::disk_space::DiskRoom;
use crate::storage::events::{EventFiller, EventStore};
use crate::util::blocking::{blocking, spawn_busy};
use crate::util::error_chain::ErrorChain;

/// How often to look whether something is missing.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long it works until it rests for as long: it takes half a core at most.
const STINT: Duration = Duration::from_millis(10);

impl Node {
    /// Fills in the store of events whenever something is missing from it.
    pub(in crate::node) async fn fill_gaps(self) {
        let history = Arc::clone(&self.inner.history);
        let Some(events) = history.events.clone() else { return };
        let (mut closing, mut tried) = (self.closing(), None);
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = closing.begun() => return,
            }
            let (gaps, first) = (gaps(&events), history.log.first());
            // What could not be filled in cannot now, unless something else was, or older
            // history has come from another machine.
            if tried.as_ref() == Some(&(gaps.clone(), first)) {
                continue;
            }
            for gap in gaps.iter().rev() {
                history.fill(&events, gap, self.inner.disk.clone(), closing.clone()).await;
            }
            tried = Some((gaps, first));
        }
    }
}

/// Returns what is missing before what was applied last.
fn gaps(events: &EventStore) -> Vec<Range<Position>> {
    let (mut end, mut gaps) = (Position::default(), Vec::new());
    let newest = events.newest();
    for range in events.ranges().into_iter().chain([newest..newest]) {
        if end < range.start {
            gaps.push(end..range.start);
        }
        end = end.max(range.end);
    }
    gaps
}

impl History {
    /// Fills in a gap, as far as the log is there that leads through it.
    async fn fill(
        &self,
        events: &EventStore,
        gap: &Range<Position>,
        disk: DiskRoom,
        closing: Closing,
    ) {
        let Some(start) = self.start_of_gap(gap).await else { return };
        let filler = match events.fill(start.state.position(), disk) {
            Ok(filler) => filler,
            Err(error) => return tracing::debug!("events stay away: {}", ErrorChain(&error)),
        };
        let (history, end) = (self.clone(), gap.end);
        let (sender, done) = tokio::sync::oneshot::channel();
        spawn_busy(async move {
            history.replay_into(filler, start, end, closing).await;
            let _told = sender.send(());
        });
        // It fails if the runtime ends.
        let _done = done.await;
    }

    /// Returns what a replay through a gap begins with: the newest checkpoint before it;
    /// or else the first one within.
    async fn start_of_gap(&self, gap: &Range<Position>) -> Option<Checkpoint> {
        let (first, applied) = (self.log.first(), self.applied().map(|id| id.index));
        let leads = move |file: &CheckpointFile| {
            Some(file.raft_index) <= applied && checkpoint::leads_into(file, first)
        };
        let (start, end) = (gap.start, gap.end);
        let before = move |file: &CheckpointFile, position: Position| {
            (file.index, file.event) <= (position.index, position.event)
        };
        let checkpoints = self.checkpoints.clone();
        let is_whole = first == RaftIndex(0);
        let find = move || {
            let newest = checkpoints.newest(|file| leads(file) && before(file, start));
            let oldest = || checkpoints.oldest(|file| leads(file) && before(file, end));
            let newest = newest.ok().flatten().map(|(checkpoint, _)| checkpoint);
            newest.or_else(|| if is_whole { None } else { oldest().ok().flatten() })
        };
        let found = blocking(find).await;
        let empty = || Checkpoint::empty(State::new(self.ring_capacity));
        found.or_else(|| is_whole.then(empty)).filter(|start| start.state.position() < end)
    }

    /// Hands what a replay comes by to the filler, up to a position.
    async fn replay_into(
        &self,
        mut filler: EventFiller,
        start: Checkpoint,
        end: Position,
        mut closing: Closing,
    ) {
        let range = next_entry(start.applied)..next_entry(self.applied());
        let mut replay = Replay::new(start.state, self.log.read(range));
        let mut begun = Instant::now();
        while replay.state().position() < end && !closing.has_begun() {
            let before = replay.state().position();
            match replay.next().await {
                Ok(Some(step)) => filler.push(before, step.outcomes),
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!("events stay away: {}", ErrorChain(&error));
                    break;
                }
            }
            if begun.elapsed() >= STINT {
                tokio::select! {
                    // A timer must not be looked at once the runtime ends.
                    biased;
                    () = closing.begun() => break,
                    () = tokio::time::sleep(begun.elapsed()) => {}
                }
                begun = Instant::now();
            }
        }
        filler.finish();
    }
}
