//! The door of a connection: what a client sends is looked at before hyper sees it.
//!
//! ```text
//! socket ─▶ head whole, and in order ─▶ hyper ─▶ answer
//!      │                                             ▲
//!      └─▶ not in order: a request in its place ─────┘  whose answer says why
//! ```
//!
//! A request that comes in one piece, as nearly all do, is judged where hyper reads it,
//! and not copied. Anything else is held back here until its head is whole. So that
//! each head is found, bodies are counted; behind a body in chunks the door looks at
//! nothing, and the connection ends with its answer (see `clients`).
//!
//! A request that is refused is replaced by another one, and [`Talk`] says why: so its
//! answer comes in its turn behind those of earlier requests, with the headers that all
//! answers have, and hyper writes it. What hyper refuses itself, it answers without a
//! word; that answer is given one.
//!
//! hyper does not read while a request is answered, so the door looks whether somebody is
//! still there. A client that is silent costs nothing meanwhile: the socket wakes the
//! connection when anything comes. One that has closed its sending side may still wait
//! for its answer, and the socket has no more to say of it than that: from here it looks
//! like one that is gone. So the socket is asked now and then whether the other side has
//! said that nobody is there, as it does when keepalive asks it. Where there is no place
//! left, such a client is taken for one that is gone.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::Request;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::head::{self, Body, HEAD_BYTES, Refusal};
use super::socket::Socket;
use super::wrong_door::{HANDSHAKE, NO_TLS};

/// How long a head may take to come, and how long a connection may be idle.
pub(in crate::api) const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// How often a connection whose request is being answered, and which has sent more or the
/// end behind it, is asked whether somebody is still there.
const PULSE: Duration = Duration::from_secs(10);

/// What hyper reads in place of a request that is refused.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// How the answer begins by which hyper refuses a request. No answer of this program
/// is a bad request without a body.
const WORDLESS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n";

/// What is written in its place.
const WORDED: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    connection: close\r\ncontent-length: 18\r\n\r\nMalformed Request\n";

/// What the door and the service have to tell each other.
#[derive(Debug, Default)]
pub(in crate::api) struct Talk {
    refusal: OnceLock<Refusal>,
    is_asked: AtomicBool,
    /// Rung when an answer is broken off.
    broken: Notify,
    is_broken: AtomicBool,
}

impl Talk {
    /// Notes that a request has reached the service, and returns why it is refused, if
    /// it is one that stands in for another.
    pub(in crate::api) fn ask(&self) -> Option<Refusal> {
        self.is_asked.store(true, Ordering::Relaxed);
        self.refusal.get().copied()
    }

    /// Returns the talk of the connection that a request came on.
    pub(in crate::api) fn of<B>(request: &Request<B>) -> Option<Arc<Self>> {
        request.extensions().get().cloned()
    }

    /// Breaks off what is being answered: the connection ends as one that has failed.
    pub(in crate::api) fn break_off(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
        self.broken.notify_one();
    }

    /// Waits until an answer is broken off.
    pub(in crate::api) async fn broken(&self) {
        self.broken.notified().await;
    }

    /// Returns whether an answer was broken off.
    pub(in crate::api) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Returns whether the service knows of the last request that was let in.
    pub(in crate::api) fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed)
    }
}

/// Whether all places are taken: known to the doors of all connections.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Crowd(Arc<AtomicBool>);

impl Crowd {
    /// Notes whether all places are taken.
    pub(in crate::api) fn note(&self, is_full: bool) {
        self.0.store(is_full, Ordering::Relaxed);
    }

    fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The door of one connection.
#[derive(Debug)]
pub(in crate::api) struct Door {
    socket: Socket,
    talk: Arc<Talk>,
    crowd: Crowd,
    /// What has come, and has not been passed on yet.
    held: Vec<u8>,
    /// How many more bytes belong to the request that was let in last.
    passes: u64,
    /// Whether nothing more is let in.
    is_shut: bool,
    /// When the head that is waited for must have come.
    until: Option<Instant>,
    /// Wakes the connection when there is something to look at that the socket does not
    /// tell; not there where nothing of the kind is waited for.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Door {
    /// Opens the door of a connection.
    pub(in crate::api) fn new(socket: Socket, crowd: Crowd) -> Self {
        Self {
            socket,
            talk: Arc::default(),
            crowd,
            held: Vec::new(),
            passes: 0,
            is_shut: false,
            until: None,
            alarm: None,
        }
    }

    /// Returns what the service has to look at.
    pub(in crate::api) fn talk(&self) -> Arc<Talk> {
        Arc::clone(&self.talk)
    }

    pub(in crate::api) fn tcp(&self) -> &TcpStream {
        self.socket.tcp()
    }

    pub(in crate::api) fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Looks at a head that begins here, unless a request is being passed on.
    fn judge(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if self.passes > 0 || self.is_shut {
            return Ok(());
        }
        if let Some(head) = head::judge(bytes)? {
            self.passes = match head.body {
                Body::Bytes(length) => length.saturating_add(head.length as u64),
                Body::Chunks => u64::MAX,
            };
            self.until = None;
            self.talk.is_asked.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Puts another request in the place of what has come, and lets nothing more in.
    fn refuse(&mut self, refusal: Refusal) {
        // It is the first one: the door is shut from here on.
        let _is_first = self.talk.refusal.set(refusal);
        self.held = STAND_IN.to_vec();
        self.passes = STAND_IN.len() as u64;
        self.is_shut = true;
        self.until = None;
    }

    /// Looks at what is held, and passes on of it what may be. Returns whether it has.
    fn pass_on_held(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        if self.held.is_empty() {
            return false;
        }
        let held = std::mem::take(&mut self.held);
        let judged = self.judge(&held);
        self.held = held;
        if let Err(refusal) = judged {
            self.refuse(refusal);
        }
        let passes = self.passes > 0;
        if passes {
            self.pass_on(buffer);
        }
        passes
    }

    /// Looks at what has just come, from here on in the buffer. Returns whether it may be
    /// read there, as it is; if not, it is held back or refused.
    fn lets_pass(&mut self, buffer: &mut ReadBuf<'_>, from: usize) -> bool {
        let fresh = &buffer.filled()[from..];
        if self.held.is_empty() {
            match self.judge(fresh) {
                Ok(()) if fresh.len() as u64 <= self.passes => {
                    self.count(fresh.len());
                    return true;
                }
                Ok(()) => {
                    // A head that has begun has its own time.
                    self.until = (self.passes == 0).then(|| Instant::now() + HEAD_LIMIT);
                }
                Err(refusal) => {
                    buffer.set_filled(from);
                    self.refuse(refusal);
                    return false;
                }
            }
        }
        self.held.extend_from_slice(fresh);
        buffer.set_filled(from);
        false
    }

    /// Passes on as much of what is held as may be, and as there is room for.
    fn pass_on(&mut self, buffer: &mut ReadBuf<'_>) {
        let most = usize::try_from(self.passes).unwrap_or(usize::MAX);
        let length = self.held.len().min(buffer.remaining()).min(most);
        buffer.put_slice(&self.held[..length]);
        self.count(length);
        if length == self.held.len() {
            // It is seldom needed again.
            self.held = Vec::new();
        } else {
            self.held.drain(..length);
        }
    }

    /// Notes that bytes of a request have been passed on.
    fn count(&mut self, length: usize) {
        // What has no known end is never at its end.
        if self.passes < u64::MAX {
            self.passes -= length as u64;
        }
    }

    /// Returns whether the head that is waited for is late. If not, the connection is
    /// woken when it is.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if self.passes > 0 {
            // How long a body may take is for those to say who read it.
            return false;
        }
        let until = *self.until.get_or_insert_with(|| Instant::now() + HEAD_LIMIT);
        self.rings(cx) && until <= Instant::now()
    }

    /// Returns whether there may be something to look at. If not, the connection is
    /// woken when there is. To be cheap, the alarm is only set when it has rung: what it
    /// is set to comes no later than a head that is waited for from now on is late.
    fn rings(&mut self, cx: &mut Context<'_>) -> bool {
        if self.alarm.as_ref().is_some_and(|alarm| !alarm.is_elapsed()) {
            // Whoever is to be woken is the same as before: one task has the connection.
            return false;
        }
        let mut has_rung = false;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(PULSE)));
        // Polled until it is set, or nobody would be woken by it.
        while alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let next = self.until.filter(|until| *until > now);
            alarm.as_mut().reset(next.unwrap_or(now + PULSE));
            has_rung = true;
        }
        has_rung
    }

    /// Returns whether the socket will wake the connection if nobody is there any more.
    /// Where it has told already that something came, it tells no more.
    fn is_told_of_end(&mut self, cx: &mut Context<'_>) -> bool {
        if self.tcp().poll_read_ready(cx).is_ready() {
            return false;
        }
        if self.until.is_none() {
            // An alarm from before would ring for nothing, once.
            self.alarm.take_if(|alarm| alarm.is_elapsed());
        }
        true
    }

    /// Fails once nobody is there any more; or, where there is no place for others,
    /// once nothing more can come from there.
    fn look(&mut self) -> io::Result<()> {
        if let Some(error) = self.tcp().take_error()? {
            return Err(error);
        }
        if self.crowd.is_full() && self.is_at_end() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Returns whether nothing more comes. What does is held.
    fn is_at_end(&mut self) -> bool {
        let Socket::Tls(stream) = &mut self.socket else {
            let next = SockRef::from(self.tcp()).peek(&mut [MaybeUninit::uninit()]);
            return next.is_ok_and(|length| length == 0);
        };
        if self.held.len() >= HEAD_BYTES {
            return false;
        }
        // What was sent last says that it was, and only TLS can read it.
        let mut scratch = [0; 1024];
        let mut read = ReadBuf::new(&mut scratch);
        match Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut read) {
            Poll::Ready(Ok(())) if read.filled().is_empty() => true,
            Poll::Ready(Ok(())) => {
                self.held.extend_from_slice(read.filled());
                false
            }
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    /// Writes a word in place of an answer without one.
    fn word(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<usize>> {
        // On a connection that has nothing else to send, it fits in whole.
        ready!(Pin::new(&mut self.socket).poll_write(cx, WORDED))?;
        self.is_shut = true;
        Poll::Ready(Ok(length))
    }

    /// Returns whether somebody speaks TLS where nobody does.
    fn is_tls(&self, fresh: &[u8]) -> bool {
        let begins = self.passes == 0 && self.held.is_empty() && !self.is_shut;
        begins && fresh.first() == Some(&HANDSHAKE) && matches!(self.socket, Socket::Plain(_))
    }

    /// Says so in the words of TLS, and lets nothing in.
    fn alert(&mut self, cx: &mut Context<'_>) {
        tracing::debug!("a client spoke TLS where none is spoken");
        // On a connection that has nothing else to send, it fits in whole.
        let _written = Pin::new(&mut self.socket).poll_write(cx, &NO_TLS);
        self.is_shut = true;
    }

    fn is_wordless(&self, bytes: &[u8]) -> bool {
        !self.talk.is_asked() && bytes.starts_with(WORDLESS)
    }
}

impl AsyncRead for Door {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let door = &mut *self;
        loop {
            if door.pass_on_held(buffer) || door.is_shut {
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            if Pin::new(&mut door.socket).poll_read(cx, buffer)?.is_pending() {
                if !door.is_late(cx) {
                    return Poll::Pending;
                }
                if door.held.is_empty() {
                    // An idle connection has nothing to be told.
                    return Poll::Ready(Ok(()));
                }
                door.refuse(Refusal::Slow);
                continue;
            }
            if door.is_tls(&buffer.filled()[before..]) {
                buffer.set_filled(before);
                door.alert(cx);
                continue;
            }
            let has_ended = buffer.filled().len() == before;
            if has_ended || door.lets_pass(buffer, before) {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Door {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_wordless(bytes) {
            return self.word(cx, bytes.len());
        }
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.first().is_some_and(|bytes| self.is_wordless(bytes)) {
            return self.word(cx, slices.iter().map(|slice| slice.len()).sum());
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// hyper calls this whenever it is woken.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_told_of_end(cx) && self.rings(cx) {
            self.look()?;
        }
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::tls::testing::{Port, connected};
    use crate::util::limit;

    /// How often a connection was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Woken {
        fn times(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }

        /// Waits until it was woken.
        async fn once(&self) {
            while self.times() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_is_silent_wakes_nobody() {
        limit::begin();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::Plain(listener.accept().await.unwrap().0);
        let mut door = Door::new(socket, Crowd::default());
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(door.read(&mut [0; 1024]).await.unwrap() > 0);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut looks = || Pin::new(&mut door).poll_flush(&mut Context::from_waker(&waker));
        for _ in 0..10 {
            assert!(looks().is_ready());
            tokio::time::advance(PULSE).await;
        }
        // It may have waited for the head until then.
        assert!(woken.times() <= 1);
        // One that has said that it sends no more is asked now and then.
        client.shutdown().await.unwrap();
        woken.once().await;
        for _ in 0..3 {
            assert!(matches!(looks(), Poll::Ready(Ok(()))));
            woken.once().await;
        }
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        while matches!(looks(), Poll::Ready(Ok(()))) {
            woken.once().await;
        }
    }

    /// What tells that it is gone is within TLS, behind whatever it has sent before.
    #[tokio::test]
    async fn client_with_tls_that_is_gone_is_noticed_where_no_place_is_left() {
        limit::begin();
        let port = Port::new();
        let (here, there, address) = connected().await;
        let shaking = tokio::join!(port.tls.accept(there), port.client.connect(&address, here));
        let (socket, mut client) = (shaking.0.unwrap().0, shaking.1.unwrap());
        let crowd = Crowd::default();
        let mut door = Door::new(Socket::Tls(socket), crowd.clone());
        let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        client.write_all(request).await.unwrap();
        assert_eq!(door.read(&mut [0; 1024]).await.unwrap(), request.len());
        tokio::time::pause();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let look = |door: &mut Door| {
            let is_there = Pin::new(door).poll_flush(&mut Context::from_waker(&waker));
            matches!(is_there, Poll::Ready(Ok(())))
        };
        crowd.note(true);
        for _ in 0..3 {
            assert!(look(&mut door), "it is there");
            tokio::time::advance(PULSE).await;
        }
        // What it asks meanwhile is not lost.
        client.write_all(request).await.unwrap();
        woken.once().await;
        while door.held.is_empty() {
            assert!(look(&mut door), "it is there");
            tokio::time::advance(PULSE).await;
        }
        assert_eq!(door.read(&mut [0; 1024]).await.unwrap(), request.len());
        client.shutdown().await.unwrap();
        crowd.note(false);
        for _ in 0..3 {
            assert!(look(&mut door), "it may wait for its answer");
            woken.once().await;
        }
        crowd.note(true);
        while look(&mut door) {
            woken.once().await;
        }
    }
}
