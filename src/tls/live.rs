//! What a port's TLS is made of at the moment: swapped whole when its files change, and kept
//! when they are not what they should be.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

use super::files::{Authorities, Contents, Material, TlsFault, TlsFileError, TlsFiles};
use super::identity::written;
use super::session::{Dialled, Session};
use super::{host_of, provider};
use crate::util::blocking::blocking;
use crate::util::error_chain::ErrorChain;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// How many sessions are kept to be resumed: whoever comes back then is shaken hands with for
/// half of what it costs anew.
const SESSIONS: usize = 4096;

/// From how long before its end a certificate is spoken of, once a day.
const LAPSE_WARNING: Duration = Duration::from_hours(30 * 24);

/// How long it is not spoken of again.
const LAPSE_PAUSE: Duration = Duration::from_hours(24);

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Clients speak HTTP there, with this version of TLS at least.
    Clients(TlsVersion),
    /// Machines speak to each other, and each shows a certificate. Whether each must be one
    /// with a machine's name in it.
    Peers {
        /// Whether the names in certificates are insisted on; if nobody says so, they are where
        /// the machine's own has one.
        strict: Option<bool>,
    },
}

/// The earliest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// The versions there are, the newest first.
static VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

impl TlsVersion {
    fn and_later(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Tls12 => &VERSIONS,
            Self::Tls13 => &VERSIONS[..1],
        }
    }
}

impl Purpose {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Clients(least) => least.and_later(),
            Self::Peers { .. } => TlsVersion::Tls13.and_later(),
        }
    }

    /// Returns by which name the protocol is agreed on (ALPN, RFC 7301).
    fn protocol(self) -> Vec<u8> {
        match self {
            Self::Clients(_) => b"http/1.1".to_vec(),
            Self::Peers { .. } => b"etcd-peer/1".to_vec(),
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clients(_) => "clients",
            Self::Peers { .. } => "peers",
        })
    }
}

/// The TLS of a port. Cloning gives another handle.
#[derive(Clone)]
pub struct LiveTls(Arc<Inner>);

struct Inner {
    files: TlsFiles,
    purpose: Purpose,
    current: watch::Sender<Arc<Current>>,
}

/// What it is made of at the moment.
pub(super) struct Current {
    contents: Contents,
    acceptor: TlsAcceptor,
    /// How to dial, where machines speak.
    connector: Option<TlsConnector>,
    pub(super) clients: Option<Arc<dyn ClientCertVerifier>>,
    pub(super) servers: Option<Arc<WebPkiServerVerifier>>,
    /// Until when the own certificate is good.
    until: SystemTime,
    /// How often the authorities and revocations have changed.
    pub(super) authorities_changed: u64,
    /// Whether a certificate of a machine must have its name.
    pub(super) is_strict: bool,
}

impl LiveTls {
    /// Reads the files of a port.
    ///
    /// # Errors
    ///
    /// If they are not what TLS needs: which one, and why.
    pub fn open(files: TlsFiles, purpose: Purpose) -> Result<Self, TlsFileError> {
        let current = Arc::new(Current::make(&files, files.read()?, purpose, None)?);
        Ok(Self(Arc::new(Inner { files, purpose, current: watch::Sender::new(current) })))
    }

    /// Takes up a connection: shakes hands, and learns who is on the other side, if that
    /// has to be shown.
    ///
    /// # Errors
    ///
    /// If no TLS comes of it, in time.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(Box<server::TlsStream<TcpStream>>, Option<Session>)> {
        let changes = self.0.current.subscribe();
        let current = Arc::clone(&changes.borrow());
        let shaking = tokio::time::timeout(HANDSHAKE_LIMIT, current.acceptor.accept(stream));
        let stream = Box::new(shaking.await??);
        let chain = stream.get_ref().1.peer_certificates();
        let session =
            chain.map(|chain| Session::new(changes, &current, chain, None)).transpose()?;
        Ok((stream, session))
    }

    /// Speaks TLS to a host that has been dialled: `host:port`.
    ///
    /// # Errors
    ///
    /// If no TLS comes of it, or if it is another host.
    ///
    /// # Panics
    ///
    /// If the port is none where machines speak.
    pub async fn dial(&self, address: &str, stream: TcpStream) -> io::Result<Dialled> {
        let changes = self.0.current.subscribe();
        let current = Arc::clone(&changes.borrow());
        let connector = current.connector.as_ref().expect("machines speak there");
        let name = host_of(address)?;
        let shaking = connector.connect(name.clone(), stream);
        let stream = Box::new(tokio::time::timeout(HANDSHAKE_LIMIT, shaking).await??);
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let session = Session::new(changes, &current, chain, Some(name))?;
        Ok(Dialled::new(stream, session))
    }

    /// Looks at the files for ever, and takes what they say. What they say and cannot be
    /// taken is told, once.
    pub async fn keep_up(self) {
        let mut hangup = signal(SignalKind::hangup()).ok();
        let (mut refused, mut warned) = (None, None);
        loop {
            self.warn_of_lapse(&mut warned);
            let asked = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            // Asked or not, it is the same.
            let _asked = tokio::time::timeout(LOOK_INTERVAL, asked).await;
            self.look(&mut refused).await;
        }
    }

    async fn look(&self, refused: &mut Option<String>) {
        let tls = self.clone();
        let purpose = self.0.purpose;
        match blocking(move || tls.reload()).await {
            Ok(is_new) => {
                *refused = None;
                if is_new {
                    tracing::info!("TLS of {purpose}: certificates, keys and authorities are new");
                }
            }
            Err(error) => {
                let text = ErrorChain(&error).to_string();
                if refused.as_ref() != Some(&text) {
                    tracing::error!("TLS of {purpose} stays as it was: {text}");
                    *refused = Some(text);
                }
            }
        }
    }

    /// Reads the files again. Returns whether something was new.
    fn reload(&self) -> Result<bool, TlsFileError> {
        let Inner { files, purpose, current } = &*self.0;
        let contents = files.read()?;
        let before = Arc::clone(&current.borrow());
        if before.contents == contents {
            return Ok(false);
        }
        let next = Current::make(files, contents, *purpose, Some(&before))?;
        current.send_replace(Arc::new(next));
        Ok(true)
    }

    fn warn_of_lapse(&self, warned: &mut Option<(bool, Instant)>) {
        let until = self.0.current.borrow().until;
        let left = until.duration_since(SystemTime::now());
        let is_far = left.as_ref().is_ok_and(|left| *left > LAPSE_WARNING);
        let has_lapsed = left.is_err();
        let is_told =
            warned.is_some_and(|(what, when)| what == has_lapsed && when.elapsed() <= LAPSE_PAUSE);
        if is_far || is_told {
            return;
        }
        *warned = Some((has_lapsed, Instant::now()));
        let (purpose, path, until) = (self.0.purpose, self.0.files.cert.display(), written(until));
        if has_lapsed {
            tracing::error!("TLS of {purpose}: the certificate {path} was good until {until}");
        } else {
            tracing::warn!("TLS of {purpose}: the certificate {path} is good until {until}");
        }
    }
}

impl Current {
    fn make(
        files: &TlsFiles,
        contents: Contents,
        purpose: Purpose,
        before: Option<&Self>,
    ) -> Result<Self, TlsFileError> {
        let material = files.parse(&contents)?;
        // One that has lapsed meanwhile must not keep revocations from counting.
        if before.is_none_or(|before| !before.contents.has_same_certificate(&contents)) {
            files.insist_on_good(&material.identity, SystemTime::now())?;
        }
        let changed = before.map_or(0, |before| {
            let is_same = before.contents.has_same_authorities(&contents);
            before.authorities_changed + u64::from(!is_same)
        });
        let blame = |fault: TlsFault| {
            let path = files.crl.as_ref().or(files.ca.as_ref()).unwrap_or(&files.cert);
            TlsFileError { path: path.clone(), fault }
        };
        let current = Self::of(material, contents, purpose).map_err(blame)?;
        Ok(Self { authorities_changed: changed, ..current })
    }

    fn of(material: Material, contents: Contents, purpose: Purpose) -> Result<Self, TlsFault> {
        let Material { own, identity, authorities, is_shared } = material;
        let until = identity.until;
        let own = Arc::new(SingleCertAndKey::from(own));
        let clients = authorities.as_ref().map(client_verifier).transpose()?;
        let server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(purpose.versions())?;
        let server = match &clients {
            Some(verifier) => server.with_client_cert_verifier(Arc::clone(verifier)),
            None => server.with_no_client_auth(),
        };
        let mut server = server.with_cert_resolver(Arc::clone(&own) as _);
        server.alpn_protocols = vec![purpose.protocol()];
        if clients.is_some() {
            // Whoever resumes shows no certificate again: what is revoked by then would count.
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
        } else {
            server.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        }
        let (mut servers, mut connector, mut is_strict) = (None, None, false);
        if let (Purpose::Peers { strict }, Some(authorities)) = (purpose, &authorities) {
            let verifier = server_verifier(authorities)?;
            let mut client = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(purpose.versions())?
                .with_webpki_verifier(Arc::clone(&verifier))
                .with_client_cert_resolver(own);
            client.alpn_protocols = vec![purpose.protocol()];
            client.resumption = Resumption::disabled();
            connector = Some(TlsConnector::from(Arc::new(client)));
            servers = Some(verifier);
            is_strict = is_shared || strict.unwrap_or(!identity.machines.is_empty());
        }
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let authorities_changed = 0;
        Ok(Self {
            contents,
            acceptor,
            connector,
            clients,
            servers,
            until,
            authorities_changed,
            is_strict,
        })
    }
}

/// A list of revoked certificates is of one authority: those of others count as they are.
fn client_verifier(authorities: &Authorities) -> Result<Arc<dyn ClientCertVerifier>, TlsFault> {
    let Authorities { roots, revoked } = authorities;
    let built = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
        .with_crls(revoked.iter().cloned())
        .allow_unknown_revocation_status()
        .build();
    Ok(built?)
}

/// The same for those who are dialled.
fn server_verifier(authorities: &Authorities) -> Result<Arc<WebPkiServerVerifier>, TlsFault> {
    let Authorities { roots, revoked } = authorities;
    let built = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider())
        .with_crls(revoked.iter().cloned())
        .allow_unknown_revocation_status()
        .build();
    Ok(built?)
}

impl fmt::Debug for LiveTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveTls").field("files", &self.0.files).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future;

    use super::*;
    use crate::tls::testing::{Port, connected};
    use crate::util::limit;

    /// It is not believed by what counts from then on, though it was by what counted before.
    #[tokio::test]
    async fn client_that_is_revoked_while_it_shakes_hands_is_told() {
        limit::begin();
        let Port { tls, client, folder, authority, .. } = &Port::new();
        let (here, there, address) = connected().await;
        let mut accepting = Box::pin(tls.accept(there));
        tokio::select! {
            biased;
            _ = &mut accepting => unreachable!("the client has said nothing"),
            () = future::ready(()) => {}
        }
        folder.revoke(authority, "client").unwrap();
        assert!(tls.reload().unwrap(), "the list is another one");
        let (accepted, connected) = tokio::join!(accepting, client.connect(&address, here));
        let (_stream, session) = accepted.unwrap();
        connected.unwrap();
        tokio::time::timeout(LOOK_INTERVAL, session.unwrap().until_void()).await.unwrap();
    }
}
