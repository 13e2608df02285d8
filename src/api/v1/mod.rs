//! The first face: what the first etcd could do, and how it said so.

mod admin;
pub mod frozen;
pub mod json;
mod keys;
mod large;
mod listing;
mod past;
mod stream;
mod subtree;
mod watch;

use std::pin::Pin;

use hyper::body::Incoming;
use hyper::{Method, Request};

use super::http::answer::Answer;
use super::http::problem::Problem;
use super::http::request;
use crate::node::Node;

/// What comes of a request.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(super) enum Reply {
    /// An answer, which may be a stream that goes on.
    Answer(Answer),
    /// One that may be long in coming. It needs nothing of what led to it.
    Later(Later),
}

/// An answer that is waited for.
pub(super) type Later = Pin<Box<dyn Future<Output = Result<Answer, Problem>> + Send>>;

/// Answers a request, by its path.
pub(super) async fn route(node: &Node, request: Request<Incoming>) -> Result<Reply, Problem> {
    let Some(path) = below(request.uri().path(), "/v1/watch") else {
        return answer(node, request).await.map(Reply::Answer);
    };
    let prefix = request::key(path)?;
    match *request.method() {
        Method::GET | Method::HEAD | Method::POST => {
            Box::pin(watch::watch(node, prefix, request)).await
        }
        _ => Err(Problem::Method("GET, HEAD, POST")),
    }
}

/// Answers what waits for no event. What is asked for seldom is on the heap: all others
/// would have room for it.
async fn answer(node: &Node, request: Request<Incoming>) -> Result<Answer, Problem> {
    let path = request.uri().path();
    if let Some(path) = below(path, "/v1/keys") {
        let key = request::key(path)?;
        return match *request.method() {
            Method::GET | Method::HEAD => keys::get(node, key, &request).await,
            Method::POST | Method::PUT => keys::set(node, key, request).await,
            Method::DELETE => keys::delete(node, key, request).await,
            _ => Err(Problem::Method("GET, HEAD, POST, PUT, DELETE")),
        };
    }
    if let Some(path) = below(path, "/v1/testAndSet") {
        let key = request::key(path)?;
        return match *request.method() {
            Method::POST | Method::PUT => keys::test_and_set(node, key, request).await,
            _ => Err(Problem::Method("POST, PUT")),
        };
    }
    if let Some(path) = below(path, "/v1/list") {
        let key = request::key(path)?;
        return match *request.method() {
            Method::GET | Method::HEAD => Box::pin(keys::list(node, key, &request)).await,
            _ => Err(Problem::Method("GET, HEAD")),
        };
    }
    if let Some(path) = below(path, "/v1/history") {
        let key = request::key(path)?;
        return match *request.method() {
            Method::GET | Method::HEAD => Box::pin(past::history(node, key, &request)).await,
            _ => Err(Problem::Method("GET, HEAD")),
        };
    }
    if let Some(path) = below(path, "/v1/diff") {
        let key = request::key(path)?;
        return match *request.method() {
            Method::GET | Method::HEAD => Box::pin(past::diff(node, key, &request)).await,
            _ => Err(Problem::Method("GET, HEAD")),
        };
    }
    if let Some(path) = below(path, "/v1/restore") {
        let key = request::key(path)?;
        return match *request.method() {
            Method::POST => Box::pin(past::restore(node, key, request)).await,
            _ => Err(Problem::Method("POST")),
        };
    }
    Box::pin(admin::route(node, &request)).await
}

/// Returns what of a path lies below a prefix, which must end with a whole part.
fn below<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}
