//! What this machine answers to the Raft of another one.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use etcd_log::{Entry, EventNumber, Index, LogId, NodeId, RaftIndex, Vote};
use openraft::Snapshot;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};

use super::engine::Consensus;
use super::received::ReceiveError;
use super::state_machine::{Image, meta_of};
use super::types::{from_entry, from_log_id, from_vote, to_log_id, to_vote};
use crate::one_line::OneLine;
use crate::peers::{Answer, Appended, Asked, Refusal, decode_entries};

/// How often a machine shows that it is still busy with a checkpoint.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

impl Consensus {
    /// Appends a leader's entries, and answers once they are durable.
    ///
    /// # Errors
    ///
    /// If they cannot be read, or the engine has stopped.
    pub async fn append(
        &self,
        vote: Vote,
        previous: Option<LogId>,
        committed: Option<LogId>,
        entries: &Bytes,
    ) -> Result<Answer, Refusal> {
        let entries = decode_entries(entries).map_err(Refusal::NotUnderstood)?;
        let first = previous.map_or(RaftIndex(0), |id| id.index.next());
        let follows = |(entry, index): (&Entry, u64)| entry.id.index.0 == index;
        if !entries.iter().zip(first.0..).all(follows) {
            return Err(Refusal::NotUnderstood("the entries have a hole".to_owned()));
        }
        // Its word counts from when it came, not from when the disk has it.
        self.heard(vote);
        let request = AppendEntriesRequest {
            vote: from_vote(vote),
            prev_log_id: previous.map(from_log_id),
            leader_commit: committed.map(from_log_id),
            entries: entries.iter().map(from_entry).collect(),
        };
        let response = self.raft.append_entries(request).await.map_err(stopped)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.heard(vote);
            // What this machine says it has, its disk has.
            self.unsynced.wait_for_all().await;
        }
        Ok(Answer::Appended(match response {
            AppendEntriesResponse::Success => Appended::All,
            AppendEntriesResponse::PartialSuccess(upto) => Appended::UpTo(upto.map(to_log_id)),
            AppendEntriesResponse::Conflict => Appended::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Appended::Overruled(to_vote(vote)),
        }))
    }

    /// Notes that a leader has spoken, unless another one is known by now.
    fn heard(&self, vote: Vote) {
        let known = to_vote(self.raft.server_metrics().borrow().vote);
        if (vote.term, vote.node) >= (known.term, known.node) {
            self.contact.heard_leader(vote.node);
        }
    }

    /// Votes for a machine that stands for election, or not.
    ///
    /// # Errors
    ///
    /// If the engine has stopped.
    pub async fn vote(&self, vote: Vote, last: Option<LogId>) -> Result<Answer, Refusal> {
        let request = VoteRequest::new(from_vote(vote), last.map(from_log_id));
        let response = self.raft.vote(request).await.map_err(stopped)?;
        Ok(Answer::Voted {
            vote: to_vote(response.vote),
            last: response.last_log_id.map(to_log_id),
            granted: response.vote_granted,
        })
    }

    /// Takes in a checkpoint of the leader's, and installs it.
    ///
    /// # Errors
    ///
    /// If it does not come whole, or the engine has stopped.
    pub async fn install(
        &self,
        asked: &mut Asked<'_>,
        vote: Vote,
        applied: LogId,
        (index, event): (Index, EventNumber),
    ) -> Result<Answer, Refusal> {
        self.heard(vote);
        let failed = |error: ReceiveError| {
            tracing::warn!("a checkpoint did not come whole: {}", OneLine(&error));
            Refusal::NotUnderstood(OneLine(&error).to_string())
        };
        let file = self.received.take(asked, applied, index, event).await.map_err(failed)?;
        let mut installing = pin!(async {
            let image = self.received.check(file, applied).await.map_err(failed)?;
            self.install_image(vote, image).await
        });
        let installed = loop {
            tokio::select! {
                installed = installing.as_mut() => break installed?,
                // Whoever waits for the answer wants to see that there is somebody.
                () = tokio::time::sleep(SIGN_OF_LIFE) => {
                    asked.tell(&[]).await.map_err(|_| Refusal::NotReady)?;
                }
            }
        };
        tracing::info!("a checkpoint at command {index} came from machine {}", asked.from);
        Ok(Answer::Installed { vote: installed })
    }

    async fn install_image(&self, vote: Vote, image: Image) -> Result<Vote, Refusal> {
        let applied = image.applied;
        let meta = image.checkpoint.as_deref().map(meta_of).unwrap_or_default();
        let snapshot = Snapshot { meta, snapshot: Box::new(image) };
        let installed = self.raft.install_full_snapshot(from_vote(vote), snapshot).await;
        let installed = installed.map_err(stopped)?;
        // One that came too late was not installed, and is as good as any other.
        if (self.log_state)().committed >= Some(applied) {
            self.received.covered(applied).await;
        }
        (self.note_checkpoints)();
        Ok(to_vote(installed.vote))
    }

    /// Notes that this machine was told that it is no longer a member.
    pub fn removed(&self) {
        self.contact.removed();
    }

    /// Waits until this machine is told that it is no longer a member.
    pub async fn until_removed(&self) {
        self.contact.until_removed().await;
    }

    /// Returns which machine this is.
    pub fn me(&self) -> NodeId {
        self.me
    }
}

fn stopped(error: impl std::fmt::Display) -> Refusal {
    Refusal::Impossible(error.to_string())
}
