//! Who is on the other side of a connection, for as long as that can be believed: until its
//! certificate lapses, or is believed no longer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::client;

use super::identity::Identity;
use super::live::Current;

/// How long at most until the time is looked at again: clocks are set.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// Longer than anything runs.
const FAR_AWAY: Duration = Duration::from_hours(100 * 365 * 24);

/// Who is on the other side of a connection.
#[derive(Clone)]
pub struct Session {
    changes: watch::Receiver<Arc<Current>>,
    /// The certificate, and those between it and an authority.
    chain: Arc<[CertificateDer<'static>]>,
    /// The host that was dialled; none, if that one has dialled.
    host: Option<ServerName<'static>>,
    identity: Arc<Identity>,
    /// What counted when it was looked at last.
    authorities_changed: u64,
    /// When the next of its certificates has lapsed: those between may not be needed.
    until: SystemTime,
}

impl Session {
    /// Begins one with somebody in whom what counted then believes: something else may by now.
    pub(super) fn new(
        changes: watch::Receiver<Arc<Current>>,
        believer: &Current,
        chain: &[CertificateDer<'_>],
        host: Option<ServerName<'static>>,
    ) -> io::Result<Self> {
        let unreadable = || io::Error::other("a certificate cannot be read");
        let identity = chain.first().and_then(|own| Identity::of(own)).ok_or_else(unreadable)?;
        let chain: Arc<[_]> =
            chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let until = next_lapse(&chain, SystemTime::now());
        let (authorities_changed, identity) = (believer.authorities_changed, Arc::new(identity));
        Ok(Self { changes, chain, host, identity, authorities_changed, until })
    }

    /// Returns whether the other side may speak for a machine of this name.
    pub fn speaks_for(&self, machine: &str) -> bool {
        let names = &self.identity.machines;
        if names.is_empty() {
            return !self.changes.borrow().is_strict;
        }
        names.iter().any(|name| name == machine)
    }

    /// Returns whether the other side may be a machine at all, whichever one: who has joined is
    /// not known everywhere at once.
    pub fn may_be_a_machine(&self) -> bool {
        let names = &self.identity.machines;
        if names.is_empty() {
            return !self.changes.borrow().is_strict;
        }
        names.iter().any(|name| !name.is_empty())
    }

    /// Returns the machines that the certificate is of.
    pub fn machines(&self) -> &[String] {
        &self.identity.machines
    }

    /// Fails unless the other side is a machine, and the one of this name where that is known.
    ///
    /// # Errors
    ///
    /// If its certificate is another one's.
    pub fn insist_on(&self, name: Option<&str>) -> io::Result<()> {
        let is_right = name.map_or_else(|| self.may_be_a_machine(), |name| self.speaks_for(name));
        let wrong = || io::Error::new(io::ErrorKind::PermissionDenied, self.whose());
        if is_right { Ok(()) } else { Err(wrong()) }
    }

    /// Says whose certificate it is, to who wanted to speak for somebody else.
    pub fn whose(&self) -> String {
        match &*self.identity.machines {
            [] => "its certificate names no machine, as etcd:NAME would".to_owned(),
            names => format!("its certificate is of {}", names.join(", ")),
        }
    }

    /// Waits until the other side is believed no longer.
    pub async fn until_void(mut self) {
        while !self.is_void() {
            let left = self.until.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                changed = self.changes.changed() => {
                    if changed.is_err() {
                        // Nothing changes any more: the machine ends.
                        return std::future::pending().await;
                    }
                    self.changes.mark_changed();
                    // Not all who are there at once: others want to be served, too.
                    tokio::task::yield_now().await;
                }
                () = tokio::time::sleep(left.min(LOOK_AGAIN)) => {}
            }
        }
    }

    /// Returns whether the other side is believed no longer: cheap, if nothing has changed.
    fn is_void(&mut self) -> bool {
        let now = SystemTime::now();
        let has_lapsed = self.until <= now;
        if !has_lapsed && !self.changes.has_changed().unwrap_or(false) {
            return false;
        }
        let changed = self.changes.borrow_and_update().authorities_changed;
        if !has_lapsed && changed == self.authorities_changed {
            return false;
        }
        (self.authorities_changed, self.until) = (changed, next_lapse(&self.chain, now));
        !self.is_verified()
    }

    fn is_verified(&self) -> bool {
        let current = Arc::clone(&self.changes.borrow());
        let Some((own, between)) = self.chain.split_first() else { return false };
        let now = UnixTime::now();
        match &self.host {
            None => current
                .clients
                .as_ref()
                .is_some_and(|clients| clients.verify_client_cert(own, between, now).is_ok()),
            Some(host) => current.servers.as_ref().is_some_and(|servers| {
                servers.verify_server_cert(own, between, host, &[], now).is_ok()
            }),
        }
    }
}

/// Returns when the next of these certificates lapses; far away, if all have.
fn next_lapse(chain: &[CertificateDer<'_>], now: SystemTime) -> SystemTime {
    let good_until = chain.iter().filter_map(|certificate| Some(Identity::of(certificate)?.until));
    // Its last second is counted whole (RFC 5280, 4.1.2.5).
    let lapses = good_until.map(|last| last + Duration::from_secs(1));
    lapses.filter(|lapse| *lapse > now).min().unwrap_or(now + FAR_AWAY)
}

/// A connection to a host that was dialled. It fails once that host is believed no longer.
pub struct Dialled {
    stream: Box<client::TlsStream<TcpStream>>,
    session: Session,
}

impl Dialled {
    pub(super) fn new(stream: Box<client::TlsStream<TcpStream>>, session: Session) -> Self {
        Self { stream, session }
    }

    /// Returns who it is.
    pub fn session(&self) -> &Session {
        &self.session
    }

    fn check(&mut self) -> io::Result<()> {
        if self.session.is_void() {
            let text = "its certificate is believed no longer";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(())
    }
}

impl AsyncRead for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
