//! `etcd log history`: what happened at a key, or below it.

use std::io::Write;
use std::sync::Arc;

use etcd_log::KeyPath;
use etcd_projections::{Event, Outcome, What};

use super::ToolError;
use super::look::Look;
use super::progress::Progress;
use super::source::{LogPath, Source};
use super::span::Span;
use super::text::{write_event, write_lines};
use crate::api::v1::json;
use crate::util::moment::Moment;

/// Which part of a key's history is wanted, and how.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// What happened at this key.
    pub key: KeyPath,
    /// Or below it.
    pub recursive: bool,
    /// From when on.
    pub from: Option<Moment>,
    /// Up to when.
    pub to: Option<Moment>,
    /// Whether the newest comes first.
    pub reverse: bool,
    /// How many events, at most.
    pub limit: Option<usize>,
    /// Lines of JSON, as the API tells them, instead of text.
    pub json: bool,
    /// How text looks.
    pub look: Look,
}

impl HistoryQuery {
    fn takes(&self, key: &KeyPath) -> bool {
        if self.recursive { self.key.covers(key) } else { self.key == *key }
    }

    /// Writes an event as it is wanted.
    pub(super) fn write(&self, event: &Event, out: &mut dyn Write) -> Result<(), ToolError> {
        if self.json {
            return write_lines(out, &json::streamed_event(event));
        }
        write_event(out, event, self.look)
    }
}

/// Tells what happened at a key.
///
/// # Errors
///
/// If the log cannot be read, or the output not be written.
pub fn history(from: &LogPath, query: &HistoryQuery, out: &mut dyn Write) -> Result<(), ToolError> {
    let source = Source::open(from)?;
    let span = Span::of(&source, query.from, query.to)?;
    let mut walk = source.walk(1)?.shown(Progress::of("history", &source));
    let mut left = query.limit.unwrap_or(usize::MAX);
    let mut found = Vec::new();
    while let Some(step) = walk.next(span.to)? {
        let wanted = step.outcomes.iter().filter(|outcome| span.has_begun(outcome.position));
        let wanted = wanted.filter_map(event_of).filter(|event| query.takes(&event.key));
        for event in wanted {
            if query.reverse {
                found.push(Arc::clone(event));
            } else if left > 0 {
                left -= 1;
                query.write(event, out)?;
            }
        }
        if left == 0 {
            return Ok(());
        }
    }
    found.iter().rev().take(left).try_for_each(|event| query.write(event, out))
}

fn event_of(outcome: &Outcome) -> Option<&Arc<Event>> {
    match &outcome.what {
        What::Event(event) => Some(event),
        What::Rejection(_) | What::Tick => None,
    }
}
