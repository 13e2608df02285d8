//! Appends: entries on their way to another machine.
//!
//! openraft gives an append one heartbeat, gives it up, and asks for it again, as long
//! as it takes. So what was given up goes on where it was: whoever asks again awaits the
//! append that is under way.
//!
//! ```text
//! openraft:  append ── given up   append ── given up   append ─────▶ answered
//! under way: ════════════════════════════════════════════════════════▶
//! ```
//!
//! How long it may take depends on how much it carries, and on whether the other machine
//! shows that it is at it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use etcd_log::{Entry, LogId, NodeId};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use openraft::Vote;
use openraft::error::{NetworkError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use tokio::time::Instant;

use super::judge::{Unbelievable, judge_appended};
use super::network::{Network, RpcResult, failed, unexpected};
use super::types::{TypeConfig, from_log_id, from_vote, to_entry, to_log_id, to_vote};
use crate::peers::{Appended, Request, Response, encode_entries, travel};

/// How long a machine may take to answer entries, or to show that it is at it, once they
/// have come: a connection may be dead, and only silence says so.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

pub(super) type AppendResult = RpcResult<AppendEntriesResponse<u64>>;

/// The appends to one machine, one at a time. One that openraft has given up goes on.
///
/// One future does them all, as long as the connection lives: it takes kilobytes, which
/// are not allocated anew for each write.
pub(super) struct Appends {
    next: Arc<Mutex<Option<Job>>>,
    /// A mutex for the compiler's sake: only one at a time may look into a stream.
    answers: Mutex<BoxStream<'static, AppendResult>>,
    under_way: Option<UnderWay>,
}

type Job = (AppendEntriesRequest<TypeConfig>, RPCOption);

/// What an append carries that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    vote: Vote<u64>,
    previous: Option<openraft::LogId<u64>>,
    last: openraft::LogId<u64>,
}

impl UnderWay {
    /// Returns whether a request asks for what is under way, and perhaps for more.
    fn is_part_of(&self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        let carries_last = || request.entries.iter().any(|entry| entry.log_id == self.last);
        self.vote == request.vote && self.previous == request.prev_log_id && carries_last()
    }
}

impl Appends {
    pub(super) fn new(network: Arc<Network>, target: NodeId) -> Self {
        let next = Arc::<Mutex<Option<Job>>>::default();
        let jobs = Arc::clone(&next);
        // It is only polled when there is something to be done.
        let jobs = stream::poll_fn(move |_| match lock(&jobs).take() {
            Some(job) => Poll::Ready(Some(job)),
            None => Poll::Pending,
        });
        let answers = jobs
            .then(move |(request, option)| append(Arc::clone(&network), target, request, option));
        Self { next, answers: Mutex::new(answers.boxed()), under_way: None }
    }

    /// Sends the entries of a request, the last of which is this one; or goes on with the
    /// append that is under way, if they are asked for again. Whoever gives that up may
    /// ask again later.
    pub(super) async fn append(
        &mut self,
        network: &Arc<Network>,
        target: NodeId,
        request: AppendEntriesRequest<TypeConfig>,
        last: openraft::LogId<u64>,
        option: RPCOption,
    ) -> AppendResult {
        if self.under_way.is_some_and(|under_way| !under_way.is_part_of(&request)) {
            *self = Self::new(Arc::clone(network), target);
        }
        let under_way = UnderWay { vote: request.vote, previous: request.prev_log_id, last };
        let sent = self.under_way.get_or_insert_with(|| {
            *lock(&self.next) = Some((request, option));
            under_way
        });
        let sent = sent.last;
        let answers = self.answers.get_mut().unwrap_or_else(PoisonError::into_inner);
        let answer = answers.next().await;
        self.under_way = None;
        match answer.expect("there is an answer to each")? {
            AppendEntriesResponse::Success if sent < last => {
                Ok(AppendEntriesResponse::PartialSuccess(Some(sent)))
            }
            answer => Ok(answer),
        }
    }
}

impl fmt::Debug for Appends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appends").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Judges what a machine answers to these entries behind another one, and notes what
    /// it confirms.
    fn judge_appended(
        &self,
        target: NodeId,
        vote: etcd_log::Vote,
        previous: Option<LogId>,
        entries: &[Arc<Entry>],
        appended: Appended,
    ) -> Result<(), Unbelievable> {
        judge_appended(vote, previous, entries, appended)?;
        match (appended, entries.last().map(|entry| entry.id).or(previous)) {
            (Appended::All, Some(last)) | (Appended::UpTo(Some(last)), _) => {
                self.confirmed.note(target, vote, last);
            }
            (Appended::Conflict, _) => {
                self.confirmed.judge_conflict(target, vote, previous.unwrap_or_default())?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes entries as they are sent. A single one is written once for all followers.
    fn encode(&self, entries: &[Arc<Entry>]) -> Arc<[u8]> {
        let [entry] = entries else { return encode_entries(entries).into() };
        let mut encoded = lock(&self.encoded);
        match &*encoded {
            Some((id, bytes)) if *id == entry.id => Arc::clone(bytes),
            _ => {
                let bytes = Arc::<[u8]>::from(encode_entries(entries));
                *encoded = Some((entry.id, Arc::clone(&bytes)));
                bytes
            }
        }
    }

    /// Returns the last committed entry, once this machine's own disk has it. A disk
    /// that takes long must not silence a leader: then it says nothing of the kind.
    async fn committed(&self, committed: Option<LogId>, option: &RPCOption) -> Option<LogId> {
        let synced = self.unsynced.wait_for(committed?.index);
        let synced = tokio::time::timeout(option.hard_ttl() / 2, synced).await;
        committed.filter(|_| synced.is_ok())
    }
}

/// Sends entries to a machine, and returns what it answers.
pub(super) async fn append(
    network: Arc<Network>,
    target: NodeId,
    request: AppendEntriesRequest<TypeConfig>,
    option: RPCOption,
) -> AppendResult {
    if let Some(given_way) = network.given_way(&request.vote) {
        return Err(given_way.into());
    }
    let committed = network.committed(request.leader_commit.map(to_log_id), &option).await;
    let asked = Instant::now();
    let message = Request::Append {
        vote: to_vote(request.vote),
        previous: request.prev_log_id.map(to_log_id),
        committed,
        time: network.clock.now(),
    };
    let entries = request.entries.into_iter().map(|entry| Arc::new(to_entry(entry)));
    let entries: Vec<_> = entries.collect();
    let bytes = network.encode(&entries);
    let limit = if entries.is_empty() { option.hard_ttl() } else { ANSWER_LIMIT };
    let answered = network.peers.ask(target, &message, &bytes, limit + travel(bytes.len())).await;
    let answer = answered.map_err(|error| failed(&error))?;
    let Response::Appended(appended) = answer else {
        return Err(NetworkError::new(&unexpected(&answer)).into());
    };
    let (vote, previous) = (to_vote(request.vote), request.prev_log_id.map(to_log_id));
    let judged = network.judge_appended(target, vote, previous, &entries, appended);
    judged.map_err(|error| Unreachable::new(&error))?;
    if !matches!(appended, Appended::Overruled(_)) {
        network.liveness.answered(target, asked);
    }
    Ok(match appended {
        Appended::All => AppendEntriesResponse::Success,
        Appended::UpTo(upto) => AppendEntriesResponse::PartialSuccess(upto.map(from_log_id)),
        Appended::Conflict => AppendEntriesResponse::Conflict,
        Appended::Overruled(vote) => AppendEntriesResponse::HigherVote(from_vote(vote)),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use etcd_log::{Batch, LogTime, Payload};
    use openraft::BasicNode;
    use openraft::network::{RaftNetwork as _, RaftNetworkFactory as _};

    use super::*;
    use crate::consensus::connection::{Connection, Connections};
    use crate::consensus::types::from_entry;
    use crate::peers::testing::{Respond, peers_with};
    use crate::peers::{Incoming, Refusal};
    use crate::util::limit;

    const HEARTBEAT: Duration = Duration::from_millis(100);

    /// A machine whose disk takes three seconds for whatever it is sent.
    #[derive(Clone, Debug, Default)]
    struct Slow {
        appends: Arc<AtomicUsize>,
    }

    impl Respond for Slow {
        async fn respond(
            &self,
            _request: Request,
            mut incoming: Incoming<'_>,
        ) -> Result<Response, Refusal> {
            self.appends.fetch_add(1, Ordering::Relaxed);
            incoming.busy(tokio::time::sleep(Duration::from_secs(3))).await;
            Ok(Response::Appended(Appended::All))
        }
    }

    async fn connection(slow: &Slow) -> Connection {
        let network = Network::for_tests(peers_with(slow.clone()));
        Connections(network).new_client(2, &BasicNode::new("slow:1")).await
    }

    fn id(index: u64) -> openraft::LogId<u64> {
        let index = etcd_log::RaftIndex(index);
        from_log_id(LogId { term: etcd_log::Term(1), node: NodeId(1), index })
    }

    /// A request for the entries behind the first, up to this one.
    fn upto(last: u64) -> AppendEntriesRequest<TypeConfig> {
        let entry = |index| {
            let payload = Payload::Batch(Arc::new(Batch::new(LogTime(index), Vec::new())));
            from_entry(&Entry { id: to_log_id(id(index)), payload })
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(id(1)),
            leader_commit: None,
            entries: (2..=last).map(entry).collect(),
        }
    }

    /// Asks as openraft does: with one heartbeat's patience, again and again, for all
    /// that there is by then.
    async fn ask_as_openraft(connection: &mut Connection) -> AppendEntriesResponse<u64> {
        for tries in 0.. {
            let request = upto(3 + tries / 10);
            let asking = connection.append_entries(request, RPCOption::new(HEARTBEAT));
            if let Ok(answered) = tokio::time::timeout(HEARTBEAT, asking).await {
                assert!(tries >= 29, "it takes as long as it takes");
                return answered.unwrap();
            }
        }
        unreachable!("it is answered in the end")
    }

    #[tokio::test]
    async fn what_was_confirmed_in_part_is_not_missed() {
        limit::begin();
        let network = Network::for_tests(peers_with(Slow::default()));
        let vote = to_vote(Vote::new_committed(1, 1));
        let entries: Vec<_> =
            upto(5).entries.into_iter().map(|sent| Arc::new(to_entry(sent))).collect();
        let judge = |previous, answer| {
            network.judge_appended(NodeId(2), vote, Some(to_log_id(id(previous))), &entries, answer)
        };
        judge(1, Appended::UpTo(Some(to_log_id(id(4))))).unwrap();
        assert!(judge(4, Appended::Conflict).is_err() && judge(5, Appended::Conflict).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn append_that_takes_long_is_sent_once() {
        limit::begin();
        let slow = Slow::default();
        let answered = ask_as_openraft(&mut connection(&slow).await).await;
        assert_eq!(slow.appends.load(Ordering::Relaxed), 1);
        // More has been asked for meanwhile than was sent.
        assert!(
            matches!(answered, AppendEntriesResponse::PartialSuccess(Some(last)) if last == id(3))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn append_of_another_leader_is_not_the_one_under_way() {
        limit::begin();
        let slow = Slow::default();
        let mut connection = connection(&slow).await;
        let first = connection.append_entries(upto(3), RPCOption::new(HEARTBEAT));
        assert!(tokio::time::timeout(HEARTBEAT, first).await.is_err());
        let other = AppendEntriesRequest { vote: Vote::new_committed(2, 1), ..upto(3) };
        let other = connection.append_entries(other, RPCOption::new(HEARTBEAT));
        assert!(matches!(other.await, Ok(AppendEntriesResponse::Success)));
        assert_eq!(slow.appends.load(Ordering::Relaxed), 2);
    }
}
