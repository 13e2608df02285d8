//! `etcd log history`: what happened at a key, or below it.

use std::collections::VecDeque;
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
    /// Up to when; up to a command, with what expired behind it.
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
/// If the log cannot be read, or does not come by the moments in their order; or if the
/// output cannot be written.
pub fn history(from: &LogPath, query: &HistoryQuery, out: &mut dyn Write) -> Result<(), ToolError> {
    let source = Source::open(from)?;
    let span = Span::of(&source, query.from, query.to)?;
    let walk = source.walk(1)?.shown(Progress::of("history", &source));
    let mut walk = span.walk(walk)?;
    let mut left = query.limit.unwrap_or(usize::MAX);
    let mut newest = Newest { most: left, events: VecDeque::new() };
    while let Some(step) = walk.next()? {
        let wanted = step.outcomes.iter().filter(|outcome| span.has_begun(outcome.position));
        let wanted = wanted.filter_map(event_of).filter(|event| query.takes(&event.key));
        for event in wanted {
            if query.reverse {
                newest.keep(event);
            } else if left > 0 {
                left -= 1;
                query.write(event, out)?;
            }
        }
        if left == 0 {
            return Ok(());
        }
    }
    walk.check_end()?;
    newest.events.iter().rev().try_for_each(|event| query.write(event, out))
}

/// The newest events so far, and no more of them than are wanted.
struct Newest {
    most: usize,
    events: VecDeque<Arc<Event>>,
}

impl Newest {
    fn keep(&mut self, event: &Arc<Event>) {
        self.events.push_back(Arc::clone(event));
        if self.events.len() > self.most {
            self.events.pop_front();
        }
    }
}

fn event_of(outcome: &Outcome) -> Option<&Arc<Event>> {
    match &outcome.what {
        What::Event(event) => Some(event),
        What::Rejection(_) | What::Tick => None,
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::{EventNumber, Index, LogTime};
    use etcd_projections::Change;

    use super::*;

    #[test]
    fn no_more_events_are_kept_than_are_wanted() {
        for (most, numbers) in [(0, &[][..]), (2, &[9, 10]), (20, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])]
        {
            let mut newest = Newest { most, events: VecDeque::new() };
            for number in 1..=10 {
                newest.keep(&Arc::new(Event {
                    number: EventNumber(number),
                    index: Index(number),
                    time: LogTime(number),
                    key: KeyPath::root(),
                    change: Change::DeleteDir,
                }));
                assert!(newest.events.len() <= most);
            }
            assert!(newest.events.iter().map(|event| &event.number.0).eq(numbers));
        }
    }
}
