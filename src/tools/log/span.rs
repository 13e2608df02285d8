//! A span of a log: from a moment, up to another one.
//!
//! What a log does not hold is not left out in silence: a walk through a span is checked
//! where it begins, and where it has ended.

use etcd_log::Index;
use etcd_projections::Position;

use super::ToolError;
use super::source::{Bound, Source};
use super::walk::Walk;
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

impl Span {
    /// Finds a span in a log. What followed the last command is part of it, if the span goes
    /// up to that.
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
        Ok(Self { from: bound, to: end(source, to)?, asked: (from, to) })
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

    /// Says so if a walk that is about to begin begins too late: the first that is wanted
    /// may be what led to where it stands, or lie before that.
    pub(super) fn check_start(&self, walk: &Walk) -> Result<(), ToolError> {
        let start = walk.position();
        let is_late = start.index > Index(0) && self.has_begun(start);
        match self.asked.0.filter(|_| is_late) {
            Some(moment) => Err(ToolError::NoLongerKept { moment, oldest: start.index.next() }),
            None => walk.check_start(self.asked.1, self.to),
        }
    }

    /// Says so if a walk to the end of the span has not come by both moments, in this order.
    pub(super) fn check_end(&self, walk: &Walk) -> Result<(), ToolError> {
        walk.check_end(self.asked.1, self.to)?;
        let newest = walk.position();
        match self.asked {
            (Some(from), to) if !self.has_begun(newest) => Err(match to {
                Some(to) => ToolError::Backwards { from, to },
                None => ToolError::NotReached { moment: from, newest: newest.index },
            }),
            _ => Ok(()),
        }
    }
}

/// Returns where a moment is; nothing, if it is the end.
///
/// # Errors
///
/// If the log cannot be read, or ends before that command.
pub(super) fn end(source: &Source, moment: Option<Moment>) -> Result<Option<Bound>, ToolError> {
    let Some(moment) = moment else { return Ok(None) };
    if let Moment::Index(index) = moment {
        let newest = source.last()?;
        if index > newest {
            return Err(ToolError::NotReached { moment, newest });
        }
        if index == newest {
            return Ok(None);
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
            let checked = span(from, to).check_start(&trimmed());
            let is_refused = matches!(checked, Err(ToolError::NoLongerKept { .. }));
            assert_eq!((checked.is_ok(), is_refused), (is_kept, !is_kept), "{from:?} {to:?}");
        }
        let empty = Walk::new(State::new(1), Box::new(std::iter::empty()));
        span(Some(index(0)), None).check_start(&empty).unwrap();
        span(Some(index(1)), None).check_start(&empty).unwrap();
    }

    #[test]
    fn end_comes_behind_the_beginning_and_is_reached() {
        let check = |from, to| span(from, to).check_end(&trimmed());
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
