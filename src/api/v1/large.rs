//! Large answers: told in pieces, all of them from one state.
//!
//! ```text
//! what there is ─▶ teller: a piece at a time ─▶ one waits ─▶ connection
//!                      └─ is not read for long ─▶ broken off
//! ```
//!
//! An answer shows the keys as they were at one index, however long it takes to read. So
//! its teller has a lasting view (`node/view.rs`), and memory for two pieces besides. A
//! client that takes no piece for [`PATIENCE`] is broken off, as is one that is not done
//! after [`LONGEST`]: its view is given back at once, and its connection is reset, so
//! that what it has got cannot be taken for all. It can ask for parts (`limit=`), each of
//! which is a state of its own.
//!
//! What is told of the past is told so as well. A history takes up no place, and may last.
//!
//! What is told is not here: see `listing`, which tells at once what is short, and `past`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::api::http::answer::{BrokenOff, Pieces};
use crate::api::http::door::Talk;

/// How many bytes a piece has, at the least.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// How long a piece may wait to be taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long what takes up a place may last.
pub(super) const LONGEST: Duration = Duration::from_mins(5);

/// What the teller says.
enum Told {
    Piece(Vec<u8>),
    End,
}

/// Says what an answer is, piece by piece. Cloning gives another handle.
#[derive(Clone)]
pub(super) struct Teller {
    sender: mpsc::Sender<Told>,
    /// When it has to be done; none for as long as pieces are taken.
    until: Option<Instant>,
}

/// Gives what a teller says as a body; breaks off what is said through the door if that is
/// not taken, or `longest` has passed.
pub(super) fn tell<F>(
    talk: Option<Arc<Talk>>,
    longest: Option<Duration>,
    telling: impl FnOnce(Teller) -> F,
) -> Pieces
where
    F: Future<Output = Result<(), BrokenOff>> + Send + 'static,
{
    let (sender, mut pieces) = mpsc::channel(1);
    let teller = Teller { sender, until: longest.map(|longest| Instant::now() + longest) };
    tokio::spawn(teller.clone().say(telling(teller), talk));
    let mut has_ended = false;
    Box::pin(stream::poll_fn(move |cx| {
        if has_ended {
            return None.into();
        }
        pieces.poll_recv(cx).map(|told| match told {
            Some(Told::Piece(piece)) => Some(Ok(Frame::data(Bytes::from(piece)))),
            Some(Told::End) => {
                has_ended = true;
                None
            }
            None => Some(Err(BrokenOff)),
        })
    }))
}

impl Teller {
    /// Says a piece to who takes it in time.
    ///
    /// # Errors
    ///
    /// If nobody does: then there is no more to say.
    pub(super) async fn piece(&self, piece: Vec<u8>) -> Result<(), BrokenOff> {
        self.send(Told::Piece(piece)).await
    }

    /// Says all of it, as long as somebody is there.
    async fn say(
        self,
        telling: impl Future<Output = Result<(), BrokenOff>> + Send,
        talk: Option<Arc<Talk>>,
    ) {
        let told = async {
            telling.await?;
            self.send(Told::End).await
        };
        let told = tokio::select! {
            told = told => told,
            () = self.sender.closed() => return,
        };
        if told.is_err()
            && !self.sender.is_closed()
            && let Some(talk) = talk
        {
            talk.break_off();
        }
    }

    async fn send(&self, told: Told) -> Result<(), BrokenOff> {
        let patience = Instant::now() + PATIENCE;
        let until = self.until.map_or(patience, |until| until.min(patience));
        let sent = tokio::time::timeout_at(until, self.sender.send(told)).await;
        sent.ok().and_then(Result::ok).ok_or(BrokenOff)
    }
}
