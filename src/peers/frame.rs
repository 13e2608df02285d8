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

use std::io;
use std::time::Duration;

use bytes::Bytes;
use etcd_log::{ClusterId, NodeId};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// What every frame begins with.
pub(super) const MAGIC: [u8; 4] = *b"etcd";

/// The version of what is said between machines.
const VERSION: u8 = 1;

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

/// A body of up to so many bytes is copied behind its header, to be sent at once.
const COPIED_BYTES: usize = 64 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A question.
    Question = 1,
    /// An answer, or the last piece of one.
    Answer = 2,
    /// A piece of an answer or of a question, of which more comes.
    Piece = 3,
    /// The end of the pieces of a question.
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

/// Writes a frame.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin + ?Sized),
    kind: Kind,
    envelope: Envelope,
    body: &[u8],
) -> io::Result<()> {
    assert!(body.len() <= MOST_BYTES, "a message of {} bytes is over the limit", body.len());
    let mut bytes = Vec::with_capacity(HEADER + body.len().min(COPIED_BYTES));
    write_header(&mut bytes, kind, envelope, body);
    if body.len() <= COPIED_BYTES {
        bytes.extend(body);
        stream.write_all(&bytes).await?;
    } else {
        stream.write_all(&bytes).await?;
        stream.write_all(body).await?;
    }
    stream.flush().await
}

/// Reads a frame; nothing, if the connection ends before one begins. How long it may
/// be is judged by its envelope, before its body is read. It begins within this time, if
/// any; and once it has begun it has to come.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
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
    let mut body = Vec::new();
    // Grows with what comes, not with what is announced.
    let seconds = u64::try_from(length / LEAST_RATE).unwrap_or(u64::MAX);
    let limit = BEGUN_LIMIT + Duration::from_secs(seconds);
    in_time(limit, stream.take(length as u64).read_to_end(&mut body)).await?;
    if body.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
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
        1 => Kind::Question,
        2 => Kind::Answer,
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
    use proptest::prelude::*;

    use super::*;

    fn now<T>(future: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(future)
    }

    fn of_any_length(_: &Envelope) -> usize {
        MOST_BYTES
    }

    fn written(body: &[u8]) -> Vec<u8> {
        let envelope = Envelope { cluster: ClusterId(1), from: NodeId(2), to: NodeId(3) };
        let mut bytes = Vec::new();
        now(write(&mut bytes, Kind::Question, envelope, body)).unwrap();
        bytes
    }

    #[test]
    fn frame_is_read_back_as_written() {
        let frame = now(read(&mut &written(b"hello")[..], None, of_any_length)).unwrap().unwrap();
        assert_eq!((frame.kind, &frame.body[..]), (Kind::Question, &b"hello"[..]));
        assert_eq!(frame.envelope.to, NodeId(3));
        assert!(now(read(&mut &b""[..], None, of_any_length)).unwrap().is_none());
    }

    #[test]
    fn frame_that_was_changed_is_refused() {
        let bytes = written(b"hello");
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(now(read(&mut &changed[..], None, of_any_length)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn length_is_bounded_before_anything_is_read() {
        let mut bytes = written(b"");
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            now(read(&mut &bytes[..], None, of_any_length)),
            Err(FrameError::Length { .. })
        ));
    }

    #[test]
    fn length_is_judged_by_whom_it_is_from() {
        let for_friends = |envelope: &Envelope| {
            if envelope.cluster == ClusterId(1) { MOST_BYTES } else { 2 }
        };
        let bytes = written(b"hello");
        assert!(now(read(&mut &bytes[..], None, for_friends)).is_ok());
        let for_others = |_: &Envelope| 2;
        let refused = now(read(&mut &bytes[..], None, for_others));
        assert!(matches!(refused, Err(FrameError::Length { found: 5, most: 2 })));
    }

    /// Time goes on by itself where nothing else happens.
    #[tokio::test(start_paused = true)]
    async fn frame_that_has_begun_has_to_come() {
        let (mut bytes, body) = (Vec::new(), vec![7; 1_000_000]);
        write(&mut bytes, Kind::Question, Envelope::default(), &body).await.unwrap();
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

    proptest! {
        /// Whatever the bytes, the reader does not panic.
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _frame = now(read(&mut &[&MAGIC[..], &[VERSION, 1], &bytes].concat()[..], None, of_any_length));
        }
    }
}
