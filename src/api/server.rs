//! Connections: one task each; and who comes in by the peer port.
//!
//! Not here: who gets a place at the client port (`clients.rs`), and which requests
//! hyper gets to see (`door.rs`).

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::door::{Crowd, Door};
use super::files::Files;
use super::head::HEAD_BYTES;
use crate::node::{Closing, Node};
use crate::peers::{self, Place, Places};
use crate::util::rate_limit::Seldom;

/// How long whoever connects to the peer port may take for a first word.
const WORD_LIMIT: Duration = Duration::from_secs(5);

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

/// How long to wait when the operating system has no room for a connection.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the peer port until the machine closes: what other machines ask, and
/// for curious people the version.
pub async fn serve_peers(listener: TcpListener, node: Node) {
    let answer = |request: Request<Incoming>| async move {
        let version = request.uri().path() == "/version";
        let text = concat!("etcd ", env!("CARGO_PKG_VERSION"), "\n");
        let body = if version { text } else { "404 page not found\n" };
        let mut response = Response::new(Full::<Bytes>::from(body));
        if !version {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        Ok::<_, std::convert::Infallible>(response)
    };
    let places = Places::new(Files::divide().peers);
    let closing = node.closing();
    // There is always a place for one more: who has to go for it, the places know.
    serve(listener, closing, move |stream, mut closing| {
        let (node, place) = (node.clone(), places.take());
        async move {
            let word = tokio::select! {
                word = first_byte(&stream) => word,
                () = closing.begun() => return,
                () = place.lost() => return,
            };
            match word {
                // Of what a machine says, it tells it apart from any method of HTTP.
                Some(b'e') => serve_machine(&place, stream, node, closing).await,
                Some(_) => {
                    let door = Door::new(stream, Crowd::default());
                    connection(door, service_fn(answer), closing, place.lost()).await;
                }
                None => {}
            }
        }
    })
    .await;
}

async fn serve_machine(place: &Place, stream: TcpStream, node: Node, mut closing: Closing) {
    let served = async {
        prepare(&stream)?;
        peers::serve_at(place, Box::new(stream), node, closing.begun()).await
    };
    if let Err(error) = served.await {
        tracing::debug!("the connection of another machine ended: {error}");
    }
}

/// Returns the first byte that comes, if one comes in time.
async fn first_byte(stream: &TcpStream) -> Option<u8> {
    let mut beginning = [0];
    let peeked = tokio::time::timeout(WORD_LIMIT, stream.peek(&mut beginning)).await;
    matches!(peeked, Ok(Ok(1..))).then_some(beginning[0])
}

/// Serves each connection in a task of its own, until the machine closes.
async fn serve<F>(
    listener: TcpListener,
    mut closing: Closing,
    handle: impl Fn(TcpStream, Closing) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let failed = Seldom::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Finished connections are forgotten as they go.
            Some(_) = connections.join_next() => continue,
            () = closing.begun() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(handle(stream, closing.clone()));
            }
            Err(error) => {
                if failed.is_due() {
                    tracing::warn!("connections to the peer port are not accepted: {error}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Serves one connection, until it ends or the machine closes; or until it has to give
/// way, if no request has come by then.
pub(super) async fn connection<S, B>(
    door: Door,
    service: S,
    mut closing: Closing,
    gives_way: impl Future<Output = ()>,
) where
    S: HttpService<Incoming, ResBody = B> + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Err(error) = prepare(door.stream()) {
        tracing::debug!("a connection was lost: {error}");
        return;
    }
    let talk = door.talk();
    let mut served = http1::Builder::new()
        .half_close(true)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(door), service);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = closing.begun() => {
            std::pin::Pin::new(&mut served).graceful_shutdown();
            return note_end((&mut served).await);
        }
        () = gives_way => {
            if !talk.is_asked() {
                return send_away(served.into_parts().io.inner().stream());
            }
            (&mut served).await
        }
    };
    note_end(ended);
    served.into_parts().io.into_inner().linger().await;
}

/// Clients come and go as they like; only who looks for it wants to know.
fn note_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}

/// Tells a client that there is no place for it, and waits for nothing.
fn send_away(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // The socket is new, and has room for a few bytes; if not, nobody reads there.
    let _sent = socket.send(SENT_AWAY);
    // What it has asked is read, and not looked at: a connection that is closed with
    // something unread is reset, and the answer may be lost.
    let mut asked = [MaybeUninit::uninit(); HEAD_BYTES];
    let _read = socket.recv(&mut asked);
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
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
