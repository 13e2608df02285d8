//! The peer port: other machines come in here, and people who are curious.

use std::future::Future;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::http::connection::{ACCEPT_PAUSE, connection, prepare};
use super::http::door::{Crowd, Door};
use super::http::files::Files;
use crate::node::{Closing, Node};
use crate::peers::{self, Place, Places};
use crate::util::rate_limit::RateLimit;

/// How long whoever connects to the peer port may take for a first word.
const WORD_LIMIT: Duration = Duration::from_secs(5);

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
    let failed = RateLimit::default();
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
