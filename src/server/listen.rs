//! Where a machine listens, and where it is reached.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use etcd_log::Machine;
use tokio::net::TcpListener;

use super::error::{ServeError, system};
use super::options::Options;
use super::security::Security;
use crate::api::{ClientPort, PeerPort};
use crate::storage::data_dir::Identity;

/// Where a machine listens, and how it is reached there.
pub(super) struct Listeners {
    pub(super) clients: TcpListener,
    pub(super) peers: TcpListener,
    pub(super) addresses: Addresses,
    /// How clients are served.
    pub(super) client_port: ClientPort,
    /// How other machines are.
    pub(super) peer_port: PeerPort,
}

impl Listeners {
    pub(super) async fn open(options: &Options, security: &Security) -> Result<Self, ServeError> {
        let clients = listen(options.address, options.client_port).await?;
        let peers = listen(options.address, options.peer_port).await?;
        let is_loopback = local(&clients)?.ip().is_loopback();
        let client_port = security.client_port(options, is_loopback);
        let peer_port = security.peer_port();
        let (has_tls, advertised) = (client_port.tls.is_some(), &options.advertise_client);
        // While machines may speak plainly, not all others have TLS.
        let wants_tls = matches!(peer_port, PeerPort::Tls(_));
        let addresses = Addresses {
            peers: url(&peers, wants_tls, options.advertise_peer.as_deref())?,
            clients: url(&clients, has_tls, advertised.as_deref())?,
        };
        Ok(Self { clients, peers, addresses, client_port, peer_port })
    }

    /// Says which ports others than this computer reach, though nothing protects them.
    pub(super) fn warn(&self) -> Result<(), ServeError> {
        let has_tls = (self.client_port.tls.is_some(), matches!(self.peer_port, PeerPort::Tls(_)));
        let ports = [
            ("clients", &self.clients, has_tls.0, "read and write every key"),
            ("peers", &self.peers, has_tls.1, "act as a machine of the cluster"),
        ];
        for (of, listener, has_tls, harm) in ports {
            let address = local(listener)?;
            if !has_tls && !address.ip().is_loopback() {
                tracing::warn!(
                    "the port of {of} is open beyond this computer, at {address}, without TLS: whoever reaches it can {harm}"
                );
            }
        }
        Ok(())
    }
}

/// Where a machine is reached.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// By the other machines, as a URL.
    pub(crate) peers: Arc<str>,
    /// By clients, as a URL.
    pub(crate) clients: Arc<str>,
}

/// Returns how a machine is known to the others and to clients.
pub(crate) fn describe(identity: &Identity, addresses: &Addresses) -> Machine {
    Machine {
        name: Arc::clone(&identity.name),
        node: identity.node,
        peer_url: Arc::clone(&addresses.peers),
        client_url: Arc::clone(&addresses.clients),
    }
}

async fn listen(address: IpAddr, port: u16) -> Result<TcpListener, ServeError> {
    let address = SocketAddr::new(address, port);
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| ServeError::Listen { address, source })
}

/// Returns how a port is known: as somebody has said, or by its own address.
fn url(
    listener: &TcpListener,
    has_tls: bool,
    advertised: Option<&str>,
) -> Result<Arc<str>, ServeError> {
    let scheme = if has_tls { "https" } else { "http" };
    let own = local(listener)?.to_string();
    Ok(format!("{scheme}://{}", advertised.unwrap_or(&own)).into())
}

/// Returns where a port listens.
pub(super) fn local(listener: &TcpListener) -> Result<SocketAddr, ServeError> {
    listener.local_addr().map_err(system("learn the port"))
}
