//! `/v1/keys`, `/v1/testAndSet`, `/v1/list`: reading and writing keys.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{Command, KeyPath, RequestId, TestAndSet};
use etcd_projections::{Came, Event, FirstAnswer, Outcome, Rejection, TreeNode, What, is_reserved};
use hyper::Request;
use hyper::body::Incoming;

use super::listing::{Kind, Listing, Part};
use super::subtree::subtree;
use super::{json, past};
use crate::api::http::answer::Answer;
use crate::api::http::bad::Bad;
use crate::api::http::problem::Problem;
use crate::api::http::request::{self, Fields, REQUEST_LIMIT};
use crate::node::Node;
use crate::state::published::Published;

/// The fields that a set knows, with or without a test.
const SET: [&str; 5] = ["value", "prevValue", "prevExist", "ttl", "timeout"];

/// The fields that a testAndSet knows.
const TEST_AND_SET: [&str; 4] = ["value", "prevValue", "ttl", "timeout"];

/// The fields that a delete knows.
const DELETE: [&str; 3] = ["prevValue", "dir", "timeout"];

/// Answers with what a key holds, or with the children of a directory.
pub(super) async fn get<B>(
    node: &Node,
    key: KeyPath,
    request: &Request<B>,
) -> Result<Answer, Problem> {
    let fields = Fields::of_query(request);
    if fields.recursive()? {
        return Box::pin(subtree(node, key, request, &fields)).await;
    }
    if let Some(at) = fields.moment("at", "At")? {
        return Box::pin(past::get(node, key, at, request, &fields, Kind::Children)).await;
    }
    let part = Part::of(&fields, false)?;
    let (now, limit) = read(node, &fields).await?;
    let answer = match now.state.tree().get(&key) {
        None => Problem::NotFound.into_answer(),
        Some(file @ TreeNode::File { .. }) => {
            let (index, time) = (now.state.position().index, node.time(&now));
            Answer::json(json::node(&key, file, index, time))
        }
        Some(TreeNode::Directory) => {
            let brief = node.brief_view(&now);
            drop(now);
            let listing = Listing { key, kind: Kind::Children, part };
            return Box::pin(listing.answer(node, brief, request, limit)).await;
        }
    };
    Ok(answer.read_from(&now))
}

/// Answers with the children of a directory, by name.
pub(super) async fn list<B>(
    node: &Node,
    key: KeyPath,
    request: &Request<B>,
) -> Result<Answer, Problem> {
    let fields = Fields::of_query(request);
    if let Some(at) = fields.moment("at", "At")? {
        return Box::pin(past::get(node, key, at, request, &fields, Kind::Names)).await;
    }
    let part = Part::of(&fields, false)?;
    let (now, limit) = read(node, &fields).await?;
    let problem = match now.state.tree().get(&key) {
        None => Problem::NotFound,
        Some(TreeNode::File { .. }) => Rejection::NotADirectory(key).into(),
        Some(TreeNode::Directory) => {
            let brief = node.brief_view(&now);
            drop(now);
            let listing = Listing { key, kind: Kind::Names, part };
            return Box::pin(listing.answer(node, brief, request, limit)).await;
        }
    };
    Ok(problem.into_answer().read_from(&now))
}

/// Sets a key; with a previous value, or without any to be, tests that first.
pub(super) async fn set(
    node: &Node,
    key: KeyPath,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let (fields, id) = fields_of_write(&key, request, &SET).await?;
    let value = fields.value()?.ok_or(Bad::SetValue)?;
    let ttl = fields.ttl()?;
    let command = match (fields.prev_value(Bad::PrevValue)?, fields.creates()?) {
        (Some(_), true) => return Err(Bad::Exclusive("Set: PrevValue And PrevExist").into()),
        (Some(prev_value), false) => {
            Command::TestAndSet(TestAndSet { key, prev_value, value, ttl })
        }
        (None, true) => Command::Create { key, value, ttl },
        (None, false) => Command::Set { key, value, ttl },
    };
    propose(node, command, id, &fields).await
}

/// Sets a key if it holds a given value.
pub(super) async fn test_and_set(
    node: &Node,
    key: KeyPath,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let (fields, id) = fields_of_write(&key, request, &TEST_AND_SET).await?;
    let prev_value = fields.prev_value(Bad::PrevValue)?.ok_or(Bad::PrevValue)?;
    let value = fields.value()?.ok_or(Bad::TestAndSetValue)?;
    let ttl = fields.ttl()?;
    let command = Command::TestAndSet(TestAndSet { key, prev_value, value, ttl });
    propose(node, command, id, &fields).await
}

/// Deletes a key; with a previous value, tests it first. Or a directory that holds nothing.
pub(super) async fn delete(
    node: &Node,
    key: KeyPath,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let (fields, id) = fields_of_write(&key, request, &DELETE).await?;
    let command = match (fields.prev_value(Bad::DeletePrevValue)?, fields.dir()?) {
        (Some(_), true) => return Err(Bad::Exclusive("Delete: PrevValue And Dir").into()),
        (Some(prev_value), false) => Command::TestAndDelete { key, prev_value },
        (None, true) => Command::DeleteDir { key },
        (None, false) => Command::Delete { key },
    };
    propose(node, command, id, &fields).await
}

/// Gets a state that is as fresh as the request wants it, and how long that may take.
async fn read(node: &Node, fields: &Fields) -> Result<(Arc<Published>, Duration), Problem> {
    let limit = fields.limit()?.unwrap_or(REQUEST_LIMIT);
    Ok((node.read(fields.freshness()?, limit).await?, limit))
}

/// Reads what a request for writing says, and under which id, and refuses what no client may
/// write.
/// A field that is not known is refused too: it may be a condition that would not
/// have been tested, or the rest of a value with a `&` in it.
async fn fields_of_write(
    key: &KeyPath,
    request: Request<Incoming>,
    known: &[&str],
) -> Result<(Fields, Option<RequestId>), Problem> {
    let id = request::request_id(&request)?;
    let fields = Fields::of_request(request).await?;
    fields.allow_only(known)?;
    if is_reserved(key) {
        return Err(Rejection::Reserved(key.clone()).into());
    }
    if key.is_root() {
        return Err(Rejection::NotAFile(key.clone()).into());
    }
    Ok((fields, id))
}

/// Writes something, once if it has an id.
async fn propose(
    node: &Node,
    command: Command,
    id: Option<RequestId>,
    fields: &Fields,
) -> Result<Answer, Problem> {
    let limit = fields.limit()?.unwrap_or(REQUEST_LIMIT);
    let command = match id {
        Some(id) => node.once(id, command),
        None => command,
    };
    let Outcome { what, .. } = node.propose(command, limit).await?;
    match what {
        What::Event(event) => Ok(happened(&event)),
        What::Rejection(Rejection::Repeated(first)) => {
            Box::pin(again(node, first, limit)).await.map(Answer::replayed)
        }
        What::Rejection(rejection) => Err(rejection.into()),
        What::Tick => unreachable!("a command makes an event, or is refused"),
    }
}

/// Answers as it was answered when it was asked for first.
async fn again(node: &Node, first: Arc<FirstAnswer>, limit: Duration) -> Result<Answer, Problem> {
    match &first.came {
        Came::Event(event) => Ok(happened(event)),
        Came::Refused(rejection) => Ok(Problem::from(rejection.clone()).into_answer()),
        Came::LetGo => {
            let event = node.event_of(first.index, limit).await;
            let event = event.map_err(|error| Problem::Past("Request", error))?;
            let refused = || Problem::from(Rejection::Repeated(first)).into_answer();
            Ok(event.map_or_else(refused, |event| happened(&event)))
        }
    }
}

fn happened(event: &Event) -> Answer {
    Answer::json(json::event(event)).with_event(Some(event.number))
}
