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

/// Who is on the other side of a connection.
#[derive(Clone)]
pub struct Session {
    changes: watch::Receiver<Arc<Current>>,
    /// The certificate, and those between it and an authority.
    chain: Arc<[CertificateDer<'static>]>,
    /// The host that was dialled; none, if that one has dialled.
    host: Option<ServerName<'static>>,
    identity: Arc<Identity>,
    /// Until when all certificates are good.
    until: SystemTime,
}

impl Session {
    pub(super) fn new(
        changes: watch::Receiver<Arc<Current>>,
        chain: &[CertificateDer<'_>],
        host: Option<ServerName<'static>>,
    ) -> io::Result<Self> {
        let unreadable = || io::Error::other("a certificate cannot be read");
        let identities = chain.iter().map(|certificate| Identity::of(certificate));
        let identities = identities.collect::<Option<Vec<_>>>().ok_or_else(unreadable)?;
        let until = identities.iter().map(|identity| identity.until).min();
        let until = until.ok_or_else(unreadable)?;
        let identity = identities.into_iter().next().ok_or_else(unreadable)?;
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Ok(Self { changes, chain, host, identity: Arc::new(identity), until })
    }

    /// Returns of whom the certificate is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns whether the other side may speak for a machine of this name.
    pub fn speaks_for(&self, machine: &str) -> bool {
        let names = &self.identity.machines;
        if names.is_empty() {
            return !self.changes.borrow().is_strict;
        }
        names.iter().any(|name| name == machine)
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
        loop {
            let Ok(left) = self.until.duration_since(SystemTime::now()) else { return };
            tokio::select! {
                changed = self.changes.changed() => {
                    if changed.is_err() {
                        // Nothing changes any more: the machine ends.
                        return std::future::pending().await;
                    }
                    if !self.is_verified() {
                        return;
                    }
                }
                () = tokio::time::sleep(left.min(LOOK_AGAIN)) => {}
            }
        }
    }

    /// Returns whether the other side is believed no longer: cheap, if nothing has changed.
    fn is_void(&mut self) -> bool {
        let is_changed = self.changes.has_changed().unwrap_or(false);
        if is_changed {
            self.changes.mark_unchanged();
        }
        (is_changed && !self.is_verified()) || self.until < SystemTime::now()
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

/// A connection to a host that was dialled. It fails once that host is believed no longer.
pub struct Dialled {
    stream: Box<client::TlsStream<TcpStream>>,
    session: Session,
}

impl Dialled {
    pub(super) fn new(stream: Box<client::TlsStream<TcpStream>>, session: Session) -> Self {
        Self { stream, session }
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
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

/// Whatever is asked begins with writing.
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
