//! Replay: a recorded log folded into a projection, with all that it says of itself checked.
//!
//! Whoever writes a projection tests it against a recorded log, and nothing else is needed:
//!
//! ```
//! use etcd_log::Recording;
//! use etcd_projections::{Change, What, replay_with};
//!
//! // What `etcd log export` writes; a file does as well.
//! let log = r#"
//! {"index":1,"time":"2013-07-11T20:31:07Z","commands":[{"set":{"key":"/a","value":"b","ttl":5}}]}
//! {"index":2,"time":"2013-07-11T20:31:13Z","commands":[]}
//! {"end":{"index":1,"time":"2013-07-11T20:31:13Z","digest":"0631c5d68d11754355f2e0d415425cad"}}
//! "#;
//! let (mut set, mut expired) = (0, 0);
//! replay_with(&Recording::read(log.as_bytes())?, |outcome| match &outcome.what {
//!     What::Event(event) if matches!(event.change, Change::Expire { .. }) => expired += 1,
//!     What::Event(_) => set += 1,
//!     What::Rejection(_) | What::Tick => {}
//! })?;
//! assert_eq!((set, expired), (1, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A log of any length is folded a batch at a time, by [`State::replay`]; whoever has a
//! projection that is further already goes on with [`Resuming`].

use etcd_log::{Digest, End, Index, IndexedBatch, LogTime, Recording};

use crate::outcome::{Outcome, Position, Projection};
use crate::state::{Diverged, State};
use crate::watch_ring::WatchRing;

/// Why a replay cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// A batch does not follow the one before; the first, if the log's beginning is gone.
    #[error("a batch begins with command {found}, expected {expected}")]
    Gap {
        /// The index of its first command.
        found: Index,
        /// The one that comes next.
        expected: Index,
    },
    /// The log does not lead to the state that its proposer had.
    #[error("the log leads elsewhere before command {index}")]
    Diverged {
        /// The first command of the batch that says so.
        index: Index,
        /// Where, and what the two digests are.
        source: Diverged,
    },
    /// The log does not lead to the state that it says it ends with.
    #[error("the state at the end, command {index}, has digest {found}, the file says {expected}")]
    OtherEnd {
        /// The last command.
        index: Index,
        /// The digest that the commands lead to.
        found: Digest,
        /// The one that the end names.
        expected: Digest,
    },
    /// The log does not come to the time that it says it ends at.
    #[error("the log ends at {found}, the file says {expected}")]
    OtherTime {
        /// The logged time that the commands lead to.
        found: LogTime,
        /// The one that the end names.
        expected: LogTime,
    },
    /// The log does not come by where the projection stands: it belongs to another, or is
    /// further.
    #[error("the log does not come by command {index}, where the projection stands")]
    NotPassed {
        /// The last command that the projection has folded in.
        index: Index,
    },
}

impl State {
    /// Applies the next batch of a log that was recorded or opened, as [`State::apply`]
    /// does, once it has been compared with what the batch says of the state before.
    ///
    /// # Errors
    ///
    /// If the batch does not follow, or if its proposer had another state.
    pub fn replay(&mut self, next: &IndexedBatch) -> Result<Vec<Outcome>, ReplayError> {
        let IndexedBatch { index, entry, ref batch } = *next;
        let expected = self.position().index.next();
        if index != expected {
            return Err(ReplayError::Gap { found: index, expected });
        }
        if let Some(check) = &batch.check {
            self.note_passed(check.entry.filter(|named| Some(*named) < entry));
            self.compare(check).map_err(|source| ReplayError::Diverged { index, source })?;
        }
        Ok(match entry {
            Some(entry) => self.apply_entry(entry, Some(batch)),
            None => self.apply(batch),
        })
    }

    /// Compares the state with the end of a recorded log.
    ///
    /// # Errors
    ///
    /// If the end names another time, or another digest.
    pub fn compare_end(&self, end: &End) -> Result<(), ReplayError> {
        let (Position { index, time, .. }, found) = (self.position(), self.digest());
        if time != end.time {
            return Err(ReplayError::OtherTime { found: time, expected: end.time });
        }
        match end.digest {
            Some(expected) if expected != found => {
                Err(ReplayError::OtherEnd { index, found, expected })
            }
            _ => Ok(()),
        }
    }
}

/// Folds a recorded log into a projection, from where the projection stands, and returns
/// the state at the end. What the log says of itself is checked.
///
/// ```
/// use etcd_log::Recording;
/// use etcd_projections::{Outcome, Position, Projection, What, replay};
///
/// #[derive(Default)]
/// struct Refused(Position, Vec<String>);
///
/// impl Projection for Refused {
///     fn position(&self) -> Position {
///         self.0
///     }
///     fn fold(&mut self, outcome: &Outcome) {
///         self.0.follow(outcome);
///         if let What::Rejection(why) = &outcome.what {
///             self.1.push(why.to_string());
///         }
///     }
/// }
///
/// let log = r#"{"index":1,"time":"2013-07-11T20:31:07Z","commands":[{"delete":{"key":"/a"}}]}"#;
/// let mut refused = Refused::default();
/// replay(&Recording::read(log.as_bytes())?, &mut refused)?;
/// assert_eq!(refused.1, ["key not found"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// If the log does not lead where it says, or not by where the projection stands.
pub fn replay(
    recording: &Recording,
    projection: &mut impl Projection,
) -> Result<State, ReplayError> {
    let mut resuming = Resuming::at(projection.position());
    let state = replay_with(recording, |outcome| {
        if resuming.is_new(outcome) {
            projection.fold(outcome);
        }
    })?;
    resuming.finish()?;
    Ok(state)
}

/// The same with a closure instead of a projection, which sees every outcome.
///
/// # Errors
///
/// If the log does not lead where it says.
pub fn replay_with(
    recording: &Recording,
    mut fold: impl FnMut(&Outcome),
) -> Result<State, ReplayError> {
    let mut state = State::new(WatchRing::DEFAULT_CAPACITY);
    for batch in &recording.batches {
        let index = state.position().index.next();
        if let Some(check) = &batch.check {
            state.compare(check).map_err(|source| ReplayError::Diverged { index, source })?;
        }
        state.apply(batch).iter().for_each(&mut fold);
    }
    recording.end.map_or(Ok(()), |end| state.compare_end(&end))?;
    Ok(state)
}

/// Tells which outcomes of a log are new to a projection that has folded some of it before.
#[derive(Clone, Copy, Debug)]
pub struct Resuming {
    stands: Position,
    has_passed: bool,
}

impl Resuming {
    /// Goes on behind a position; behind none, with everything.
    pub fn at(stands: Position) -> Self {
        Self { stands, has_passed: stands == Position::default() }
    }

    /// Takes in the next outcome of the log, and returns whether it is new.
    pub fn is_new(&mut self, outcome: &Outcome) -> bool {
        let is_new = self.has_passed;
        // An outcome has a position of its own, so this comes true once.
        self.has_passed |= outcome.position == self.stands;
        is_new
    }

    /// Looks back, at the end of the log.
    ///
    /// # Errors
    ///
    /// If the log has not come by the position.
    pub fn finish(self) -> Result<(), ReplayError> {
        let index = self.stands.index;
        if self.has_passed { Ok(()) } else { Err(ReplayError::NotPassed { index }) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use etcd_log::{Batch, Check, Command, KeyPath, LogTime, RaftIndex, Ttl};

    use super::*;

    /// How many outcomes came by, and where they led.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Count(Position, u64);

    impl Projection for Count {
        fn position(&self) -> Position {
            self.0
        }

        fn fold(&mut self, outcome: &Outcome) {
            self.0.follow(outcome);
            self.1 += 1;
        }
    }

    fn recording(batches: u64) -> Recording {
        let key = KeyPath::clean("/a").unwrap();
        let set = Command::Set { key, value: "b".into(), ttl: Ttl::new(1) };
        let batch = |second| Batch::new(LogTime(0).plus_seconds(2 * second), vec![set.clone()]);
        let batches: Vec<_> = (0..batches).map(batch).collect();
        let last = Index(batches.len() as u64);
        Recording { batches, last, end: None }
    }

    /// The end that a recording leads to.
    fn end(recording: &Recording) -> End {
        let state = replay_with(recording, |_| {}).unwrap();
        let Position { index, time, .. } = state.position();
        End { index, time, digest: Some(state.digest()) }
    }

    #[test]
    fn projection_goes_on_where_it_stands() {
        let whole = recording(6);
        let mut count = Count::default();
        let state = replay(&whole, &mut count).unwrap();
        // Six sets, and five expiries between them.
        assert_eq!(count, Count(state.position(), 11));
        for first in 0..=6 {
            let mut resumed = Count::default();
            replay(&recording(first), &mut resumed).unwrap();
            replay(&whole, &mut resumed).unwrap();
            assert_eq!(resumed, count, "behind {first}");
        }
        let refused = replay(&recording(5), &mut count).unwrap_err();
        assert_eq!(refused, ReplayError::NotPassed { index: Index(6) });
    }

    #[test]
    fn what_the_log_says_of_itself_is_compared() {
        let mut log = recording(3);
        let end = end(&log);
        log.end = Some(end);
        replay_with(&log, |_| {}).unwrap();
        log.end = Some(End { digest: Some(Digest(1)), ..end });
        let other = replay_with(&log, |_| {}).unwrap_err();
        assert!(matches!(other, ReplayError::OtherEnd { index: Index(3), .. }), "{other}");
        let time = log.batches[0].time;
        log.end = Some(End { time, ..end });
        let other = replay_with(&log, |_| {}).unwrap_err();
        assert!(matches!(other, ReplayError::OtherTime { .. }), "{other}");
        let (at, digest) = (State::new(1).position(), Digest(1));
        let (entry, index, event, time) = (None, at.index, at.event, at.time);
        log.batches[0].check = Some(Check { entry, index, event, time, digest });
        let diverged = replay_with(&log, |_| {}).unwrap_err();
        assert!(matches!(diverged, ReplayError::Diverged { index: Index(1), .. }), "{diverged}");
    }

    /// A leader's first check names its own blank entry, which whoever reads batches alone is
    /// not told of.
    #[test]
    fn check_that_names_an_entry_without_a_batch_is_compared() {
        let batches = recording(2).batches;
        let replayed = |named: u64, digest: Option<Digest>| {
            let mut state = State::new(1);
            let next = |index, entry, batch: &Batch| {
                let (entry, batch) = (Some(RaftIndex(entry)), Arc::new(batch.clone()));
                IndexedBatch { index: Index(index), entry, batch }
            };
            state.replay(&next(1, 3, &batches[0])).unwrap();
            let Position { index, event, time } = state.position();
            let (entry, digest) = (Some(RaftIndex(named)), digest.unwrap_or(state.digest()));
            let check = Some(Check { entry, index, event, time, digest });
            state.replay(&next(2, 7, &Batch { check, ..batches[1].clone() })).map(drop)
        };
        for named in 3..7 {
            assert_eq!(replayed(named, None), Ok(()));
            let diverged = replayed(named, Some(Digest(1)));
            assert!(matches!(diverged, Err(ReplayError::Diverged { .. })), "entry {named}");
        }
        // An entry from before is not remembered, and one that comes only then nobody knows.
        assert_eq!([2, 7].map(|named| replayed(named, Some(Digest(1)))), [Ok(()), Ok(())]);
    }

    #[test]
    fn batch_that_does_not_follow_is_refused() {
        let batch = Arc::new(recording(1).batches.remove(0));
        let next = |index| {
            let (index, batch) = (Index(index), Arc::clone(&batch));
            IndexedBatch { index, entry: None, batch }
        };
        let mut state = State::new(1);
        assert_eq!(state.replay(&next(1)).unwrap().len(), 1);
        let gap = state.replay(&next(1)).unwrap_err();
        assert_eq!(gap, ReplayError::Gap { found: Index(1), expected: Index(2) });
    }
}
