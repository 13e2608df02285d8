//! `/v1/keys/dir/?recursive=true`: all files below a directory, and what happens to them.
//!
//! ```text
//! the state at event 39, a line a file │ STATE, event 39 │ event 40, 41, …
//! ```
//!
//! With `stream=true` a client that folds the lines has the state at any later moment:
//! nothing lies between the listing and the events, and nothing is in both. The events
//! are those of a watch from there on, with its filters. A directory that is not there
//! yet can be waited for: it has no lines.
//!
//! A stream of server-sent events has its first id with STATE. A client that comes back
//! with one, or says `after=`, has the state, and gets what happened since.

use std::time::Duration;

use bytes::Bytes;
use etcd_log::KeyPath;
use futures_util::{StreamExt as _, stream};
use hyper::body::Frame;
use hyper::{Method, Request};
use tokio::time::Instant;

use super::listing::{Kind, Listing, Part};
use super::stream::{EventStream, Form};
use super::watch::{filter, form, last_event_id};
use super::{json, past};
use crate::api::http::answer::{Answer, Pieces};
use crate::api::http::bad::Bad;
use crate::api::http::door::Talk;
use crate::api::http::problem::Problem;
use crate::api::http::request::{Fields, REQUEST_LIMIT};
use crate::node::{Node, Start, View};
use crate::state::filter::Filter;

/// Answers with all files below a directory; with what happens to them from then on, if
/// the request wants a stream.
pub(super) async fn subtree<B>(
    node: &Node,
    key: KeyPath,
    request: &Request<B>,
    fields: &Fields,
) -> Result<Answer, Problem> {
    let form = form(fields, Form::is_asked_for_by(request))?;
    let filter = filter(fields, key.clone())?;
    let (time, part) = (fields.limit()?, Part::of(fields, true)?);
    let kind = Kind::Subtree { children: filter.children, form };
    let listing = Listing { key, kind, part };
    if let Some(at) = fields.moment("at", "At")? {
        if form == Form::ServerSentEvents || fields.stream()? {
            return Err(Bad::Exclusive("At And Stream").into());
        }
        return past::get(node, listing.key, at, request, fields, kind).await;
    }
    if form == Form::ServerSentEvents || fields.stream()? {
        return follow(node, listing, filter, form, request, fields).await;
    }
    let limit = time.unwrap_or(REQUEST_LIMIT);
    let now = node.read(fields.freshness()?, limit).await?;
    if now.state.tree().get(&listing.key).is_none() {
        return Ok(Problem::NotFound.into_answer().read_from(&now));
    }
    let brief = node.brief_view(&now);
    drop(now);
    listing.answer(node, brief, request, limit).await
}

/// Answers with a listing, and with what happens from then on.
async fn follow<B>(
    node: &Node,
    listing: Listing,
    filter: Filter,
    form: Form,
    request: &Request<B>,
    fields: &Fields,
) -> Result<Answer, Problem> {
    if !listing.part.is_all() {
        return Err(Bad::PartOfStream.into());
    }
    let limit = fields.limit()?;
    let waits = request.method() != Method::HEAD;
    let deadline = if waits { limit } else { Some(Duration::ZERO) };
    let deadline = deadline.map(|limit| Instant::now() + limit);
    let limit = limit.unwrap_or(REQUEST_LIMIT);
    let is_sse = form == Form::ServerSentEvents;
    if let Some(number) = last_event_id(request)?.or(fields.after()?) {
        let watch = node.watch(filter, Start::After(number), limit).await?;
        let events = EventStream::begin(watch, deadline, form).await?;
        return Ok(Answer::stream(events.into_pieces(), is_sse));
    }
    let now = node.read(fields.freshness()?, limit).await?;
    let brief = node.brief_view(&now);
    drop(now);
    let stands = |view: &View| (view.position, view.applied);
    let ((position, applied), lines) = if let Some((lines, _)) = listing.short(&brief) {
        (stands(&brief), once(lines))
    } else {
        drop(brief);
        let view = node.lasting_view(limit).await?;
        (stands(&view), listing.clone().pieces(view, Talk::of(request)))
    };
    let watch = node.watch(filter, Start::After(position.event), limit).await?;
    let state = form.line_at(position.event, &json::state(&listing.key, position));
    let events = EventStream::new(watch, deadline, form).into_pieces();
    let pieces = lines.chain(once(state)).chain(events);
    let answer = Answer::stream(Box::pin(pieces), is_sse);
    Ok(answer.read_at(position, applied).with_event(Some(position.event)))
}

fn once(piece: Vec<u8>) -> Pieces {
    Box::pin(stream::once(async { Ok(Frame::data(Bytes::from(piece))) }))
}
