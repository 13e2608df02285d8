//! The network between the machines: turmoil's, but as narrow as a fault wants it, and
//! deaf to what it wants lost.
//!
//! ```text
//! request ─▶ lost? ─▶ one piece at a time, as the link has room ─▶ turmoil ─▶ answer …
//! ```
//!
//! A link leads from one machine to another, and all connections between the two share
//! it, piece by piece: a short message waits for one piece of each other connection.
//!
//! What is lost on a connection comes later, once nothing is lost any longer, as it does
//! where the operating system sends it again.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use etcd::peers::{Connect, Connecting, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use turmoil::net::TcpStream;

use super::world::World;

/// How much of a message goes over a narrow link at once.
const PIECE_BYTES: usize = 16 << 10;

/// How much that is lost a connection takes before it takes no more.
const LOST_BYTES: usize = 64 << 10;

/// How often a connection looks whether things are lost still.
const LOOK: Duration = Duration::from_millis(10);

/// For how long a link may make up for what it did not carry: longer than the
/// simulation's ticks, which are when it is looked at.
const BURST: Duration = Duration::from_millis(3);

/// What is lost between a machine and all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lost {
    /// What it asks others.
    Requests,
    /// What others answer to it.
    Answers,
}

/// All links. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// How many bytes a second each link carries; no end of them, if absent.
    bandwidth: Option<u32>,
    /// Until when each link carries what it was given.
    busy: BTreeMap<(Arc<str>, Arc<str>), Duration>,
    lost: BTreeSet<(Lost, String)>,
}

impl Links {
    pub(crate) fn set_bandwidth(&self, bandwidth: Option<u32>) {
        self.lock().bandwidth = bandwidth;
    }

    pub(crate) fn bandwidth(&self) -> Option<u32> {
        self.lock().bandwidth
    }

    pub(crate) fn lose(&self, lost: Lost, name: &str) {
        self.lock().lost.insert((lost, name.to_owned()));
    }

    pub(crate) fn lose_no_longer(&self, lost: Lost, name: &str) {
        self.lock().lost.remove(&(lost, name.to_owned()));
    }

    fn loses(&self, lost: Lost, name: &str) -> bool {
        let inner = self.lock();
        !inner.lost.is_empty() && inner.lost.contains(&(lost, name.to_owned()))
    }

    /// Returns how long a piece has to wait for its turn on a link.
    fn turn(&self, from: &Arc<str>, to: &Arc<str>, bytes: usize) -> Duration {
        let mut inner = self.lock();
        let Some(bandwidth) = inner.bandwidth else { return Duration::ZERO };
        let now = turmoil::sim_elapsed().expect("only machines of the simulation ask");
        let busy = inner.busy.entry((Arc::clone(from), Arc::clone(to))).or_default();
        let turn = now.saturating_sub(BURST).max(*busy);
        *busy = turn + time_for(bytes, bandwidth);
        turn.saturating_sub(now)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

/// How long a link needs for so many bytes.
pub(crate) fn time_for(bytes: usize, bandwidth: u32) -> Duration {
    Duration::from_secs_f64(f64::from(u32::try_from(bytes).unwrap()) / f64::from(bandwidth))
}

/// The network as a machine sees it.
#[derive(Debug)]
pub(crate) struct Network {
    links: Links,
    me: Arc<str>,
}

impl Connect for Network {
    fn connect<'a>(&'a self, address: &'a str, _name: Option<&'a str>) -> Connecting<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            let to = address.split(':').next().unwrap_or_default();
            Ok(Box::new(self.link(stream, to, true)) as Box<dyn Stream>)
        })
    }
}

impl Network {
    /// The network as somebody sees it in a world.
    pub(crate) fn of(world: &World, me: &str) -> Self {
        Self { links: world.links().clone(), me: Arc::from(me) }
    }

    /// A connection that another machine has made to this one.
    pub(crate) fn accepted(&self, stream: TcpStream) -> Box<dyn Stream> {
        let from = stream.peer_addr().ok().and_then(|from| turmoil::reverse_lookup(from.ip()));
        Box::new(self.link(stream, &from.unwrap_or_default(), false))
    }

    fn link(&self, stream: TcpStream, to: &str, asks: bool) -> Link {
        let (links, from) = (self.links.clone(), Arc::clone(&self.me));
        let (to, look) = (Arc::from(to), None);
        Link { stream, links, from, to, asks, turn: None, lost: Vec::new(), look }
    }
}

/// A connection over a link.
struct Link {
    stream: TcpStream,
    links: Links,
    from: Arc<str>,
    to: Arc<str>,
    /// Whether this is the side that asks.
    asks: bool,
    /// When the next piece may go.
    turn: Option<Pin<Box<Sleep>>>,
    /// What has to be sent again.
    lost: Vec<u8>,
    /// When to look again whether things are lost.
    look: Option<Pin<Box<Sleep>>>,
}

impl Link {
    fn loses(&self, lost: Lost) -> bool {
        self.asks && self.links.loses(lost, &self.from)
    }

    /// Looks again in a while.
    fn wait(&mut self, cx: &mut Context<'_>) {
        let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
        while look.as_mut().poll(cx).is_ready() {
            look.set(sleep(LOOK));
        }
    }

    /// Sends what was lost.
    fn send_again(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.lost.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.lost))?;
            self.lost.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.loses(Lost::Answers) || self.loses(Lost::Requests) {
            self.wait(cx);
        }
        if self.loses(Lost::Answers) {
            return Poll::Pending;
        }
        if !self.loses(Lost::Requests) {
            // Whoever has asked waits here.
            ready!(self.send_again(cx))?;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.loses(Lost::Requests) {
            let room = bytes.len().min(LOST_BYTES.saturating_sub(self.lost.len()));
            self.lost.extend_from_slice(&bytes[..room]);
            self.wait(cx);
            return if room == 0 { Poll::Pending } else { Poll::Ready(Ok(room)) };
        }
        ready!(self.send_again(cx))?;
        if self.links.bandwidth().is_none() {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        }
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        if self.turn.is_none() {
            let turn = self.links.turn(&self.from, &self.to, piece.len());
            self.turn = Some(Box::pin(sleep(turn)));
        }
        if let Some(turn) = &mut self.turn {
            ready!(turn.as_mut().poll(cx));
        }
        let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, piece));
        self.turn = None;
        Poll::Ready(sent)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
