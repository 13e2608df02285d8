//! Conversations: a request, or its answer, that goes on in pieces.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::error::CallError;
use super::frame::{self, Envelope, Frame, FrameError, Kind, MOST_BYTES};
use super::message::{self, Response};
use super::network::Stream;

/// A request or an answer that goes on in pieces.
pub struct Conversation {
    pub(super) stream: Box<dyn Stream>,
    pub(super) envelope: Envelope,
    pub(super) to: Arc<str>,
    /// How long each step may take.
    pub(super) limit: Duration,
}

impl Conversation {
    /// Sends a piece of the request.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub async fn send_piece(&mut self, piece: &[u8]) -> Result<(), CallError> {
        self.send(Kind::Piece, piece).await
    }

    /// Ends the request.
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
    /// If the connection breaks, or the request is refused.
    pub async fn next(&mut self) -> Result<Part, CallError> {
        let Frame { kind, envelope, body } = self.receive().await?;
        match kind {
            Kind::Piece => Ok(Part::Piece(body)),
            Kind::Response => {
                self.envelope.to = envelope.from;
                self.decoded(&body).map(Part::Response)
            }
            Kind::Refusal => {
                let refusal = self.decoded(&body)?;
                Err(CallError::Refused { to: Arc::clone(&self.to), refusal })
            }
            Kind::Request | Kind::End => Err(self.nonsense("a request is no answer")),
        }
    }

    /// Waits for an answer of one piece.
    ///
    /// # Errors
    ///
    /// As [`Self::next`].
    pub async fn answer(&mut self) -> Result<Response, CallError> {
        match self.next().await? {
            Part::Response(answer) => Ok(answer),
            Part::Piece(_) => Err(self.not_one_piece()),
        }
    }

    /// Describes that an answer comes in pieces that should not.
    pub(super) fn not_one_piece(&self) -> CallError {
        self.nonsense("an answer of one piece was expected")
    }

    /// Describes that an answer is none to the request.
    pub fn unexpected(&self, answer: &Response) -> CallError {
        self.nonsense(&format!("that is no answer to it: {answer:?}"))
    }

    pub(super) async fn send(&mut self, kind: Kind, body: &[u8]) -> Result<(), CallError> {
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
pub enum Part {
    /// A piece, of which more comes.
    Piece(Bytes),
    /// The answer, or the last of it.
    Response(Response),
}
