//! How the ports of a machine speak: plainly, or with TLS.

use super::auto_tls::AutoTls;
use super::error::ServeError;
use super::options::Options;
use crate::api::{ClientPort, PeerPort, SameOrigin};
use crate::peers::Sockets;
use crate::tls::{LiveTls, Purpose};

/// How the ports of a machine speak.
#[derive(Clone, Debug)]
pub(super) struct Security {
    clients: Option<LiveTls>,
    /// The client port's certificate, if the machine makes it itself.
    auto: Option<AutoTls>,
    peers: Option<LiveTls>,
    plain_too: bool,
}

impl Security {
    /// Reads what it takes, and makes what the machine is to make itself.
    pub(super) fn open(options: &Options) -> Result<Self, ServeError> {
        let tls = &options.tls;
        let auto = if tls.auto {
            Some(AutoTls::prepare(&options.data_dir, hosts(options))?)
        } else {
            None
        };
        let files = auto.as_ref().map(AutoTls::files).or_else(|| tls.clients.clone());
        let open = |files: Option<_>, purpose| {
            files.map(|files| LiveTls::open(files, purpose)).transpose()
        };
        let clients = open(files, Purpose::Clients(tls.least))?;
        let peers = open(tls.peers.clone(), Purpose::Peers { strict: tls.strict })?;
        Ok(Self { clients, auto, peers, plain_too: tls.plain_too })
    }

    /// Keeps up with the files, from now on and until the process ends.
    pub(super) fn keep_up(&self) {
        for tls in self.clients.iter().chain(&self.peers) {
            tokio::spawn(tls.clone().keep_up());
        }
        if let Some(auto) = &self.auto {
            tokio::spawn(auto.clone().keep_renewing());
        }
    }

    /// Says how clients learn that they speak to this machine, if it has made that itself.
    pub(super) fn tell(&self, url: &str) {
        if let Some(auto) = &self.auto {
            let authority = auto.authority();
            tracing::info!("try: curl --cacert {} {url}/version", authority.display());
        }
    }

    /// Returns how the client port serves.
    pub(super) fn client_port(&self, options: &Options, is_loopback: bool) -> ClientPort {
        let (cors, hosts) = (options.cors.clone(), options.allowed_hosts.clone());
        let same_origin = SameOrigin::new(cors, hosts, is_loopback);
        ClientPort { same_origin, tls: self.clients.clone() }
    }

    /// Returns how the peer port serves.
    pub(super) fn peer_port(&self) -> PeerPort {
        match &self.peers {
            None => PeerPort::Plain,
            Some(tls) if self.plain_too => PeerPort::Both(tls.clone()),
            Some(tls) => PeerPort::Tls(tls.clone()),
        }
    }

    /// Returns how other machines are dialled.
    pub(super) fn sockets(&self) -> Sockets {
        match &self.peers {
            None => Sockets::Plain,
            Some(tls) if self.plain_too => Sockets::TlsWhereSpoken(tls.clone()),
            Some(tls) => Sockets::Tls(tls.clone()),
        }
    }
}

/// Returns by which names and addresses clients reach the client port.
fn hosts(options: &Options) -> Vec<String> {
    let mut hosts: Vec<_> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    if !options.address.is_unspecified() {
        hosts.push(options.address.to_string());
    }
    let advertised = options.advertise_client.as_deref().and_then(|it| it.rsplit_once(':'));
    hosts.extend(advertised.map(|(host, _)| host.trim_matches(['[', ']']).to_owned()));
    hosts.extend(options.allowed_hosts.iter().cloned());
    hosts.sort();
    hosts.dedup();
    hosts
}
