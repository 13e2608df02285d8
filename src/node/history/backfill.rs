//! Backfill: the history from before the checkpoint that this machine began with,
//! fetched from another one, in the background.
//!
//! Meanwhile an old watch is passed on to a machine that has it (`elsewhere`).

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{BackfillError, NodeId, RaftIndex};
use tokio::time::Instant;

use super::serve::Oldest;
use crate::node::Node;
use crate::peers::{CallError, Conversation, Part, Refusal, Request, Response, split_entries};
use crate::storage::backfill::{BackfillSource, FillHistory};
use crate::util::blocking::blocking;
use crate::util::error_chain::ErrorChain;
use crate::util::rate_limit::RateLimit;

/// How often to look whether something is missing.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long another machine may be silent in the middle of it.
const SILENCE: Duration = Duration::from_secs(30);

/// How long to wait for a machine that does not answer, and may have more of history
/// than the others. Meanwhile nothing is sealed, and the segments grow. For one that
/// alone can have what is missing the wait ends where the disk does.
const PATIENCE: Duration = Duration::from_mins(10);

/// For how long the disk may be short before history is given up, and what has come of
/// it makes room.
const SHORTAGE: Duration = Duration::from_mins(1);

/// How long before somebody is told.
const WORD: Duration = Duration::from_secs(10);

/// Why filling in history did not come to its end.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Backfill(#[from] BackfillError),
    #[error("what was sent cannot be read: {0}")]
    Unreadable(String),
}

/// Since when machines are waited for that may have more of history than others.
#[derive(Debug, Default)]
struct Waiting {
    since: Option<Instant>,
    told: RateLimit,
    /// Since when the disk is short.
    short_since: Option<Instant>,
}

impl Waiting {
    /// Returns whether to wait for these machines, and says so now and then.
    fn goes_on(&mut self, silent: &[Arc<str>]) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !silent.is_empty() && since.elapsed() > WORD && self.told.is_due() {
            let names = silent.join(", ");
            tracing::warn!("old history waits for machines that do not answer: {names}");
        }
        !silent.is_empty() && since.elapsed() < PATIENCE
    }
}

/// Notes that what is missing will not come.
async fn give_up(mut filler: Box<dyn FillHistory>, why: &str) -> Result<(), FetchError> {
    tracing::warn!("the history from before the checkpoint is given up: {why}");
    Ok(blocking(move || filler.give_up()).await?)
}

impl Node {
    /// Fetches history whenever some is missing.
    pub(in crate::node) async fn backfill(self, fill: BackfillSource) {
        let mut closing = self.closing();
        let mut waiting = Waiting::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = closing.begun() => return,
            }
            let make = Arc::clone(&fill.0);
            let Some(filler) = blocking(move || make()).await else {
                waiting = Waiting::default();
                continue;
            };
            match self.fill(filler, &mut waiting).await {
                Ok(()) => {}
                Err(error) => tracing::debug!("history did not come: {}", ErrorChain(&error)),
            }
        }
    }

    /// Fills in what is missing, from the machine that reaches back furthest.
    async fn fill(
        &self,
        filler: Box<dyn FillHistory>,
        waiting: &mut Waiting,
    ) -> Result<(), FetchError> {
        if self.inner.disk.is_short() {
            let since = *waiting.short_since.get_or_insert_with(Instant::now);
            if since.elapsed() < SHORTAGE {
                return Ok(());
            }
            return give_up(filler, "there is no room for it").await;
        }
        waiting.short_since = None;
        let (from, upto) = filler.wanted();
        let (known, silent) = self.who_knows(upto).await;
        let furthest = known.into_iter().min_by_key(|(_, oldest)| oldest.entry);
        // What nobody else has, a machine that does not answer may have.
        match furthest.filter(|(_, oldest)| oldest.entry <= upto) {
            Some((_, oldest)) if oldest.entry > from && waiting.goes_on(&silent) => Ok(()),
            Some((node, oldest)) => self.fetch(node, oldest, filler).await,
            None if !silent.is_empty() => {
                waiting.goes_on(&silent);
                Ok(())
            }
            None => give_up(filler, "it is kept nowhere").await,
        }
    }

    /// Asks all other machines how far back their history goes. Returns those that
    /// have any, and the names of those that do not answer.
    async fn who_knows(&self, upto: RaftIndex) -> (Vec<(NodeId, Oldest)>, Vec<Arc<str>>) {
        let (mut known, mut silent) = (Vec::new(), Vec::new());
        let machines = self.inner.published.machines();
        let me = self.inner.consensus.me();
        for machine in machines.iter().filter(|machine| machine.node != me) {
            // Nothing but how far back it goes.
            let request = Request::Entries { from: upto.next(), upto };
            match self.ask_entries(machine.node, &request).await {
                Ok((_, oldest)) => known.push((machine.node, oldest)),
                Err(FetchError::Call(CallError::Refused { refusal: Refusal::Lacking, .. })) => {}
                Err(_) => silent.push(Arc::clone(&machine.name)),
            }
        }
        (known, silent)
    }

    async fn ask_entries(
        &self,
        node: NodeId,
        request: &Request,
    ) -> Result<(Conversation, Oldest), FetchError> {
        let mut conversation = self.inner.peers.open_stream(node, request, SILENCE).await?;
        let oldest = match conversation.next().await? {
            Part::Piece(oldest) => oldest,
            Part::Response(answer) => return Err(conversation.unexpected(&answer).into()),
        };
        let oldest = serde_json::from_slice(&oldest);
        let oldest = oldest.map_err(|error| FetchError::Unreadable(error.to_string()))?;
        Ok((conversation, oldest))
    }

    async fn fetch(
        &self,
        node: NodeId,
        oldest: Oldest,
        mut filler: Box<dyn FillHistory>,
    ) -> Result<(), FetchError> {
        let (from, upto) = filler.wanted();
        let request = Request::Entries { from: from.max(oldest.entry), upto };
        let (mut conversation, _) = self.ask_entries(node, &request).await?;
        let begin = move || filler.skip_to(oldest.entry, oldest.before).map(|()| filler);
        let mut filler = blocking(begin).await?;
        let mut is_whole = false;
        loop {
            if self.inner.disk.is_short() {
                return Ok(());
            }
            match conversation.next().await? {
                Part::Piece(piece) => {
                    let entries = split_entries(&piece).map_err(FetchError::Unreadable)?;
                    let entries: Vec<_> = entries.into_iter().map(<[u8]>::to_vec).collect();
                    let filling = move || {
                        let mut is_last = false;
                        for entry in entries {
                            is_last = filler.push(entry)?;
                        }
                        Ok::<_, BackfillError>((filler, is_last))
                    };
                    (filler, is_whole) = blocking(filling).await?;
                }
                Part::Response(Response::Done) if is_whole => {
                    tracing::info!("the history from before the checkpoint has come");
                    return Ok(());
                }
                // It has not applied all of it itself: the next try goes on from what is sealed.
                Part::Response(Response::Done) => return Ok(()),
                Part::Response(other) => return Err(conversation.unexpected(&other).into()),
            }
        }
    }
}
