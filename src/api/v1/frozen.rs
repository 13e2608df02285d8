//! A state of the past, to look around in: the same answers, and nothing can be written.
//!
//! ```text
//! GET /v1/keys/K, /v1/list/P, /v1/machines, /version     as the API tells them
//! anything but GET and HEAD                              405
//! ```

use etcd_log::{KeyPath, LogId};
use etcd_projections::{Rejection, State, TreeNode};
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response};

use super::listing::{Kind, Listing, Part};
use super::stream::Form;
use super::{admin, below, json};
use crate::api::http::answer::{Answer, Body};
use crate::api::http::bad::Bad;
use crate::api::http::problem::Problem;
use crate::api::http::request::{self, Fields};
use crate::api::http::same_origin::SameOrigin;
use crate::node::{Moment, View};

/// Answers a request from a state that does not change.
pub async fn respond<B>(state: &State, request: &Request<B>) -> Response<Body> {
    let answer = answer(state, request).await.unwrap_or_else(Problem::into_answer);
    answer.into_response_of(state.position(), LogId::default(), &cluster(state))
}

/// Returns the cluster that a state is of; empty, before it has one.
fn cluster(state: &State) -> HeaderValue {
    let text = state.cluster().map(|cluster| cluster.to_string()).unwrap_or_default();
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

async fn answer<B>(state: &State, request: &Request<B>) -> Result<Answer, Problem> {
    // Of this computer alone, and for no page.
    SameOrigin::new(Vec::new(), Vec::new(), true).judge(request)?;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::Method("GET, HEAD"));
    }
    let (path, fields) = (request.uri().path(), Fields::of_query(request));
    match fields.moment("at", "At")? {
        Some(Moment::Index(index)) if index == state.position().index => {}
        Some(_) => return Err(Bad::Exclusive("At And A State Of The Past").into()),
        None => {}
    }
    if fields.stream()? {
        return Err(Bad::Exclusive("Stream And A State Of The Past").into());
    }
    let view = View::of(state);
    if let Some(path) = below(path, "/v1/keys") {
        let form = Form::Lines { bookmarks: false };
        let is_deep = fields.recursive()?;
        let subtree = Kind::Subtree { children: fields.children()?, form };
        let kind = if is_deep { subtree } else { Kind::Children };
        return read(&view, request::key(path)?, kind, &fields).await;
    }
    if let Some(path) = below(path, "/v1/list") {
        return read(&view, request::key(path)?, Kind::Names, &fields).await;
    }
    match path {
        "/v1/machines" => {
            let urls: Vec<_> = state.machines().iter().map(|it| &*it.client_url).collect();
            Ok(Answer::bare(urls.join(", ")))
        }
        "/version" => Ok(admin::version()),
        _ => Err(Problem::NotFound),
    }
}

async fn read(view: &View, key: KeyPath, kind: Kind, fields: &Fields) -> Result<Answer, Problem> {
    let part = Part::of(fields, matches!(kind, Kind::Subtree { .. }))?;
    match (view.tree.get(&key), kind) {
        (None, _) => Err(Problem::NotFound),
        (Some(file @ TreeNode::File { .. }), Kind::Children) => {
            Ok(Answer::json(json::node(&key, file, view.position.index, view.time)))
        }
        (Some(TreeNode::File { .. }), Kind::Names) => Err(Rejection::NotADirectory(key).into()),
        (Some(_), _) => Ok(Listing { key, kind, part }.whole(view).await),
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::{Batch, ClusterId, Command, LogFormat, LogTime};

    use super::*;
    use crate::util::limit;

    #[tokio::test]
    async fn answer_says_of_which_cluster_it_is_in_any_format() {
        limit::begin();
        let mut state = State::new(1);
        for (format, id) in
            [(None, ""), (Some(1), "00000000000000c1"), (Some(2), "00000000000000c1")]
        {
            if let Some(format) = format.map(LogFormat) {
                let sync = Command::Sync { cluster: ClusterId(0xc1), format };
                state.apply(&Batch::new(LogTime(1), vec![sync]));
            }
            let response = respond(&state, &Request::get("/version").body(()).unwrap()).await;
            assert_eq!(response.headers()["x-etcd-cluster-id"], id);
        }
    }
}
