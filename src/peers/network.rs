//! The network under the peers: real sockets, or a simulation's.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;

/// A connection of two machines, as bytes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection on its way.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Makes connections.
pub trait Connect: fmt::Debug + Send + Sync {
    /// Connects to an address: `host:port`.
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a>;
}

/// For how long what was sent may go without a sign that it has come.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// How many bytes a second the slowest link carries that machines are made for.
const SLOWEST_LINK: u64 = 256 << 10;

/// Returns how long so many bytes may be on their way, besides what anything takes.
pub fn travel(bytes: usize) -> Duration {
    Duration::from_micros(bytes as u64 * 1_000_000 / SLOWEST_LINK)
}

/// How much is read at once: most messages whole.
const BUFFER_BYTES: usize = 16 << 10;

/// Makes a stream read a little more than it is asked for.
pub(super) fn buffered(stream: Box<dyn Stream>) -> Box<dyn Stream> {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, stream))
}

/// Real sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Connect for Tcp {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            // A frame is written whole: waiting for more only delays it.
            stream.set_nodelay(true)?;
            // What a silent network swallows is given up, not sent again for minutes.
            SockRef::from(&stream).set_tcp_user_timeout(Some(SEND_LIMIT))?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}
