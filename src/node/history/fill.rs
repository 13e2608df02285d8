//! Filling in the store of events where it has a gap: by replaying the log of that time,
//! one gap at a time, beside everything else.
//!
//! So a machine whose log is older than its store, or that was stopped hard, or whose
//! store was damaged, has all of its log in the store again after a while.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{LogId, RaftIndex};
use etcd_projections::{Outcome, Position, State};
use tokio::time::Instant;

use super::{History, next_entry};
use crate::node::{Closing, Node};
use crate::state::replay::{Replay, ReplayError};
use crate::storage::checkpoint::{self, Checkpoint, CheckpointFile};
use crate::storage::disk_space::DiskRoom;
use crate::storage::events::{EventFiller, EventStore};
use crate::util::blocking::{blocking, spawn_busy};
use crate::util::error_chain::ErrorChain;

/// How often to look whether something is missing.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long it works until it rests for as long: it takes half a core at most.
const STINT: Duration = Duration::from_millis(10);

/// A replay began with a checkpoint that is not what the log leads to.
#[derive(Clone, Copy, Debug)]
struct WrongCheckpoint;

impl Node {
    /// Fills in the store of events whenever something is missing from it.
    pub(in crate::node) async fn fill_gaps(self) {
        let history = Arc::clone(&self.inner.history);
        let Some(events) = history.events.clone() else { return };
        let (mut closing, mut tried, mut wrong) = (self.closing(), None, BTreeSet::new());
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = closing.begun() => return,
            }
            let (gaps, first) = (gaps(&events), history.log.first());
            // What could not be filled in cannot now, unless something else was, older history
            // has come from another machine, or something was forgotten again.
            let found = (gaps.clone(), first, events.epoch());
            if tried.as_ref() == Some(&found) {
                continue;
            }
            tried = Some(found);
            for gap in gaps.iter().rev() {
                let disk = self.inner.disk.clone();
                if history.fill(&events, gap, disk, &mut wrong, closing.clone()).await {
                    tried = None;
                }
            }
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
    /// Fills in a gap, as far as the log is there that leads through it. Begins with none of
    /// the checkpoints that are known to be wrong. Returns whether the one is that it began
    /// with: an older one may lead through.
    async fn fill(
        &self,
        events: &EventStore,
        gap: &Range<Position>,
        disk: DiskRoom,
        wrong: &mut BTreeSet<RaftIndex>,
        closing: Closing,
    ) -> bool {
        let Some(start) = self.start_of_gap(gap, wrong.clone()).await else { return false };
        let from = gap.start.max(start.state.position());
        let filler = match events.fill(from, disk) {
            Ok(filler) => filler,
            Err(error) => {
                tracing::debug!("events stay away: {}", ErrorChain(&error));
                return false;
            }
        };
        let (history, missing, began) = (self.clone(), from..gap.end, start.applied);
        let (sender, done) = tokio::sync::oneshot::channel();
        spawn_busy(async move {
            let _told = sender.send(history.replay_into(filler, start, missing, closing).await);
        });
        // It fails if the runtime ends.
        let is_wrong = done.await.is_ok_and(|filled| filled.is_err());
        let began = began.filter(|_| is_wrong);
        if let Some(LogId { index, .. }) = began {
            tracing::warn!(
                "the log does not lead to the checkpoint at entry {index}, which is passed over"
            );
            wrong.insert(index);
        }
        began.is_some()
    }

    /// Returns what a replay through a gap begins with: the newest checkpoint before it;
    /// or else the first one within.
    async fn start_of_gap(
        &self,
        gap: &Range<Position>,
        wrong: BTreeSet<RaftIndex>,
    ) -> Option<Checkpoint> {
        let (first, applied) = (self.log.first(), self.applied().map(|id| id.index));
        let leads = move |file: &CheckpointFile| {
            let is_usable = Some(file.raft_index) <= applied && !wrong.contains(&file.raft_index);
            is_usable && checkpoint::leads_into(file, first)
        };
        let (start, end) = (gap.start, gap.end);
        let before = move |file: &CheckpointFile, position: Position| {
            (file.index, file.event) <= (position.index, position.event)
        };
        let checkpoints = self.checkpoints.clone();
        let is_whole = first == RaftIndex(0);
        let find = move || {
            let newest = |is_before: &dyn Fn(&CheckpointFile) -> bool| {
                let newest = checkpoints.newest(|file| leads(file) && is_before(file));
                newest.ok().flatten().map(|(checkpoint, _)| checkpoint)
            };
            let oldest = || checkpoints.oldest(|file| leads(file) && before(file, end));
            // The clock alone may have led to one from where the gap begins: its name does not
            // say so.
            newest(&|file| before(file, start))
                .filter(|newest| newest.state.position() <= start)
                .or_else(|| newest(&|file| (file.index, file.event) < (start.index, start.event)))
                .or_else(|| if is_whole { None } else { oldest().ok().flatten() })
        };
        let found = blocking(find).await;
        let empty = || Checkpoint::empty(State::new(self.ring_capacity));
        found.or_else(|| is_whole.then(empty)).filter(|start| start.state.position() < end)
    }

    /// Fills in what is missing by replaying, until it is certain. A replay that began with a
    /// checkpoint goes on behind the gap for that: to the next check in the log, or to what
    /// this machine had applied.
    async fn replay_into(
        &self,
        filler: EventFiller,
        start: Checkpoint,
        missing: Range<Position>,
        mut closing: Closing,
    ) -> Result<(), WrongCheckpoint> {
        let (applied, digest) = {
            let now = self.published.now();
            (now.applied, now.state.digest())
        };
        let range = next_entry(start.applied)..next_entry(applied);
        let mut filling = Filling::new(filler, missing, start.applied.is_some());
        let mut replay = Replay::new(start.state, self.log.read(range));
        let mut begun = Instant::now();
        while !filling.is_done() && !closing.has_begun() {
            let before = replay.state().position();
            match replay.next().await {
                Ok(Some(step)) => filling.take(before, step.outcomes, replay.state()),
                Ok(None) if replay.state().digest() == digest => filling.certain = before,
                Ok(None) | Err(ReplayError::Diverged { .. }) => {
                    filling.end();
                    return Err(WrongCheckpoint);
                }
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
        filling.end();
        Ok(())
    }
}

/// A gap that is being filled in.
struct Filling {
    filler: EventFiller,
    missing: Range<Position>,
    /// Whether the state that the replay began with may be wrong.
    is_in_doubt: bool,
    /// Up to where what was handed over is what the log says.
    certain: Position,
}

impl Filling {
    fn new(filler: EventFiller, missing: Range<Position>, is_in_doubt: bool) -> Self {
        let certain = missing.start;
        Self { filler, missing, is_in_doubt, certain }
    }

    fn is_done(&self) -> bool {
        self.certain >= self.missing.end
    }

    /// Hands outcomes over if they are missing, and notes what their entry says of those before.
    fn take(&mut self, before: Position, outcomes: Vec<Outcome>, state: &State) {
        let after = state.position();
        if before < self.missing.end && after > self.missing.start {
            self.filler.push(before, outcomes);
            self.missing.end = self.missing.end.max(after);
        }
        let certain = if self.is_in_doubt { state.checked().unwrap_or_default() } else { after };
        self.certain = self.certain.max(certain);
    }

    /// Keeps what is certain.
    fn end(self) {
        self.filler.finish(self.certain);
    }
}
