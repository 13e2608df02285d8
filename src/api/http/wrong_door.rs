//! Who speaks plainly at a port with TLS, or TLS at a plain one, is told so in his words.
//!
//! | the first byte | at a port with TLS | at a plain port |
//! |---|---|---|
//! | 0x16, a handshake of TLS | TLS | an alert |
//! | anything else | 400 `This Port Speaks TLS: Use https://` | HTTP |

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::linger::linger;

/// How a handshake of TLS begins (RFC 8446, section 5.1).
pub(in crate::api) const HANDSHAKE: u8 = 0x16;

/// The alert that no handshake comes of this (RFC 8446, section 6): fatal, 40.
pub(super) const NO_TLS: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 40];

const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    connection: close\r\ncontent-length: 35\r\n\r\nThis Port Speaks TLS: Use https://\n";

/// What is said at the peer port, where machines alone speak.
const PLAIN_AMONG_MACHINES: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: 37\r\n\r\n\
    Machines Speak TLS Here, Nobody Else\n";

/// How long whoever connects may take for a first byte.
const FIRST_LIMIT: Duration = Duration::from_secs(5);

/// Returns the first byte that comes, if one comes in time. It can be read still.
pub(in crate::api) async fn first_byte(stream: &TcpStream) -> Option<u8> {
    let mut first = [0];
    let peeked = tokio::time::timeout(FIRST_LIMIT, stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(1..))).then_some(first[0])
}

/// Tells whoever speaks plainly that this port speaks TLS.
///
/// # Errors
///
/// If the other side is gone.
pub(in crate::api) async fn tell_to_use_tls(stream: &mut TcpStream) -> io::Result<()> {
    tracing::debug!("a client spoke plainly where TLS is spoken");
    tell(stream, PLAIN).await
}

/// Tells a person that machines speak at this port.
///
/// # Errors
///
/// If the other side is gone.
pub(in crate::api) async fn tell_of_machines(stream: &mut TcpStream) -> io::Result<()> {
    tell(stream, PLAIN_AMONG_MACHINES).await
}

/// Tells whoever speaks TLS that this port does not.
///
/// # Errors
///
/// If the other side is gone.
pub(in crate::api) async fn tell_not_to_use_tls(stream: &mut TcpStream) -> io::Result<()> {
    tell(stream, &NO_TLS).await
}

async fn tell(stream: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    linger(stream).await;
    Ok(())
}
