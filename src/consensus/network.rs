//! openraft's network, over the peers.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read as _};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_log::{Entry, IoError, LogId, NodeId};
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, Snapshot, Vote};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::confirmed::Confirmed;
use super::contact::Contact;
use super::judge::{Unbelievable, judge_answer, judge_appended};
use super::types::{TypeConfig, from_log_id, from_vote, to_entry, to_log_id, to_vote};
use super::unsynced::Unsynced;
use crate::blocking::blocking;
use crate::clock::Clock;
use crate::consensus::snapshot::Image;
use crate::one_line::OneLine;
use crate::peers::{
    Answer, Appended, CallError, Conversation, Heard, Peers, Question, encode_entries,
};
use crate::seldom::Seldom;

type RpcResult<T> = Result<T, RPCError<u64, BasicNode, RaftError<u64>>>;

/// For how many rounds of the scheduler a heartbeat waits for entries to be sent: where
/// there are some, they say all that it would. A round takes microseconds where
/// there is nothing to do.
const ROUNDS: usize = 8;

/// How long to wait before a machine that could not be reached is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// How much of a checkpoint goes in one piece.
const PIECE_BYTES: usize = 256 << 10;

/// How long a piece of a checkpoint may take on its way, and how long the other machine
/// may be silent.
pub(super) const PIECE_LIMIT: Duration = Duration::from_secs(10);

/// Makes connections to other machines.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) peers: Peers,
    pub(crate) contact: Contact,
    pub(crate) unsynced: Unsynced,
    pub(crate) clock: Clock,
    /// The entry that was sent last, as it is sent: to every follower the same.
    pub(crate) encoded: Arc<Mutex<Option<Encoded>>>,
    pub(crate) confirmed: Confirmed,
    /// Checkpoints that cannot be sent are reported now and then.
    pub(crate) trouble: Arc<Seldom>,
}

/// An entry, and how it is sent.
type Encoded = (LogId, Arc<[u8]>);

/// The way to one machine.
#[derive(Debug)]
pub(crate) struct Connection {
    network: Network,
    target: NodeId,
    /// The last heartbeat, which is on its way beside what was sent after it.
    heartbeat: Option<JoinHandle<AppendResult>>,
    /// Whether the machine has answered what was sent last on this way.
    has_answered: bool,
    /// How many appends that were no heartbeats have begun.
    appends: Arc<AtomicU64>,
}

type AppendResult = RpcResult<AppendEntriesResponse<u64>>;

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Connection {
        let target = NodeId(target);
        // A machine may have said of itself by now that it is somewhere else.
        if self.peers.address(target).is_none() {
            self.peers.learn(target, &node.addr);
        }
        Connection {
            network: self.clone(),
            target,
            heartbeat: None,
            has_answered: false,
            appends: Arc::default(),
        }
    }
}

impl Network {
    async fn ask(
        &self,
        target: NodeId,
        question: &Question,
        behind: &[u8],
        option: &RPCOption,
    ) -> RpcResult<Answer> {
        let asked = self.peers.ask(target, question, behind, option.hard_ttl()).await;
        asked.map_err(|error| {
            if error.is_late() {
                NetworkError::new(&error).into()
            } else {
                // To wait a little before the next try is better than to spin.
                Unreachable::new(&error).into()
            }
        })
    }

    /// Writes entries as they are sent. A single one is written once for all followers.
    fn encode(&self, entries: &[Arc<Entry>]) -> Arc<[u8]> {
        let [entry] = entries else { return encode_entries(entries).into() };
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
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
async fn append(
    network: Network,
    target: NodeId,
    request: AppendEntriesRequest<TypeConfig>,
    option: RPCOption,
) -> AppendResult {
    let committed = network.committed(request.leader_commit.map(to_log_id), &option).await;
    let asked = Instant::now();
    let question = Question::Append {
        vote: to_vote(request.vote),
        previous: request.prev_log_id.map(to_log_id),
        committed,
        time: network.clock.now(),
    };
    let entries = request.entries.into_iter().map(|entry| Arc::new(to_entry(entry)));
    let entries: Vec<_> = entries.collect();
    let bytes = network.encode(&entries);
    let answer = network.ask(target, &question, &bytes, &option).await?;
    let Answer::Appended(appended) = answer else {
        return Err(NetworkError::new(&unexpected(&answer)).into());
    };
    let (vote, previous) = (to_vote(request.vote), request.prev_log_id.map(to_log_id));
    judge_appended(vote, previous, &entries, appended).map_err(|error| Unreachable::new(&error))?;
    match (appended, entries.last().map(|entry| entry.id).or(previous)) {
        (Appended::All, Some(last)) => network.confirmed.note(target, vote, last),
        (Appended::Conflict, _) => {
            let missed = previous.unwrap_or_default();
            let judged = network.confirmed.judge_conflict(target, vote, missed);
            judged.map_err(|error| Unreachable::new(&error))?;
        }
        _ => {}
    }
    if !matches!(appended, Appended::Overruled(_)) {
        network.contact.answered(target, asked);
    }
    Ok(match appended {
        Appended::All => AppendEntriesResponse::Success,
        Appended::UpTo(upto) => AppendEntriesResponse::PartialSuccess(upto.map(from_log_id)),
        Appended::Conflict => AppendEntriesResponse::Conflict,
        Appended::Overruled(vote) => AppendEntriesResponse::HigherVote(from_vote(vote)),
    })
}

/// Why a checkpoint was not sent.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Read(#[from] IoError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the answer cannot be believed")]
    Answer(#[from] Unbelievable),
}

impl Connection {
    /// Sends a checkpoint in pieces, if it is wanted.
    async fn send(&self, vote: Vote<u64>, image: &Image) -> Result<Vote<u64>, SendError> {
        let path = image.file.path.clone();
        let opened = blocking(move || open(&path)).await;
        let (mut file, bytes) = opened.map_err(IoError::at("open", &image.file.path))?;
        let question = Question::Checkpoint {
            vote: to_vote(vote),
            applied: image.applied,
            index: image.file.index,
            event: image.file.event,
            bytes,
        };
        let peers = &self.network.peers;
        let mut conversation = peers.converse(self.target, &question, PIECE_LIMIT).await?;
        if let Heard::Answer(answer) = conversation.next().await? {
            return installed(vote, &conversation, &answer);
        }
        loop {
            let read = blocking(move || read_piece(file)).await;
            let (rest, piece) = read.map_err(IoError::at("read", &image.file.path))?;
            if piece.is_empty() {
                break;
            }
            conversation.send_piece(&piece).await?;
            file = rest;
        }
        conversation.end().await?;
        loop {
            match conversation.next().await? {
                // It is still being checked and installed.
                Heard::Piece(_) => {}
                Heard::Answer(answer) => return installed(vote, &conversation, &answer),
            }
        }
    }
}

fn installed(
    asked: Vote<u64>,
    conversation: &Conversation,
    answer: &Answer,
) -> Result<Vote<u64>, SendError> {
    match answer {
        Answer::Installed { vote } => {
            judge_answer(to_vote(asked), *vote)?;
            Ok(from_vote(*vote))
        }
        answer => Err(conversation.unexpected(answer).into()),
    }
}

/// Opens a file, and says how long it is.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

fn read_piece(mut file: File) -> io::Result<(File, Vec<u8>)> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
    Ok((file, piece))
}

fn unexpected(answer: &Answer) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("that is no answer to it: {answer:?}"))
}

impl RaftNetwork<TypeConfig> for Connection {
    /// Appends entries. A heartbeat is sent beside what comes after it: openraft
    /// sends one after every commit, and the next entries would wait until it is
    /// answered. What came of it is told with the next one. And it is not sent at all
    /// if entries are by then, which say the same.
    ///
    /// The first call is always answered by the other machine: openraft makes a new
    /// connection to ask whether it leads for a read.
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> AppendResult {
        let is_heartbeat = request.entries.is_empty();
        let before = self.heartbeat.take_if(|before| is_heartbeat || before.is_finished());
        if let Some(before) = before {
            let before = before.await.unwrap_or(Ok(AppendEntriesResponse::Success));
            if !matches!(before, Ok(AppendEntriesResponse::Success)) {
                self.has_answered = false;
                return before;
            }
        }
        let appending = append(self.network.clone(), self.target, request, option);
        if is_heartbeat && self.has_answered {
            let appends = Arc::clone(&self.appends);
            let before = appends.load(Ordering::Relaxed);
            self.heartbeat = Some(tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    tokio::task::yield_now().await;
                    if appends.load(Ordering::Relaxed) > before {
                        return Ok(AppendEntriesResponse::Success);
                    }
                }
                appending.await
            }));
            return Ok(AppendEntriesResponse::Success);
        }
        self.appends.fetch_add(1, Ordering::Relaxed);
        let appended = appending.await;
        self.has_answered = matches!(appended, Ok(AppendEntriesResponse::Success));
        appended
    }

    /// How long to wait after each try that failed.
    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<u64>> {
        let asked = Instant::now();
        let last = request.last_log_id.map(to_log_id);
        let question = Question::Vote { vote: to_vote(request.vote), last };
        match self.network.ask(self.target, &question, &[], &option).await? {
            Answer::Voted { vote, last, granted } => {
                let judged = judge_answer(to_vote(request.vote), vote);
                judged.map_err(|error| Unreachable::new(&error))?;
                if granted {
                    self.network.contact.answered(self.target, asked);
                }
                Ok(VoteResponse::new(from_vote(vote), last.map(from_log_id), granted))
            }
            answer => Err(NetworkError::new(&unexpected(&answer)).into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let sending = self.send(vote, &snapshot.snapshot);
        let mut cancel = pin!(cancel);
        let sent = tokio::select! {
            sent = sending => sent,
            closed = &mut cancel => return Err(closed.into()),
        };
        match sent {
            Ok(vote) => Ok(SnapshotResponse { vote }),
            Err(error) => {
                if self.network.trouble.is_due() {
                    let (target, why) = (self.target, OneLine(&error));
                    tracing::warn!("no checkpoint could be sent to machine {target}: {why}");
                }
                Err(Unreachable::new(&error).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::ClusterId;

    use super::*;
    use crate::peers::{Connect, Connecting};

    /// A network on which nobody is reached.
    #[derive(Debug)]
    struct Nowhere;

    impl Connect for Nowhere {
        fn connect<'a>(&'a self, _address: &'a str) -> Connecting<'a> {
            Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
        }
    }

    fn network() -> Network {
        Network {
            peers: Peers::new(NodeId(1), ClusterId(1), Arc::new(Nowhere)),
            contact: Contact::default(),
            unsynced: Unsynced::default(),
            clock: Clock::default(),
            encoded: Arc::default(),
            confirmed: Confirmed::default(),
            trouble: Arc::default(),
        }
    }

    fn heartbeat() -> AppendEntriesRequest<TypeConfig> {
        let vote = Vote::new_committed(1, 1);
        AppendEntriesRequest { vote, prev_log_id: None, leader_commit: None, entries: Vec::new() }
    }

    /// A linearizable read rests on an empty append over a new connection: whoever
    /// answers it for the other machine would let an overruled leader answer reads.
    #[tokio::test]
    async fn new_connection_answers_nothing_for_the_other_machine() {
        let node = BasicNode::new("nowhere:1");
        let mut connection = network().new_client(2, &node).await;
        let option = RPCOption::new(Duration::from_secs(1));
        for _ in 0..3 {
            let answered = connection.append_entries(heartbeat(), option.clone()).await;
            assert!(matches!(answered, Err(RPCError::Unreachable(_))), "{answered:?}");
        }
        // On one that has been answered the next call says what came of it.
        connection.has_answered = true;
        let answered = connection.append_entries(heartbeat(), option.clone()).await;
        assert!(matches!(answered, Ok(AppendEntriesResponse::Success)));
        while !connection.heartbeat.as_ref().is_some_and(JoinHandle::is_finished) {
            tokio::task::yield_now().await;
        }
        let answered = connection.append_entries(heartbeat(), option).await;
        assert!(answered.is_err() && !connection.has_answered);
    }
}
