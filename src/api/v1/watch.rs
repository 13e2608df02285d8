//! `/v1/watch`: one event, or a stream of them.
//!
//! A stream's body is pulled by the connection: the next event is looked for
//! when the client has taken the one before. So a slow client costs its own
//! connection, and nothing else.
//!
//! HEAD asks what GET would say at once: who wants no event need not wait for one.
//! Where there is none yet, the answer says from where on a watch would see one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_log::{EventNumber, Index, KeyPath};
use etcd_projections::{Event, Position};
use futures_util::stream;
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, header};
use tokio::time::Instant;

use super::json;
use crate::api::http::answer::{Answer, Bad, Pieces, Problem};
use crate::api::http::head::number;
use crate::api::http::request::{Fields, REQUEST_LIMIT};
use crate::node::{Node, Seen, Start, Unavailable, Watch, WatchError};
use crate::state::filter::Filter;
use crate::util::error_chain::ErrorChain;

/// How often a quiet stream of server-sent events shows that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a stream may look for its first event before its headers are sent.
const BEGINNING: Duration = Duration::from_secs(2);

/// Answers with the next event at a prefix or below it, or with all of them.
pub(super) async fn watch(
    node: &Node,
    prefix: KeyPath,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let waits = request.method() != Method::HEAD;
    let server_sent_events = accepts_event_stream(&request);
    let last_event_id = last_event_id(&request)?;
    let fields = Fields::of_request(request).await?;
    let after = last_event_id.or(fields.after()?);
    let start = match (after, fields.index()?) {
        (Some(number), _) => Start::After(number),
        (None, Some(index)) => Start::Index(index),
        (None, None) => Start::Now,
    };
    let limit = if waits { fields.limit()? } else { Some(Duration::ZERO) };
    let deadline = limit.map(|limit| Instant::now() + limit);
    let streams = server_sent_events || fields.stream()?;
    // A watch may wait for long; what the request brought must not wait with it.
    drop(fields);
    let watch = node.watch(Filter::below(prefix), start, limit.unwrap_or(REQUEST_LIMIT)).await?;
    if streams {
        let stream = EventStream::begin(watch, deadline, server_sent_events).await?;
        return Ok(Answer::stream(stream.into_pieces(), server_sent_events));
    }
    one(watch, deadline).await
}

/// Waits for one event. Where there is none in time, or the machine closes, the
/// answer says where to go on.
async fn one(mut watch: Watch, deadline: Option<Instant>) -> Result<Answer, Problem> {
    let event = match deadline {
        Some(deadline) => match tokio::time::timeout_at(deadline, watch.next()).await {
            Ok(event) => event,
            Err(_) => return Ok(nothing(&mut watch)),
        },
        None => watch.next().await,
    };
    match event {
        Ok(event) => Ok(Answer::json(json::event(&event)).with_event(Some(event.number))),
        Err(WatchError::Closing) => Ok(nothing(&mut watch)),
        Err(error) => Err(problem(error)),
    }
}

fn problem(error: WatchError) -> Problem {
    match error {
        WatchError::Gone { cursor, oldest } => Problem::Gone { cursor, oldest },
        WatchError::Closing => Problem::Unavailable(Unavailable::NoLeader),
        WatchError::Log(error) => {
            tracing::error!("a watch ends: {}", ErrorChain(&error));
            Problem::Unreadable
        }
    }
}

/// An answer that says where to go on: behind the last event seen, or from the
/// index asked for if the watch has not got there.
fn nothing(watch: &mut Watch) -> Answer {
    match watch.seen() {
        Seen::Upto(Position { event, index, .. }) => {
            Answer::nothing().with_event(Some(event)).with_index(index)
        }
        Seen::NothingBefore(index) => {
            Answer::nothing().with_index(Index(index.0.saturating_sub(1)))
        }
    }
}

struct EventStream {
    watch: Watch,
    deadline: Option<Instant>,
    server_sent_events: bool,
    /// An event that was found before the stream began.
    first: Option<Arc<Event>>,
}

impl EventStream {
    /// Begins a stream. What it begins with may be kept no longer, which has to be said
    /// before the body begins.
    async fn begin(
        mut watch: Watch,
        deadline: Option<Instant>,
        server_sent_events: bool,
    ) -> Result<Self, Problem> {
        let mut first = None;
        if watch.is_behind() {
            let until = deadline.into_iter().chain([Instant::now() + BEGINNING]).min();
            let until = until.expect("it is one of two");
            first = match tokio::time::timeout_at(until, watch.next()).await {
                Ok(Ok(event)) => Some(event),
                // The stream has its own way to end.
                Ok(Err(WatchError::Closing)) | Err(_) => None,
                Ok(Err(error)) => return Err(problem(error)),
            };
        }
        Ok(Self { watch, deadline, server_sent_events, first })
    }

    fn into_pieces(self) -> Pieces {
        Box::pin(stream::unfold(self, |mut stream| async move {
            let piece = stream.next().await?;
            Some((Ok(Frame::data(Bytes::from(piece))), stream))
        }))
    }

    /// Returns the next piece of the body; nothing, once the stream is over.
    async fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(first) = self.first.take() {
            return Some(self.write(&first));
        }
        let heartbeat = self.server_sent_events.then(|| Instant::now() + HEARTBEAT);
        let until = self.deadline.into_iter().chain(heartbeat).min();
        let event = match until {
            Some(until) => match tokio::time::timeout_at(until, self.watch.next()).await {
                Ok(event) => event,
                Err(_) if self.deadline.is_some_and(|deadline| deadline <= until) => return None,
                Err(_) => return Some(b":\n\n".to_vec()),
            },
            None => self.watch.next().await,
        };
        match event {
            Ok(event) => Some(self.write(&event)),
            // The body has begun: there is no place left to say why it ends.
            Err(WatchError::Closing | WatchError::Gone { .. }) => None,
            Err(error) => {
                tracing::error!("a stream ends: {}", ErrorChain(&error));
                None
            }
        }
    }

    fn write(&self, event: &Event) -> Vec<u8> {
        let line = json::streamed_event(event);
        if !self.server_sent_events {
            return [&line[..], b"\n"].concat();
        }
        let id = format!("id: {}\ndata: ", event.number.0);
        [id.as_bytes(), &line, b"\n\n"].concat()
    }
}

fn accepts_event_stream<B>(request: &Request<B>) -> bool {
    let accept = request.headers().get(header::ACCEPT);
    accept.is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"))
}

/// Returns where a server-sent event stream broke off, if the client says so.
fn last_event_id<B>(request: &Request<B>) -> Result<Option<EventNumber>, Problem> {
    let Some(id) = request.headers().get("last-event-id") else { return Ok(None) };
    let number = number(id.as_bytes()).ok_or(Bad::After)?;
    Ok(Some(EventNumber(number)))
}
