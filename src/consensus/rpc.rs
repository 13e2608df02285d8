//! What this machine answers to the Raft of another one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_log::{LogId, NodeId, RaftIndex, Vote};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use openraft::{Raft, Snapshot};
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit};

use super::engine::Consensus;
use super::incoming_checkpoints::{CheckpointHeader, ReceiveError};
use super::judge::{Append, Known, judge_last};
use super::snapshot::meta_of;
use super::types::{
    SnapshotData, TypeConfig, from_entry, from_log_id, from_vote, to_log_id, to_vote,
};
use crate::peers::{Appended, Incoming, Refusal, Response, decode_entries};
use crate::util::error_chain::ErrorChain;

/// How long what is committed may take to be applied, while what comes behind it waits. A
/// leader counts on an answer by then, or a sign of life.
const APPLY_LIMIT: Duration = Duration::from_millis(500);

impl Consensus {
    /// Appends a leader's entries, and answers once they are durable.
    ///
    /// # Errors
    ///
    /// If they cannot be read or believed, or the engine has stopped.
    pub async fn append(
        &self,
        from: NodeId,
        vote: Vote,
        previous: Option<LogId>,
        committed: Option<LogId>,
        entries: &Bytes,
    ) -> Result<Response, Refusal> {
        self.judge_vote(from, vote, true)?;
        // Heartbeats are small; but their answers wait for the disk as well.
        let places = if entries.is_empty() { &self.heartbeats } else { &self.appends };
        let place = Arc::clone(places).try_acquire_owned().map_err(|_| Refusal::NotReady)?;
        let entries = decode_entries(entries).map_err(Refusal::NotUnderstood)?;
        let append = Append { from, vote, previous, committed, entries: &entries };
        if let Some(entry) = self.doubts.needs_applied(committed, &entries) {
            self.apply_first(&append, entry).await?;
        }
        let response = self.append_judged(&append, place).await?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            // What this machine says it has, its disk has.
            self.unsynced.wait_for_all().await;
        }
        Ok(Response::Appended(match response {
            AppendEntriesResponse::Success => Appended::All,
            AppendEntriesResponse::PartialSuccess(upto) => Appended::UpTo(upto.map(to_log_id)),
            AppendEntriesResponse::Conflict => Appended::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Appended::Overruled(to_vote(vote)),
        }))
    }

    /// Has an entry applied that an append says is committed, or brings: what else it brings
    /// has a check of what that has led to. Whoever has just been started, or is behind,
    /// would believe that check unseen, and stop when it comes to it.
    async fn apply_first(&self, append: &Append<'_>, entry: RaftIndex) -> Result<(), Refusal> {
        let Ok(place) = Arc::clone(&self.heartbeats).try_acquire_owned() else { return Ok(()) };
        let committed = append.committed.map(|id| id.index);
        let count = append.entries.partition_point(|entry| Some(entry.id.index) <= committed);
        let first = Append { entries: &append.entries[..count], ..*append };
        if let AppendEntriesResponse::Success = self.append_judged(&first, place).await? {
            self.doubts.until_applied(entry, APPLY_LIMIT).await;
        }
        Ok(())
    }

    /// Hands an append to openraft, if there is nothing wrong with it.
    async fn append_judged(
        &self,
        append: &Append<'_>,
        place: OwnedSemaphorePermit,
    ) -> Result<AppendEntriesResponse<u64>, Refusal> {
        // What is committed meanwhile would not have been compared.
        let turn = Arc::clone(&self.judge.turn).lock_owned().await;
        let judged = self.judge.append(&self.known(), append);
        let committed = judged.map_err(|refusal| self.judge.refused(append.from, refusal))?;
        let doubted = self.doubts.judge(append.vote, append.committed, append.entries);
        doubted.map_err(Refusal::Impossible)?;
        // A leader's word counts once there is nothing wrong with it, not from when the disk
        // has it: a liar would hold off elections for ever, and a slow disk bring them about.
        self.heard(append.vote);
        let request: AppendEntriesRequest<TypeConfig> = AppendEntriesRequest {
            vote: from_vote(append.vote),
            prev_log_id: append.previous.map(from_log_id),
            leader_commit: committed.map(from_log_id),
            entries: append.entries.iter().map(from_entry).collect(),
        };
        let taken = Taken { raft: self.raft.clone(), held: Some((place, turn)) };
        let response = self.raft.append_entries(request).await.map_err(stopped);
        taken.give_back();
        response
    }

    fn judge_vote(&self, from: NodeId, vote: Vote, leads: bool) -> Result<(), Refusal> {
        let judged = self.known().judge_vote(from, vote, leads);
        judged.map_err(|refusal| self.judge.refused(from, refusal))
    }

    /// Returns what this machine knows, to judge others by.
    fn known(&self) -> Known {
        let log = (self.log_state)();
        let applied = self.raft.data_metrics().borrow().last_applied.map(to_log_id);
        let marks = [log.committed, log.purged, applied];
        let committed = marks.into_iter().flatten().max_by_key(|id| id.index);
        Known { me: self.me, vote: self.known_vote(), log, committed }
    }

    /// Notes that a leader has spoken, unless another one is known by now.
    fn heard(&self, vote: Vote) {
        let known = self.known_vote();
        if (vote.term, vote.node) >= (known.term, known.node) {
            self.liveness.heard_leader(vote);
        }
    }

    /// Takes a leader's sign of life. What its entries would say is left to them.
    ///
    /// # Errors
    ///
    /// If it is not believed.
    pub fn pulse(&self, from: NodeId, vote: Vote) -> Result<Response, Refusal> {
        self.judge_vote(from, vote, true)?;
        if self.doubts.remain(vote, (self.log_state)().committed) {
            return Err(Refusal::Impossible("it doubts this leader".to_owned()));
        }
        self.heard(vote);
        Ok(Response::Pulse { vote: self.known_vote() })
    }

    pub(super) fn known_vote(&self) -> Vote {
        to_vote(self.raft.server_metrics().borrow().vote)
    }

    /// Votes for a machine that stands for election, or not.
    ///
    /// # Errors
    ///
    /// If it cannot be believed, or the engine has stopped.
    pub async fn vote(
        &self,
        from: NodeId,
        vote: Vote,
        last: Option<LogId>,
    ) -> Result<Response, Refusal> {
        self.judge_vote(from, vote, false)?;
        judge_last(vote, last).map_err(|refusal| self.judge.refused(from, refusal))?;
        let request = VoteRequest::new(from_vote(vote), last.map(from_log_id));
        let response = self.raft.vote(request).await.map_err(stopped)?;
        Ok(Response::Voted {
            vote: to_vote(response.vote),
            last: response.last_log_id.map(to_log_id),
            granted: response.vote_granted,
        })
    }

    /// Takes in a checkpoint of the leader's, and installs it.
    ///
    /// # Errors
    ///
    /// If there is no room for it, it does not come whole, or the engine has stopped.
    pub async fn install(
        &self,
        incoming: &mut Incoming<'_>,
        vote: Vote,
        offer: CheckpointHeader,
    ) -> Result<Response, Refusal> {
        let CheckpointHeader { applied, index, .. } = offer;
        let from = incoming.from;
        self.judge_vote(from, vote, true)?;
        let known = self.known_vote();
        let is_overruled = (vote.term, vote.node) < (known.term, known.node);
        let is_of_no_use = is_overruled || self.judge_offer(from, vote, applied)?;
        self.heard(vote);
        if is_of_no_use {
            return Ok(Response::Installed { vote: known });
        }
        let failed = |error: ReceiveError| {
            tracing::warn!("a checkpoint did not come whole: {}", ErrorChain(&error));
            error.refusal()
        };
        let coming = self.incoming_checkpoints.take(incoming, vote.term, offer).await;
        let coming = coming.map_err(failed)?;
        let installing = async {
            let image = self.incoming_checkpoints.check(coming, applied).await.map_err(failed)?;
            let this = self.clone();
            finish(async move {
                let _turn = this.judge.turn.lock().await;
                // Much may have been committed while it came.
                if this.judge_offer(from, vote, applied)? {
                    return Ok(this.known_vote());
                }
                this.install_image(vote, image).await
            })
            .await
        };
        let installed = incoming.busy(installing).await?;
        tracing::info!("a checkpoint at command {index} came from machine {}", incoming.from);
        Ok(Response::Installed { vote: installed })
    }

    /// Judges a checkpoint that is offered. Returns whether this machine has no use for it.
    fn judge_offer(&self, from: NodeId, vote: Vote, applied: LogId) -> Result<bool, Refusal> {
        let judged = self.known().judge_offer(&self.judge, from, vote, applied);
        judged.map_err(|refusal| self.judge.refused(from, refusal))
    }

    async fn install_image(&self, vote: Vote, image: SnapshotData) -> Result<Vote, Refusal> {
        let applied = image.applied;
        let meta = image.checkpoint.as_deref().map(meta_of).unwrap_or_default();
        let snapshot = Snapshot { meta, snapshot: Box::new(image) };
        let installed = self.raft.install_full_snapshot(from_vote(vote), snapshot).await;
        let installed = installed.map_err(stopped)?;
        // One that came too late was not installed, and is as good as any other.
        if (self.log_state)().committed >= Some(applied) {
            self.incoming_checkpoints.covered(applied).await;
        }
        if let Err(error) = (self.note_checkpoints)() {
            tracing::warn!("the checkpoints cannot be listed: {}", ErrorChain(&error));
        }
        Ok(to_vote(installed.vote))
    }
}

/// What an append takes as long as openraft is at it, be it that nobody waits for it any
/// longer: its place, and the judge's turn.
///
/// A task of its own for each append would do it as well, and costs 3 % of all writes.
struct Taken {
    raft: Raft<TypeConfig>,
    held: Option<(OwnedSemaphorePermit, OwnedMutexGuard<()>)>,
}

impl Taken {
    /// Gives it back: openraft has answered.
    fn give_back(mut self) {
        self.held = None;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Where the runtime is at its end, so is openraft.
        if let (Some(held), Ok(runtime)) = (self.held.take(), Handle::try_current()) {
            let raft = self.raft.clone();
            runtime.spawn(async move {
                // It answers what it is asked in order.
                let _answered = raft.with_raft_state(|_| ()).await;
                drop(held);
            });
        }
    }
}

/// Does something to its end, be it that nobody waits for it any longer.
async fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(stopped(error)),
        },
    }
}

fn stopped(error: impl std::fmt::Display) -> Refusal {
    Refusal::Impossible(error.to_string())
}
