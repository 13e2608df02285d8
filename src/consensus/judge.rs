//! The judge: what another machine says, before openraft believes it.
//!
//! ```text
//! append, vote, checkpoint ─▶ from whom? which term? ─▶ do the entries follow? ─▶ openraft
//!                                     │                  do they agree with ours?
//!                                     └────────▶ refused, and named ◀────┘
//! ```
//!
//! openraft trusts its peers: an entry that contradicts a committed one ends the
//! process, a vote in the last term there is ends it at every start, and a leader that
//! is named in a vote is one from then on. So all that it takes for granted is looked
//! at here (Raft, figure 3):
//!
//! * who leads or stands speaks for itself, and nobody speaks for this machine;
//! * terms go up by elections, so none is far ahead of those that are known;
//! * entries follow each other, in terms that do not go back;
//! * what is committed here is the same everywhere, whatever the term (*leader
//!   completeness*), and an entry with the same id has the same content (*log matching*).
//!
//! Not here: whether the sender is a member (`node`), whether a checkpoint came whole
//! (`received`).

use std::ops::Range;
use std::sync::Arc;

use etcd_log::{Entry, LogId, LogState, Membership, NodeId, Payload, RaftIndex, Term, Vote};
use tokio::sync::Mutex;

use super::confirmed::Lost;
use crate::peers::{Appended, Refusal};
use crate::util::rate_limit::RateLimit;

/// How far a term may be ahead of the one known here. A cluster in trouble has an
/// election every half second or so: this is a week of nothing else.
const TERMS_AHEAD: u64 = 1_000_000;

/// The same for a machine that knows nothing yet: its cluster may be old. At an election
/// every half second, it is 68 years old.
const FIRST_TERMS: u64 = 1 << 32;

/// No term from here on is believed, however it was reached: there are enough left above
/// it that none ever overflows.
const NO_TERM: Term = Term(1 << 62);

/// No log is so long: there is no entry from here on.
const NO_INDEX: RaftIndex = RaftIndex(1 << 62);

/// How many bytes of this log are held against what came, at a time.
const COMPARED_BYTES: usize = 1 << 20;

/// Reads entries of the log, up to about so many bytes.
type ReadLog = dyn Fn(Range<RaftIndex>, usize) -> Vec<Arc<Entry>> + Send + Sync;

/// What judging takes.
pub(super) struct Judge {
    read: Box<ReadLog>,
    /// Held from when entries are judged until openraft has them: in between, nothing
    /// else may become committed.
    pub(super) turn: Arc<Mutex<()>>,
    told: RateLimit,
}

/// What is known here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) me: NodeId,
    pub(super) vote: Vote,
    pub(super) log: LogState,
    /// The last entry that is committed, or applied.
    pub(super) committed: Option<LogId>,
}

/// Why a term is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} is too far ahead of {known}, the last term known")]
pub(super) struct FarAhead {
    found: Term,
    known: Term,
}

/// Why a machine cannot go on from the vote that it has given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a stranger has made it vote in a term that no cluster reaches: remove this machine from its cluster, and start it anew with -i"
)]
pub(super) struct Poisoned(#[from] FarAhead);

/// Why an answer is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unbelievable {
    #[error(transparent)]
    FarAhead(#[from] FarAhead),
    #[error("it says that this machine stands in {0}, where it has not been yet")]
    NotMine(Term),
    #[error("it has entries that were not sent, up to {0}")]
    NotSent(LogId),
    #[error("it says that it has no entry at all")]
    NoEntry,
    #[error("it misses the entry before the first")]
    NoPrevious,
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// Judges the term of a vote, beside the last one known.
fn judge_term(known: Term, ahead: u64, found: Term) -> Result<(), FarAhead> {
    if found >= NO_TERM || found.0.saturating_sub(known.0) > ahead {
        return Err(FarAhead { found, known });
    }
    Ok(())
}

/// Judges the vote that a machine is found with at its start: from before votes were
/// judged, or after no end of lies.
pub(super) fn judge_own_vote(log: &LogState) -> Result<(), Poisoned> {
    let known = log.last.map(|id| id.term).unwrap_or_default();
    let found = log.vote.map(|vote| vote.term).unwrap_or_default();
    Ok(judge_term(known, u64::MAX, found)?)
}

/// Judges the vote in the answer to a request that was asked with another one.
pub(super) fn judge_answer(asked: Vote, answered: Vote) -> Result<(), Unbelievable> {
    judge_term(asked.term, TERMS_AHEAD, answered.term)?;
    // Nobody knows of a vote for this machine before it has stood.
    if answered.node == asked.node && answered.term > asked.term {
        return Err(Unbelievable::NotMine(answered.term));
    }
    Ok(())
}

/// Judges the last entry that whoever stands or leads says there is.
pub(super) fn judge_last(vote: Vote, last: Option<LogId>) -> Result<(), Refusal> {
    match last {
        Some(last) if leader_of(last) > (vote.term, vote.node) => {
            let text = format!("entry {last} is from after {}", vote.term);
            Err(Refusal::NotBelieved(text))
        }
        Some(last) if last.index >= NO_INDEX => {
            Err(Refusal::NotBelieved(format!("no log has an entry {last}")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Judges the answer to an append of these entries behind another one.
pub(super) fn judge_appended(
    asked: Vote,
    previous: Option<LogId>,
    entries: &[Arc<Entry>],
    answer: Appended,
) -> Result<(), Unbelievable> {
    match answer {
        Appended::All => Ok(()),
        Appended::UpTo(upto) => {
            let was_sent = upto == previous || entries.iter().any(|entry| Some(entry.id) == upto);
            match upto {
                _ if was_sent => Ok(()),
                Some(upto) => Err(Unbelievable::NotSent(upto)),
                None => Err(Unbelievable::NoEntry),
            }
        }
        // openraft ends over it.
        Appended::Conflict => previous.map(drop).ok_or(Unbelievable::NoPrevious),
        Appended::Overruled(vote) => judge_answer(asked, vote),
    }
}

impl Known {
    /// Judges a vote of another machine: who stands, or leads.
    pub(super) fn judge_vote(&self, from: NodeId, vote: Vote, leads: bool) -> Result<(), Refusal> {
        let Vote { term, node, committed } = vote;
        if node != from || node == self.me {
            let text = format!("machine {from} speaks for machine {node}");
            return Err(Refusal::NotBelieved(text));
        }
        if committed != leads {
            let one = if committed { "one that leads" } else { "one that stands" };
            let text = format!("machine {from} cannot ask this as {one}");
            return Err(Refusal::NotBelieved(text));
        }
        let is_new = self.vote == Vote::default() && self.log.last.is_none();
        let ahead = if is_new { FIRST_TERMS } else { TERMS_AHEAD };
        let known = self.vote.term.max(self.log.last.map(|id| id.term).unwrap_or_default());
        judge_term(known, ahead, term).map_err(|error| Refusal::NotBelieved(error.to_string()))
    }

    /// Judges a checkpoint that is offered. Returns whether its entries are here already.
    pub(super) fn judge_offer(
        &self,
        judge: &Judge,
        from: NodeId,
        vote: Vote,
        applied: LogId,
    ) -> Result<bool, Refusal> {
        judge_last(vote, Some(applied))?;
        let Some(committed) = self.committed else { return Ok(false) };
        if applied.index > committed.index {
            return if leader_of(applied) < leader_of(committed) {
                Err(differs(from, applied, committed))
            } else {
                Ok(false)
            };
        }
        let here = judge.id_at(self, applied.index);
        self.judge_committed(from, applied, here)?;
        Ok(true)
    }

    /// Judges an entry where one is committed here; which one, is not always known.
    fn judge_committed(
        &self,
        from: NodeId,
        found: LogId,
        here: Option<LogId>,
    ) -> Result<(), Refusal> {
        let committed = self.committed.unwrap_or_default();
        match here {
            Some(here) if here != found => Err(differs(from, found, here)),
            None if leader_of(found) > leader_of(committed) => Err(differs(from, found, committed)),
            Some(_) | None => Ok(()),
        }
    }
}

/// What a leader wants to be appended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Append<'e> {
    pub(super) from: NodeId,
    pub(super) vote: Vote,
    pub(super) previous: Option<LogId>,
    pub(super) committed: Option<LogId>,
    pub(super) entries: &'e [Entry],
}

impl Judge {
    pub(super) fn new(
        read: impl Fn(Range<RaftIndex>, usize) -> Vec<Arc<Entry>> + Send + Sync + 'static,
    ) -> Self {
        Self { read: Box::new(read), turn: Arc::default(), told: RateLimit::default() }
    }

    /// Judges an append. Returns which entry may be taken for committed after it: the
    /// leader's, if it is among those that are here or come, or else the last that comes.
    pub(super) fn append(
        &self,
        known: &Known,
        append: &Append<'_>,
    ) -> Result<Option<LogId>, Refusal> {
        judge_order(append)?;
        if let Some(previous) =
            append.previous.filter(|id| Some(id.index) <= index(known.committed))
        {
            known.judge_committed(append.from, previous, self.id_at(known, previous.index))?;
        }
        self.compare(known, append)?;
        self.judge_commit(known, append)
    }

    /// Notes that something was refused, and says so now and then.
    pub(super) fn refused(&self, from: NodeId, refusal: Refusal) -> Refusal {
        if matches!(refusal, Refusal::Differs { .. } | Refusal::NotBelieved(_))
            && self.told.is_due()
        {
            tracing::error!("what machine {from} sent was refused: {refusal}");
        }
        refusal
    }

    /// Holds the entries that come against those that are here.
    fn compare(&self, known: &Known, append: &Append<'_>) -> Result<(), Refusal> {
        let mut coming = append.entries;
        while let Some(first) = coming.first() {
            if Some(first.id.index) > index(known.log.last) {
                return Ok(());
            }
            let upto = RaftIndex(first.id.index.0 + coming.len() as u64);
            let here = (self.read)(first.id.index..upto, COMPARED_BYTES);
            if here.is_empty() {
                // It is not kept. What is not committed is.
                known.judge_committed(append.from, first.id, self.id_at(known, first.id.index))?;
                coming = &coming[1..];
            }
            for here in here {
                let Some((next, rest)) = coming.split_first() else { return Ok(()) };
                let is_committed = Some(next.id.index) <= index(known.committed);
                if next.id != here.id && !is_committed {
                    // It takes the place of the one that is here, and so does what follows.
                    return Ok(());
                }
                if *next != *here {
                    return Err(differs(append.from, next.id, here.id));
                }
                coming = rest;
            }
        }
        Ok(())
    }

    /// Judges what the leader says is committed. openraft takes the lesser of it and the
    /// last entry that came, by term: so a lie about the term could name any entry.
    fn judge_commit(&self, known: &Known, append: &Append<'_>) -> Result<Option<LogId>, Refusal> {
        let Append { from, vote, previous, entries, .. } = *append;
        judge_last(vote, append.committed)?;
        let Some(committed) = append.committed else { return Ok(None) };
        if Some(committed.index) <= index(known.committed) {
            known.judge_committed(from, committed, self.id_at(known, committed.index))?;
            return Ok(None);
        }
        let last = entries.last().map(|entry| entry.id).or(previous);
        let Some(last) = last else { return Ok(None) };
        if committed.index > last.index {
            if leader_of(committed) < leader_of(last) {
                return Err(differs(from, committed, last));
            }
            // What came before may reach further.
            let is_here = self.id_at(known, committed.index) == Some(committed);
            return Ok(if is_here { Some(committed) } else { Some(last) });
        }
        let coming = entries.iter().map(|entry| entry.id).chain(previous);
        match coming.into_iter().find(|id| id.index == committed.index) {
            Some(id) if id != committed => Err(differs(from, committed, id)),
            Some(id) => Ok(Some(id)),
            None => {
                let is_here = self.id_at(known, committed.index) == Some(committed);
                Ok(is_here.then_some(committed))
            }
        }
    }

    /// Returns which entry stands here at an index, if that is known.
    fn id_at(&self, known: &Known, at: RaftIndex) -> Option<LogId> {
        let LogState { purged, forgotten, missing, last, .. } = known.log;
        let marks = [purged, forgotten, missing, last, known.committed];
        let mark = marks.into_iter().flatten().find(|id| id.index == at);
        mark.or_else(|| {
            let here = (self.read)(at..at.next(), 1);
            here.first().map(|entry| entry.id).filter(|id| id.index == at)
        })
    }
}

/// Judges whether entries follow each other, and the one before them.
fn judge_order(append: &Append<'_>) -> Result<(), Refusal> {
    let Append { vote, previous, entries, .. } = *append;
    judge_last(vote, previous)?;
    let mut before = previous;
    for Entry { id, payload } in entries {
        if id.index != before.map_or(RaftIndex(0), |id| id.index.next()) {
            return Err(Refusal::NotUnderstood("the entries have a hole".to_owned()));
        }
        if before.is_some_and(|before| leader_of(*id) < leader_of(before)) {
            let text = format!("entry {id} does not follow one of a later term");
            return Err(Refusal::NotBelieved(text));
        }
        if let Payload::Membership(membership) = payload
            && !is_sound(membership)
        {
            return Err(Refusal::NotBelieved(format!("entry {id} is no group of machines")));
        }
        before = Some(*id);
    }
    judge_last(vote, before)
}

/// Returns whether a group can decide anything, and all that have a vote are known.
fn is_sound(membership: &Membership) -> bool {
    let Membership { voters, nodes } = membership;
    let is_known = |voters: &std::collections::BTreeSet<NodeId>| {
        !voters.is_empty() && voters.iter().all(|node| nodes.contains_key(node))
    };
    matches!(voters.len(), 1 | 2) && voters.iter().all(is_known)
}

/// The leader that wrote an entry.
fn leader_of(id: LogId) -> (Term, NodeId) {
    (id.term, id.node)
}

fn index(id: Option<LogId>) -> Option<RaftIndex> {
    id.map(|id| id.index)
}

fn differs(from: NodeId, found: LogId, here: LogId) -> Refusal {
    Refusal::Differs { from, found, here }
}

#[cfg(test)]
mod tests;
