//! A span of a log: from a moment, up to another one.
//!
//! ```text
//! … #8 │ #9  expiry  #10  #11  expiry │ #12 …      from 9 to 11
//! ```
//!
//! An expiry has the index of the command before it, and so the span of a history has those
//! that followed its last command, as the API has it. That a moment is a state is another
//! matter: it lies right behind its command ([`up_to`]).
//!
//! What a log does not hold is not left out in silence: a walk through a span is checked
//! where it begins, and where it has ended.

use etcd_log::Index;
use etcd_projections::{Position, State};

use super::ToolError;
use super::source::{Bound, Source};
use super::walk::{Step, Walk, check_end, check_start};
use crate::util::moment::Moment;

/// A span of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// From where on; from the beginning, if there is none.
    pub(super) from: Option<Bound>,
    /// Up to where; to the end of the log, if there is none.
    pub(super) to: Option<Bound>,
    /// Both as they were asked for.
    asked: (Option<Moment>, Option<Moment>),
}

/// A walk through a span, which knows nothing of what lies behind it.
pub(super) struct SpanWalk {
    span: Span,
    walk: Walk,
    /// How far it has come within the span.
    reached: Position,
}

impl Span {
    /// Finds a span in a log.
    ///
    /// # Errors
    ///
    /// If the log cannot be read, or ends before the command that the span goes up to.
    pub(super) fn of(
        source: &Source,
        from: Option<Moment>,
        to: Option<Moment>,
    ) -> Result<Self, ToolError> {
        let bound = from.map(|from| source.bound(from)).transpose()?;
        Ok(Self { from: bound, to: up_to(source, to)?, asked: (from, to) })
    }

    /// Returns whether what led to a position has come by then; what lies behind the span is
    /// not asked for.
    pub(super) fn has_begun(&self, position: Position) -> bool {
        match self.from {
            None => true,
            Some(Bound::Index(index)) => position.index >= index,
            Some(Bound::Time(time)) => position.time >= time,
        }
    }

    /// Returns whether what led to a position lies behind the last command.
    fn is_over(&self, position: Position) -> bool {
        matches!(self.to, Some(Bound::Index(to)) if position.index > to)
    }

    /// Returns up to where a walk goes that comes by all of it: the expiries behind a command
    /// come with the next one, at the latest.
    fn bound(&self) -> Option<Bound> {
        match self.to {
            Some(Bound::Index(to)) => Some(Bound::Index(to.next())),
            to => to,
        }
    }

    /// Walks through it.
    ///
    /// # Errors
    ///
    /// If the walk begins too late.
    pub(super) fn walk(self, walk: Walk) -> Result<SpanWalk, ToolError> {
        let reached = walk.position();
        self.check_start(reached)?;
        Ok(SpanWalk { span: self, walk, reached })
    }

    /// Says so if what is about to begin at a position begins too late: the first that is
    /// wanted may be what led there, or lie before that.
    pub(super) fn check_start(&self, start: Position) -> Result<(), ToolError> {
        let is_late = start.index > Index(0) && self.has_begun(start);
        match self.asked.0.filter(|_| is_late) {
            Some(moment) => Err(ToolError::NoLongerKept { moment, oldest: start.index.next() }),
            None => check_start(start, self.asked.1, self.to),
        }
    }

    /// Says so if what has come so far within the span, and goes on behind it or does not,
    /// has not come by both moments, in this order.
    pub(super) fn check_end(&self, reached: Position, goes_on: bool) -> Result<(), ToolError> {
        check_end((reached, goes_on), self.asked.1, self.to)?;
        match self.asked {
            (Some(from), to) if !self.has_begun(reached) => Err(match to {
                Some(to) => ToolError::Backwards { from, to },
                None => ToolError::NotReached { moment: from, newest: reached.index },
            }),
            _ => Ok(()),
        }
    }
}

impl SpanWalk {
    /// Takes the next entry, and what came of it within the span; nothing, at the end.
    pub(super) fn next(&mut self) -> Result<Option<Step>, ToolError> {
        let Some(mut step) = self.walk.next(self.span.bound())? else { return Ok(None) };
        step.outcomes.retain(|outcome| !self.span.is_over(outcome.position));
        self.reached = step.outcomes.last().map_or(self.reached, |last| last.position);
        Ok(Some(step))
    }

    /// Returns how far it has come within the span.
    pub(super) fn reached(&self) -> Position {
        self.reached
    }

    /// Returns the state so far.
    pub(super) fn state(&self) -> &State {
        self.walk.state()
    }

    /// Says so if the log does not come by both moments, in this order: at the end.
    pub(super) fn check_end(&self) -> Result<(), ToolError> {
        self.span.check_end(self.reached, self.walk.goes_on())
    }
}

/// Returns up to where a log is read that is read up to a moment; nothing, if there is none:
/// to its end.
///
/// # Errors
///
/// If the log cannot be read, or ends before that command.
pub(super) fn up_to(source: &Source, moment: Option<Moment>) -> Result<Option<Bound>, ToolError> {
    let Some(moment) = moment else { return Ok(None) };
    if let Moment::Index(index) = moment {
        let newest = source.last()?;
        if index > newest {
            return Err(ToolError::NotReached { moment, newest });
        }
    }
    source.bound(moment).map(Some)
}

#[cfg(test)]
mod tests {
    use etcd_log::{Batch, Command, KeyPath, LogTime, Ttl};
    use etcd_projections::State;

    use super::*;

    /// A walk that stands behind command 10, at second 10, with nothing to follow.
    fn trimmed() -> Walk {
        let mut state = State::new(1);
        for second in 1..=10 {
            let key = KeyPath::clean("/a").unwrap();
            let set = Command::Set { key, value: "1".into(), ttl: Ttl::new(0) };
            state.apply(&Batch::new(LogTime(second * 1_000_000_000), vec![set]));
        }
        Walk::new(state, Box::new(std::iter::empty()))
    }

    fn span(from: Option<Bound>, to: Option<Bound>) -> Span {
        let moment = |bound| match bound {
            Bound::Index(index) => Moment::Index(index),
            Bound::Time(time) => Moment::Time(time),
        };
        Span { from, to, asked: (from.map(moment), to.map(moment)) }
    }

    fn index(index: u64) -> Bound {
        Bound::Index(Index(index))
    }

    fn second(second: u64) -> Bound {
        Bound::Time(LogTime(second * 1_000_000_000))
    }

    #[test]
    fn what_is_no_longer_kept_is_not_left_out_in_silence() {
        for (from, to, is_kept) in [
            (None, None, true),
            (Some(index(11)), None, true),
            (Some(index(10)), None, false),
            (Some(index(5)), None, false),
            (Some(second(11)), Some(index(12)), true),
            (Some(second(10)), None, false),
            (Some(second(5)), None, false),
            (None, Some(index(10)), true),
            (None, Some(index(9)), false),
            (None, Some(second(9)), false),
        ] {
            let checked = span(from, to).walk(trimmed());
            let is_refused = matches!(checked, Err(ToolError::NoLongerKept { .. }));
            assert_eq!((checked.is_ok(), is_refused), (is_kept, !is_kept), "{from:?} {to:?}");
        }
        let empty = Walk::new(State::new(1), Box::new(std::iter::empty()));
        span(Some(index(0)), None).check_start(empty.position()).unwrap();
        span(Some(index(1)), None).check_start(empty.position()).unwrap();
    }

    #[test]
    fn end_comes_behind_the_beginning_and_is_reached() {
        let check = |from, to| span(from, to).check_end(trimmed().position(), false);
        check(Some(index(10)), Some(index(10))).unwrap();
        check(Some(second(10)), Some(index(10))).unwrap();
        assert!(matches!(
            check(Some(index(11)), Some(index(10))),
            Err(ToolError::Backwards { .. })
        ));
        assert!(matches!(
            check(Some(second(11)), Some(index(10))),
            Err(ToolError::Backwards { .. })
        ));
        assert!(matches!(
            check(Some(index(11)), Some(second(10))),
            Err(ToolError::Backwards { .. })
        ));
        assert!(matches!(check(Some(index(11)), None), Err(ToolError::NotReached { .. })));
        assert!(matches!(check(None, Some(second(11))), Err(ToolError::NotReached { .. })));
    }
}
