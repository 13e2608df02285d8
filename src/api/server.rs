//! The listeners: connections in, one task each.

use std::future::Future;
use std::io;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::node::{Closing, Node};
use crate::peers::{self, Place, Places};

/// The longest head of a request, in bytes.
const HEAD_BYTES: usize = 16 << 10;

/// How long a head may take to come, and how long a connection may be idle.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// How long whoever connects to the peer port may take for a first word.
const WORD_LIMIT: Duration = Duration::from_secs(5);

/// The most connections of clients, whatever the operating system allows: each
/// takes some ten KiB.
const MOST_CLIENTS: u64 = 50_000;

/// The most connections of other machines: each needs a few.
const MOST_PEERS: u64 = 256;

/// After how long a silent connection is asked for a sign of life, how often, and
/// how many times in vain.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_mins(1), Duration::from_secs(15), 4);

/// How long what was sent may go without being acknowledged.
const SEND_LIMIT: Duration = Duration::from_mins(2);

/// How long to wait when the operating system has no room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves clients until the machine closes; then lets the requests that are
/// under way finish.
///
/// # Panics
///
/// Never: a cluster's identity can stand in a header.
pub async fn serve_clients(listener: TcpListener, node: Node) {
    let closing = node.closing();
    let cluster = HeaderValue::try_from(node.cluster().to_string());
    let cluster = cluster.expect("hexadecimal digits can stand in a header");
    let respond =
        move |request: Request<Incoming>| super::respond(node.clone(), cluster.clone(), request);
    let most = part_of_files(3, MOST_CLIENTS);
    serve(listener, most, closing, move |stream, closing| {
        connection(stream, service_fn(respond.clone()), closing)
    })
    .await;
}

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
    let places = Places::new(part_of_files(16, MOST_PEERS));
    let closing = node.closing();
    // There is always a place for one more: who has to go for it, the places know.
    serve(listener, usize::MAX, closing, move |stream, mut closing| {
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
                Some(_) => tokio::select! {
                    () = connection(stream, service_fn(answer), closing) => {}
                    () = place.lost() => {}
                },
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

async fn serve<F>(
    listener: TcpListener,
    most: usize,
    mut closing: Closing,
    handle: impl Fn(TcpStream, Closing) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < most => accepted,
            // Finished connections are forgotten as they go.
            Some(_) = connections.join_next() => continue,
            () = closing.begun() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(handle(stream, closing.clone()));
            }
            Err(error) => {
                tracing::warn!("a connection was not accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn connection<S, B>(stream: TcpStream, service: S, mut closing: Closing)
where
    S: HttpService<Incoming, ResBody = B> + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Err(error) = prepare(&stream) {
        tracing::debug!("a connection was lost: {error}");
        return;
    }
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = closing.begun() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    // Clients come and go as they like; only who looks for it wants to know.
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}

/// A part of the files that this process may open. Half are for the log, which
/// keeps one open for each segment, and which ends the process if it cannot.
fn part_of_files(divisor: u64, most: u64) -> usize {
    let files = rlimit::Resource::NOFILE.get_soft().unwrap_or(1024);
    usize::try_from((files / divisor).min(most)).unwrap_or(usize::MAX)
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
