//! Answers: a status, a body, and the headers that say which state answered.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;

use bytes::Bytes;
use etcd_log::{EventNumber, Index, LogId, LogTime};
use etcd_projections::Position;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio_stream::Stream;

use super::same_origin::Reader;
use crate::node::Node;
use crate::state::published::Published;
use crate::util::printable::Printable;

/// A stream of pieces of a body.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, BrokenOff>> + Send>>;

/// A body breaks off before its end, and the connection with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer was not read in time, and is broken off")]
pub struct BrokenOff;

/// The body of an answer: of one piece, or of many.
pub type Body = Either<Full<Bytes>, StreamBody<Pieces>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Which methods a page of another origin may use, if it may use any.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE");

/// Which headers it may send, besides those that any may.
const FOR_REQUESTS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, last-event-id, x-request-id");

/// Which headers it may read.
const FOR_PAGES: HeaderValue = HeaderValue::from_static(
    "x-etcd-index, x-etcd-event, x-etcd-time, x-etcd-next, x-etcd-replayed, x-etcd-cluster-id, x-raft-index, x-raft-term, retry-after",
);

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const X_ETCD_INDEX: HeaderName = HeaderName::from_static("x-etcd-index");
const X_ETCD_EVENT: HeaderName = HeaderName::from_static("x-etcd-event");
const X_ETCD_TIME: HeaderName = HeaderName::from_static("x-etcd-time");
const X_ETCD_NEXT: HeaderName = HeaderName::from_static("x-etcd-next");
const X_ETCD_REPLAYED: HeaderName = HeaderName::from_static("x-etcd-replayed");
const X_ETCD_CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
const X_RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
const X_RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");

/// An answer, before the headers that all answers have.
pub struct Answer {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    body: Body,
    /// The event that it is about, or up to which a watch has seen.
    event: Option<EventNumber>,
    /// The index that it says, if not that of the state.
    index: Option<Index>,
    /// The state that it was read from, if not the newest: how far it had come, and the
    /// entry that led to it.
    read_at: Option<(Position, LogId)>,
    /// Where the listing goes on that it is a part of.
    next: Option<HeaderValue>,
    extra: Option<(HeaderName, HeaderValue)>,
    /// The page of another origin that may read it.
    reader: Option<Reader>,
    closes: bool,
}

impl Answer {
    fn new(status: StatusCode, content_type: Option<HeaderValue>, body: Body) -> Self {
        Self {
            status,
            content_type,
            body,
            event: None,
            index: None,
            read_at: None,
            next: None,
            extra: None,
            reader: None,
            closes: false,
        }
    }

    /// Makes an answer of one line of JSON. The newline at its end is added here.
    pub fn json(mut line: Vec<u8>) -> Self {
        line.push(b'\n');
        Self::new(StatusCode::OK, Some(JSON), Either::Left(Full::from(line)))
    }

    /// Makes an answer of one plain line. The newline at its end is added here.
    pub fn text(line: impl fmt::Display) -> Self {
        Self::line(StatusCode::OK, line)
    }

    /// Makes an answer that programs read as it is: nothing stands behind it, not
    /// even a newline.
    pub fn bare(text: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, Some(TEXT), Either::Left(Full::new(text.into())))
    }

    /// Keys, values and names of fields are any text; an error shows them, and is one
    /// line nevertheless.
    pub(super) fn line(status: StatusCode, line: impl fmt::Display) -> Self {
        let line = format!("{}\n", Printable(line));
        Self::new(status, Some(TEXT), Either::Left(Full::from(line)))
    }

    /// Makes an answer that says there was nothing, so far.
    pub fn nothing() -> Self {
        Self::new(StatusCode::NO_CONTENT, None, Either::Left(Full::default()))
    }

    /// Makes an answer of JSON that is whole as it stands.
    pub fn whole(body: Vec<u8>) -> Self {
        Self::new(StatusCode::OK, Some(JSON), Either::Left(Full::from(body)))
    }

    /// Makes an answer of JSON that comes in pieces.
    pub fn pieces(pieces: Pieces) -> Self {
        Self::new(StatusCode::OK, Some(JSON), Either::Right(StreamBody::new(pieces)))
    }

    /// Makes an answer that goes on until somebody ends it: lines of JSON, or
    /// server-sent events.
    pub fn stream(pieces: Pieces, server_sent_events: bool) -> Self {
        let content_type = if server_sent_events { EVENT_STREAM } else { JSON };
        let body = Either::Right(StreamBody::new(pieces));
        let extra = Some((header::CACHE_CONTROL, HeaderValue::from_static("no-cache")));
        Self { extra, ..Self::new(StatusCode::OK, Some(content_type), body) }
    }

    /// Adds which event the answer is about, or up to which a watch has seen.
    pub fn with_event(self, event: Option<EventNumber>) -> Self {
        Self { event, ..self }
    }

    /// Sets the index that the answer says: the one before where to go on.
    pub fn with_index(self, index: Index) -> Self {
        Self { index: Some(index), ..self }
    }

    /// Adds which state the answer was read from.
    pub fn read_from(self, state: &Published) -> Self {
        self.read_at(state.state.position(), state.applied)
    }

    /// Adds how far the state had come that it was read from, and the entry that led to it.
    pub fn read_at(self, position: Position, applied: Option<LogId>) -> Self {
        Self { read_at: Some((position, applied.unwrap_or_default())), ..self }
    }

    /// Adds where the listing goes on that it is a part of, in what may stand in a header.
    ///
    /// # Panics
    ///
    /// If it may not.
    pub fn with_next(self, next: Option<&str>) -> Self {
        let next = next.map(|next| HeaderValue::try_from(next).expect("it was encoded"));
        Self { next, ..self }
    }

    /// Says that it is the answer to a request that was made before.
    pub(in crate::api) fn replayed(self) -> Self {
        self.with(X_ETCD_REPLAYED, HeaderValue::from_static("true"))
    }

    /// Adds a header.
    pub(super) fn with(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { extra: Some((name, value)), ..self }
    }

    /// Makes an answer to a browser that asks what a page may ask for.
    pub(in crate::api) fn preflight() -> Self {
        Self::nothing().with(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS)
    }

    /// Adds which page of another origin may read the answer.
    pub(in crate::api) fn readable_by(self, reader: Option<Reader>) -> Self {
        Self { reader, ..self }
    }

    /// Ends the connection with the answer.
    pub fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    /// Adds the headers that say which state answered.
    pub fn into_response(self, node: &Node, cluster: &HeaderValue) -> Response<Body> {
        let (position, applied) = self.read_at.unwrap_or_else(|| {
            let now = node.now();
            (now.state.position(), now.applied.unwrap_or_default())
        });
        self.into_response_of(position, applied, cluster)
    }

    /// Adds the headers that say that this state has answered, and which entry led to it.
    pub fn into_response_of(
        self,
        position: Position,
        applied: LogId,
        cluster: &HeaderValue,
    ) -> Response<Body> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        // A value is nobody's page, and not for the pages of others.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
        if let Some(content_type) = self.content_type {
            headers.insert(header::CONTENT_TYPE, content_type);
        }
        let index = self.index.unwrap_or(position.index);
        headers.insert(X_ETCD_INDEX, HeaderValue::from(index.0));
        headers.insert(X_ETCD_TIME, written(position.time));
        headers.insert(X_RAFT_INDEX, HeaderValue::from(applied.index.0));
        headers.insert(X_RAFT_TERM, HeaderValue::from(applied.term.0));
        headers.insert(X_ETCD_CLUSTER_ID, cluster.clone());
        if let Some(event) = self.event {
            headers.insert(X_ETCD_EVENT, HeaderValue::from(event.0));
        }
        if let Some(next) = self.next {
            headers.insert(X_ETCD_NEXT, next);
        }
        if let Some((name, value)) = self.extra {
            headers.insert(name, value);
        }
        if let Some(reader) = self.reader {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, *reader);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, FOR_REQUESTS);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, FOR_PAGES);
            headers.insert(header::VARY, HeaderValue::from_static("origin"));
        }
        if self.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Writes a logged time. Most answers say the same one as the answer before.
fn written(time: LogTime) -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(LogTime, HeaderValue)> =
            const { RefCell::new((LogTime(0), HeaderValue::from_static("1970-01-01T00:00:00.000000000Z"))) };
    }
    LAST.with_borrow_mut(|last| {
        if last.0 != time {
            let text = HeaderValue::try_from(time.to_string());
            *last = (time, text.expect("a time is of digits and a few signs"));
        }
        last.1.clone()
    })
}
