//! Where a machine listens, and where it is reached.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use etcd_log::Machine;
use tokio::net::TcpListener;

use super::error::{ServeError, system};
use super::options::Options;
use crate::api::SameOrigin;
use crate::storage::data_dir::Identity;

/// Where a machine listens, and how it is reached there.
pub(super) struct Listeners {
    pub(super) clients: TcpListener,
    pub(super) peers: TcpListener,
    pub(super) addresses: Addresses,
    /// Which web pages may use the client port.
    pub(super) same_origin: SameOrigin,
}

impl Listeners {
    pub(super) async fn open(options: &Options) -> Result<Self, ServeError> {
        let clients = listen(options.address, options.client_port).await?;
        let peers = listen(options.address, options.peer_port).await?;
        let addresses = Addresses {
            peers: url(&peers, options.advertise_peer.as_deref())?,
            clients: url(&clients, options.advertise_client.as_deref())?,
        };
        let is_loopback = local(&clients)?.ip().is_loopback();
        let (cors, hosts) = (options.cors.clone(), options.allowed_hosts.clone());
        let same_origin = SameOrigin::new(cors, hosts, is_loopback);
        Ok(Self { clients, peers, addresses, same_origin })
    }

    /// Says which ports others than this computer reach, though nothing protects them.
    pub(super) fn warn(&self) -> Result<(), ServeError> {
        let ports = [
            ("clients", &self.clients, "read and write every key"),
            ("peers", &self.peers, "act as a machine of the cluster"),
        ];
        for (of, listener, harm) in ports {
            let address = local(listener)?;
            if !address.ip().is_loopback() {
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
fn url(listener: &TcpListener, advertised: Option<&str>) -> Result<Arc<str>, ServeError> {
    let own = local(listener)?;
    Ok(advertised.map_or_else(|| format!("http://{own}"), |it| format!("http://{it}")).into())
}

/// Returns where a port listens.
pub(super) fn local(listener: &TcpListener) -> Result<SocketAddr, ServeError> {
    listener.local_addr().map_err(system("learn the port"))
}
