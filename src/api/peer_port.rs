//! The peer port: other machines come in here, and people who are curious.
//!
//! | who comes | at a plain port | at one with TLS | at one with both |
//! |---|---|---|---|
//! | a machine, plainly | served | told to use TLS | served |
//! | a machine, with TLS | told not to | served as who its certificate says | as well |
//! | a person, plainly | served | told who speaks here | served |

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;

use etcd_log::{ClusterId, Machine, NodeId};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming as RequestBody};
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response as HttpResponse, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::http::connection::{connection, prepare};
use super::http::door::{Crowd, Door};
use super::http::files::Files;
use super::http::socket::Socket;
use super::http::wrong_door::{HANDSHAKE, first_byte, tell_not_to_use_tls, tell_of_machines};
use crate::node::{Closing, Node};
use crate::peers::{self, Handler, Incoming, Place, Places, Refusal, Request, Response, Stream};
use crate::tls::{LiveTls, Session};
use crate::util::accept::accept;
use crate::util::rate_limit::RateLimit;

/// How the peer port speaks, and to whom.
#[derive(Clone, Debug, Default)]
pub enum PeerPort {
    /// Plainly, to everybody.
    #[default]
    Plain,
    /// With TLS, to who shows a certificate.
    Tls(LiveTls),
    /// Either way, while a cluster changes from one to the other.
    Both(LiveTls),
}

impl PeerPort {
    /// Returns the TLS that it speaks.
    fn tls(&self) -> Option<&LiveTls> {
        match self {
            Self::Plain => None,
            Self::Tls(tls) | Self::Both(tls) => Some(tls),
        }
    }

    /// Returns whether whoever speaks plainly is served.
    fn is_plain_too(&self) -> bool {
        matches!(self, Self::Plain | Self::Both(_))
    }
}

/// Serves the peer port until the machine closes: what other machines ask, and
/// for curious people the version.
pub async fn serve_peers(listener: TcpListener, node: Node, port: PeerPort) {
    let places = Places::new(Files::divide().peers);
    let closing = node.closing();
    // There is always a place for one more: who has to go for it, the places know.
    serve(listener, closing, move |stream, closing| {
        serve_connection(port.clone(), node.clone(), places.take(), stream, closing)
    })
    .await;
}

async fn serve_connection(
    port: PeerPort,
    node: Node,
    place: Place,
    mut stream: TcpStream,
    mut closing: Closing,
) {
    let first = tokio::select! {
        first = first_byte(&stream) => first,
        () = closing.begun() => return,
        () = place.lost() => return,
    };
    let served = match (first, port.tls()) {
        (None, _) => Ok(()),
        (Some(HANDSHAKE), Some(tls)) => serve_with_tls(tls, &place, stream, node, closing).await,
        (Some(HANDSHAKE), None) => tell_not_to_use_tls(&mut stream).await,
        // Of what a machine says, it tells it apart from any method of HTTP.
        (Some(b'e'), _) if port.is_plain_too() => {
            serve_machine(&place, stream, node, closing).await
        }
        (Some(b'e'), _) => serve_machine(&place, stream, WrongDoor(node), closing).await,
        (Some(_), _) if port.is_plain_too() => {
            let door = Door::new(Socket::Plain(stream), Crowd::default());
            let told = service_fn(tell_version);
            connection(door, told, closing, place.lost(), pending()).await;
            Ok(())
        }
        (Some(_), _) => tell_of_machines(&mut stream).await,
    };
    if let Err(error) = served {
        tracing::debug!("the connection of another machine ended: {error}");
    }
}

/// Tells people who are curious the version.
async fn tell_version(
    request: HttpRequest<RequestBody>,
) -> Result<HttpResponse<Full<Bytes>>, Infallible> {
    let version = request.uri().path() == "/version";
    let text = concat!("etcd ", env!("CARGO_PKG_VERSION"), "\n");
    let body = if version { text } else { "404 page not found\n" };
    let mut response = HttpResponse::new(Full::from(body));
    if !version {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    Ok(response)
}

/// Serves a machine that speaks TLS, for as long as its certificate is believed.
async fn serve_with_tls(
    tls: &LiveTls,
    place: &Place,
    stream: TcpStream,
    node: Node,
    mut closing: Closing,
) -> io::Result<()> {
    prepare(&stream)?;
    let shaken = tokio::select! {
        shaken = tls.accept(stream) => shaken?,
        () = closing.begun() => return Ok(()),
        () = place.lost() => return Ok(()),
    };
    let (stream, Some(session)) = shaken else {
        return Err(io::Error::other("it shows no certificate"));
    };
    let is_void = session.clone().until_void();
    let served = talk(place, stream, Certified { node, session }, closing);
    tokio::select! {
        served = served => served,
        () = is_void => Err(io::Error::other("its certificate is believed no longer")),
    }
}

/// Serves a machine that speaks plainly.
async fn serve_machine(
    place: &Place,
    stream: TcpStream,
    handler: impl Handler,
    closing: Closing,
) -> io::Result<()> {
    prepare(&stream)?;
    talk(place, Box::new(stream), handler, closing).await
}

async fn talk(
    place: &Place,
    stream: Box<dyn Stream>,
    handler: impl Handler,
    mut closing: Closing,
) -> io::Result<()> {
    peers::serve_at(place, stream, handler, closing.begun()).await.map_err(io::Error::other)
}

/// A machine that is asked by one that has shown a certificate.
#[derive(Clone)]
struct Certified {
    node: Node,
    session: Session,
}

impl Certified {
    /// Returns whether the certificate is that of a machine. One that is not known here may have
    /// joined elsewhere: then it is of none that is known.
    fn speaks_for(&self, node: NodeId) -> bool {
        if let Some(name) = self.node.known_name(node) {
            return self.session.speaks_for(&name);
        }
        let names = self.session.machines();
        let is_new = names.iter().any(|name| !name.is_empty() && !self.node.knows_name(name));
        self.session.may_be_a_machine() && (names.is_empty() || is_new)
    }

    /// Returns whether the certificate is of a machine that wants to join: of its name, and of
    /// no other one that has its id.
    fn is_of_newcomer(&self, machine: &Machine) -> bool {
        let known = self.node.known_name(machine.node);
        self.session.speaks_for(&machine.name)
            && known.is_none_or(|name| self.session.speaks_for(&name))
    }
}

impl Handler for Certified {
    fn identity(&self) -> (NodeId, ClusterId) {
        self.node.identity()
    }

    fn listens_to(&self, node: NodeId) -> bool {
        self.speaks_for(node) && self.node.listens_to(node)
    }

    async fn answer(&self, request: Request, incoming: Incoming<'_>) -> Result<Response, Refusal> {
        let is_its_own = match &request {
            Request::Join { machine, .. } => self.is_of_newcomer(machine),
            Request::Move { machine } => {
                self.session.speaks_for(&machine.name) && self.speaks_for(incoming.from)
            }
            _ => self.speaks_for(incoming.from),
        };
        if !is_its_own {
            return Err(Refusal::Impossible(self.session.whose()));
        }
        self.node.answer(request, incoming).await
    }
}

/// A machine that is asked plainly, and wants TLS.
#[derive(Clone)]
struct WrongDoor(Node);

impl Handler for WrongDoor {
    fn identity(&self) -> (NodeId, ClusterId) {
        self.0.identity()
    }

    fn listens_to(&self, _node: NodeId) -> bool {
        false
    }

    async fn answer(
        &self,
        _request: Request,
        _incoming: Incoming<'_>,
    ) -> Result<Response, Refusal> {
        let text = "it speaks TLS: give --server-cert, --server-key and --server-ca-file, without --peer-plain-too";
        Err(Refusal::Impossible(text.to_owned()))
    }
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
        let stream = tokio::select! {
            stream = accept(&listener, "connections to the peer port", &failed) => stream,
            // Finished connections are forgotten as they go.
            Some(_) = connections.join_next() => continue,
            () = closing.begun() => break,
        };
        connections.spawn(handle(stream, closing.clone()));
    }
    while connections.join_next().await.is_some() {}
}
