//! Telling other machines what this one knows of the past: events, to a machine
//! that has not got the log of that time yet; and the entries themselves.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{Entry, Index, LogError, RaftIndex};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;

use super::cursor::{Cursor, WatchError};
use super::sink::Replayed;
use crate::node::Node;
use crate::peers::{HistoryRequest, Incoming, Refusal, Response, encode_entries};
use crate::util::error_chain::ErrorChain;

/// How many bytes of entries go in one piece.
const PIECE_BYTES: usize = 1 << 20;

/// How many bytes of entries are sent in a second, at most: the log's own traffic
/// must not suffer, nor the disk.
const BYTES_A_SECOND: u64 = 64 << 20;

/// How often a machine shows that it is still looking for an event.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

impl Node {
    /// Tells the events that somebody watches for, up to one that he has himself.
    pub(in crate::node) async fn serve_history(
        &self,
        incoming: &mut Incoming<'_>,
        request: HistoryRequest,
    ) -> Result<Response, Refusal> {
        // Said before a replay takes its place: two machines that both lack it would
        // wait for each other's places.
        if self.inner.history.log().missing().is_some() {
            return Err(Refusal::Lacking);
        }
        let HistoryRequest { prefix, number, index, upto } = request;
        let cursor = number.map_or(Cursor::Index(index), Cursor::Number);
        let mut replaying = self.inner.history.replay_here(cursor, prefix, index, upto);
        loop {
            let found = tokio::select! {
                found = replaying.next() => found,
                // What is wanted may be rare, and whoever waits wants to see that there is
                // somebody.
                () = tokio::time::sleep(SIGN_OF_LIFE) => {
                    incoming.tell(&[]).await.map_err(|_| Refusal::NotReady)?;
                    continue;
                }
            };
            match found.map_err(|error| why_not(&error))? {
                Replayed::Event(event) => {
                    let text = serde_json::to_vec(&*event).expect("an event is plain data");
                    incoming.tell(&text).await.map_err(|_| Refusal::NotReady)?;
                }
                Replayed::Reached(reached) => return Ok(Response::History { reached }),
                Replayed::GivenUp => return Err(Refusal::NotReady),
            }
        }
    }

    /// Tells the entries of the log, from the oldest one wanted that there is, at a
    /// bounded rate. The first piece says what the oldest one is.
    pub(in crate::node) async fn serve_entries(
        &self,
        incoming: &mut Incoming<'_>,
        from: RaftIndex,
        upto: RaftIndex,
    ) -> Result<Response, Refusal> {
        let source = self.inner.history.log();
        if source.missing().is_some() {
            return Err(Refusal::Lacking);
        }
        let (entry, before) = source.oldest();
        let oldest = serde_json::to_vec(&Oldest { entry, before }).expect("it is plain data");
        incoming.tell(&oldest).await.map_err(|_| Refusal::NotReady)?;
        let applied = self.now().applied.map(|id| id.index).unwrap_or_default();
        let mut entries = source.read(from.max(entry)..upto.min(applied).next());
        let begun = Instant::now();
        let (mut sent, mut piece, mut bytes) = (0, Vec::new(), 0);
        while let Some(entry) = entries.next().await {
            let entry = entry.map_err(|error| unreadable(&error))?;
            bytes += entry.size();
            piece.push(entry);
            if bytes >= PIECE_BYTES {
                sent += send_piece(incoming, &mut piece).await?;
                bytes = 0;
                pace(begun, sent).await;
            }
        }
        send_piece(incoming, &mut piece).await?;
        Ok(Response::Done)
    }
}

/// What comes first when entries are told.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::node) struct Oldest {
    /// The oldest entry that is kept.
    pub(in crate::node) entry: RaftIndex,
    /// The last command before it.
    pub(in crate::node) before: Index,
}

fn why_not(error: &WatchError) -> Refusal {
    match error {
        WatchError::Gone { oldest, .. } => Refusal::NoLongerKept { oldest: *oldest },
        WatchError::Closing => Refusal::NotReady,
        WatchError::Log(error) => Refusal::Impossible(ErrorChain(error).to_string()),
    }
}

fn unreadable(error: &LogError) -> Refusal {
    Refusal::Impossible(ErrorChain(error).to_string())
}

async fn send_piece(
    incoming: &mut Incoming<'_>,
    piece: &mut Vec<Arc<Entry>>,
) -> Result<u64, Refusal> {
    let bytes = encode_entries(&std::mem::take(piece));
    incoming.tell(&bytes).await.map_err(|_| Refusal::NotReady)?;
    Ok(bytes.len() as u64)
}

/// Waits until so many bytes may have been sent.
async fn pace(begun: Instant, sent: u64) {
    let due = Duration::from_millis(sent * 1000 / BYTES_A_SECOND);
    tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
}
