//! The stream of a watch: its events, how far it has come, and why it ends.
//!
//! ```text
//! event ─▶ a line of JSON     or  id: 39
//!                                 data: the same line
//! quiet for 15 s, or over ─▶ a bookmark, to go on from
//! cannot go on            ─▶ {"error":"…"}, the last line
//! ```
//!
//! A bookmark never names an event that fits and was not given before it.

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use etcd_log::EventNumber;
use etcd_projections::Event;
use futures_util::stream;
use hyper::body::Frame;
use hyper::{Request, header};
use tokio::time::Instant;

use super::json;
use super::watch::problem;
use crate::api::http::answer::Pieces;
use crate::api::http::problem::{Problem, gone};
use crate::node::{Seen, Watch, WatchError};
use crate::util::error_chain::ErrorChain;

/// After how long a quiet stream says how far it has come.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How often streams that are quiet speak: all at once whose time has come meanwhile. Each
/// at its own moment, ten thousand would wake a thread nearly as often in a second.
const BEAT: Duration = Duration::from_millis(250);

/// How long a stream may look for its first event before its headers are sent.
const BEGINNING: Duration = Duration::from_secs(2);

thread_local! {
    /// The event that this thread has written last, and how: an event wakes all who watch
    /// for it, and is written once for them.
    static WRITTEN: RefCell<Option<(Arc<Event>, Form, Bytes)>> = const { RefCell::new(None) };
}

/// How a stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Lines of JSON.
    Lines {
        /// Whether how far it has come is a line too.
        bookmarks: bool,
    },
    /// Server-sent events: an id without data says how far it has come.
    ServerSentEvents,
}

/// The stream of a watch.
pub(super) struct EventStream {
    watch: Watch,
    deadline: Option<Instant>,
    form: Form,
    /// An event that was found before the stream began.
    first: Option<Arc<Event>>,
    is_over: bool,
}

impl Form {
    /// Returns whether a request wants server-sent events.
    pub(super) fn is_asked_for_by<B>(request: &Request<B>) -> bool {
        let accept = request.headers().get(header::ACCEPT);
        accept.is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"))
    }

    /// Writes a line that is no event.
    pub(super) fn line(self, line: &[u8]) -> Vec<u8> {
        match self {
            Self::Lines { .. } => [line, b"\n"].concat(),
            Self::ServerSentEvents => [b"data: ", line, b"\n\n"].concat(),
        }
    }

    /// Writes a line behind which the stream can go on behind this event.
    pub(super) fn line_at(self, number: EventNumber, line: &[u8]) -> Vec<u8> {
        match self {
            Self::Lines { .. } => self.line(line),
            Self::ServerSentEvents => {
                [format!("id: {}\ndata: ", number.0).as_bytes(), line, b"\n\n"].concat()
            }
        }
    }

    /// Writes an event.
    fn event(self, event: &Arc<Event>) -> Bytes {
        WRITTEN.with_borrow_mut(|written| match written {
            Some((of, form, line)) if Arc::ptr_eq(of, event) && *form == self => line.clone(),
            _ => {
                let line = self.line_at(event.number, &json::streamed_event(event));
                let line = Bytes::from(line);
                *written = Some((Arc::clone(event), self, line.clone()));
                line
            }
        })
    }

    /// Writes that all that fits was given up to here; nothing, where nobody wants to know.
    fn bookmark(self, seen: Seen) -> Option<Vec<u8>> {
        match (self, seen) {
            (Self::Lines { bookmarks: false }, _) => None,
            (Self::Lines { bookmarks: true }, _) => Some(self.line(&json::bookmark(seen))),
            (Self::ServerSentEvents, Seen::Upto(position)) => {
                Some(format!(":\nid: {}\n\n", position.event.0).into_bytes())
            }
            (Self::ServerSentEvents, Seen::NothingBefore(_)) => Some(b":\n\n".to_vec()),
        }
    }

    /// Writes why a stream ends before its time.
    fn error(self, why: &str) -> Vec<u8> {
        let line = self.line(&json::error(why));
        match self {
            Self::Lines { .. } => line,
            Self::ServerSentEvents => [&b"event: error\n"[..], &line].concat(),
        }
    }
}

impl EventStream {
    /// Makes a stream that is under way: whatever happens is said in it.
    pub(super) fn new(watch: Watch, deadline: Option<Instant>, form: Form) -> Self {
        Self { watch, deadline, form, first: None, is_over: false }
    }

    /// Begins a stream. What it begins with may be kept no longer, which has to be said
    /// before the body begins.
    pub(super) async fn begin(
        watch: Watch,
        deadline: Option<Instant>,
        form: Form,
    ) -> Result<Self, Problem> {
        let mut stream = Self::new(watch, deadline, form);
        if stream.watch.is_behind() {
            let until = deadline.into_iter().chain([Instant::now() + BEGINNING]).min();
            let until = until.expect("it is one of two");
            stream.first = match tokio::time::timeout_at(until, stream.watch.next()).await {
                Ok(Ok(event)) => Some(event),
                // The stream has its own way to end.
                Ok(Err(WatchError::Closing)) | Err(_) => None,
                Ok(Err(error)) => return Err(problem(error)),
            };
        }
        Ok(stream)
    }

    pub(super) fn into_pieces(self) -> Pieces {
        Box::pin(stream::unfold(self, |mut stream| async move {
            let piece = stream.next().await?;
            Some((Ok(Frame::data(piece)), stream))
        }))
    }

    /// Returns the next piece of the body; nothing, once the stream is over.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        if let Some(first) = self.first.take() {
            return Some(self.form.event(&first));
        }
        let says_so = self.form != Form::Lines { bookmarks: false };
        let quiet = says_so.then(next_heartbeat);
        let event = match self.deadline.into_iter().chain(quiet).min() {
            Some(until) => {
                let event = tokio::time::timeout_at(until, self.watch.next()).await.ok();
                if event.is_none() {
                    self.is_over = self.deadline.is_some_and(|deadline| deadline <= until);
                }
                event
            }
            None => Some(self.watch.next().await),
        };
        let Some(event) = event else {
            return self.form.bookmark(self.watch.seen()).map(Bytes::from);
        };
        match event {
            Ok(event) => Some(self.form.event(&event)),
            Err(error) => {
                self.is_over = true;
                self.last_words(&error).map(Bytes::from)
            }
        }
    }

    /// Returns what is said when there will be no more.
    fn last_words(&mut self, error: &WatchError) -> Option<Vec<u8>> {
        let why = match error {
            WatchError::Closing => return self.form.bookmark(self.watch.seen()),
            WatchError::Gone { cursor, oldest } => gone(*cursor, *oldest),
            WatchError::Log(error) => {
                tracing::error!("a stream ends: {}", ErrorChain(error));
                let place = match self.watch.seen() {
                    Seen::Upto(position) => format!("After Event {}", position.event.0),
                    Seen::NothingBefore(index) => format!("From Index {}", index.0),
                };
                format!("The Log Cannot Be Read; Go On {place}")
            }
        };
        Some(self.form.error(&why))
    }
}

/// Returns when a stream speaks that is quiet from now on.
fn next_heartbeat() -> Instant {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let (earliest, beat) = (Instant::now() + HEARTBEAT, BEAT.subsec_millis());
    let past_a_beat = earliest.duration_since(*FIRST).subsec_millis() % beat;
    earliest + Duration::from_millis(u64::from(beat - past_a_beat))
}

#[cfg(test)]
mod tests {
    use etcd_log::{Index, LogTime};
    use etcd_projections::Position;

    use super::*;
    use crate::util::limit;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    /// Ten thousand of them may wait at a time.
    #[test]
    fn stream_that_waits_is_small() {
        fn size<T>(_: impl FnOnce(EventStream) -> T) -> usize {
            size_of::<T>()
        }
        let size = size(|mut stream| async move { stream.next().await });
        assert!(size <= 768, "{size} bytes");
    }

    #[test]
    fn bookmark_says_where_to_go_on() {
        let (event, time) = (EventNumber(39), LogTime(1_000_000_000));
        let seen = Seen::Upto(Position { index: Index(41), event, time });
        let lines = Form::Lines { bookmarks: true };
        let line = text(lines.bookmark(seen).unwrap());
        let begins = r#"{"action":"BOOKMARK","index":41,"event":39,"time":""#;
        assert!(line.starts_with(begins) && line.ends_with("\"}\n"), "{line}");
        assert_eq!(Form::ServerSentEvents.bookmark(seen).map(text).unwrap(), ":\nid: 39\n\n");
        assert_eq!(Form::Lines { bookmarks: false }.bookmark(seen), None);
        // Where the first index is not reached, no event is named.
        let ahead = Seen::NothingBefore(Index(100));
        let line = "{\"action\":\"BOOKMARK\",\"index\":99}\n";
        assert_eq!(lines.bookmark(ahead).map(text).unwrap(), line);
        assert_eq!(Form::ServerSentEvents.bookmark(ahead).map(text).unwrap(), ":\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_are_quiet_speak_together() {
        limit::begin();
        let mut moments = Vec::new();
        for _ in 0..1000 {
            let now = Instant::now();
            let next = next_heartbeat();
            assert!(next >= now + HEARTBEAT && next <= now + HEARTBEAT + BEAT);
            if moments.last() != Some(&next) {
                moments.push(next);
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(moments.len() <= 5, "{moments:?}");
    }

    #[test]
    fn error_is_the_last_line_of_either_form() {
        let why = gone(crate::node::Cursor::Number(EventNumber(3)), Index(17));
        let line = r#"{"error":"Watch From Event: 3 Is No Longer Kept; The Oldest Is 17"}"#;
        assert_eq!(text(Form::Lines { bookmarks: false }.error(&why)), format!("{line}\n"));
        let event = format!("event: error\ndata: {line}\n\n");
        assert_eq!(text(Form::ServerSentEvents.error(&why)), event);
    }
}
