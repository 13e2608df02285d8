//! The network under the peers: real sockets, or a simulation's.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;

use crate::tls::LiveTls;

/// A connection of two machines, as bytes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection on its way.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Makes connections.
pub trait Connect: fmt::Debug + Send + Sync {
    /// Connects to an address: `host:port`. If it is known which machine stands there, it has to
    /// be the one of that name; if that can be shown.
    fn connect<'a>(&'a self, address: &'a str, name: Option<&'a str>) -> Connecting<'a>;
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

/// Real sockets: plain, or with TLS over them.
///
/// An address of a machine that speaks TLS begins with `https://`, as the log tells it.
#[derive(Clone, Debug, Default)]
pub enum Sockets {
    /// Plain.
    #[default]
    Plain,
    /// With TLS.
    Tls(LiveTls),
    /// With TLS where the other machine is known to speak it.
    TlsWhereSpoken(LiveTls),
}

/// What stands before the address of a machine that speaks TLS.
const TLS_SCHEME: &str = "https://";

/// A machine cannot be spoken to for want of TLS, or because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum WrongDoor {
    /// It speaks TLS, and this one does not.
    #[error("it speaks TLS: give --server-cert, --server-key and --server-ca-file here, too")]
    SpeaksTls,
    /// Clients are served there.
    #[error("it is a client port, and not the peer port of a machine")]
    ClientPort,
    /// It is the other way round.
    #[error("it speaks no TLS: give --server-cert, --server-key and --server-ca-file there, too")]
    SpeaksPlainly,
}

impl Sockets {
    /// Returns the TLS with which a machine is spoken to, if it is, and where that is.
    fn tls_for<'a>(&self, address: &'a str) -> io::Result<(Option<&LiveTls>, &'a str)> {
        let bare = address.strip_prefix(TLS_SCHEME);
        match (self, bare) {
            (Self::Plain, Some(_)) => Err(io::Error::other(WrongDoor::SpeaksTls)),
            (Self::Plain | Self::TlsWhereSpoken(_), None) => Ok((None, address)),
            (Self::Tls(tls) | Self::TlsWhereSpoken(tls), Some(bare)) => Ok((Some(tls), bare)),
            (Self::Tls(tls), None) => Ok((Some(tls), address)),
        }
    }
}

impl Connect for Sockets {
    fn connect<'a>(&'a self, address: &'a str, name: Option<&'a str>) -> Connecting<'a> {
        Box::pin(async move {
            let (tls, address) = self.tls_for(address)?;
            let stream = TcpStream::connect(address).await?;
            // A frame is written whole: waiting for more only delays it.
            stream.set_nodelay(true)?;
            // What a silent network swallows is given up, not sent again for minutes.
            SockRef::from(&stream).set_tcp_user_timeout(Some(SEND_LIMIT))?;
            let Some(tls) = tls else { return Ok(Box::new(stream) as Box<dyn Stream>) };
            let dialled = tls.dial(address, stream).await.map_err(explained)?;
            dialled.session().insist_on(name)?;
            Ok(Box::new(dialled) as Box<dyn Stream>)
        })
    }
}

/// Says what it means that no TLS comes of a connection, where that is known.
fn explained(error: io::Error) -> io::Error {
    use rustls::{AlertDescription, Error};
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    match cause {
        Some(
            Error::InvalidMessage(_) | Error::AlertReceived(AlertDescription::HandshakeFailure),
        ) => io::Error::other(WrongDoor::SpeaksPlainly),
        Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            io::Error::other(WrongDoor::ClientPort)
        }
        _ => error,
    }
}
