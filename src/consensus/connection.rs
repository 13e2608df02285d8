//! openraft's network, over the peers.
//!
//! ```text
//! openraft ─┬─ entries ───▶ one append at a time, finished whatever openraft gives up
//!           ├─ heartbeat ─▶ beside them, and not at all where entries say as much
//!           └─ vote, checkpoint
//! ```
//!
//! A heartbeat goes beside entries: it does not wait for them, nor they for it. And in a
//! term that this machine has given up nothing is sent any more, whatever openraft, which
//! goes on leading, would like to say.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_log::NodeId;
use openraft::error::{Fatal, NetworkError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, Snapshot, Vote};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::append::{AppendResult, Appends, append};
use super::judge::judge_answer;
use super::network::{Network, RpcResult, failed, unexpected};
use super::types::{TypeConfig, from_log_id, from_vote, to_log_id, to_vote};
use crate::peers::{Request, Response};
use crate::util::error_chain::ErrorChain;

/// For how many rounds of the scheduler a heartbeat waits for entries to be sent: where
/// there are some, they say all that it would. A round takes microseconds where
/// there is nothing to do.
const ROUNDS: usize = 8;

/// How long to wait before a machine that could not be reached is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Makes connections to other machines.
#[derive(Debug)]
pub(super) struct Connections(pub(super) Arc<Network>);

/// The way to one machine.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) network: Arc<Network>,
    pub(super) target: NodeId,
    /// The last heartbeat, which is on its way beside what was sent after it.
    heartbeat: Option<JoinHandle<AppendResult>>,
    /// Whether the machine has answered what was sent last on this way.
    has_answered: bool,
    /// The entries that are on their way.
    appends: Appends,
    /// How many appends that were no heartbeats have begun.
    begun: Arc<AtomicU64>,
}

impl RaftNetworkFactory<TypeConfig> for Connections {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Connection {
        let (Self(network), target) = (self, NodeId(target));
        // A machine may have said of itself by now that it is somewhere else.
        if network.peers.address(target).is_none() {
            network.peers.learn(target, &node.addr);
        }
        Connection {
            network: Arc::clone(network),
            target,
            heartbeat: None,
            has_answered: false,
            appends: Appends::new(Arc::clone(network), target),
            begun: Arc::default(),
        }
    }
}

impl Connection {
    async fn append_once(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> AppendResult {
        let (network, target) = (&self.network, self.target);
        match request.entries.last().map(|entry| entry.log_id) {
            Some(last) => self.appends.append(network, target, request, last, option).await,
            None => Box::pin(append(Arc::clone(network), target, request, option)).await,
        }
    }
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
        if is_heartbeat && self.has_answered {
            let (network, target) = (Arc::clone(&self.network), self.target);
            let begun = Arc::clone(&self.begun);
            let before = begun.load(Ordering::Relaxed);
            self.heartbeat = Some(tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    tokio::task::yield_now().await;
                    if begun.load(Ordering::Relaxed) > before {
                        return Ok(AppendEntriesResponse::Success);
                    }
                }
                // Apart, for most heartbeats are not sent, and this is large.
                Box::pin(append(network, target, request, option)).await
            }));
            return Ok(AppendEntriesResponse::Success);
        }
        // Each read has every machine asked, and does not wait for all of them: one that
        // does not answer is asked a few times, and no more.
        let is_asked = is_heartbeat.then(|| self.network.ask_whether_it_leads(self.target));
        if matches!(is_asked, Some(None)) {
            return Err(Unreachable::new(&io::Error::other("it has much to answer")).into());
        }
        self.begun.fetch_add(1, Ordering::Relaxed);
        let appended = self.append_once(request, option).await;
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
        let message = Request::Vote { vote: to_vote(request.vote), last };
        let asked_for = self.network.peers.ask(self.target, &message, &[], option.hard_ttl());
        match asked_for.await.map_err(|error| failed(&error))? {
            Response::Voted { vote, last, granted } => {
                let judged = judge_answer(to_vote(request.vote), vote);
                judged.map_err(|error| Unreachable::new(&error))?;
                if granted {
                    self.network.liveness.answered(self.target, asked);
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
        if let Some(given_way) = self.network.given_way(&vote) {
            return Err(given_way.into());
        }
        let sending = self.send(vote, &snapshot.snapshot);
        let mut cancel = pin!(cancel);
        let sent = tokio::select! {
            sent = sending => sent,
            closed = &mut cancel => return Err(closed.into()),
        };
        match sent {
            Ok(answered) => {
                if answered == vote {
                    // openraft counts on it from here on.
                    let applied = snapshot.snapshot.applied;
                    self.network.confirmed.note(self.target, to_vote(vote), applied);
                }
                Ok(SnapshotResponse { vote: answered })
            }
            Err(error) => {
                if self.network.trouble.is_due() {
                    let (target, why) = (self.target, ErrorChain(&error));
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
    use openraft::error::RPCError;

    use super::*;
    use crate::peers::{Connect, Connecting, Peers};
    use crate::util::limit;

    /// A network on which nobody is reached.
    #[derive(Debug)]
    struct Nowhere;

    impl Connect for Nowhere {
        fn connect<'a>(&'a self, _address: &'a str, _name: Option<&'a str>) -> Connecting<'a> {
            Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
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
        limit::begin();
        let node = BasicNode::new("nowhere:1");
        let peers = Peers::new(NodeId(1), ClusterId(1), Arc::new(Nowhere));
        let mut connection = Connections(Network::for_tests(peers)).new_client(2, &node).await;
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
