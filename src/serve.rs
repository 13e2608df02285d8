//! Running a machine: start, serve, stop.
//!
//! ```text
//! lock the directory ─▶ bind the ports ─▶ check the log ─▶ checkpoint ─▶ the log after it
//!                                                                             │
//!      exit ◀─ sync ◀─ finish requests, end watches ◀─ signal ◀─ serve ◀──────┘
//! ```
//!
//! A disk that fails ends the process at once: see `end_process`.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_log::{Index, LogError, Machine, RaftIndex, Retain, Wal};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::api;
use crate::checkpoint::{CheckpointError, CheckpointStore};
use crate::clock::Clock;
use crate::consensus::{Consensus, ConsensusError, Timing};
use crate::data_dir::{DataDir, DataDirError, Identity};
use crate::disk::{DiskRoom, Reserve};
use crate::enroll::{Addresses, describe, enroll};
use crate::join::JoinRefused;
use crate::machine::{self, Parts};
use crate::node::{Fill, Node};
use crate::peers::Tcp;
use crate::recovery::{Recovery, note_checkpoints, open_log, start_state};

/// How long requests may take to finish when the machine stops.
const FINISH_LIMIT: Duration = Duration::from_millis(2500);

/// How long consensus may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// How long work that may be abandoned is given to end by itself.
const ABANDON_LIMIT: Duration = Duration::from_millis(100);

/// How to run a machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, if its directory is new.
    pub name: String,
    /// Where its data lies.
    pub data_dir: PathBuf,
    /// Where it listens, and by which address it is known.
    pub address: IpAddr,
    /// The port for clients; 0 for any free one.
    pub client_port: u16,
    /// The port for the other machines; 0 for any free one.
    pub peer_port: u16,
    /// Where the other machines reach it, if not at its address and port: `host:port`.
    pub advertise_peer: Option<String>,
    /// Machines to join through, if the directory is new.
    pub join: Vec<String>,
    /// How many events the watch ring holds.
    pub ring_capacity: usize,
    /// After how many bytes of batches a checkpoint is written: what a start has
    /// to replay at most.
    pub checkpoint_bytes: usize,
    /// How many bytes are allocated for a segment of the log.
    pub segment_bytes: u32,
    /// How much of history is kept.
    pub retain: Retain,
    /// How long leaders and followers wait for each other.
    pub timing: Timing,
    /// How much room on the disk is held back.
    pub reserve: Reserve,
    /// Whether to set aside what the directory holds.
    pub start_anew: bool,
}

/// Why a machine cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The name cannot be a part of a key.
    #[error("{0:?} cannot be the name of a machine: it must be one part of a key")]
    Name(String),
    /// It has asked a cluster to let it in, and is to found another one.
    #[error(
        "machine {0} has begun to join a cluster: say with -C which one, or begin anew with -i"
    )]
    Joining(Arc<str>),
    /// The times of Raft do not fit each other.
    #[error("--election must begin with three times --heartbeat, {} ms, at least, not with {} ms", 3 * heartbeat.as_millis(), least.as_millis())]
    Election {
        /// How often a leader says that it leads.
        heartbeat: Duration,
        /// After what time without it another one is looked for.
        least: Duration,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A port cannot be used.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The checkpoints cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// There is data, and nobody whose it is.
    #[error("{}: there is data, but no node.json to say whose", .0.display())]
    Ownerless(PathBuf),
    /// Entries are missing at the end of the log.
    #[error("{}: written at command {index}, but the log ends at {last}: entries are missing", path.display())]
    Behind {
        /// The checkpoint that knows more than the log.
        path: PathBuf,
        /// Its last command.
        index: Index,
        /// The log's last command.
        last: Index,
    },
    /// The log begins somewhere, and no checkpoint leads there.
    #[error("{}: history before {first} is no longer kept, and there is no good checkpoint to start from", dir.display())]
    NoStart {
        /// Where the checkpoints lie.
        dir: PathBuf,
        /// The log's first entry.
        first: RaftIndex,
    },
    /// The checkpoints are those of another log.
    #[error("{}: the checkpoint at command {index} is not of this log", dir.display())]
    OtherLog {
        /// The log.
        dir: PathBuf,
        /// The checkpoint's last command.
        index: Index,
    },
    /// Consensus failed.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// A cluster does not let the machine in.
    #[error(transparent)]
    Join(#[from] JoinRefused),
    /// The machine has been removed from its cluster while it ran.
    #[error("this machine was removed from the cluster, and serves no more")]
    Removed,
    /// The machine had been removed from its cluster before.
    #[error("{}: this machine was removed from its cluster; take another directory, or -i to start anew", .0.display())]
    WasRemoved(PathBuf),
    /// The operating system refused something else.
    #[error("cannot {action}")]
    System {
        /// What was tried, as a verb.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

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
    identity: Identity,
    recovery: Recovery,
}

/// Where a machine listens, and how it is reached there.
struct Doors {
    clients: TcpListener,
    peers: TcpListener,
    addresses: Addresses,
}

impl Doors {
    async fn open(options: &Options) -> Result<Self, ServeError> {
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

/// Returns whose the directory is; and whether it was so before.
async fn identify(
    data_dir: &DataDir,
    options: &Options,
    addresses: &Addresses,
) -> Result<(Identity, bool), ServeError> {
    if options.start_anew
        && let Some(aside) = data_dir.set_aside()?
    {
        tracing::info!("what was there is set aside in {}", aside.display());
    }
    match data_dir.identity()? {
        Some(known) if known.removed => Err(ServeError::WasRemoved(data_dir.path().to_owned())),
        Some(known) => Ok((known, true)),
        None => Ok((enroll(data_dir, options, addresses).await?, false)),
    }
}

impl Server {
    async fn start(data_dir: &DataDir, options: Options) -> Result<Self, ServeError> {
        let started = Instant::now();
        let Doors { clients, peers, addresses } = Doors::open(&options).await?;
        let (identity, is_known) = identify(data_dir, &options, &addresses).await?;
        let machine = describe(&identity, &addresses);
        announce(&identity, &machine, data_dir);
        let (wal, recovered) = open_log(data_dir, &identity, &options, is_known)?;
        if !is_known {
            // The log has been begun, so the directory can be somebody's.
            data_dir.claim(&identity)?;
        }
        let checkpoints = CheckpointStore::new(data_dir.checkpoints(), options.ring_capacity);
        let (start, file) = start_state(data_dir, &checkpoints, &wal, options.ring_capacity)?;
        let (from, applied) = (start.state.position().index, start.applied);
        let (filled, reader) = (wal.clone(), wal.reader());
        let (node, consensus) = machine::start(Parts {
            cluster: identity.cluster,
            machine,
            founds: !identity.joined,
            log: wal.clone(),
            fill: Fill(Arc::new(move || Some(Box::new(filled.filler()?)))),
            starts_behind: applied.min(reader.last_archived().max(reader.state().purged)),
            checkpoints: checkpoints.clone(),
            start,
            file,
            checkpoint_bytes: options.checkpoint_bytes,
            ring_capacity: options.ring_capacity,
            disk: DiskRoom::watch(data_dir.path().to_owned(), options.reserve),
            network: Arc::new(Tcp),
            hints: options.join,
            timing: options.timing,
            clock: Clock::default(),
        })
        .await?;
        // Not before: while it starts, openraft relies on the log's first entry.
        note_checkpoints(&checkpoints, applied.map(|id| id.index), &wal)?;
        let recovery = Recovery { recovered, from, started };
        Ok(Self { node, consensus, wal, clients, peers, identity, recovery })
    }

    /// Serves until told to stop, or until consensus fails. Clients of a machine that
    /// has never been a part of its cluster have to wait until it is.
    async fn run(
        self,
        data_dir: &DataDir,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let Self { node, consensus, wal, clients, peers, identity, recovery } = self;
        let peers = tokio::spawn(api::serve_peers(peers, node.clone()));
        let mut serving = JoinSet::new();
        let serve = async {
            let is_new = node.now().state.position().index == Index(0);
            if is_new {
                node.introduce().await;
                node.until_it_votes().await;
            }
            serving.spawn(api::serve_clients(clients, node.clone()));
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
            never = serve => match never {},
        };
        if ended.is_err() {
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

async fn listen(address: IpAddr, port: u16) -> Result<TcpListener, ServeError> {
    let address = SocketAddr::new(address, port);
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| ServeError::Listen { address, source })
}

fn url(listener: &TcpListener) -> Result<Arc<str>, ServeError> {
    let address = listener.local_addr().map_err(system("learn the port"))?;
    Ok(Arc::from(format!("http://{address}")))
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

/// Ends the process because the log failed: what the disk holds is no longer
/// known, so nothing may be acknowledged after it.
#[expect(clippy::exit, reason = "a log that cannot be written leaves nothing to unwind for")]
pub(crate) fn end_process(error: &LogError) {
    tracing::error!("the log failed, and this machine stops");
    crate::cli::complain(error);
    std::process::exit(1);
}

pub(crate) fn system(action: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::System { action, source }
}
