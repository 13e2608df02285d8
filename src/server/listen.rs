//! Where a machine listens, and where it is reached.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use etcd_log::Machine;
use tokio::net::TcpListener;

use super::error::{ServeError, system};
use super::options::Options;
use crate::storage::data_dir::Identity;

/// Where a machine listens, and how it is reached there.
pub(super) struct Listeners {
    pub(super) clients: TcpListener,
    pub(super) peers: TcpListener,
    pub(super) addresses: Addresses,
}

impl Listeners {
    pub(super) async fn open(options: &Options) -> Result<Self, ServeError> {
        let clients = listen(options.address, options.client_port).await?;
        let peers = listen(options.address, options.peer_port).await?;
        let known_as = match &options.advertise_peer {
            Some(address) => Arc::from(format!("http://{address}")),
            None => url(&peers)?,
        };
        let addresses = Addresses { peers: known_as, clients: url(&clients)? };
        Ok(Self { clients, peers, addresses })
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

fn url(listener: &TcpListener) -> Result<Arc<str>, ServeError> {
    let address = listener.local_addr().map_err(system("learn the port"))?;
    Ok(Arc::from(format!("http://{address}")))
}
