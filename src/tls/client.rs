//! TLS of a client: whom it believes, and what it shows.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client};

use super::files::{TlsFault, TlsFileError, at, certificates, key, read, roots};
use super::{host_of, provider};

/// The TLS of a client. Cloning gives another handle.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// Reads the authorities to believe, and the certificate and its key to show, if any.
    ///
    /// # Errors
    ///
    /// If the files are not what TLS needs: which one, and why.
    pub fn open(ca: &Path, own: Option<(PathBuf, PathBuf)>) -> Result<Self, TlsFileError> {
        let roots = at(ca, read(ca).and_then(|pem| roots(&pem)))?;
        let config =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let config = at(ca, config.map_err(TlsFault::from))?.with_root_certificates(roots);
        let config = match own {
            None => config.with_no_client_auth(),
            Some((cert, own_key)) => {
                let chain = at(&cert, read(&cert).and_then(|pem| certificates(&pem)))?;
                let own = at(&own_key, read(&own_key).and_then(|pem| key(&pem)))?;
                let config = config.with_client_auth_cert(chain, own);
                at(&own_key, config.map_err(TlsFault::from))?
            }
        };
        Ok(Self(Arc::new(config)))
    }

    /// Returns what rustls makes of it.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }

    /// Speaks TLS to a host that has been dialled: `host:port`.
    ///
    /// # Errors
    ///
    /// If no TLS comes of it, or if it is another host.
    pub async fn connect(
        &self,
        address: &str,
        stream: TcpStream,
    ) -> io::Result<Box<client::TlsStream<TcpStream>>> {
        let connector = TlsConnector::from(self.config());
        Ok(Box::new(connector.connect(host_of(address)?, stream).await?))
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTls")
    }
}
