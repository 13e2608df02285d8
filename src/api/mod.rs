//! The v1 HTTP API: plain text and JSON in, one line out.
//!
//! ```text
//! connection ─▶ server ─▶ route ─▶ request: fields, key ─▶ node: propose, read, watch
//!                                      │ bad input                    │
//!                                      └────────▶ answer ◀────────────┘
//! ```
//!
//! Bad input is answered here and never reaches the log. Errors are one plain
//! line; each has one place, in [`mod@answer`].

mod admin;
pub mod answer;
mod escapes;
pub mod json;
mod keys;
mod request;
mod server;
mod watch;

use std::convert::Infallible;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response};

use crate::node::Node;
use answer::{Answer, Body, Problem};

pub use server::{serve_clients, serve_peers};

/// Answers a request of a client.
async fn respond(
    node: Node,
    cluster: HeaderValue,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let answer = route(&node, request).await.unwrap_or_else(Problem::into_answer);
    Ok(answer.into_response(&node, &cluster))
}

async fn route(node: &Node, request: Request<Incoming>) -> Result<Answer, Problem> {
    let path = request.uri().path();
    if let Some(path) = below(path, "/v1/keys") {
        let key = request::key(path)?;
        return match *request.method() {
            Method::GET => keys::get(node, key, &request).await,
            Method::POST | Method::PUT => keys::set(node, key, request).await,
            Method::DELETE => keys::delete(node, key, request).await,
            _ => Err(Problem::Method("GET, POST, PUT, DELETE")),
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
            Method::GET => keys::list(node, key, &request).await,
            _ => Err(Problem::Method("GET")),
        };
    }
    if let Some(path) = below(path, "/v1/watch") {
        let prefix = request::key(path)?;
        return match *request.method() {
            Method::GET | Method::POST => watch::watch(node, prefix, request).await,
            _ => Err(Problem::Method("GET, POST")),
        };
    }
    admin::route(node, &request).await
}

/// Returns what of a path lies below a prefix, which must end with a whole part.
fn below<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}
