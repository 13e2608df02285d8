//! Moments: an index, a time, or a while ago, and where in the log that is.

use std::fmt;
use std::str::FromStr;

use etcd_log::{Index, LogTime};
use etcd_projections::Position;

use super::PastError;
use crate::node::Node;
use crate::storage::events::EventStore;

/// A moment in the history of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Behind a command, before any expiry that followed it.
    Index(Index),
    /// At a logged time.
    Time(LogTime),
    /// So many nanoseconds before the newest logged time.
    Ago(u64),
}

/// What is neither an index nor a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither an index nor a time")]
pub struct NoMoment;

impl FromStr for Moment {
    type Err = NoMoment;

    /// Reads an index (`41`), a time (RFC 3339), or a span (`-10m`; s, m, h, d).
    fn from_str(text: &str) -> Result<Self, NoMoment> {
        if let Some(span) = text.strip_prefix('-') {
            return span_of(span).map(Self::Ago).ok_or(NoMoment);
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(|index| Self::Index(Index(index))).map_err(|_| NoMoment);
        }
        // The plus of an offset is a space where nobody has encoded it for a query.
        text.replace(' ', "+").parse().map(Self::Time).map_err(|_| NoMoment)
    }
}

/// Reads a span of time, in nanoseconds.
fn span_of(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return None,
    };
    let number = &text[..text.len() - 1];
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = is_number.then(|| number.parse().ok()).flatten()?;
    Some(number.saturating_mul(seconds).saturating_mul(1_000_000_000))
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => index.0.fmt(f),
            Self::Time(time) => time.fmt(f),
            Self::Ago(nanos) => write!(f, "-{}s", nanos / 1_000_000_000),
        }
    }
}

impl Moment {
    /// Returns whether both are indices, and this is the later one.
    pub(super) fn is_index_after(self, other: Self) -> bool {
        matches!((self, other), (Self::Index(this), Self::Index(other)) if this > other)
    }

    /// Returns the moment as a time, if it is none of an index.
    fn time(self, newest: LogTime) -> Option<LogTime> {
        match self {
            Self::Index(_) => None,
            Self::Time(time) => Some(time),
            Self::Ago(nanos) => Some(LogTime(newest.0.saturating_sub(nanos))),
        }
    }
}

impl Node {
    /// Returns where a moment lies: up to where what happened by then goes. It reads a
    /// block at most.
    pub(super) fn position_at(
        &self,
        events: &EventStore,
        moment: Moment,
        newest: Position,
    ) -> Result<Position, PastError> {
        let (is_reached, found) = match (moment, moment.time(newest.time)) {
            (Moment::Index(index), _) => (index <= newest.index, events.position_at_index(index)),
            (_, Some(time)) => (time <= newest.time, events.position_at_time(time)),
            (Moment::Time(_) | Moment::Ago(_), None) => unreachable!("a time is one"),
        };
        if !is_reached {
            return Err(PastError::NotReached { moment, newest });
        }
        self.known(events, moment, found, false)
    }

    /// Returns where a moment ends: behind all that has happened by then. That is behind
    /// the expiries, too, that have the index of a command.
    pub(super) fn position_behind(
        &self,
        events: &EventStore,
        moment: Moment,
        newest: Position,
    ) -> Result<Position, PastError> {
        let Moment::Index(index) = moment else {
            return self.position_at(events, moment, newest);
        };
        if index > newest.index {
            return Err(PastError::NotReached { moment, newest });
        }
        let found = if index == newest.index {
            Some(newest)
        } else {
            events.position_before_index(index.next())
        };
        self.known(events, moment, found, false)
    }

    /// Returns the position before the first command that is kept.
    pub(super) fn position_before_all(&self, events: &EventStore) -> Result<Position, PastError> {
        match self.inner.history.oldest() {
            Index(1) => Ok(Position::default()),
            oldest => events.position_before_index(oldest).ok_or(PastError::NotStored {
                at: Position { index: oldest, ..Position::default() },
            }),
        }
    }

    /// Returns where a moment begins: behind all that happened before it.
    pub(super) fn position_before(
        &self,
        events: &EventStore,
        moment: Moment,
        newest: Position,
    ) -> Result<Position, PastError> {
        let (is_reached, found) = match (moment, moment.time(newest.time)) {
            (Moment::Index(Index(0)), _) => (true, Some(Position::default())),
            (Moment::Index(index), _) => {
                (index <= newest.index, events.position_before_index(index))
            }
            (_, Some(LogTime(0))) => (true, Some(Position::default())),
            (_, Some(time)) => (time <= newest.time, events.position_at_time(LogTime(time.0 - 1))),
            (Moment::Time(_) | Moment::Ago(_), None) => unreachable!("a time is one"),
        };
        if !is_reached {
            return Err(PastError::NotReached { moment, newest });
        }
        self.known(events, moment, found, true)
    }

    /// Says why there is no such position, if there is none, or it is of before what is kept:
    /// the states from the oldest command on, and what happened from it on.
    fn known(
        &self,
        events: &EventStore,
        moment: Moment,
        found: Option<Position>,
        is_beginning: bool,
    ) -> Result<Position, PastError> {
        let oldest = self.inner.history.oldest();
        let first = if oldest == Index(1) { Index(0) } else { oldest };
        let (is_kept, at) = match moment {
            Moment::Index(index) => (index >= first, index),
            Moment::Time(_) | Moment::Ago(_) => match found {
                Some(found) if is_beginning => (found.index.next() >= oldest, found.index),
                Some(found) => (found.index >= first, found.index),
                // That is known once the log of that time is stored.
                None => (!events.reaches_back_to(oldest), oldest),
            },
        };
        let may_come = is_kept || self.inner.history.log().missing().is_some();
        match found.filter(|_| is_kept) {
            Some(found) => Ok(found),
            None if may_come => {
                Err(PastError::NotStored { at: Position { index: at, ..Position::default() } })
            }
            None => Err(PastError::Gone { moment, oldest }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_indices_times_and_spans() {
        let second = 1_000_000_000;
        for (text, moment) in [
            ("41", Moment::Index(Index(41))),
            ("0", Moment::Index(Index(0))),
            ("1970-01-01T00:00:07Z", Moment::Time(LogTime(7 * second))),
            ("1970-01-01T01:00:07+01:00", Moment::Time(LogTime(7 * second))),
            ("1970-01-01T01:00:07 01:00", Moment::Time(LogTime(7 * second))),
            ("-0s", Moment::Ago(0)),
            ("-10m", Moment::Ago(600 * second)),
            ("-2h", Moment::Ago(7200 * second)),
            ("-1d", Moment::Ago(86_400 * second)),
            ("-99999999999999d", Moment::Ago(u64::MAX)),
        ] {
            assert_eq!(text.parse(), Ok(moment), "{text}");
        }
        for text in [
            "",
            "-",
            "yesterday",
            "-m",
            "-1",
            "-1w",
            "--1m",
            "-+1m",
            "4.5",
            "1e3",
            "+5",
            "-1é",
            "99999999999999999999",
            "2026-11-29",
            "1969-12-31T23:59:59Z",
            "９",
        ] {
            assert_eq!(text.parse::<Moment>(), Err(NoMoment), "{text}");
        }
    }
}
