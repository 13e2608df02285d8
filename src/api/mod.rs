//! The v1 HTTP API: plain text and JSON in, one line out.
//!
//! ```text
//! connection ─▶ door ─▶ route ─▶ request: fields, key ─▶ node: propose, read, watch
//!                 │                  │ bad input                    │
//!                 └─ not HTTP as ────┴────────▶ answer ◀────────────┘
//!                    it must be
//! ```
//!
//! Bad input is answered here and never reaches the log. Errors are one plain
//! line; each has one place, in [`mod@answer`].

mod admin;
pub mod answer;
mod clients;
mod door;
mod escapes;
mod files;
mod head;
pub mod json;
mod keys;
mod request;
mod server;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response};

use crate::node::Node;
use answer::{Answer, Body, Problem};
use clients::Service;
use door::Talk;

pub use clients::serve_clients;
pub use head::Refusal;
pub use server::serve_peers;

/// Answers a request of a client.
async fn respond(
    node: Node,
    cluster: HeaderValue,
    service: Service,
    talk: Arc<Talk>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let is_limited = service == Service::HealthOnly;
    // Where a body in chunks ends, and another request begins, the door does not know.
    let is_last = is_limited || request.headers().contains_key(header::TRANSFER_ENCODING);
    let answer = match talk.ask() {
        Some(refusal) => Err(Problem::Refused(refusal)),
        None if is_limited && !is_for_everybody(&request) => Err(Problem::NoPlace),
        None => route(&node, request).await,
    };
    let answer = answer.unwrap_or_else(|problem| problem.explained(&node).into_answer());
    let answer = if is_last { answer.closing() } else { answer };
    Ok(answer.into_response(&node, &cluster))
}

/// Returns whether a request is answered however many clients there are: who watches
/// over a machine wants to know of all others that it is well.
fn is_for_everybody<B>(request: &Request<B>) -> bool {
    matches!(request.uri().path(), "/health" | "/version")
}

async fn route(node: &Node, request: Request<Incoming>) -> Result<Answer, Problem> {
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
