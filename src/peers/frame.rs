//! Frames: one message on a connection, and for whom it is.
//!
//! ```text
//!  0        4       5      6     8        12        20     28   36     44
//!  │ "etcd" │ version │ kind │ 0   │ length │ cluster │ from │ to │ hash │ body …
//! ```
//!
//! All numbers are little-endian. The hash is XXH3 of the body, with that of the bytes
//! before it as its seed: what a network or a faulty machine has changed must not
//! become a part of the log. The length is bounded before a byte is allocated.
//!
//! A request that is long goes in portions: before the next one is sent, an empty piece
//! says that the one before has come. So what else is said on the same link, a leader's
//! sign of life above all, never waits for more than a portion; and whoever sends knows
//! soon when nothing arrives any longer.
//!
//! ```text
//! header, portion ─▶           ─▶ portion ─▶           ─▶ last portion ─▶
//!                   ◀─ "has come"          ◀─ "has come"              ◀─ answer
//! ```

use std::io;
use std::time::Duration;

use bytes::Bytes;
use etcd_log::{ClusterId, NodeId};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// What every frame begins with.
pub(super) const MAGIC: [u8; 4] = *b"etcd";

/// The version of what is said between machines.
const VERSION: u8 = 2;

/// The length of a frame without its body.
const HEADER: usize = 44;

/// Where the hash stands: all before it is hashed.
const HASH: usize = 36;

/// The longest body, in bytes: an entry of the log, and a little more. Bounds
/// what a receiver allocates.
pub const MOST_BYTES: usize = 80 << 20;

/// The longest body of a message that is not for this machine, or from nobody known:
/// whoever wants to join has little to say.
pub(super) const STRANGERS_BYTES: usize = 64 << 10;

/// How long the rest of a header may take, and a body besides its bytes.
const BEGUN_LIMIT: Duration = Duration::from_secs(5);

/// How many bytes of a body have to come in a second: fewer than over any network that
/// a cluster can live on.
const LEAST_RATE: usize = 100_000;

/// How much of a request goes at once. On the slowest link that machines are made for it
/// takes a second.
pub(super) const PORTION: usize = 256 << 10;

/// A body of up to so many bytes is copied behind its header, to be sent at once.
const COPIED_BYTES: usize = 64 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request.
    Request = 1,
    /// An answer, or the last piece of one.
    Response = 2,
    /// A piece of an answer or of a request, of which more comes.
    Piece = 3,
    /// The end of the pieces of a request.
    End = 4,
    /// There is no answer, and why.
    Refusal = 5,
}

/// For whom a frame is, and from whom. A zero stands for "not known": a machine
/// that wants to join knows neither the cluster nor whom it asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) cluster: ClusterId,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
}

/// A message, as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub(super) kind: Kind,
    pub(super) envelope: Envelope,
    pub(super) body: Bytes,
}

/// Why what came is not a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not begin as a frame does.
    #[error("no frame begins with {0:02x?}")]
    Magic([u8; 4]),
    /// It speaks another version.
    #[error("frame is of version {0}, expected {VERSION}")]
    Version(u8),
    /// Its kind is not known.
    #[error("frame is of unknown kind {0}")]
    Kind(u8),
    /// It is too long.
    #[error("frame has {found} bytes, the longest has {most}")]
    Length {
        /// How many it says it has.
        found: usize,
        /// How many it may have.
        most: usize,
    },
    /// It is not what was sent.
    #[error("frame has hash {found:016x}, expected {expected:016x}")]
    Hash {
        /// The hash of what came.
        found: u64,
        /// The hash that came with it.
        expected: u64,
    },
}

/// What frames go over, there and back.
pub(super) trait Link: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin + ?Sized> Link for S {}

/// Writes a frame.
pub(super) async fn write(
    stream: &mut (impl Link + ?Sized),
    kind: Kind,
    envelope: Envelope,
    body: &[u8],
) -> io::Result<()> {
    assert!(body.len() <= MOST_BYTES, "a message of {} bytes is over the limit", body.len());
    let (first, rest) = body.split_at(portion(kind, body.len()));
    let mut bytes = Vec::with_capacity(HEADER + first.len().min(COPIED_BYTES));
    write_header(&mut bytes, kind, envelope, body);
    if first.len() <= COPIED_BYTES {
        bytes.extend(first);
        stream.write_all(&bytes).await?;
    } else {
        stream.write_all(&bytes).await?;
        stream.write_all(first).await?;
    }
    stream.flush().await?;
    for next in rest.chunks(PORTION) {
        has_come(stream).await?;
        stream.write_all(next).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// Returns how much of a body goes at once.
fn portion(kind: Kind, length: usize) -> usize {
    if kind == Kind::Request { length.min(PORTION) } else { length }
}

/// Waits until the other side says that a portion has come.
async fn has_come(stream: &mut (impl Link + ?Sized)) -> io::Result<()> {
    let mut header = [0; HEADER];
    in_time(portion_limit(PORTION), stream.read_exact(&mut header)).await?;
    match read_header(&header) {
        Ok((Kind::Piece, _, 0)) => Ok(()),
        Ok(_) | Err(_) => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "it does not say that a portion came"))
        }
    }
}

/// Returns how long a portion may be on its way.
fn portion_limit(bytes: usize) -> Duration {
    BEGUN_LIMIT + Duration::from_millis((bytes * 1000 / LEAST_RATE) as u64)
}

/// Reads a frame; nothing, if the connection ends before one begins. How long it may
/// be is judged by its envelope, before its body is read. It begins within this time, if
/// any; and once it has begun it has to come.
pub(super) async fn read(
    stream: &mut (impl Link + ?Sized),
    patience: Option<Duration>,
    most: impl FnOnce(&Envelope) -> usize,
) -> Result<Option<Frame>, FrameError> {
    let mut header = [0; HEADER];
    let beginning = stream.read(&mut header[..1]);
    let begun = match patience {
        Some(limit) => in_time(limit, beginning).await?,
        None => beginning.await?,
    };
    if begun == 0 {
        return Ok(None);
    }
    in_time(BEGUN_LIMIT, stream.read_exact(&mut header[1..])).await?;
    let (kind, envelope, length) = read_header(&header)?;
    let most = most(&envelope);
    if length > most {
        return Err(FrameError::Length { found: length, most });
    }
    let mut body = Vec::with_capacity(length.min(COPIED_BYTES));
    loop {
        // Grows with what comes, not with what is announced.
        let portion = portion(kind, length - body.len());
        let mut next = (&mut *stream).take(portion as u64);
        if in_time(portion_limit(portion), next.read_to_end(&mut body)).await? < portion {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if body.len() == length {
            break;
        }
        let Envelope { cluster, from, to } = envelope;
        let back = Envelope { cluster, from: to, to: from };
        let mut told = Vec::with_capacity(HEADER);
        write_header(&mut told, Kind::Piece, back, &[]);
        stream.write_all(&told).await?;
        stream.flush().await?;
    }
    let (found, expected) = (hash(&header, &body), number(&header, HASH));
    if found != expected {
        return Err(FrameError::Hash { found, expected });
    }
    Ok(Some(Frame { kind, envelope, body: body.into() }))
}

async fn in_time<T>(
    limit: Duration,
    reading: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let read = tokio::time::timeout(limit, reading).await;
    read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn write_header(bytes: &mut Vec<u8>, kind: Kind, envelope: Envelope, body: &[u8]) {
    let length = u32::try_from(body.len()).expect("bounded");
    bytes.extend(MAGIC);
    bytes.extend([VERSION, kind as u8, 0, 0]);
    bytes.extend(length.to_le_bytes());
    for number in [envelope.cluster.0, envelope.from.0, envelope.to.0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(hash(bytes, body).to_le_bytes());
}

/// Reads what stands before the hash, and the length of the body.
fn read_header(header: &[u8; HEADER]) -> Result<(Kind, Envelope, usize), FrameError> {
    let magic: [u8; 4] = header[..4].try_into().expect("four bytes");
    if magic != MAGIC {
        return Err(FrameError::Magic(magic));
    }
    if header[4] != VERSION {
        return Err(FrameError::Version(header[4]));
    }
    let kind = match header[5] {
        1 => Kind::Request,
        2 => Kind::Response,
        3 => Kind::Piece,
        4 => Kind::End,
        5 => Kind::Refusal,
        kind => return Err(FrameError::Kind(kind)),
    };
    let envelope = Envelope {
        cluster: ClusterId(number(header, 12)),
        from: NodeId(number(header, 20)),
        to: NodeId(number(header, 28)),
    };
    let length = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
    Ok((kind, envelope, length as usize))
}

fn number(header: &[u8; HEADER], at: usize) -> u64 {
    u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"))
}

fn hash(header: &[u8], body: &[u8]) -> u64 {
    xxh3_64_with_seed(body, xxh3_64(&header[..HASH]))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use proptest::prelude::*;
    use tokio::io::{ReadBuf, empty, join, sink};

    use super::*;
    use crate::util::fuzz::fuzz;
    use crate::util::limit;

    fn now<T>(future: impl Future<Output = T>) -> T {
        limit::begin();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(future)
    }

    fn of_any_length(_: &Envelope) -> usize {
        MOST_BYTES
    }

    const ENVELOPE: Envelope = Envelope { cluster: ClusterId(1), from: NodeId(2), to: NodeId(3) };

    fn written(body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        now(write(&mut join(empty(), &mut bytes), Kind::Request, ENVELOPE, body)).unwrap();
        bytes
    }

    async fn read_back(
        bytes: &[u8],
        most: impl FnOnce(&Envelope) -> usize,
    ) -> Result<Option<Frame>, FrameError> {
        read(&mut join(bytes, sink()), None, most).await
    }

    /// What a stranger sends is a frame whose hash is right, or refused; and nobody is made to
    /// have more room for him than a stranger gets.
    #[test]
    fn fuzzed_frames_are_whole_or_refused() {
        let good = [written(b""), written(b"hello"), written(&[b'x'; 300])];
        fuzz(&good, &["etcd"], |bytes| {
            match now(read_back(bytes, |_| STRANGERS_BYTES)) {
                Ok(Some(frame)) => {
                    let mut again = Vec::new();
                    write_header(&mut again, frame.kind, frame.envelope, &frame.body);
                    // Two bytes are for what comes later.
                    assert_eq!(&again[..6], &bytes[..6]);
                    assert_eq!(&again[8..HASH], &bytes[8..HASH]);
                    assert!(frame.body.len() <= STRANGERS_BYTES);
                }
                Ok(None) => assert!(bytes.is_empty()),
                Err(_) => {}
            }
        });
    }

    #[test]
    fn frame_is_read_back_as_written() {
        let frame = now(read_back(&written(b"hello"), of_any_length)).unwrap().unwrap();
        assert_eq!((frame.kind, &frame.body[..]), (Kind::Request, &b"hello"[..]));
        assert_eq!(frame.envelope.to, NodeId(3));
        assert!(now(read_back(b"", of_any_length)).unwrap().is_none());
    }

    #[test]
    fn frame_that_was_changed_is_refused() {
        let bytes = written(b"hello");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(now(read_back(&changed, of_any_length)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn length_is_bounded_before_anything_is_read() {
        let mut bytes = written(b"");
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        let refused = now(read_back(&bytes, of_any_length));
        assert!(matches!(refused, Err(FrameError::Length { .. })));
    }

    #[test]
    fn length_is_judged_by_whom_it_is_from() {
        let for_friends = |envelope: &Envelope| {
            if envelope.cluster == ClusterId(1) { MOST_BYTES } else { 2 }
        };
        let bytes = written(b"hello");
        assert!(now(read_back(&bytes, for_friends)).is_ok());
        let for_others = |_: &Envelope| 2;
        let refused = now(read_back(&bytes, for_others));
        assert!(matches!(refused, Err(FrameError::Length { found: 5, most: 2 })));
    }

    /// Time goes on by itself where nothing else happens.
    #[tokio::test(start_paused = true)]
    async fn frame_that_has_begun_has_to_come() {
        limit::begin();
        let (mut bytes, body) = (Vec::new(), vec![7; 1_000_000]);
        let mut stream = join(empty(), &mut bytes);
        write(&mut stream, Kind::Response, Envelope::default(), &body).await.unwrap();
        for cut in [1, HEADER - 1, HEADER, HEADER + 500_000] {
            let (mut here, mut there) = tokio::io::duplex(bytes.len());
            there.write_all(&bytes[..cut]).await.unwrap();
            let begun = tokio::time::Instant::now();
            let late = read(&mut here, None, of_any_length).await;
            let is_late = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
            assert!(matches!(&late, Err(FrameError::Io(error)) if is_late(error)), "{late:?}");
            let limit = if cut < HEADER { 5 } else { 15 };
            assert_eq!(begun.elapsed().as_secs(), limit);
        }
    }

    /// What lies on the link at a time is never more than a portion.
    #[tokio::test]
    async fn long_question_goes_in_portions() {
        limit::begin();
        let body = [&vec![7; 3 * PORTION][..], b"end"].concat();
        let (mut here, there) = tokio::io::duplex(2 * PORTION);
        let writing = {
            let body = body.clone();
            tokio::spawn(async move { write(&mut here, Kind::Request, ENVELOPE, &body).await })
        };
        let mut there = Counted { stream: there, read: 0, most: 0 };
        let frame = read(&mut there, None, of_any_length).await.unwrap().unwrap();
        assert!(frame.body == body && writing.await.unwrap().is_ok());
        assert_eq!(there.most, HEADER + PORTION);
    }

    /// Whoever is silent in the middle of a request is given up.
    #[tokio::test(start_paused = true)]
    async fn portion_that_is_not_acknowledged_is_the_last() {
        limit::begin();
        let (mut here, _there) = tokio::io::duplex(4 * PORTION);
        let late = write(&mut here, Kind::Request, ENVELOPE, &vec![7; 2 * PORTION]).await;
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    /// Counts how much is read before anything is written.
    struct Counted<S> {
        stream: S,
        read: usize,
        most: usize,
    }

    impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let before = buf.filled().len();
            let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
            self.read += buf.filled().len() - before;
            self.most = self.most.max(self.read);
            polled
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.read = 0;
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    proptest! {
        /// Whatever the bytes, the reader does not panic.
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [&MAGIC[..], &[VERSION, 1], &bytes].concat();
            let _frame = now(read_back(&bytes, of_any_length));
        }
    }
}
