//! A walk through a log: the state, entry by entry, and what came of each.
//!
//! It stops where it is told to, in the middle of a batch too, and can be told to go on.
//! A batch that is taken in two parts comes to the same as one that is taken whole: its
//! clock moves on with the first part.

use std::sync::Arc;

use etcd_log::{Batch, End, IndexedBatch, LogId, Payload};
use etcd_projections::{Outcome, Position, State};

use super::ToolError;
use super::progress::Progress;
use super::source::Bound;
use crate::util::moment::Moment;

/// What is read of a log.
pub(super) enum Read {
    /// An entry; without an id, if the log was exported.
    Entry { id: Option<LogId>, payload: Payload },
    /// The end of an exported log.
    End(End),
}

/// What is read of a log, in order.
pub(super) type Reads = Box<dyn Iterator<Item = Result<Read, ToolError>> + Send>;

/// What an entry came to.
pub(super) struct Step {
    /// The entry; none in an exported log.
    pub(super) id: Option<LogId>,
    /// What it carries; of a batch, what has been taken of it.
    pub(super) payload: Payload,
    /// The outcomes of its batch; none if it carries no batch.
    pub(super) outcomes: Vec<Outcome>,
}

/// A state on its way through a log.
pub(super) struct Walk {
    state: State,
    reads: Reads,
    /// What was read, and is still to be taken.
    pending: Option<Pending>,
    /// Whether the clock has moved on since the last command.
    has_ticked: bool,
    progress: Option<Progress>,
}

/// A rest of a batch, or something that was not taken at all.
struct Pending {
    read: Read,
    /// How many of its commands have been taken.
    taken: usize,
}

impl Walk {
    /// Walks on from a state, which must be that before what is read.
    pub(super) fn new(state: State, reads: Reads) -> Self {
        Self { state, reads, pending: None, has_ticked: false, progress: None }
    }

    /// Shows how far it has come, on a terminal.
    pub(super) fn shown(self, progress: Progress) -> Self {
        Self { progress: Some(progress), ..self }
    }

    /// Returns the state so far.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Returns how far it has come.
    pub(super) fn position(&self) -> Position {
        self.state.position()
    }

    /// Goes up to the end, or to where it is bound.
    pub(super) fn go(&mut self, bound: Option<Bound>) -> Result<(), ToolError> {
        while self.next(bound)?.is_some() {}
        Ok(())
    }

    /// Takes the next entry, or what of it is within the bound; nothing, at the end.
    pub(super) fn next(&mut self, bound: Option<Bound>) -> Result<Option<Step>, ToolError> {
        let room = match bound {
            Some(Bound::Index(last)) => last.0.saturating_sub(self.position().index.0),
            Some(Bound::Time(_)) | None => u64::MAX,
        };
        if room == 0 {
            return Ok(None);
        }
        let Some(Pending { read, taken }) = self.read()? else { return Ok(None) };
        match read {
            Read::Entry { id, payload: Payload::Batch(batch) } => {
                if matches!(bound, Some(Bound::Time(last)) if last < batch.time.max(self.position().time))
                {
                    let read = Read::Entry { id, payload: Payload::Batch(batch) };
                    self.pending = Some(Pending { read, taken });
                    return Ok(None);
                }
                let room = usize::try_from(room).unwrap_or(usize::MAX);
                self.take(id, &batch, taken, room).map(Some)
            }
            Read::Entry { id, payload } => {
                if let Some(id) = id {
                    self.state.apply_entry(id.index, None);
                }
                Ok(Some(Step { id, payload, outcomes: Vec::new() }))
            }
            Read::End(end) => {
                self.state.compare_end(&end)?;
                Ok(None)
            }
        }
    }

    fn read(&mut self) -> Result<Option<Pending>, ToolError> {
        match self.pending.take() {
            Some(pending) => Ok(Some(pending)),
            None => Ok(self.reads.next().transpose()?.map(|read| Pending { read, taken: 0 })),
        }
    }

    /// Takes so many commands of a batch, of which some have been taken.
    fn take(
        &mut self,
        id: Option<LogId>,
        batch: &Arc<Batch>,
        taken: usize,
        room: usize,
    ) -> Result<Step, ToolError> {
        let rest = batch.commands.len() - taken;
        let (is_whole, is_end) = (taken == 0 && rest <= room, rest <= room);
        let part = if is_whole { Arc::clone(batch) } else { Arc::new(batch.part(taken, room)) };
        // What follows is compared with the state behind the entry, not within it.
        let entry = id.filter(|_| is_end).map(|id| id.index);
        let index = self.position().index.next();
        let next = IndexedBatch { index, entry, batch: Arc::clone(&part) };
        let outcomes = self.state.replay(&next)?;
        // What the clock has led to comes before what the commands have.
        if !part.commands.is_empty() || !outcomes.is_empty() {
            self.has_ticked = part.commands.is_empty();
        }
        if !is_end {
            let read = Read::Entry { id, payload: Payload::Batch(Arc::clone(batch)) };
            self.pending = Some(Pending { read, taken: taken + room });
        }
        if let Some(progress) = &mut self.progress {
            progress.reach(self.state.position().index);
        }
        Ok(Step { id, payload: Payload::Batch(part), outcomes })
    }

    /// Returns the state, to go on from.
    pub(super) fn into_state(self) -> State {
        self.state
    }

    /// Returns whether the log was seen to go on behind where it was to end.
    pub(super) fn goes_on(&self) -> bool {
        self.pending.is_some()
    }

    /// Returns whether the clock has moved on since the last command, if that came by.
    pub(super) fn has_ticked(&self) -> bool {
        self.has_ticked
    }

    /// Says so if a moment lies before where the log begins.
    pub(super) fn check_start(
        &self,
        moment: Option<Moment>,
        bound: Option<Bound>,
    ) -> Result<(), ToolError> {
        check_start(self.position(), moment, bound)
    }

    /// Says so if the log ends before a moment.
    pub(super) fn check_end(
        &self,
        moment: Option<Moment>,
        bound: Option<Bound>,
    ) -> Result<(), ToolError> {
        check_end((self.position(), self.goes_on()), moment, bound)
    }
}

/// Says so if a moment lies before a position with which a log begins.
pub(super) fn check_start(
    start: Position,
    moment: Option<Moment>,
    bound: Option<Bound>,
) -> Result<(), ToolError> {
    let is_before = match bound {
        Some(Bound::Index(index)) => index < start.index,
        Some(Bound::Time(time)) => time < start.time,
        None => false,
    };
    match moment.filter(|_| is_before) {
        Some(moment) => Err(ToolError::NoLongerKept { moment, oldest: start.index }),
        None => Ok(()),
    }
}

/// Says so if a log that has come to a position, and goes on or does not, ends before a
/// moment.
pub(super) fn check_end(
    (newest, goes_on): (Position, bool),
    moment: Option<Moment>,
    bound: Option<Bound>,
) -> Result<(), ToolError> {
    let is_reached = match bound {
        Some(Bound::Index(index)) => index <= newest.index,
        // What is behind it was seen, or it is the newest time of all.
        Some(Bound::Time(time)) => goes_on || time <= newest.time,
        None => true,
    };
    match moment.filter(|_| !is_reached) {
        Some(moment) => Err(ToolError::NotReached { moment, newest: newest.index }),
        None => Ok(()),
    }
}
