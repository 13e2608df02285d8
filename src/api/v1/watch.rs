//! `/v1/watch`: one event, or a stream of them.
//!
//! A stream's body is pulled by the connection: the next event is looked for
//! when the client has taken the one before. So a slow client costs its own
//! connection, and nothing else.
//!
//! HEAD asks what GET would say at once: who wants no event need not wait for one.
//! Where there is none yet, the answer says from where on a watch would see one.

use std::time::Duration;

use etcd_log::{EventNumber, Index, KeyPath};
use etcd_projections::Position;
use hyper::body::Incoming;
use hyper::{Method, Request};
use tokio::time::Instant;

use super::stream::{EventStream, Form};
use super::{Reply, json};
use crate::api::http::answer::Answer;
use crate::api::http::bad::Bad;
use crate::api::http::head::number;
use crate::api::http::problem::Problem;
use crate::api::http::request::{Fields, REQUEST_LIMIT};
use crate::node::{Node, Seen, Start, Unavailable, Watch, WatchError};
use crate::state::filter::Filter;
use crate::util::error_chain::ErrorChain;

/// Answers with the next event at a prefix or below it, or with all of them.
pub(super) async fn watch(
    node: &Node,
    prefix: KeyPath,
    request: Request<Incoming>,
) -> Result<Reply, Problem> {
    let waits = request.method() != Method::HEAD;
    let server_sent_events = Form::is_asked_for_by(&request);
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
    let form = form(&fields, server_sent_events)?;
    let filter = filter(&fields, prefix)?;
    let mut watch = node.watch(filter, start, limit.unwrap_or(REQUEST_LIMIT)).await?;
    if streams {
        let stream = EventStream::begin(watch, deadline, form).await?;
        return Ok(Reply::Answer(Answer::stream(stream.into_pieces(), server_sent_events)));
    }
    Ok(Reply::Later(Box::pin(async move { one(&mut watch, deadline).await })))
}

/// Waits for one event. Where there is none in time, or the machine closes, the
/// answer says where to go on.
async fn one(watch: &mut Watch, deadline: Option<Instant>) -> Result<Answer, Problem> {
    let event = match deadline {
        Some(deadline) => match tokio::time::timeout_at(deadline, watch.next()).await {
            Ok(event) => event,
            Err(_) => return Ok(nothing(watch)),
        },
        None => watch.next().await,
    };
    match event {
        Ok(event) => Ok(Answer::json(json::event(&event)).with_event(Some(event.number))),
        Err(WatchError::Closing) => Ok(nothing(watch)),
        Err(error) => Err(problem(error)),
    }
}

/// Returns how a watch ends that has said nothing yet.
pub(super) fn problem(error: WatchError) -> Problem {
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

/// Reads which events a request wants.
pub(super) fn filter(fields: &Fields, prefix: KeyPath) -> Result<Filter, Problem> {
    Ok(Filter { prefix, children: fields.children()?, actions: fields.actions()? })
}

/// Reads how a stream is to be written.
pub(super) fn form(fields: &Fields, server_sent_events: bool) -> Result<Form, Problem> {
    let bookmarks = fields.bookmarks()?;
    Ok(if server_sent_events { Form::ServerSentEvents } else { Form::Lines { bookmarks } })
}

/// Returns where a server-sent event stream broke off, if the client says so.
pub(super) fn last_event_id<B>(request: &Request<B>) -> Result<Option<EventNumber>, Problem> {
    let Some(id) = request.headers().get("last-event-id") else { return Ok(None) };
    let number = number(id.as_bytes()).ok_or(Bad::After)?;
    Ok(Some(EventNumber(number)))
}
