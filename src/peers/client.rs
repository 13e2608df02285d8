//! The asking side: where each machine is reached, and connections to it that
//! nobody uses at the moment.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_log::{ClusterId, NodeId};
use futures_util::FutureExt as _;
use tokio::io::AsyncReadExt as _;

use super::conversation::{Conversation, Part};
use super::error::CallError;
use super::frame::{Envelope, Kind};
use super::message::{self, LeaderHint, Request, Response};
use super::network::{self, Connect, Stream};

/// How many connections to a machine are kept while nobody uses them.
const IDLE: usize = 4;

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How long a machine that is busy with an answer may say nothing: three times as long as
/// one does that has much to do.
const SILENCE_LIMIT: Duration = Duration::from_secs(1);

/// How many bytes an address may have that somebody hints at: the longest name of a host,
/// and a port.
const HINT_BYTES: usize = 253 + 6;

/// How long another process of this machine may take to answer.
const TWIN_LIMIT: Duration = Duration::from_secs(1);

/// The way to the other machines. Cloning gives another handle.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    me: NodeId,
    /// A number that no other process has.
    process: u64,
    cluster: ClusterId,
    network: Arc<dyn Connect>,
    book: Mutex<HashMap<NodeId, Peer>>,
    /// What machines are called, as far as the log has told.
    names: Mutex<HashMap<NodeId, Arc<str>>>,
}

/// Where a machine is reached, and connections to it.
struct Peer {
    address: Arc<str>,
    idle: Vec<Box<dyn Stream>>,
}

impl Peers {
    /// Makes an empty address book for a machine of a cluster; for one that wants
    /// to join, the cluster is zero.
    pub fn new(me: NodeId, cluster: ClusterId, network: Arc<dyn Connect>) -> Self {
        let (book, names) = (Mutex::default(), Mutex::default());
        let NodeId(process) = NodeId::random();
        Self { inner: Arc::new(Inner { me, process, cluster, network, book, names }) }
    }

    /// Returns a number that tells this process from any other one, such as one that runs
    /// on a copy of this machine's directory.
    pub fn process(&self) -> u64 {
        self.inner.process
    }

    /// Notes where a machine is reached: `host:port`.
    pub fn learn(&self, node: NodeId, address: &str) {
        if node == self.inner.me {
            return;
        }
        let mut book = self.book();
        let peer = book.get(&node);
        if peer.is_none_or(|peer| *peer.address != *address) {
            book.insert(node, Peer { address: Arc::from(address), idle: Vec::new() });
        }
    }

    /// Notes what a machine is called: whoever answers in its place has to be that one, if it
    /// can be shown.
    pub fn note_name(&self, node: NodeId, name: &Arc<str>) {
        let before = self.names().insert(node, Arc::clone(name));
        if before.as_ref() != Some(name) {
            // Whoever is there has shown nothing of the kind.
            self.drop_idle(node);
        }
    }

    /// Returns where a machine is reached.
    pub fn address(&self, node: NodeId) -> Option<Arc<str>> {
        self.book().get(&node).map(|peer| Arc::clone(&peer.address))
    }

    /// Asks a machine, and waits for its answer: up to `limit`; to an append also as long
    /// as it shows that it is busy with it.
    ///
    /// # Errors
    ///
    /// If there is none in time. Whether it may have been heard is in the error.
    pub async fn ask(
        &self,
        node: NodeId,
        request: &Request,
        behind: &[u8],
        limit: Duration,
    ) -> Result<Response, CallError> {
        let to = self.address(node).ok_or_else(|| unknown(node))?;
        let name = self.name(node);
        let body = message::encode(request, behind);
        let mut sent = false;
        let late = |sent| {
            self.drop_idle(node);
            let (to, late) = (Arc::clone(&to), io::Error::from(io::ErrorKind::TimedOut));
            if sent {
                CallError::Lost { to, source: late.into() }
            } else {
                CallError::NotSent { to, source: late }
            }
        };
        let sending = tokio::time::timeout(limit, self.begin(node, &to, &body, &mut sent)).await;
        let (mut conversation, mut heard) = sending.unwrap_or_else(|_| Err(late(sent)))?;
        loop {
            if let Part::Response(answer) = heard {
                self.put_back(node, &to, name.as_deref(), conversation.stream);
                return Ok(answer);
            }
            if !matches!(request, Request::Append { .. }) {
                return Err(conversation.not_one_piece());
            }
            let next = tokio::time::timeout(SILENCE_LIMIT, conversation.next()).await;
            heard = next.unwrap_or_else(|_| Err(late(true)))?;
        }
    }

    /// Sends a request, and returns what is heard first.
    async fn begin(
        &self,
        node: NodeId,
        to: &Arc<str>,
        body: &[u8],
        sent: &mut bool,
    ) -> Result<(Conversation, Part), CallError> {
        let stream = match self.take_idle(node) {
            Some(stream) => stream,
            None => self.connect(node, to).await?,
        };
        let mut conversation = self.conversation(node, to, stream);
        conversation.send(Kind::Request, body).await?;
        *sent = true;
        let heard = conversation.next().await?;
        Ok((conversation, heard))
    }

    /// Asks whoever stands at an address, and says who that is.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub async fn ask_at(
        &self,
        address: &str,
        request: &Request,
        limit: Duration,
    ) -> Result<(NodeId, Response), CallError> {
        self.ask_of(NodeId(0), address, request, limit).await
    }

    /// Asks a machine where somebody says that it is. That is not noted: what is known of
    /// where it is comes from the log.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`], and if no host is called so.
    pub async fn ask_hinted(
        &self,
        hint: &LeaderHint,
        request: &Request,
        limit: Duration,
    ) -> Result<Response, CallError> {
        if hint.address.len() > HINT_BYTES {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "no host is called so");
            return Err(CallError::NotSent { to: Arc::from(hint.node.to_string()), source });
        }
        self.ask_of(hint.node, &hint.address, request, limit).await.map(|(_, answer)| answer)
    }

    /// Asks a machine at an address, or whoever stands there if it is zero.
    async fn ask_of(
        &self,
        node: NodeId,
        address: &str,
        request: &Request,
        limit: Duration,
    ) -> Result<(NodeId, Response), CallError> {
        let to = Arc::<str>::from(address);
        let body = message::encode(request, &[]);
        let asking = async {
            let stream = self.connect(node, &to).await?;
            let mut conversation = self.conversation(node, &to, stream);
            conversation.send(Kind::Request, &body).await?;
            let answer = conversation.answer().await?;
            Ok((conversation.envelope.to, answer))
        };
        let answered = tokio::time::timeout(limit, asking).await;
        answered.unwrap_or_else(|_| {
            let late = io::Error::from(io::ErrorKind::TimedOut);
            Err(CallError::Lost { to: Arc::clone(&to), source: late.into() })
        })
    }

    /// Returns whether another process of this machine answers at an address.
    pub async fn has_twin_at(&self, address: &str) -> bool {
        let asked = self.ask_at(address, &Request::Process, TWIN_LIMIT).await;
        matches!(asked, Ok((node, Response::Process { number }))
            if node == self.inner.me && number != self.inner.process)
    }

    /// Begins a conversation in pieces, on a connection of its own. A piece may take so
    /// long on its way, and the other machine may be silent for so long.
    ///
    /// # Errors
    ///
    /// If the machine cannot be reached.
    pub async fn open_stream(
        &self,
        node: NodeId,
        request: &Request,
        limit: Duration,
    ) -> Result<Conversation, CallError> {
        let to = self.address(node).ok_or_else(|| unknown(node))?;
        let stream = self.connect(node, &to).await?;
        let mut conversation = self.conversation(node, &to, stream);
        conversation.limit = limit;
        conversation.send(Kind::Request, &message::encode(request, &[])).await?;
        Ok(conversation)
    }

    fn conversation(&self, node: NodeId, to: &Arc<str>, stream: Box<dyn Stream>) -> Conversation {
        let Inner { me, cluster, .. } = *self.inner;
        let envelope = Envelope { cluster, from: me, to: node };
        Conversation { stream, envelope, to: Arc::clone(to), limit: Duration::MAX }
    }

    /// Connects to a machine; to whoever stands there, if it is zero.
    async fn connect(&self, node: NodeId, to: &Arc<str>) -> Result<Box<dyn Stream>, CallError> {
        let name = self.name(node);
        let connecting = self.inner.network.connect(to, name.as_deref());
        let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let connected = connected.map(network::buffered);
        connected.map_err(|source| CallError::NotSent { to: Arc::clone(to), source })
    }

    /// Takes a connection that nobody uses, and that has not been closed.
    fn take_idle(&self, node: NodeId) -> Option<Box<dyn Stream>> {
        loop {
            let mut stream = self.book().get_mut(&node)?.idle.pop()?;
            // What can be read by now is the end of the connection, or nonsense.
            if stream.read_u8().now_or_never().is_none() {
                return Some(stream);
            }
        }
    }

    /// Drops the connections to a machine that nobody uses: if one is silent, the others
    /// may be dead, too.
    fn drop_idle(&self, node: NodeId) {
        if let Some(peer) = self.book().get_mut(&node) {
            peer.idle.clear();
        }
    }

    /// Keeps a connection to a machine for later, if it is still where it was, and is called as
    /// it was.
    fn put_back(&self, node: NodeId, to: &Arc<str>, name: Option<&str>, stream: Box<dyn Stream>) {
        if let Some(peer) = self.book().get_mut(&node)
            && peer.address == *to
            && self.name(node).as_deref() == name
            && peer.idle.len() < IDLE
        {
            peer.idle.push(stream);
        }
    }

    fn name(&self, node: NodeId) -> Option<Arc<str>> {
        self.names().get(&node).cloned()
    }

    fn names(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<str>>> {
        self.inner.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, HashMap<NodeId, Peer>> {
        self.inner.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(node: NodeId) -> CallError {
    let text = format!("nobody knows where machine {node} is");
    let source = io::Error::new(io::ErrorKind::NotFound, text);
    CallError::NotSent { to: Arc::from(node.to_string()), source }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("me", &self.inner.me).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::peers::testing::{Respond, peers_and_dialled, peers_with};
    use crate::peers::{Appended, Incoming, Refusal};
    use crate::util::limit;

    const LIMIT: Duration = Duration::from_millis(500);

    /// How long a machine is busy with whatever it is asked.
    const BUSY: Duration = Duration::from_secs(3);

    /// A machine that shows for a while that it is busy.
    #[derive(Clone, Debug)]
    struct Busy;

    impl Respond for Busy {
        async fn respond(
            &self,
            _request: Request,
            mut incoming: Incoming<'_>,
        ) -> Result<Response, Refusal> {
            incoming.busy(tokio::time::sleep(BUSY)).await;
            Ok(Response::Appended(Appended::All))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_append_may_take_longer_than_its_limit() {
        limit::begin();
        let (peers, begun) = (peers_with(Busy), Instant::now());
        let asked = peers.ask(NodeId(2), &Request::Barrier, &[], LIMIT).await;
        assert!(matches!(asked, Err(CallError::Lost { .. })), "{asked:?}");
        assert!(begun.elapsed() <= LIMIT);
        append(&peers).await;
        assert!(begun.elapsed() >= BUSY);
    }

    async fn append(peers: &Peers) {
        let (vote, time) = (etcd_log::Vote::default(), etcd_log::LogTime::default());
        let append = Request::Append { vote, previous: None, committed: None, time };
        let asked = peers.ask(NodeId(2), &append, &[], LIMIT).await;
        assert!(asked.is_ok(), "{asked:?}");
    }

    /// Whoever was dialled before a name was known has not shown it.
    #[tokio::test(start_paused = true)]
    async fn connection_is_used_again_under_the_name_that_it_was_dialled_with() {
        limit::begin();
        let (peers, dialled) = peers_and_dialled(Busy);
        let names = || std::mem::take(&mut *dialled.lock().unwrap());
        let name = |name: &str| peers.note_name(NodeId(2), &Arc::from(name));
        append(&peers).await;
        append(&peers).await;
        assert_eq!(names(), [None]);
        name("node2");
        append(&peers).await;
        name("node2");
        append(&peers).await;
        assert_eq!(names(), [Some("node2".to_owned())]);
        // It is renamed while a connection is under way.
        let renamed = async {
            tokio::time::sleep(BUSY / 2).await;
            name("other");
        };
        tokio::join!(append(&peers), renamed);
        append(&peers).await;
        assert_eq!(names(), [Some("other".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn hint_is_bounded_and_not_noted() {
        limit::begin();
        let peers = peers_with(Busy);
        let hint = |bytes| LeaderHint { node: NodeId(2), address: Arc::from("x".repeat(bytes)) };
        let asked = peers.ask_hinted(&hint(HINT_BYTES), &Request::Barrier, LIMIT).await;
        assert!(matches!(asked, Err(CallError::Lost { .. })), "{asked:?}");
        let asked = peers.ask_hinted(&hint(HINT_BYTES + 1), &Request::Barrier, LIMIT).await;
        assert!(matches!(asked, Err(CallError::NotSent { .. })), "{asked:?}");
        assert_eq!(peers.address(NodeId(2)).as_deref(), Some("machine2:1"));
    }
}
