//! TLS: who may speak at a port, and who is spoken to.
//!
//! ```text
//! certificate, key, authorities, revocations ─▶ files ─▶ live: what a port's TLS is made of
//!           looked at every 10 s, swapped whole              │             │
//!                                                        handshake      changed
//!                                                            ▼             ▼
//!                                      session: who is on the other side, and as long as
//!                                               that can be believed
//! ```
//!
//! Each port has one [`LiveTls`], and all of its connections are made by that: so none
//! forgets an authority or a revocation. Who dials checks the host that it has dialled; who
//! answers looks at no address. A machine is told by a name in its certificate: the URI
//! `etcd:NAME` (see `identity`).

mod client;
mod files;
mod folder;
mod identity;
mod live;
pub mod mint;
mod session;
#[cfg(test)]
pub(crate) mod testing;

pub use client::ClientTls;
pub use files::{TlsFault, TlsFileError, TlsFiles};
pub use folder::{CertError, CertFolder};
pub use identity::written;
pub use live::{LiveTls, Purpose, TlsVersion};
pub use session::{Dialled, Session};

use std::io;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;

/// Returns the cryptography that TLS here is made of.
fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc-rs"))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}

/// Returns the host of an address, `host:port`, as its certificate has to name it.
fn host_of(address: &str) -> io::Result<ServerName<'static>> {
    let (host, _port) = address.rsplit_once(':').unwrap_or((address, ""));
    ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| {
        let text = format!("{host:?} is no name or address of a host");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}
