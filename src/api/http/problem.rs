//! Problems: every status but 200 and 204, and the one line that it comes with.

use std::sync::Arc;

use etcd_log::Index;
use etcd_projections::Rejection;
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};

use super::answer::Answer;
use super::bad::Bad;
use super::head::Refusal;
use crate::node::{Cursor, Moment, Node, PastError, Unavailable, WriteError};

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
    /// A web page of another origin wants to write.
    CrossSite,
    /// The port may not be called so.
    Host(String),
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
            Self::Method(allowed) => {
                Answer::line(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
                    .with(header::ALLOW, HeaderValue::from_static(allowed))
            }
            Self::Bad(bad) => Answer::line(StatusCode::BAD_REQUEST, bad),
            Self::Rejected(rejection) => rejected(&rejection),
            Self::Refused(refusal) => refused(refusal).closing(),
            Self::CrossSite => Answer::line(StatusCode::FORBIDDEN, "Cross-Site Request Refused"),
            Self::Host(host) => Answer::line(
                StatusCode::FORBIDDEN,
                format_args!("Host Not Allowed: {host}: Name It With --allowed-hosts"),
            ),
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
        PastError::NoStore => unavailable("This Machine Stores No Events"),
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
        PastError::Refused(rejection) => rejected(&rejection),
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
            Self::Late => "The Past Took Too Long: Give It More Time With timeout=",
        }
    }
}

fn unavailable(which: &str) -> Answer {
    Answer::line(StatusCode::SERVICE_UNAVAILABLE, which)
        .with(header::RETRY_AFTER, HeaderValue::from_static("1"))
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
        Rejection::Repeated(first) => {
            let index = first.index.0;
            Answer::line(
                StatusCode::CONFLICT,
                format_args!("It Was Refused Before, By {index}; Why Is No Longer Kept"),
            )
        }
        Rejection::RequestForgotten => Problem::Unknown.into_answer(),
        Rejection::RequestIdUsed => {
            Answer::line(StatusCode::CONFLICT, "Request Id Was Used For Another Command")
        }
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
