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

use hyper::body::Incoming;
use hyper::{Method, Request};

use super::http::answer::{Answer, Problem};
use super::http::request;
use crate::node::Node;

/// Answers a request, by its path.
pub(super) async fn route(node: &Node, request: Request<Incoming>) -> Result<Answer, Problem> {
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
            Method::GET | Method::HEAD => keys::list(node, key, &request).await,
            _ => Err(Problem::Method("GET, HEAD")),
        };
    }
    if let Some(path) = below(path, "/v1/history") {
        let key = request::key(path)?;
        return match *request.method() {
            Method::GET | Method::HEAD => past::history(node, key, &request).await,
            _ => Err(Problem::Method("GET, HEAD")),
        };
    }
    if let Some(path) = below(path, "/v1/diff") {
        let key = request::key(path)?;
        return match *request.method() {
            Method::GET | Method::HEAD => past::diff(node, key, &request).await,
            _ => Err(Problem::Method("GET, HEAD")),
        };
    }
    if let Some(path) = below(path, "/v1/restore") {
        let key = request::key(path)?;
        return match *request.method() {
            Method::POST => past::restore(node, key, request).await,
            _ => Err(Problem::Method("POST")),
        };
    }
    if let Some(path) = below(path, "/v1/watch") {
        let prefix = request::key(path)?;
        return match *request.method() {
            Method::GET | Method::HEAD | Method::POST => watch::watch(node, prefix, request).await,
            _ => Err(Problem::Method("GET, HEAD, POST")),
        };
    }
    admin::route(node, &request).await
}

/// Returns what of a path lies below a prefix, which must end with a whole part.
fn below<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}
