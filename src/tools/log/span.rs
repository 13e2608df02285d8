//! A span of a log: from a moment, up to another one.

use etcd_projections::Position;

use super::ToolError;
use super::source::{Bound, Source};
use crate::util::moment::Moment;

/// A span of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// From where on; from the beginning, if there is none.
    pub(super) from: Option<Bound>,
    /// Up to where; to the end of the log, if there is none.
    pub(super) to: Option<Bound>,
}

impl Span {
    /// Finds a span in a log. What followed the last command is part of it, if the span goes
    /// up to that.
    pub(super) fn of(
        source: &Source,
        from: Option<Moment>,
        to: Option<Moment>,
    ) -> Result<Self, ToolError> {
        let from = from.map(|from| source.bound(from)).transpose()?;
        Ok(Self { from, to: end(source, to)? })
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
}

/// Returns where a moment is; nothing, if it is the end.
pub(super) fn end(source: &Source, moment: Option<Moment>) -> Result<Option<Bound>, ToolError> {
    Ok(match moment {
        None => None,
        Some(Moment::Index(index)) if index == source.last()? => None,
        Some(moment) => Some(source.bound(moment)?),
    })
}
