//! Large answers: told in pieces, all of them from one state.
//!
//! ```text
//! view of the tree ─▶ teller: a piece at a time ─▶ one waits ─▶ connection
//!                         └─ is not read for long ─▶ broken off
//! ```
//!
//! An answer shows the keys as they were at one index, however long it takes to read. So
//! its teller has a lasting view (`node/view.rs`), and memory for two pieces besides. A
//! client that takes no piece for [`PATIENCE`] is broken off, as is one that is not done
//! after [`LONGEST`]: its view is given back at once, and its connection is reset, so
//! that what it has got cannot be taken for all. It can ask for parts (`limit=`), each of
//! which is a state of its own.
//!
//! An answer that is short is not told in pieces: see `listing`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::listing::Listing;
use crate::api::http::answer::{BrokenOff, Pieces};
use crate::api::http::door::Talk;
use crate::node::View;

/// How many bytes a piece has, at the least.
const PIECE_BYTES: usize = 64 << 10;

/// How long a piece may wait to be taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a view may last.
const LONGEST: Duration = Duration::from_mins(5);

/// What the teller says.
enum Told {
    Piece(Vec<u8>),
    End,
}

/// Tells a listing in pieces; breaks off what is said through the door if they are not
/// taken.
pub(super) fn tell(listing: Listing, view: View, talk: Option<Arc<Talk>>) -> Pieces {
    let (sender, mut pieces) = mpsc::channel(1);
    tokio::spawn(async move {
        if tell_all(listing, view, &sender).await.is_err()
            && !sender.is_closed()
            && let Some(talk) = talk
        {
            talk.break_off();
        }
    });
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

/// Tells a listing to who takes it in time.
async fn tell_all(
    listing: Listing,
    view: View,
    sender: &mpsc::Sender<Told>,
) -> Result<(), BrokenOff> {
    let until = Instant::now() + LONGEST;
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    let mut writer = listing.writer();
    for (key, node) in listing.entries(&view.tree) {
        writer.write(&mut piece, &key, node, &view);
        if piece.len() >= PIECE_BYTES {
            let next = Vec::with_capacity(PIECE_BYTES);
            send(sender, Told::Piece(std::mem::replace(&mut piece, next)), until).await?;
        }
    }
    writer.end(&mut piece);
    drop(view);
    send(sender, Told::Piece(piece), until).await?;
    send(sender, Told::End, until).await
}

async fn send(sender: &mpsc::Sender<Told>, told: Told, until: Instant) -> Result<(), BrokenOff> {
    let until = until.min(Instant::now() + PATIENCE);
    let sent = tokio::time::timeout_at(until, sender.send(told)).await;
    sent.ok().and_then(Result::ok).ok_or(BrokenOff)
}
