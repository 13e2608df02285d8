//! The leader, the machines, the version, the health.

use std::sync::Arc;

use hyper::{Method, Request};
use percent_encoding::percent_decode_str;

use super::json;
use crate::api::http::answer::Answer;
use crate::api::http::bad::Bad;
use crate::api::http::problem::Problem;
use crate::api::http::request::{Fields, REQUEST_LIMIT};
use crate::node::{Freshness, LeaveError, Node, Unavailable};

/// Answers what is not about keys.
pub(super) async fn route<B>(node: &Node, request: &Request<B>) -> Result<Answer, Problem> {
    let path = request.uri().path();
    if let Some(name) = path.strip_prefix("/v1/machines/").filter(|name| !name.is_empty()) {
        return match *request.method() {
            Method::DELETE => remove(node, name, request).await,
            _ => Err(Problem::Method("DELETE")),
        };
    }
    if !matches!(path, "/leader" | "/v1/leader" | "/v1/machines" | "/version" | "/health") {
        return Err(Problem::NotFound);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::Method("GET, HEAD"));
    }
    match path {
        "/leader" | "/v1/leader" => leader(node),
        "/v1/machines" => machines(node, request).await,
        "/version" => Ok(version()),
        _ => health(node, request).await,
    }
}

/// Removes a machine from the cluster.
async fn remove<B>(node: &Node, name: &str, request: &Request<B>) -> Result<Answer, Problem> {
    let fields = Fields::of_query(request);
    fields.allow_only(&["timeout"])?;
    let limit = fields.limit()?.unwrap_or(REQUEST_LIMIT);
    let name = percent_decode_str(name).decode_utf8().map_err(|_| Bad::KeyText)?;
    match node.leave(&Arc::from(name), limit).await {
        Ok(()) => Ok(Answer::nothing()),
        Err(LeaveError::NotFound(_)) => Err(Problem::NotFound),
        Err(LeaveError::Write(error)) => Err(error.into()),
        Err(error) => Err(Problem::Member(error.to_string())),
    }
}

/// Answers with all machines, and how each stands.
async fn list(node: &Node) -> Answer {
    let listed = node.list_machines().await;
    let newest = listed.iter().filter_map(|listed| Some(listed.standing.as_ref()?.applied)).max();
    let lines = listed.iter().map(|listed| json::machine(listed, newest.unwrap_or_default()));
    Answer::json([b"[", &lines.collect::<Vec<_>>().join(&b","[..])[..], b"]"].concat())
}

/// Answers with this program's name and version.
pub(super) fn version() -> Answer {
    Answer::text(format_args!("etcd {}", env!("CARGO_PKG_VERSION")))
}

fn leader(node: &Node) -> Result<Answer, Problem> {
    let leader = node.leader().ok_or(Unavailable::NoLeader)?;
    Ok(Answer::bare(leader.peer_url.as_bytes().to_vec()))
}

async fn machines<B>(node: &Node, request: &Request<B>) -> Result<Answer, Problem> {
    let fields = Fields::of_query(request);
    let limit = fields.limit()?.unwrap_or(REQUEST_LIMIT);
    let now = node.read(Freshness::Stale, limit).await?;
    if fields.detail()? {
        return Ok(list(node).await);
    }
    let urls: Vec<_> = now.state.machines().iter().map(|machine| &*machine.client_url).collect();
    Ok(Answer::bare(urls.join(", ")))
}

async fn health<B>(node: &Node, request: &Request<B>) -> Result<Answer, Problem> {
    // It may have a place that is kept for such requests: not for long.
    let limit = Fields::of_query(request).limit()?.unwrap_or(REQUEST_LIMIT).min(REQUEST_LIMIT);
    node.read(Freshness::Linearizable, limit).await?;
    if !node.has_vote() {
        return Err(Problem::NoVote);
    }
    Ok(Answer::json(br#"{"health":"true"}"#.to_vec()))
}
