//! A port of a test that speaks TLS, and a client that it believes.

use std::time::Duration;

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use super::mint::Authority;
use super::{CertFolder, ClientTls, LiveTls, Purpose, TlsFiles, TlsVersion};

const DAY: Duration = Duration::from_hours(24);

/// Such a port.
pub(crate) struct Port {
    pub(crate) tls: LiveTls,
    pub(crate) client: ClientTls,
    pub(super) folder: CertFolder,
    pub(super) authority: Authority,
    _dir: TempDir,
}

impl Port {
    /// Makes one that looks at a list of revoked certificates, in which the client's, `client`,
    /// is not.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = CertFolder::new(dir.path());
        let authority = folder.authority_or_found().unwrap();
        let host = ["127.0.0.1".to_owned()];
        folder.issue("port", &authority.client_port("port", &host, DAY).unwrap()).unwrap();
        folder.issue("client", &authority.client("client", DAY).unwrap()).unwrap();
        let crl = folder.revoke(&authority, "port").unwrap();
        let ((cert, key), (ca, _)) = (folder.paths("port"), folder.authority_paths());
        let client = ClientTls::open(&ca, Some(folder.paths("client"))).unwrap();
        let files = TlsFiles { cert, key, ca: Some(ca), crl: Some(crl), ca_of_others: None };
        let tls = LiveTls::open(files, Purpose::Clients(TlsVersion::Tls12)).unwrap();
        Self { tls, client, folder, authority, _dir: dir }
    }
}

/// Returns both ends of a connection, and its address.
pub(crate) async fn connected() -> (TcpStream, TcpStream, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let here = TcpStream::connect(&address).await.unwrap();
    (here, listener.accept().await.unwrap().0, address)
}
