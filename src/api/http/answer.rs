//! Answers: every status and every error text of the API.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use etcd_log::{EventNumber, Index, KeyPath, LogId, LogTime};
use etcd_projections::{Position, Rejection};
use http_body_util::{Either, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio_stream::Stream;

use super::head::Refusal;
use crate::node::{Cursor, Moment, Node, PastError, Unavailable, WriteError};
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

const X_ETCD_INDEX: HeaderName = HeaderName::from_static("x-etcd-index");
const X_ETCD_EVENT: HeaderName = HeaderName::from_static("x-etcd-event");
const X_ETCD_TIME: HeaderName = HeaderName::from_static("x-etcd-time");
const X_ETCD_NEXT: HeaderName = HeaderName::from_static("x-etcd-next");
const X_ETCD_CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
const X_RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
const X_RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");

/// How much of a name that is not known is shown, in characters.
const FIELD_NAME_CHARS: usize = 64;

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
    fn line(status: StatusCode, line: impl fmt::Display) -> Self {
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

/// Why a request is not answered with what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is no such key, or no such path.
    NotFound,
    /// The method does not go with the path; these do.
    Method(&'static str),
    /// Something in the request is not as it must be.
    Bad(Bad),
    /// A command was refused.
    Rejected(Rejection),
    /// The request is refused for its form.
    Refused(Refusal),
    /// All places for clients are taken.
    NoPlace,
    /// The body is over the limit.
    TooLarge,
    /// The body did not come in time.
    Slow,
    /// Nobody could answer within the limit.
    Unavailable(Unavailable),
    /// The same; and which machines are missing, by name.
    Missing(Unavailable, Vec<Arc<str>>),
    /// The machine has not got its vote yet.
    NoVote,
    /// The disk is short of room.
    DiskFull,
    /// Not all machines can read such a command yet: who is in the way, in words.
    UpgradeNotFinished(Arc<str>),
    /// The past cannot be told: what was asked for, and why not.
    Past(&'static str, PastError),
    /// The write may or may not have happened.
    Unknown,
    /// A watch asks for what is no longer kept.
    Gone {
        /// What it asks for.
        cursor: Cursor,
        /// The oldest index that is kept.
        oldest: Index,
    },
    /// The log cannot be read.
    Unreadable,
    /// A machine may not be removed: in words.
    Member(String),
}

/// What can be wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bad {
    /// A set without a value, or with an empty one.
    SetValue,
    /// A testAndSet without a value, or with an empty one.
    TestAndSetValue,
    /// A testAndSet without a previous value.
    PrevValue,
    /// A delete that tests for no value.
    DeletePrevValue,
    /// A condition that is none: something else than `prevExist=false`.
    PrevExist,
    /// A moment that is neither an index nor a time: the field, and what stands in it.
    Moment(&'static str, String),
    /// A field that has to be there: what needs it, and its name.
    Missing(&'static str, &'static str),
    /// A condition of a restore that is no index.
    IfIndex,
    /// A restore whose keys are to live in no way that there is.
    LivesOn,
    /// Two fields that exclude each other: which.
    Exclusive(&'static str),
    /// A time to live that is no whole number of seconds from 1.
    Ttl,
    /// An index that is no number.
    Index,
    /// A least index that is no number.
    MinIndex,
    /// An event number that is no number.
    After,
    /// A time limit that is no number of seconds.
    Timeout,
    /// A flag that is neither true nor false.
    Flag(&'static str),
    /// A kind of events that there is not: its name.
    Action(String),
    /// A number of lines that is none, or not a number.
    Lines,
    /// Where a listing is to begin, and cannot.
    Start,
    /// A stream of a part of a subtree.
    PartOfStream,
    /// A field that a write does not know: its name, as the client wrote it.
    UnknownField(String),
    /// A key that is not UTF-8.
    KeyText,
    /// A key that is too long or too deep.
    KeySize,
    /// A value that is not UTF-8.
    ValueText,
    /// A body that broke off.
    Body,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetValue => f.write_str("Set: Value Required"),
            Self::TestAndSetValue => f.write_str("TestAndSet: Value Required"),
            Self::PrevValue => f.write_str("TestAndSet: PrevValue Required"),
            Self::DeletePrevValue => f.write_str("Delete: PrevValue Required"),
            Self::PrevExist => f.write_str("Set: PrevExist Must Be false"),
            Self::Moment(field, text) => {
                write!(f, "{field}: ")?;
                unknown(f, "Neither An Index Nor A Time", text)
            }
            Self::Missing(what, field) => write!(f, "{what}: {field} Required"),
            Self::IfIndex => f.write_str("if_index: Valid Index Required"),
            Self::LivesOn => f.write_str("Restore: TTL Must Be rest, keep Or drop"),
            Self::Exclusive(both) => write!(f, "{both} Exclude Each Other"),
            Self::Ttl => f.write_str("Set: TTL Must Be A Whole Number Of Seconds, 1 Or More"),
            Self::Index => f.write_str("Watch From Index: Valid Index Required"),
            Self::MinIndex => f.write_str("min_index: Valid Index Required"),
            Self::After => f.write_str("Watch After Event: Valid Event Number Required"),
            Self::Timeout => f.write_str("Timeout Must Be A Number Of Seconds"),
            Self::Flag(name) => write!(f, "{name} Must Be true Or false"),
            Self::Action(name) => unknown(f, "Action: Unknown Action", name),
            Self::Lines => f.write_str("Limit Must Be A Whole Number, 1 Or More"),
            Self::Start => f.write_str("Start Must Be A Key Below The Directory"),
            Self::PartOfStream => f.write_str("Stream Goes Without Limit And Start"),
            Self::UnknownField(name) => unknown(f, "Unknown Field", name),
            Self::KeyText => f.write_str("Key Must Be UTF-8"),
            Self::KeySize => write!(
                f,
                "Key Must Be Of At Most {} Bytes And {} Parts",
                KeyPath::MAX_BYTES,
                KeyPath::MAX_PARTS
            ),
            Self::ValueText => f.write_str("Value Must Be UTF-8"),
            Self::Body => f.write_str("Body Incomplete"),
        }
    }
}

/// Writes that a name is not known. Whoever sends no form at all sends one field
/// with a very long name: its beginning is enough to see what happened.
fn unknown(f: &mut fmt::Formatter<'_>, what: &str, name: &str) -> fmt::Result {
    let end = name.char_indices().nth(FIELD_NAME_CHARS).map_or(name.len(), |(at, _)| at);
    let rest = if end < name.len() { "..." } else { "" };
    let name = if name.is_empty() { "(No Name)" } else { &name[..end] };
    write!(f, "{what}: {name}{rest}")
}

impl Problem {
    /// Adds which machines are missing, where that is why.
    pub fn explained(self, node: &Node) -> Self {
        match self {
            Self::Unavailable(which @ (Unavailable::NoLeader | Unavailable::NoMajority)) => {
                match node.missing() {
                    names if names.is_empty() => self,
                    names => Self::Missing(which, names),
                }
            }
            other => other,
        }
    }

    /// Returns the answer to a problem: its status, and its one line.
    pub fn into_answer(self) -> Answer {
        match self {
            Self::NotFound => Answer::line(StatusCode::NOT_FOUND, "404 page not found"),
            Self::Method(allowed) => Answer {
                extra: Some((header::ALLOW, HeaderValue::from_static(allowed))),
                ..Answer::line(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
            },
            Self::Bad(bad) => Answer::line(StatusCode::BAD_REQUEST, bad),
            Self::Rejected(rejection) => rejected(&rejection),
            Self::Refused(refusal) => refused(refusal).closing(),
            Self::NoPlace => unavailable("Too Many Connections").closing(),
            Self::TooLarge => {
                Answer::line(StatusCode::PAYLOAD_TOO_LARGE, "Body Must Be Of At Most 1 MiB")
                    .closing()
            }
            Self::Slow => {
                Answer::line(StatusCode::REQUEST_TIMEOUT, "Body Did Not Come In Time").closing()
            }
            Self::Unavailable(which) => unavailable(which.text()),
            Self::Missing(which, names) => {
                let verb = if names.len() == 1 { "Does" } else { "Do" };
                let (which, names) = (which.text(), names.join(", "));
                unavailable(&format!("{which}: {names} {verb} Not Answer"))
            }
            Self::NoVote => unavailable("This Machine Has No Vote Yet"),
            Self::DiskFull => Answer::line(
                StatusCode::INSUFFICIENT_STORAGE,
                "Disk Nearly Full: Writes Are Refused Until There Is Room",
            ),
            Self::Past(asked, error) => past(asked, error),
            Self::UpgradeNotFinished(why) => {
                Answer::line(StatusCode::CONFLICT, format_args!("Upgrade Not Finished: {why}"))
            }
            Self::Unknown => Answer::line(
                StatusCode::GATEWAY_TIMEOUT,
                "Outcome Unknown: The Write May Or May Not Have Happened",
            ),
            Self::Gone { cursor, oldest } => Answer::line(StatusCode::GONE, gone(cursor, oldest)),
            Self::Member(why) => Answer::line(StatusCode::CONFLICT, why),
            Self::Unreadable => {
                Answer::line(StatusCode::INTERNAL_SERVER_ERROR, "The Log Cannot Be Read")
            }
        }
    }
}

fn refused(refusal: Refusal) -> Answer {
    let bad = StatusCode::BAD_REQUEST;
    match refusal {
        Refusal::Malformed => Answer::line(bad, "Malformed Request"),
        Refusal::Host => Answer::line(bad, "One Host Required"),
        Refusal::BareLineFeed => Answer::line(bad, "Lines Of The Head Must End With CR LF"),
        Refusal::Length => Answer::line(bad, "Content-Length Must Be One Number"),
        Refusal::Coding => Answer::line(bad, "Transfer-Encoding Must Be chunked, In HTTP/1.1"),
        Refusal::LengthAndCoding => {
            Answer::line(bad, "Content-Length And Transfer-Encoding Exclude Each Other")
        }
        Refusal::Version => Answer::line(
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            "HTTP Version Not Supported: Use HTTP/1.1",
        ),
        Refusal::TooLarge => Answer::line(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "Head Must Be Of At Most 16 KiB And 100 Fields",
        ),
        Refusal::Slow => Answer::line(StatusCode::REQUEST_TIMEOUT, "Head Did Not Come In Time"),
    }
}

/// Says that what a watch asks for is no longer kept, and where to go on.
pub(in crate::api) fn gone(cursor: Cursor, oldest: Index) -> String {
    let (from, wanted) = match cursor {
        Cursor::Index(index) => ("From Index", index.0),
        Cursor::Number(number) => ("From Event", number.0),
    };
    format!("Watch {from}: {wanted} Is No Longer Kept; The Oldest Is {}", oldest.0)
}

/// Says why the past cannot be told, to who asked for it by this name.
fn past(asked: &str, error: PastError) -> Answer {
    let bad = StatusCode::BAD_REQUEST;
    match error {
        PastError::NotReached { moment: moment @ Moment::Index(_), newest } => Answer::line(
            bad,
            format_args!("{asked}: {moment} Is Not Reached; The Newest Is {}", newest.index.0),
        ),
        PastError::NotReached { moment, newest } => Answer::line(
            bad,
            format_args!("{asked}: {moment} Is Not Reached; The Newest Is {}", newest.time),
        ),
        PastError::Gone { moment, oldest } => Answer::line(
            StatusCode::GONE,
            format_args!("{asked}: {moment} Is No Longer Kept; The Oldest Is {}", oldest.0),
        ),
        PastError::NotStored { .. } => unavailable("The Past Is Being Read From The Log"),
        PastError::Backwards { from, to } => {
            Answer::line(bad, format_args!("From {from} Is After To {to}"))
        }
        PastError::TooMuch { most } => Answer::line(
            bad,
            format_args!("{asked}: More Than {} MiB Changed; Ask For Less", most >> 20),
        ),
        PastError::TooLarge { what, found, most } => Answer::line(
            bad,
            format_args!("{asked}: {found} {what} Are More Than One Batch May Have: {most}"),
        ),
        PastError::Changed { key, index } => Answer::line(
            StatusCode::CONFLICT,
            format_args!("{asked}: {key} Was Changed By {}", index.0),
        ),
        PastError::Unavailable(which) => Problem::Unavailable(which).into_answer(),
        PastError::Write(error) => Problem::from(error).into_answer(),
    }
}

impl Unavailable {
    fn text(self) -> &'static str {
        match self {
            Self::NoLeader => "No Leader",
            Self::NoMajority => "No Majority",
            Self::NotReached => "Index Not Reached",
            Self::Busy => "Too Many Large Answers",
        }
    }
}

fn unavailable(which: &str) -> Answer {
    Answer {
        extra: Some((header::RETRY_AFTER, HeaderValue::from_static("1"))),
        ..Answer::line(StatusCode::SERVICE_UNAVAILABLE, which)
    }
}

fn rejected(rejection: &Rejection) -> Answer {
    let bad = StatusCode::BAD_REQUEST;
    match rejection {
        Rejection::KeyNotFound => Problem::NotFound.into_answer(),
        Rejection::TestFailed { found, expected } => {
            Answer::line(bad, format_args!("Test {found}=={expected} fails"))
        }
        Rejection::NotAFile(key) => Answer::line(bad, format_args!("Not A File: {key}")),
        Rejection::NotADirectory(key) => Answer::line(bad, format_args!("Not A Directory: {key}")),
        Rejection::NotEmpty(key) => Answer::line(bad, format_args!("Not Empty: {key}")),
        Rejection::KeyExists(key) => Answer::line(bad, format_args!("Key Already Exists: {key}")),
        Rejection::Overtaken { base } => Answer::line(
            StatusCode::CONFLICT,
            format_args!("Overtaken: Another Command Came Behind {}", base.0),
        ),
        Rejection::NothingToDo => Answer::line(StatusCode::CONFLICT, "Nothing To Do"),
        Rejection::Reserved(key) => {
            Answer::line(StatusCode::FORBIDDEN, format_args!("Reserved For The System: {key}"))
        }
        Rejection::InvalidMachine(name) => {
            Answer::line(bad, format_args!("Invalid Machine: {name}"))
        }
    }
}

impl From<Bad> for Problem {
    fn from(bad: Bad) -> Self {
        Self::Bad(bad)
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<Unavailable> for Problem {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable)
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Unavailable(unavailable) => Self::Unavailable(unavailable),
            WriteError::DiskFull => Self::DiskFull,
            WriteError::UpgradeNotFinished(why) => Self::UpgradeNotFinished(why),
            WriteError::Unknown => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_field_is_cut_between_characters() {
        let text = |name: String| Bad::UnknownField(name).to_string();
        assert_eq!(text(String::new()), "Unknown Field: (No Name)");
        assert_eq!(text("ä".repeat(64)), format!("Unknown Field: {}", "ä".repeat(64)));
        assert_eq!(text("ä".repeat(65)), format!("Unknown Field: {}...", "ä".repeat(64)));
    }
}
