//! The leader, the machines, the version, the health.

use hyper::{Method, Request};

use super::answer::{Answer, Problem};
use super::request::{Fields, REQUEST_LIMIT};
use crate::node::{Freshness, Node, Unavailable};

/// Answers what is not about keys.
pub(super) async fn route<B>(node: &Node, request: &Request<B>) -> Result<Answer, Problem> {
    let path = request.uri().path();
    if !matches!(path, "/leader" | "/v1/leader" | "/v1/machines" | "/version" | "/health") {
        return Err(Problem::NotFound);
    }
    if request.method() != Method::GET {
        return Err(Problem::Method("GET"));
    }
    match path {
        "/leader" | "/v1/leader" => leader(node),
        "/v1/machines" => Ok(machines(node)),
        "/version" => Ok(version()),
        _ => health(node, request).await,
    }
}

/// Answers with this program's name and version.
pub(super) fn version() -> Answer {
    Answer::text(format_args!("etcd {}", env!("CARGO_PKG_VERSION")))
}

fn leader(node: &Node) -> Result<Answer, Problem> {
    let leader = node.leader().ok_or(Unavailable::NoLeader)?;
    Ok(Answer::text(leader.peer_url))
}

fn machines(node: &Node) -> Answer {
    let now = node.now();
    let urls: Vec<_> = now.state.machines().iter().map(|machine| &*machine.client_url).collect();
    Answer::text(urls.join(", "))
}

async fn health<B>(node: &Node, request: &Request<B>) -> Result<Answer, Problem> {
    let limit = Fields::of_query(request).limit()?.unwrap_or(REQUEST_LIMIT);
    node.read(Freshness::Linearizable, limit).await?;
    Ok(Answer::json(br#"{"health":"true"}"#.to_vec()))
}
