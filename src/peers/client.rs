//! The asking side: where each machine is reached, and connections to it that
//! nobody uses at the moment.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use etcd_log::{ClusterId, NodeId};
use futures_util::FutureExt as _;
use tokio::io::AsyncReadExt as _;

use crate::peers::frame::{self, Envelope, Frame, FrameError, Kind, MOST_BYTES};
use crate::peers::message::{self, Answer, NotProposed, Question, Refusal};
use crate::peers::network::{self, Connect, Stream};

/// How many connections to a machine are kept while nobody uses them.
const IDLE: usize = 4;

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How long a machine that is busy with an answer may say nothing: three times as long as
/// one does that has much to do.
const SILENCE_LIMIT: Duration = Duration::from_secs(1);

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
}

/// Where a machine is reached, and connections to it.
struct Peer {
    address: Arc<str>,
    idle: Vec<Box<dyn Stream>>,
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody has it: it did not leave this machine whole.
    #[error("cannot reach {to}")]
    NotSent {
        /// Whom it was for.
        to: Arc<str>,
        /// Why not.
        source: io::Error,
    },
    /// It may have been heard, but there was no answer.
    #[error("no answer from {to}")]
    Lost {
        /// Whom it was for.
        to: Arc<str>,
        /// Why not.
        source: FrameError,
    },
    /// It was heard, and refused.
    #[error("{to} refuses: {refusal}")]
    Refused {
        /// Whom it was for.
        to: Arc<str>,
        /// Why.
        refusal: Refusal,
    },
}

impl CallError {
    /// Returns whether it is certain that nothing was done.
    pub fn is_without_effect(&self) -> bool {
        match self {
            Self::NotSent { .. } => true,
            Self::Refused { refusal, .. } => {
                !matches!(refusal, Refusal::NotProposed(NotProposed::Unknown))
            }
            Self::Lost { .. } => false,
        }
    }

    /// Returns whether it was sent, and there was no answer in time.
    pub fn is_late(&self) -> bool {
        match self {
            Self::Lost { source: FrameError::Io(source), .. } => {
                source.kind() == io::ErrorKind::TimedOut
            }
            Self::NotSent { .. } | Self::Lost { .. } | Self::Refused { .. } => false,
        }
    }
}

impl Peers {
    /// Makes an empty address book for a machine of a cluster; for one that wants
    /// to join, the cluster is zero.
    pub fn new(me: NodeId, cluster: ClusterId, network: Arc<dyn Connect>) -> Self {
        let (book, NodeId(process)) = (Mutex::default(), NodeId::random());
        Self { inner: Arc::new(Inner { me, process, cluster, network, book }) }
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

    /// Returns where a machine is reached.
    pub fn address(&self, node: NodeId) -> Option<Arc<str>> {
        self.book().get(&node).map(|peer| Arc::clone(&peer.address))
    }

    /// Asks a machine, and waits for its answer: up to `limit`; and as long as it shows
    /// that it is busy with it.
    ///
    /// # Errors
    ///
    /// If there is none in time. Whether it may have been heard is in the error.
    pub async fn ask(
        &self,
        node: NodeId,
        question: &Question,
        behind: &[u8],
        limit: Duration,
    ) -> Result<Answer, CallError> {
        let to = self.address(node).ok_or_else(|| unknown(node))?;
        let body = message::encode(question, behind);
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
            if let Heard::Answer(answer) = heard {
                self.put_back(node, &to, conversation.stream);
                return Ok(answer);
            }
            let next = tokio::time::timeout(SILENCE_LIMIT, conversation.next()).await;
            heard = next.unwrap_or_else(|_| Err(late(true)))?;
        }
    }

    /// Sends a question, and returns what is heard first.
    async fn begin(
        &self,
        node: NodeId,
        to: &Arc<str>,
        body: &[u8],
        sent: &mut bool,
    ) -> Result<(Conversation, Heard), CallError> {
        let stream = match self.take_idle(node) {
            Some(stream) => stream,
            None => self.connect(to).await?,
        };
        let mut conversation = self.conversation(node, to, stream);
        conversation.send(Kind::Question, body).await?;
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
        question: &Question,
        limit: Duration,
    ) -> Result<(NodeId, Answer), CallError> {
        let to = Arc::<str>::from(address);
        let body = message::encode(question, &[]);
        let asking = async {
            let stream = self.connect(&to).await?;
            let mut conversation = self.conversation(NodeId(0), &to, stream);
            conversation.send(Kind::Question, &body).await?;
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
        let asked = self.ask_at(address, &Question::Process, TWIN_LIMIT).await;
        matches!(asked, Ok((node, Answer::Process { number }))
            if node == self.inner.me && number != self.inner.process)
    }

    /// Begins a conversation in pieces, on a connection of its own. A piece may take so
    /// long on its way, and the other machine may be silent for so long.
    ///
    /// # Errors
    ///
    /// If the machine cannot be reached.
    pub async fn converse(
        &self,
        node: NodeId,
        question: &Question,
        limit: Duration,
    ) -> Result<Conversation, CallError> {
        let to = self.address(node).ok_or_else(|| unknown(node))?;
        let stream = self.connect(&to).await?;
        let mut conversation = self.conversation(node, &to, stream);
        conversation.limit = limit;
        conversation.send(Kind::Question, &message::encode(question, &[])).await?;
        Ok(conversation)
    }

    fn conversation(&self, node: NodeId, to: &Arc<str>, stream: Box<dyn Stream>) -> Conversation {
        let Inner { me, cluster, .. } = *self.inner;
        let envelope = Envelope { cluster, from: me, to: node };
        Conversation { stream, envelope, to: Arc::clone(to), limit: Duration::MAX }
    }

    async fn connect(&self, to: &Arc<str>) -> Result<Box<dyn Stream>, CallError> {
        let connected = tokio::time::timeout(CONNECT_LIMIT, self.inner.network.connect(to)).await;
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

    fn put_back(&self, node: NodeId, to: &Arc<str>, stream: Box<dyn Stream>) {
        if let Some(peer) = self.book().get_mut(&node)
            && peer.address == *to
            && peer.idle.len() < IDLE
        {
            peer.idle.push(stream);
        }
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

/// A question or an answer that goes on in pieces.
pub struct Conversation {
    stream: Box<dyn Stream>,
    envelope: Envelope,
    to: Arc<str>,
    /// How long each step may take.
    limit: Duration,
}

impl Conversation {
    /// Sends a piece of the question.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub async fn send_piece(&mut self, piece: &[u8]) -> Result<(), CallError> {
        self.send(Kind::Piece, piece).await
    }

    /// Ends the question.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub async fn end(&mut self) -> Result<(), CallError> {
        self.send(Kind::End, &[]).await
    }

    /// Waits for the next piece of the answer, or for its end.
    ///
    /// # Errors
    ///
    /// If the connection breaks, or the question is refused.
    pub async fn next(&mut self) -> Result<Heard, CallError> {
        let Frame { kind, envelope, body } = self.receive().await?;
        match kind {
            Kind::Piece => Ok(Heard::Piece(body)),
            Kind::Answer => {
                self.envelope.to = envelope.from;
                self.decoded(&body).map(Heard::Answer)
            }
            Kind::Refusal => {
                let refusal = self.decoded(&body)?;
                Err(CallError::Refused { to: Arc::clone(&self.to), refusal })
            }
            Kind::Question | Kind::End => Err(self.nonsense("a question is no answer")),
        }
    }

    /// Waits for an answer of one piece.
    ///
    /// # Errors
    ///
    /// As [`Self::next`].
    pub async fn answer(&mut self) -> Result<Answer, CallError> {
        match self.next().await? {
            Heard::Answer(answer) => Ok(answer),
            Heard::Piece(_) => Err(self.nonsense("an answer of one piece was expected")),
        }
    }

    /// Describes that an answer is none to the question.
    pub fn unexpected(&self, answer: &Answer) -> CallError {
        self.nonsense(&format!("that is no answer to it: {answer:?}"))
    }

    async fn send(&mut self, kind: Kind, body: &[u8]) -> Result<(), CallError> {
        let writing = frame::write(&mut self.stream, kind, self.envelope, body);
        let written = tokio::time::timeout(self.limit, writing).await;
        let written = written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        written.map_err(|source| CallError::NotSent { to: Arc::clone(&self.to), source })
    }

    async fn receive(&mut self) -> Result<Frame, CallError> {
        let lost = |source: FrameError| CallError::Lost { to: Arc::clone(&self.to), source };
        let reading = frame::read(&mut self.stream, None, |_| MOST_BYTES);
        match tokio::time::timeout(self.limit, reading).await {
            Ok(Ok(Some(frame))) => Ok(frame),
            Ok(Ok(None)) => Err(lost(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
            Ok(Err(error)) => Err(lost(error)),
            Err(_) => Err(lost(io::Error::from(io::ErrorKind::TimedOut).into())),
        }
    }

    fn decoded<T: for<'de> serde::Deserialize<'de>>(&self, body: &[u8]) -> Result<T, CallError> {
        message::decode(body).map(|(message, _)| message).map_err(|what| self.nonsense(&what))
    }

    fn nonsense(&self, what: &str) -> CallError {
        let source = io::Error::new(io::ErrorKind::InvalidData, what);
        CallError::Lost { to: Arc::clone(&self.to), source: source.into() }
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation").field("to", &self.to).finish_non_exhaustive()
    }
}

/// What was heard in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A piece, of which more comes.
    Piece(Bytes),
    /// The answer, or the last of it.
    Answer(Answer),
}
