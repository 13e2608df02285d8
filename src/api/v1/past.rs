//! The past: what keys held, what happened, what changed, and putting it back.
//!
//! ```text
//! GET  /v1/keys/K?at=41            as it was behind command 41
//! GET  /v1/history/K               {"action":"SET",…,"index":9,"event":8,"time":"…"}
//! GET  /v1/diff/P?from=3&to=41     {"key":"/p/a","from":"1","to":"2"}
//! POST /v1/restore/P?at=3          {"action":"RESTORE","key":"/p","at":3,"changed":2,"index":42}
//! ```

use std::sync::Arc;

use etcd_log::KeyPath;
use etcd_projections::{Rejection, TreeNode, is_reserved};
use hyper::Request;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::json;
use super::large::{self, LONGEST, PIECE_BYTES, Teller};
use super::listing::{Kind, Listing, Part};
use crate::api::http::answer::{Answer, BrokenOff};
use crate::api::http::bad::Bad;
use crate::api::http::door::Talk;
use crate::api::http::problem::Problem;
use crate::api::http::request::{self, Fields, REQUEST_LIMIT};
use crate::node::{
    Diff, HistoryQuery, Moment, NetChange, Node, PastError, PastEvents, RestoreQuery, Restored,
    Unavailable,
};

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
    let begins_by = Instant::now() + limit;
    let events = node.history(query, fields.freshness()?, limit).await;
    let events = events.map_err(|error| Problem::Past(which(from, &error), error))?;
    let (newest, applied) = events.newest();
    let mut lines = HistoryLines { events, left, broken_off: None, begins_by: Some(begins_by) };
    // What cannot be told at all is said before the body begins.
    let answer = match lines.next().await.map_err(asked("History"))? {
        None => Answer::whole(Vec::new()),
        Some(first) => {
            // It takes up no place, and lasts as long as it is read.
            let tell = |teller| lines.tell_all(first, teller);
            Answer::pieces(large::tell(Talk::of(request), None, tell))
        }
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
    /// When the first have to be told; none, once they have been.
    begins_by: Option<Instant>,
}

impl HistoryLines {
    /// Returns the next lines; nothing, at the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, PastError> {
        if let Some(error) = self.broken_off.take() {
            return Err(error);
        }
        let (mut piece, begins_by) = (Vec::new(), self.begins_by.take());
        while self.left > 0 && piece.len() < PIECE_BYTES {
            // What there is by then is told. The rest is told as it is found.
            if begins_by.is_some_and(|begins_by| begins_by < Instant::now()) {
                if piece.is_empty() {
                    return Err(Unavailable::Late.into());
                }
                break;
            }
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

    /// Tells all of them, the first of which are known.
    async fn tell_all(mut self, first: Vec<u8>, teller: Teller) -> Result<(), BrokenOff> {
        teller.piece(first).await?;
        loop {
            match self.next().await {
                Ok(None) => return Ok(()),
                Ok(Some(piece)) => teller.piece(piece).await?,
                Err(error) => return teller.piece(self.last_line(&error)).await,
            }
        }
    }

    /// Returns the line that says why there are no more, and where to go on.
    fn last_line(&self, error: &PastError) -> Vec<u8> {
        let goes_on = self.events.goes_on();
        let mut line =
            json::error(&format!("The History Ends Here: {error}; Go On With {goes_on}"));
        line.push(b'\n');
        line
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
    let diff = compared.map_err(|error| {
        let is_too_much = matches!(error, PastError::TooMuch { .. });
        Problem::Past(if is_too_much { "Diff" } else { which(Some(from), &error) }, error)
    })?;
    Ok(changed(diff, Talk::of(request)))
}

/// Makes a key, and all below it, what it was.
pub(super) async fn restore(
    node: &Node,
    key: KeyPath,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let (talk, id) = (Talk::of(&request), request::request_id(&request)?);
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
        return Ok(changed(node.dry_restore(query, limit).await.map_err(problem)?, talk));
    }
    let restored = node.restore(query, id, limit).await.map_err(problem)?;
    let Restored { at, changed, index, is_repeated } = restored;
    let index = index.unwrap_or_else(|| node.now().state.position().index);
    let answer = Answer::json(json::restored(&key, at, changed, index));
    Ok(if is_repeated { answer.replayed() } else { answer })
}

/// Answers with what changed, a line a key.
fn changed(diff: Diff, talk: Option<Arc<Talk>>) -> Answer {
    let (position, applied) = (diff.position, diff.applied);
    let pieces = large::tell(talk, Some(LONGEST), |teller| tell_changed(diff, teller));
    Answer::pieces(pieces).read_at(position, applied)
}

async fn tell_changed(diff: Diff, teller: Teller) -> Result<(), BrokenOff> {
    let Diff { changes, place, .. } = diff;
    let mut piece = Vec::new();
    for NetChange { key, from, to } in changes {
        piece.extend(json::net_change(&key, from.as_deref(), to.as_deref()));
        piece.push(b'\n');
        if piece.len() >= PIECE_BYTES {
            teller.piece(std::mem::take(&mut piece)).await?;
        }
    }
    drop(place);
    teller.piece(piece).await
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
