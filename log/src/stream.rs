//! The log as a stream: read a piece at a time, and one piece ahead of whoever takes the
//! entries.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::vec;

use tokio::sync::mpsc;
use tokio_stream::Stream;

use crate::error::LogError;
use crate::types::{Entry, RaftIndex};

type Piece = Result<Vec<Arc<Entry>>, LogError>;

/// The entries of a log, one after the other, until the first error.
///
/// Whoever takes them slowly holds the rest of a piece, and up to two pieces that are read
/// by then; no lock, and no thread.
#[derive(Debug)]
pub struct EntryStream {
    pieces: mpsc::Receiver<Piece>,
    /// What has come, and is not taken yet.
    come: vec::IntoIter<Arc<Entry>>,
}

impl EntryStream {
    /// Streams the entries of a range, and ends early where the log does: `read` returns
    /// those at the beginning of what is left, and none behind the last.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn new<R>(
        range: Range<RaftIndex>,
        read: impl Fn(Range<RaftIndex>) -> R + Send + 'static,
    ) -> Self
    where
        R: Future<Output = Piece> + Send + 'static,
    {
        let (sender, pieces) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut next = range.start;
            while next < range.end {
                let piece = read(next..range.end).await;
                let count = piece.as_ref().map_or(0, Vec::len);
                next = RaftIndex(next.0 + count as u64);
                if sender.send(piece).await.is_err() || count == 0 {
                    return;
                }
            }
        });
        Self { pieces, come: Vec::new().into_iter() }
    }
}

impl Stream for EntryStream {
    type Item = Result<Arc<Entry>, LogError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(entry) = self.come.next() {
                return Poll::Ready(Some(Ok(entry)));
            }
            match ready!(self.pieces.poll_recv(context)) {
                Some(Ok(piece)) => self.come = piece.into_iter(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}
