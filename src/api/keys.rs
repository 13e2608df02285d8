//! `/v1/keys`, `/v1/testAndSet`, `/v1/list`: reading and writing keys.

use std::sync::Arc;

use etcd_log::{Command, KeyPath, TestAndSet};
use etcd_projections::{Node as TreeNode, Outcome, Rejection, What, is_reserved};
use hyper::Request;
use hyper::body::Incoming;

use super::answer::{Answer, Bad, Problem};
use super::json;
use super::request::{self, Fields, REQUEST_LIMIT};
use crate::node::Node;
use crate::published::Published;

/// Answers with what a key holds, or with the children of a directory.
pub(super) async fn get<B>(
    node: &Node,
    path: &str,
    request: &Request<B>,
) -> Result<Answer, Problem> {
    let (key, now) = read(node, path, request).await?;
    let (tree, index) = (now.state.tree(), now.state.position().index);
    let time = node.time(&now);
    match tree.get(&key).ok_or(Problem::NotFound)? {
        file @ TreeNode::File { .. } => Ok(Answer::json(json::node(&key, file, index, time))),
        TreeNode::Directory => {
            let children =
                tree.children(&key).map(|(key, node)| json::node(key, node, index, time));
            let array = join(b"[", children, b",", b"]");
            Ok(Answer::json(array))
        }
    }
}

/// Answers with the children of a directory, by name.
pub(super) async fn list<B>(
    node: &Node,
    path: &str,
    request: &Request<B>,
) -> Result<Answer, Problem> {
    let (directory, now) = read(node, path, request).await?;
    let tree = now.state.tree();
    match tree.get(&directory).ok_or(Problem::NotFound)? {
        TreeNode::File { .. } => Err(Rejection::NotADirectory(directory).into()),
        TreeNode::Directory => {
            let children = tree.children(&directory);
            let children = children.map(|(key, node)| json::child(key.name(), node));
            Ok(Answer::json(join(b"", children, b" ", b"")))
        }
    }
}

/// Sets a key; with a previous value, tests it first.
pub(super) async fn set(
    node: &Node,
    path: &str,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let (key, fields) = write(path, request).await?;
    let value = fields.value()?.ok_or(Bad::SetValue)?;
    let ttl = fields.ttl()?;
    let command = match fields.prev_value()? {
        Some(prev_value) => Command::TestAndSet(TestAndSet { key, prev_value, value, ttl }),
        None => Command::Set { key, value, ttl },
    };
    propose(node, command, &fields).await
}

/// Sets a key if it holds a given value.
pub(super) async fn test_and_set(
    node: &Node,
    path: &str,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let (key, fields) = write(path, request).await?;
    let prev_value = fields.prev_value()?.ok_or(Bad::PrevValue)?;
    let value = fields.value()?.ok_or(Bad::TestAndSetValue)?;
    let ttl = fields.ttl()?;
    propose(node, Command::TestAndSet(TestAndSet { key, prev_value, value, ttl }), &fields).await
}

/// Deletes a key.
pub(super) async fn delete(
    node: &Node,
    path: &str,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let (key, fields) = write(path, request).await?;
    propose(node, Command::Delete { key }, &fields).await
}

/// Reads what a request for reading says, and gets a state that is fresh enough.
async fn read<B>(
    node: &Node,
    path: &str,
    request: &Request<B>,
) -> Result<(KeyPath, Arc<Published>), Problem> {
    let key = request::key(path)?;
    let fields = Fields::of_query(request);
    let limit = fields.limit()?.unwrap_or(REQUEST_LIMIT);
    let now = node.read(fields.freshness()?, limit).await?;
    Ok((key, now))
}

/// Reads what a request for writing says, and refuses what no client may write.
async fn write(path: &str, request: Request<Incoming>) -> Result<(KeyPath, Fields), Problem> {
    let key = request::key(path)?;
    let fields = Fields::of_request(request).await?;
    if is_reserved(&key) {
        return Err(Rejection::Reserved(key).into());
    }
    if key.is_root() {
        return Err(Rejection::NotAFile(key).into());
    }
    Ok((key, fields))
}

async fn propose(node: &Node, command: Command, fields: &Fields) -> Result<Answer, Problem> {
    let limit = fields.limit()?.unwrap_or(REQUEST_LIMIT);
    let Outcome { what, .. } = node.propose(command, limit).await?;
    match what {
        What::Event(event) => Ok(Answer::json(json::event(&event)).with_event(Some(event.number))),
        What::Rejection(rejection) => Err(rejection.into()),
        What::Tick => unreachable!("a command makes an event, or is refused"),
    }
}

fn join(
    open: &[u8],
    items: impl Iterator<Item = Vec<u8>>,
    separator: &[u8],
    close: &[u8],
) -> Vec<u8> {
    let mut joined = open.to_vec();
    for (at, item) in items.enumerate() {
        if at > 0 {
            joined.extend_from_slice(separator);
        }
        joined.extend(item);
    }
    joined.extend_from_slice(close);
    joined
}
