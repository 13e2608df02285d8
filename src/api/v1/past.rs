//! The past: what keys held, what happened, what changed, and putting it back.
//!
//! ```text
//! GET  /v1/keys/K?at=41            as it was behind command 41
//! GET  /v1/history/K               {"action":"SET",…,"index":9,"event":8,"time":"…"}
//! GET  /v1/diff/P?from=3&to=41     {"key":"/p/a","from":"1","to":"2"}
//! POST /v1/restore/P?at=3          {"action":"RESTORE","key":"/p","at":3,"changed":2,"index":42}
//! ```

use std::collections::VecDeque;

use bytes::Bytes;
use etcd_log::KeyPath;
use etcd_projections::{Rejection, TreeNode, is_reserved};
use futures_util::stream;
use hyper::Request;
use hyper::body::{Frame, Incoming};

use super::json;
use super::listing::{Kind, Listing, Part};
use crate::api::http::answer::{Answer, Pieces};
use crate::api::http::bad::Bad;
use crate::api::http::problem::Problem;
use crate::api::http::request::{Fields, REQUEST_LIMIT};
use crate::node::{
    HistoryQuery, Moment, NetChange, Node, PastError, PastEvents, RestoreQuery, Restored,
};

/// How many bytes a piece of an answer has, at the least.
const PIECE_BYTES: usize = 64 << 10;

/// The fields that a restore knows.
const RESTORE: [&str; 5] = ["at", "ttl", "if_index", "dry_run", "timeout"];

/// Answers with what a key held, or with what was in a directory or below it.
pub(super) async fn get<B>(
    node: &Node,
    key: KeyPath,
    at: Moment,
    request: &Request<B>,
    fields: &Fields,
    kind: Kind,
) -> Result<Answer, Problem> {
    let part = Part::of(fields, matches!(kind, Kind::Subtree { .. }))?;
    let limit = fields.limit()?.unwrap_or(REQUEST_LIMIT);
    let view = node.view_at(at, &key, fields.freshness()?, limit).await.map_err(asked("At"))?;
    let (position, applied) = (view.position, view.applied);
    let answer = match (view.tree.get(&key), kind) {
        (None, _) => Problem::NotFound.into_answer(),
        (Some(file @ TreeNode::File { .. }), Kind::Children) => {
            Answer::json(json::node(&key, file, position.index, view.time))
        }
        (Some(TreeNode::File { .. }), Kind::Names) => {
            Problem::from(Rejection::NotADirectory(key)).into_answer()
        }
        (Some(_), _) => return Ok(Listing { key, kind, part }.told(view, request).await),
    };
    Ok(answer.read_at(position, applied))
}

/// Answers with what happened at a key, or below it.
pub(super) async fn history<B>(
    node: &Node,
    key: KeyPath,
    request: &Request<B>,
) -> Result<Answer, Problem> {
    let fields = Fields::of_query(request);
    let query = HistoryQuery {
        key,
        recursive: fields.recursive()?,
        from: fields.moment("from", "From")?,
        to: fields.moment("to", "To")?,
        reverse: fields.reverse()?,
    };
    let (from, limit) = (query.from, fields.limit()?.unwrap_or(REQUEST_LIMIT));
    let left = fields.lines()?.unwrap_or(usize::MAX);
    let events = node.history(query, fields.freshness()?, limit).await;
    let events = events.map_err(|error| Problem::Past(which(from, &error), error))?;
    let (newest, applied) = events.newest();
    let mut lines = HistoryLines { events, left, broken_off: None };
    // What cannot be told at all is said before the body begins.
    let answer = match lines.next().await.map_err(asked("History"))? {
        None => Answer::whole(Vec::new()),
        Some(first) => Answer::pieces(lines.into_pieces(first)),
    };
    Ok(answer.read_at(newest, applied))
}

/// The lines of a history, as they are read.
struct HistoryLines {
    events: PastEvents,
    /// How many are still wanted.
    left: usize,
    /// Why there are no more, once what there was has been told.
    broken_off: Option<PastError>,
}

impl HistoryLines {
    /// Returns the next lines; nothing, at the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, PastError> {
        if let Some(error) = self.broken_off.take() {
            return Err(error);
        }
        let mut piece = Vec::new();
        while self.left > 0 && piece.len() < PIECE_BYTES {
            let events = match self.events.next().await {
                Ok(Some(events)) => events,
                Ok(None) => break,
                Err(error) if piece.is_empty() => return Err(error),
                Err(error) => {
                    self.broken_off = Some(error);
                    break;
                }
            };
            for event in events.iter().take(self.left) {
                piece.extend(json::streamed_event(event));
                piece.push(b'\n');
            }
            self.left -= events.len().min(self.left);
        }
        Ok((!piece.is_empty()).then_some(piece))
    }

    fn into_pieces(self, first: Vec<u8>) -> Pieces {
        let begun = (Some(first), Some(self));
        Box::pin(stream::unfold(begun, |(first, lines)| async move {
            if let Some(first) = first {
                return Some((Ok(Frame::data(Bytes::from(first))), (None, lines)));
            }
            let mut lines = lines?;
            let (piece, rest) = match lines.next().await {
                Ok(piece) => (piece?, Some(lines)),
                Err(error) => {
                    let mut line = json::error(&format!("The History Ends Here: {error}"));
                    line.push(b'\n');
                    (line, None)
                }
            };
            Some((Ok(Frame::data(Bytes::from(piece))), (None, rest)))
        }))
    }
}

/// Answers with what changed between two moments.
pub(super) async fn diff<B>(
    node: &Node,
    key: KeyPath,
    request: &Request<B>,
) -> Result<Answer, Problem> {
    let fields = Fields::of_query(request);
    let from = fields.moment("from", "From")?.ok_or(Bad::Missing("Diff", "From"))?;
    let (to, limit) = (fields.moment("to", "To")?, fields.limit()?.unwrap_or(REQUEST_LIMIT));
    let compared = node.diff(key, (from, to), fields.freshness()?, limit).await;
    let (changes, (end, applied)) = compared.map_err(|error| {
        let is_too_much = matches!(error, PastError::TooMuch { .. });
        Problem::Past(if is_too_much { "Diff" } else { which(Some(from), &error) }, error)
    })?;
    Ok(changed(changes).read_at(end, applied))
}

/// Makes a key, and all below it, what it was.
pub(super) async fn restore(
    node: &Node,
    key: KeyPath,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let fields = Fields::of_request(request).await?;
    fields.allow_only(&RESTORE)?;
    if is_reserved(&key) {
        return Err(Rejection::Reserved(key).into());
    }
    let at = fields.moment("at", "At")?.ok_or(Bad::Missing("Restore", "At"))?;
    let (if_index, ttl) = (fields.if_index()?, fields.lives_on()?);
    let query = RestoreQuery { key: key.clone(), at, if_index, ttl };
    let limit = fields.limit()?.unwrap_or(REQUEST_LIMIT);
    let problem = |error| {
        let asked = match error {
            PastError::NotReached { .. } => "At",
            PastError::Gone { moment, .. } if moment == at => "At",
            PastError::Gone { .. } => "if_index",
            _ => "Restore",
        };
        Problem::Past(asked, error)
    };
    if fields.dry_run()? {
        return Ok(changed(node.dry_restore(query, limit).await.map_err(problem)?));
    }
    let Restored { at, changed, index } = node.restore(query, limit).await.map_err(problem)?;
    let index = index.unwrap_or_else(|| node.now().state.position().index);
    Ok(Answer::json(json::restored(&key, at, changed, index)))
}

/// Answers with what changed, a line a key.
fn changed(changes: Vec<NetChange>) -> Answer {
    let mut changes = VecDeque::from(changes);
    let pieces = stream::iter(std::iter::from_fn(move || {
        let mut piece = Vec::new();
        while piece.len() < PIECE_BYTES {
            let Some(NetChange { key, from, to }) = changes.pop_front() else { break };
            piece.extend(json::net_change(&key, from.as_deref(), to.as_deref()));
            piece.push(b'\n');
        }
        (!piece.is_empty()).then(|| Ok(Frame::data(Bytes::from(piece))))
    }));
    Answer::pieces(Box::pin(pieces))
}

fn asked(field: &'static str) -> impl Fn(PastError) -> Problem {
    move |error| Problem::Past(field, error)
}

/// Which of two moments an error is about.
fn which(from: Option<Moment>, error: &PastError) -> &'static str {
    match error {
        PastError::NotReached { moment, .. } | PastError::Gone { moment, .. }
            if Some(*moment) != from =>
        {
            "To"
        }
        _ => "From",
    }
}
