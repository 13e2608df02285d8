//! Running a machine: start, serve, stop.
//!
//! ```text
//! lock the directory ─▶ bind the ports ─▶ check the log ─▶ checkpoint ─▶ the log after it
//!                                                                             │
//!      exit ◀─ sync ◀─ finish requests, end watches ◀─ signal ◀─ serve ◀──────┘
//! ```
//!
//! A disk that fails ends the process at once: see `end_process`.

mod auto_tls;
mod bootstrap;
mod error;
pub mod join;
mod listen;
mod options;
mod recovery;
mod security;

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_log::{Index, LogError, Machine, Recovered, Wal};
use etcd_projections::Position;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::api::{self, ClientPort, PeerPort};
use crate::consensus::{Consensus, Oneself, Surroundings};
use crate::node::Node;
use crate::node::assemble::{self, Parts, StartPoint};
use crate::peers::Connect;
use crate::storage::backfill::BackfillSource;
use crate::storage::checkpoint::CheckpointStore;
use crate::storage::data_dir::{DataDir, Identity};
use crate::storage::disk_space::DiskRoom;
use crate::storage::events::EventStore;
use crate::storage::recovery::{RecoveryError, start_state};
use crate::storage::stored::Stored;
use crate::util::clock::Clock;
use crate::util::error_chain::ErrorChain;

use bootstrap::bootstrap;
use error::system;
use join::say_if_elsewhere;
use listen::{Addresses, Listeners, describe};
use recovery::{Recovery, open_log};
use security::Security;

pub use error::ServeError;
pub(crate) use error::end_process;
pub use options::{Options, TlsOptions};

/// How long requests may take to finish when the machine stops.
const FINISH_LIMIT: Duration = Duration::from_millis(2500);

/// How long consensus may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// How long work that may be abandoned is given to end by itself.
const ABANDON_LIMIT: Duration = Duration::from_millis(100);

/// Runs a machine until it is told to stop.
///
/// # Errors
///
/// If it cannot start, if consensus fails, or if the log cannot be closed. A disk
/// that fails ends the process at once.
pub fn run(options: Options) -> Result<(), ServeError> {
    let data_dir = DataDir::take(&options.data_dir)?;
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()
        .map_err(system("start threads"))?;
    // What is abandoned at the end may still write: the directory is let go by the end
    // of the process, and not before.
    let data_dir: &'static DataDir = Box::leak(Box::new(data_dir));
    // On a worker, not on this thread: whatever happens in the log wakes it.
    let served = runtime.block_on(async { tokio::spawn(start_and_run(data_dir, options)).await });
    // A checkpoint half written, or a replay, is nothing to wait for.
    runtime.shutdown_timeout(ABANDON_LIMIT);
    served.unwrap_or_else(|failure| std::panic::resume_unwind(failure.into_panic()))
}

async fn start_and_run(data_dir: &'static DataDir, options: Options) -> Result<(), ServeError> {
    let mut stop = pin!(stop_signal()?);
    let server = tokio::select! {
        server = Server::start(data_dir, options) => server?,
        () = stop.as_mut() => {
            tracing::info!("stopped before the start was over");
            return Ok(());
        }
    };
    server.run(data_dir, stop).await
}

/// Half of the cores serve requests; the other half is for the log's writer, the
/// kernel's side of the network, and replays. With a worker a core, requests
/// are handed from core to core: on two cores that cost a fifth of the writes.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// A machine that is ready to serve.
struct Server {
    node: Node,
    consensus: Consensus,
    wal: Wal,
    clients: TcpListener,
    peers: TcpListener,
    ports: (ClientPort, PeerPort),
    identity: Identity,
    recovery: Recovery,
}

/// What a machine has of its own before it meets others.
struct Beginning {
    listeners: Listeners,
    security: Security,
    identity: Identity,
    /// Whether the directory was its own before.
    is_known: bool,
    wal: Wal,
    recovered: Recovered,
}

impl Beginning {
    /// Opens the listeners, finds out who the machine is, and opens its log. A start that is
    /// refused here leaves the directory as it was.
    async fn find(data_dir: &DataDir, options: &Options) -> Result<Self, ServeError> {
        let mut aside = None;
        let begun = Self::try_to_find(data_dir, options, &mut aside).await;
        if begun.is_err() {
            if let Some(aside) = aside {
                data_dir.put_back(&aside)?;
                tracing::info!("what was set aside is back where it was");
            }
            data_dir.leave();
        }
        begun
    }

    async fn try_to_find(
        data_dir: &DataDir,
        options: &Options,
        aside: &mut Option<PathBuf>,
    ) -> Result<Self, ServeError> {
        let security = Security::open(options)?;
        // From here on: joining may take long, and whoever mends a file is heard.
        security.keep_up();
        let listeners = Listeners::open(options, &security).await?;
        if options.start_anew {
            *aside = data_dir.set_aside()?;
            if let Some(aside) = &aside {
                tracing::info!("what was there is set aside in {}", aside.display());
            }
        }
        let (network, addresses) = (Arc::new(security.sockets()), &listeners.addresses);
        let (identity, is_known) = identify(data_dir, options, addresses, network).await?;
        *aside = None;
        announce(&identity, &describe(&identity, &listeners.addresses), data_dir);
        let (wal, recovered) = open_log(data_dir, &identity, options, is_known)?;
        Ok(Self { listeners, security, identity, is_known, wal, recovered })
    }
}

/// Returns whose the directory is; and whether it was so before.
async fn identify(
    data_dir: &DataDir,
    options: &Options,
    addresses: &Addresses,
    network: Arc<dyn Connect>,
) -> Result<(Identity, bool), ServeError> {
    match data_dir.identity()? {
        Some(known) if known.removed => Err(ServeError::WasRemoved(data_dir.path().to_owned())),
        Some(known) => {
            options.insist_on_name(&known, data_dir)?;
            Ok((known, true))
        }
        None => Ok((bootstrap(data_dir, options, addresses, network).await?, false)),
    }
}

impl Server {
    async fn start(data_dir: &DataDir, options: Options) -> Result<Self, ServeError> {
        let started = Instant::now();
        let Beginning { listeners, security, identity, is_known, wal, recovered } =
            Beginning::find(data_dir, &options).await?;
        listeners.warn()?;
        let Listeners { clients, peers, addresses, client_port, peer_port } = listeners;
        security.tell(&addresses.clients);
        let ports = (client_port, peer_port);
        let network = Arc::new(security.sockets());
        let machine = describe(&identity, &addresses);
        if !is_known {
            // The log has been begun, so the directory can be somebody's.
            data_dir.claim(&identity)?;
        } else if !options.join.is_empty() {
            // Nobody waits for it: those machines may be down.
            let (me, through) = ((identity.node, identity.cluster), options.join.clone());
            tokio::spawn(say_if_elsewhere(me, through, Arc::clone(&network) as _));
        }
        let checkpoints = CheckpointStore::new(data_dir.checkpoints(), options.ring_capacity);
        let (checkpoint, file) = start_state(data_dir, &checkpoints, &wal, options.ring_capacity)?;
        let (from, applied) = (checkpoint.state.position().index, checkpoint.applied);
        let events = open_events(data_dir, &identity, checkpoint.state.position());
        let (filled, reader) = (wal.clone(), wal.reader());
        let behind = applied.min(reader.last_archived().max(reader.state().purged));
        let disk = DiskRoom::watch(data_dir.path().to_owned(), options.reserve);
        let stored = Stored { log: wal.clone(), checkpoints, disk };
        let (node, consensus) = assemble::start(Parts {
            oneself: Oneself {
                cluster: identity.cluster,
                machine,
                reads: options.log_format,
                founds: !identity.joined,
            },
            surroundings: Surroundings {
                network,
                hints: options.join,
                timing: options.timing,
                clock: Clock::default(),
            },
            stored: stored.clone(),
            start: StartPoint { checkpoint, file, behind },
            backfill: BackfillSource(Arc::new(move || Some(Box::new(filled.backfill()?)))),
            checkpoint_bytes: options.checkpoint_bytes,
            events,
            ring_capacity: options.ring_capacity,
        })
        .await?;
        // Not before: while it starts, openraft relies on the log's first entry. And what is
        // damaged may not be relied on: it is newer than the one that this start is from.
        let applied = applied.map(|id| id.index);
        stored
            .note_checkpoints(|file| Some(file.raft_index) <= applied)
            .map_err(RecoveryError::from)?;
        let recovery = Recovery { recovered, from, started };
        Ok(Self { node, consensus, wal, clients, peers, ports, identity, recovery })
    }

    /// Serves until told to stop, or until consensus fails. Clients of a machine that
    /// has never been a part of its cluster have to wait until it is.
    async fn run(
        self,
        data_dir: &DataDir,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let Self { node, consensus, wal, clients, peers, ports, identity, recovery } = self;
        let (client_port, peer_port) = ports;
        let peers = tokio::spawn(api::serve_peers(peers, node.clone(), peer_port));
        let mut serving = JoinSet::new();
        let serve = async {
            let is_new = node.now().state.position().index == Index(0);
            if is_new {
                node.introduce().await;
                node.until_it_votes().await;
            }
            serving.spawn(api::serve_clients(clients, node.clone(), client_port));
            if !is_new {
                node.introduce().await;
                node.until_it_votes().await;
            }
            recovery.report(wal.reader().archived(), &node);
            std::future::pending::<Infallible>().await
        };
        let ended = tokio::select! {
            () = stop => {
                tracing::info!("stopping");
                Ok(())
            }
            failure = consensus.failure() => return Err(failure.into()),
            () = consensus.until_removed() => Err(ServeError::Removed),
            address = node.until_elsewhere() => Err(ServeError::Elsewhere(address)),
            never = serve => match never {},
        };
        if matches!(ended, Err(ServeError::Removed)) {
            data_dir.rewrite(&Identity { removed: true, ..identity })?;
        }
        node.close();
        let finished = async { (serving.join_all().await, peers.await) };
        if tokio::time::timeout(FINISH_LIMIT, finished).await.is_err() {
            tracing::warn!("some clients took too long, and were cut off");
        }
        if tokio::time::timeout(STOP_LIMIT, consensus.shutdown()).await.is_err() {
            tracing::warn!("consensus took too long to stop");
        }
        close(wal).await?;
        ended?;
        tracing::info!("stopped; the log is complete on disk");
        Ok(())
    }
}

/// Opens what is stored of the past. It is a cache: the machine serves without, too.
fn open_events(data_dir: &DataDir, identity: &Identity, at: Position) -> Option<EventStore> {
    let opened = EventStore::open(&data_dir.events(), identity.cluster, at);
    let told = |error| tracing::warn!("events are not stored: {}", ErrorChain(&error));
    opened.map_err(told).ok()
}

/// Closes the log.
async fn close(wal: Wal) -> Result<(), ServeError> {
    let dir = wal.reader().dir().to_owned();
    let closed = tokio::task::spawn_blocking(move || wal.close());
    match tokio::time::timeout(STOP_LIMIT, closed).await {
        Ok(Ok(closed)) => Ok(closed?),
        Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        Err(_) => Err(LogError::Stalled { dir, seconds: STOP_LIMIT.as_secs() }.into()),
    }
}

/// Waits for SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()>, ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(system("wait for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("wait for signals"))?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn announce(identity: &Identity, machine: &Machine, data_dir: &DataDir) {
    let Identity { node, name, cluster, .. } = identity;
    tracing::info!(
        "etcd {}: machine {name} ({node}) of cluster {cluster}",
        env!("CARGO_PKG_VERSION")
    );
    tracing::info!("clients: {}  peers: {}", machine.client_url, machine.peer_url);
    let path = data_dir.path().canonicalize().unwrap_or_else(|_| data_dir.path().to_owned());
    tracing::info!("data: {}", path.display());
}
