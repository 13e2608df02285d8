//! What this machine answers to the Raft of another one.

use bytes::Bytes;
use etcd_log::{Entry, EventNumber, Index, LogId, RaftIndex, Vote};
use openraft::Snapshot;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};

use super::engine::Consensus;
use super::received::ReceiveError;
use super::snapshot::{Image, meta_of};
use super::types::{from_entry, from_log_id, from_vote, to_log_id, to_vote};
use crate::one_line::OneLine;
use crate::peers::{Answer, Appended, Asked, Refusal, decode_entries};

/// How many appends may wait for the disk at a time. A leader that gets no answer in
/// time sends again, and every one of them is held in memory.
pub(super) const APPENDS: usize = 8;

/// A checkpoint that a leader offers.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// The last entry that it contains.
    pub applied: LogId,
    /// The last command.
    pub index: Index,
    /// The last event.
    pub event: EventNumber,
    /// How long it is.
    pub bytes: u64,
}

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
        if !self.doubts.remain(vote, committed) {
            // Its word counts from when it came, not from when the disk has it.
            self.heard(vote);
        }
        // Heartbeats are small, and need no disk.
        let place = (!entries.is_empty()).then(|| self.appends.try_acquire());
        let _place = place.transpose().map_err(|_| Refusal::NotReady)?;
        let entries = decode_entries(entries).map_err(Refusal::NotUnderstood)?;
        let first = previous.map_or(RaftIndex(0), |id| id.index.next());
        let follows = |(entry, index): (&Entry, u64)| entry.id.index.0 == index;
        if !entries.iter().zip(first.0..).all(follows) {
            return Err(Refusal::NotUnderstood("the entries have a hole".to_owned()));
        }
        self.doubts.judge(vote, committed, &entries).map_err(Refusal::Impossible)?;
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
        let known = self.known_vote();
        if (vote.term, vote.node) >= (known.term, known.node) {
            self.contact.heard_leader(vote);
        }
    }

    /// Takes a leader's sign of life. What its entries would say is left to them.
    pub fn pulse(&self, vote: Vote) -> Answer {
        self.heard(vote);
        Answer::Pulse { vote: self.known_vote() }
    }

    pub(super) fn known_vote(&self) -> Vote {
        to_vote(self.raft.server_metrics().borrow().vote)
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
    /// If there is no room for it, it does not come whole, or the engine has stopped.
    pub async fn install(
        &self,
        asked: &mut Asked<'_>,
        vote: Vote,
        offer: Offer,
    ) -> Result<Answer, Refusal> {
        let Offer { applied, index, .. } = offer;
        self.heard(vote);
        let known = self.known_vote();
        let is_overruled = (vote.term, vote.node) < (known.term, known.node);
        if is_overruled || (self.log_state)().committed >= Some(applied) {
            return Ok(Answer::Installed { vote: known });
        }
        let failed = |error: ReceiveError| {
            tracing::warn!("a checkpoint did not come whole: {}", OneLine(&error));
            Refusal::Impossible(OneLine(&error).to_string())
        };
        let coming = self.received.take(asked, offer).await.map_err(failed)?;
        let installing = async {
            let image = self.received.check(coming, applied).await.map_err(failed)?;
            self.install_image(vote, image).await
        };
        let installed = asked.busy(installing).await?;
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
}

fn stopped(error: impl std::fmt::Display) -> Refusal {
    Refusal::Impossible(error.to_string())
}
