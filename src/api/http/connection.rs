//! One connection: hyper serves it, until it ends or has to give way.
//!
//! Not here: who gets a place (`clients`, `peer_port`), and which requests hyper gets to
//! see (`door`).

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use super::door::Door;
use super::head::HEAD_BYTES;
use super::linger::linger;
use crate::node::Closing;

/// After how long a silent connection is asked for a sign of life, how often, and
/// how many times in vain. A client that has closed its sending side, and is gone, is
/// noticed by it: its system forgets the connection after a minute, and then says so.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(15), 4);

/// What is told to whom there is not even a place for to ask.
const SENT_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: text/plain; charset=utf-8\r\nretry-after: 1\r\nconnection: close\r\n\
    content-length: 21\r\n\r\nToo Many Connections\n";

/// How long what was sent may go without being acknowledged.
const SEND_LIMIT: Duration = Duration::from_mins(2);

/// Serves one connection, until it ends or the machine closes; or until it has to give
/// way, if no request has come by then; or until whoever is there is believed no longer. Its
/// socket is set up at once.
pub(in crate::api) fn connection<S, B, G, V>(
    door: Door,
    service: S,
    mut closing: Closing,
    gives_way: G,
    is_void: V,
) -> impl Future<Output = ()> + use<S, B, G, V>
where
    G: Future<Output = ()>,
    V: Future<Output = ()>,
    S: HttpService<Incoming, ResBody = B> + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Outside of the future, which would have room for the parts, too.
    let (prepared, talk) = (prepare(door.tcp()), door.talk());
    let mut served = http1::Builder::new()
        .half_close(true)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(door), service);
    async move {
        if let Err(error) = prepared {
            tracing::debug!("a connection was lost: {error}");
            return;
        }
        let ended = tokio::select! {
            ended = &mut served => ended,
            () = talk.broken() => return reset(served.into_parts().io.inner().tcp()),
            () = closing.begun() => {
                Pin::new(&mut served).graceful_shutdown();
                return note_end((&mut served).await);
            }
            () = is_void => {
                tracing::debug!("a client is believed no longer");
                return reset(served.into_parts().io.inner().tcp());
            }
            () = gives_way => {
                if !talk.is_asked() {
                    return send_away(&mut served.into_parts().io.into_inner());
                }
                (&mut served).await
            }
        };
        note_end(ended);
        let mut door = served.into_parts().io.into_inner();
        if talk.is_broken() {
            return reset(door.tcp());
        }
        // On the heap: few connections ever come here, and all would have room for it.
        Box::pin(linger(door.socket_mut())).await;
    }
}

/// Makes a connection end as one that has failed: what was sent of an answer must not be
/// taken for all of it, as where nothing but the end of the connection says that it is.
fn reset(stream: &TcpStream) {
    // If it is gone already, it cannot be taken for anything.
    let _set = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Clients come and go as they like; only who looks for it wants to know.
fn note_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}

/// Tells a client that there is no place for it, and waits for nothing.
fn send_away(door: &mut Door) {
    let mut context = Context::from_waker(Waker::noop());
    let mut socket = Pin::new(door.socket_mut());
    // The socket is new, and has room for a few bytes; if not, nobody reads there.
    let _sent = socket.as_mut().poll_write(&mut context, SENT_AWAY);
    let _flushed = socket.poll_flush(&mut context);
    // What it has asked is read, and not looked at: a connection that is closed with
    // something unread is reset, and the answer may be lost.
    let mut asked = [MaybeUninit::uninit(); HEAD_BYTES];
    let _read = SockRef::from(door.tcp()).recv(&mut asked);
}

/// Sets up the socket of a connection.
///
/// # Errors
///
/// If the other side is gone already.
pub(in crate::api) fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Answers are whole when they are written: waiting for more only delays them.
    stream.set_nodelay(true)?;
    // A watch may be silent for days; a client that is gone is not waited for.
    let (idle, interval, retries) = KEEPALIVE;
    let keepalive =
        TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(SEND_LIMIT))
}
