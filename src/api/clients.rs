//! The client port: who gets a place, and what the others are told.
//!
//! ```text
//! connection ─▶ a place is free? ─▶ served
//!                  └─▶ a spare place: /health and /version are served; all else 503
//! ```
//!
//! Nobody waits in silence: whoever cannot be served is told so. There are few spare
//! places, and a request there has to come at once; whoever comes when all are taken
//! gets that of the one who has waited longest without saying what it wants.
//!
//! There are as many places as the system allows, less what a machine needs that is
//! not to fail because of its clients (`files.rs`).

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::http::answer::{Answer, Body};
use super::http::answering::{KeptPlace, Said};
use super::http::connection::connection;
use super::http::door::{Crowd, Door, Talk};
use super::http::files::Files;
use super::http::problem::Problem;
use super::http::same_origin::{Reader, SameOrigin, is_preflight};
use super::http::socket::Socket;
use super::http::wrong_door::{HANDSHAKE, first_byte, tell_to_use_tls};
use super::v1::{self, Reply};
use crate::node::{Closing, Node};
use crate::tls::LiveTls;
use crate::util::accept::accept;
use crate::util::rate_limit::RateLimit;

/// How long a head may take to come on a spare place.
const SPARE_LIMIT: Duration = Duration::from_secs(2);

/// What a client is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    /// Whatever it asks for, for as long as it likes: it has a place of its own.
    Full,
    /// One request, whether the machine is well: it has a spare place.
    HealthOnly,
}

/// Serves clients, and the web pages that may use the port, until the machine closes; then lets
/// the requests that are under way finish.
///
/// # Panics
///
/// Never: a cluster's identity can stand in a header.
pub async fn serve_clients(listener: TcpListener, node: Node, port: ClientPort) {
    let files = Files::divide();
    let mut closing = node.closing();
    let clients = Clients::new(node, port);
    let mut own = JoinSet::new();
    let mut spare = Spare::new(files.spare);
    let (full, failed) = (RateLimit::default(), RateLimit::default());
    loop {
        clients.crowd.note(own.len() >= files.own);
        let has_room = own.len() < files.own || spare.has_room();
        let stream = tokio::select! {
            stream = accept(&listener, "clients", &failed), if has_room => stream,
            // Finished connections are forgotten as they go.
            Some(_) = own.join_next() => continue,
            Some(_) = spare.connections.join_next() => continue,
            () = closing.begun() => break,
        };
        if own.len() < files.own {
            let client = clients.clone();
            own.spawn(client.serve(Service::Full, stream, closing.clone(), pending()));
            continue;
        }
        if full.is_due() {
            tracing::warn!("clients are turned away: all {} places are taken", files.own);
        }
        spare.admit(&clients, stream, closing.clone());
    }
    while own.join_next().await.is_some() {}
    while spare.connections.join_next().await.is_some() {}
}

/// How clients are served, wherever they have a place.
#[derive(Clone)]
struct Clients {
    node: Node,
    cluster: HeaderValue,
    same_origin: SameOrigin,
    tls: Option<LiveTls>,
    crowd: Crowd,
}

/// How a port serves clients.
#[derive(Clone, Debug, Default)]
pub struct ClientPort {
    /// Which web pages may use it.
    pub same_origin: SameOrigin,
    /// Its TLS; none, if it speaks plainly.
    pub tls: Option<LiveTls>,
}

impl Clients {
    fn new(node: Node, ClientPort { same_origin, tls }: ClientPort) -> Self {
        let cluster = HeaderValue::try_from(node.cluster().to_string());
        let cluster = cluster.expect("hexadecimal digits can stand in a header");
        Self { node, cluster, same_origin, tls, crowd: Crowd::default() }
    }

    /// Serves a client until it goes; or until it has to give way, if it has asked for
    /// nothing by then.
    fn serve<G: Future<Output = ()> + Send>(
        self,
        service: Service,
        stream: TcpStream,
        closing: Closing,
        gives_way: G,
    ) -> impl Future<Output = ()> + use<G> {
        match self.tls.clone() {
            None => Either::Left(self.talk(
                service,
                Socket::Plain(stream),
                closing,
                gives_way,
                pending(),
            )),
            // On the heap: without TLS, all would have room for it.
            Some(tls) => {
                Either::Right(Box::pin(self.shake_hands(tls, service, stream, closing, gives_way)))
            }
        }
    }

    /// Serves a client that speaks TLS, and tells any other one to.
    async fn shake_hands(
        self,
        tls: LiveTls,
        service: Service,
        mut stream: TcpStream,
        mut closing: Closing,
        gives_way: impl Future<Output = ()> + Send,
    ) {
        let mut gives_way = Box::pin(gives_way);
        let shaking = async {
            match first_byte(&stream).await {
                Some(HANDSHAKE) => tls.accept(stream).await.map(Some),
                Some(_) => tell_to_use_tls(&mut stream).await.map(|()| None),
                None => Ok(None),
            }
        };
        let shaken = tokio::select! {
            shaken = shaking => shaken,
            () = gives_way.as_mut() => return,
            () = closing.begun() => return,
        };
        match shaken {
            Ok(Some((stream, session))) => {
                let is_void = async {
                    match session {
                        Some(session) => session.until_void().await,
                        None => pending().await,
                    }
                };
                self.talk(service, Socket::Tls(stream), closing, gives_way, is_void).await;
            }
            Ok(None) => {}
            Err(error) => tracing::debug!("no TLS came of a connection: {error}"),
        }
    }

    fn talk<G: Future<Output = ()>, V: Future<Output = ()>>(
        self,
        service: Service,
        socket: Socket,
        closing: Closing,
        gives_way: G,
        is_void: V,
    ) -> impl Future<Output = ()> + use<G, V> {
        let door = Door::new(socket, self.crowd.clone());
        let (talk, place) = (door.talk(), KeptPlace::default());
        let respond = move |request: Request<Incoming>| {
            place.answer(respond(self.clone(), service, Arc::clone(&talk), request))
        };
        connection(door, service_fn(respond), closing, gives_way, is_void)
    }
}

/// The spare places, and who has them.
struct Spare {
    places: usize,
    connections: JoinSet<()>,
    /// Of each connection, how to tell it that its place is given to another one; the
    /// oldest first.
    waiting: VecDeque<oneshot::Sender<()>>,
}

impl Spare {
    fn new(places: usize) -> Self {
        Self { places, connections: JoinSet::new(), waiting: VecDeque::new() }
    }

    /// Returns whether one more connection may come in. There is room for those too who
    /// have been told to go, and they go at once.
    fn has_room(&self) -> bool {
        self.connections.len() < 2 * self.places
    }

    /// Gives a connection a place; if there is none, that of the oldest.
    fn admit(&mut self, clients: &Clients, stream: TcpStream, closing: Closing) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        if self.waiting.len() >= self.places
            && let Some(oldest) = self.waiting.pop_front()
        {
            // If it has just gone by itself, so much the better.
            let _told = oldest.send(());
        }
        let (replace, replaced) = oneshot::channel();
        self.waiting.push_back(replace);
        let gives_way = async {
            // Late, or told to go: either way the place is for somebody else.
            let _why = tokio::time::timeout(SPARE_LIMIT, replaced).await;
        };
        let client = clients.clone();
        self.connections.spawn(client.serve(Service::HealthOnly, stream, closing, gives_way));
    }
}

/// Answers a request of a client.
async fn respond(
    Clients { node, cluster, same_origin, .. }: Clients,
    service: Service,
    talk: Arc<Talk>,
    request: Request<Incoming>,
) -> Said {
    let is_limited = service == Service::HealthOnly;
    // Where a body in chunks ends, and another request begins, the door does not know.
    let is_last = is_limited || request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut framing = Framing { is_last, reader: None, node: node.clone(), cluster };
    let answer = match talk.ask() {
        Some(refusal) => Err(Problem::Refused(refusal)),
        None if is_limited && !is_for_everybody(&request) => Err(Problem::NoPlace),
        None => match same_origin.judge(&request) {
            Ok(reader) => {
                framing.reader = reader;
                route(&node, request, talk, framing.reader.is_some()).await
            }
            Err(problem) => Err(problem),
        },
    };
    match answer {
        Ok(Reply::Answer(answer)) => Said::Now(framing.respond(Ok(answer))),
        Ok(Reply::Later(answer)) => {
            Said::Later(Box::pin(async move { framing.respond(answer.await) }))
        }
        Err(problem) => Said::Now(framing.respond(Err(problem))),
    }
}

/// Answers a request that may be made; of a page of another origin, its browser asks first
/// whether it may.
async fn route(
    node: &Node,
    mut request: Request<Incoming>,
    talk: Arc<Talk>,
    is_from_elsewhere: bool,
) -> Result<Reply, Problem> {
    if is_from_elsewhere && is_preflight(&request) {
        return Ok(Reply::Answer(Answer::preflight()));
    }
    request.extensions_mut().insert(talk);
    v1::route(node, request).await
}

/// What an answer says besides what it is about.
struct Framing {
    node: Node,
    cluster: HeaderValue,
    /// Whether the connection ends with it.
    is_last: bool,
    /// The page of another origin that may read it.
    reader: Option<Reader>,
}

impl Framing {
    fn respond(self, answer: Result<Answer, Problem>) -> Response<Body> {
        let Self { node, cluster, is_last, reader } = self;
        let answer = answer.unwrap_or_else(|problem| problem.explained(&node).into_answer());
        let answer = if is_last { answer.closing() } else { answer };
        answer.readable_by(reader).into_response(&node, &cluster)
    }
}

/// Returns whether a request is answered however many clients there are: who watches
/// over a machine wants to know of all others that it is well.
fn is_for_everybody<B>(request: &Request<B>) -> bool {
    matches!(request.uri().path(), "/health" | "/version")
}
