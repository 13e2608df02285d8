//! Running a machine: start, serve, stop.
//!
//! ```text
//! lock the directory ─▶ bind the ports ─▶ check the log ─▶ checkpoint ─▶ the log after it
//!                                                                             │
//!      exit ◀─ sync ◀─ finish requests, end watches ◀─ signal ◀─ serve ◀──────┘
//! ```
//!
//! A disk that fails ends the process at once: see `end_process`.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_log::{Index, LogError, LogReader, Machine, RaftIndex, Retain, Wal, sync_dir};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::checkpoint::{CheckpointError, CheckpointStore, CheckpointWriter};
use crate::consensus::state_machine::StateMachine;
use crate::consensus::{Consensus, ConsensusError, ConsensusOptions};
use crate::data_dir::{DataDir, DataDirError, Identity};
use crate::disk::{DiskRoom, Reserve};
use crate::node::{Node, NodeOptions, WriteError};
use crate::recovery::{note_checkpoints, open_log, report, start_state};
use crate::{api, published};

/// How long the first commands of a machine may take.
const INTRODUCTION_LIMIT: Duration = Duration::from_secs(10);

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
    /// The machine could not make itself known.
    #[error("cannot write the machine into the log")]
    Introduce(#[from] WriteError),
    /// Other machines are needed, and cannot be had.
    #[error("cannot join a cluster through {0}: this version runs one machine only")]
    Join(String),
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
    let served = runtime.block_on(start_and_run(&data_dir, options));
    // A checkpoint half written, or a replay, is nothing to wait for.
    runtime.shutdown_timeout(ABANDON_LIMIT);
    // What was abandoned may still write: the directory is let go by the end of
    // the process, and not before.
    std::mem::forget(data_dir);
    served
}

async fn start_and_run(data_dir: &DataDir, options: Options) -> Result<(), ServeError> {
    let mut stop = pin!(stop_signal()?);
    let server = tokio::select! {
        server = Server::start(data_dir, options) => server?,
        () = stop.as_mut() => {
            tracing::info!("stopped before the start was over");
            return Ok(());
        }
    };
    server.run(stop).await
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
}

impl Server {
    async fn start(data_dir: &DataDir, options: Options) -> Result<Self, ServeError> {
        let started = Instant::now();
        let clients = listen(options.address, options.client_port).await?;
        let peers = listen(options.address, options.peer_port).await?;
        if options.start_anew
            && let Some(aside) = data_dir.set_aside()?
        {
            tracing::info!("what was there is set aside in {}", aside.display());
        }
        let known = data_dir.identity()?;
        let identity = match &known {
            Some(identity) => identity.clone(),
            None => found(data_dir, &options)?,
        };
        let machine = describe(&identity, &clients, &peers)?;
        announce(&identity, &machine, data_dir);

        let (wal, recovered) = open_log(data_dir, &identity, &options, known.is_some())?;
        if known.is_none() {
            // The log has been begun, so the directory can be somebody's.
            data_dir.claim(&identity)?;
        }
        let checkpoints = CheckpointStore::new(data_dir.checkpoints(), options.ring_capacity);
        let (start, file) = start_state(data_dir, &checkpoints, &wal, options.ring_capacity)?;
        let (from, applied) = (start.state.position().index, start.applied);
        let settled = applied.min(wal.reader().last_archived());
        let (publisher, reader) = published::channel(start.state.clone(), start.applied);
        let disk = DiskRoom::watch(data_dir.path().to_owned(), options.reserve);
        let writer = CheckpointWriter::start(checkpoints.clone(), disk.clone(), wal.clone());
        let bytes = options.checkpoint_bytes;
        let state_machine =
            StateMachine::new(start, file, publisher, checkpoints.clone(), writer, bytes);
        let address = peers.local_addr().map_err(system("learn the port"))?.to_string();
        let (me, log) = (identity.node, wal.clone());
        let consensus = ConsensusOptions { me, address, log, settled, state_machine };
        let consensus = Consensus::start(consensus).await?;
        // Not before: while it starts, openraft relies on the log's first entry.
        note_checkpoints(&checkpoints, applied.map(|id| id.index), &wal)?;
        let node = Node::start(NodeOptions {
            cluster: identity.cluster,
            machine,
            consensus: consensus.clone(),
            published: reader,
            disk,
            log: wal.reader(),
            checkpoints,
            ring_capacity: options.ring_capacity,
        });
        node.introduce(INTRODUCTION_LIMIT).await?;
        report(&recovered, wal.reader().archived(), from, &node, started);
        Ok(Self { node, consensus, wal, clients, peers })
    }

    /// Serves until told to stop, or until consensus fails.
    async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self { node, consensus, wal, clients, peers } = self;
        let clients = tokio::spawn(api::serve_clients(clients, node.clone()));
        let peers = tokio::spawn(api::serve_peers(peers, node.clone()));
        tokio::select! {
            () = stop => tracing::info!("stopping"),
            failure = consensus.failure() => return Err(failure.into()),
        }
        node.close();
        let finished = async { (clients.await, peers.await) };
        if tokio::time::timeout(FINISH_LIMIT, finished).await.is_err() {
            tracing::warn!("some clients took too long, and were cut off");
        }
        if tokio::time::timeout(STOP_LIMIT, consensus.shutdown()).await.is_err() {
            tracing::warn!("consensus took too long to stop");
        }
        let dir = wal.reader().dir().to_owned();
        let closed = tokio::task::spawn_blocking(move || wal.close());
        match tokio::time::timeout(STOP_LIMIT, closed).await {
            Ok(Ok(closed)) => closed?,
            Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            Err(_) => {
                let seconds = STOP_LIMIT.as_secs();
                return Err(LogError::Stalled { dir, seconds }.into());
            }
        }
        tracing::info!("stopped; the log is complete on disk");
        Ok(())
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

/// Mints a new machine. A log without a `node.json` is what a start left that was
/// cut short, if it holds nothing; if it does hold something, it is somebody's.
fn found(data_dir: &DataDir, options: &Options) -> Result<Identity, ServeError> {
    if let Some(through) = options.join.first() {
        return Err(ServeError::Join(through.clone()));
    }
    let (log, recovered) = LogReader::open(&data_dir.wal(), &data_dir.archive(), &mut |_| {})?;
    let state = log.state();
    if state.last.is_some() || state.vote.is_some() {
        return Err(ServeError::Ownerless(data_dir.wal()));
    }
    if !CheckpointStore::new(data_dir.checkpoints(), 1).list()?.is_empty() {
        return Err(ServeError::Ownerless(data_dir.checkpoints()));
    }
    if recovered.node.is_some() {
        remove_beginning(&data_dir.wal())?;
    }
    Ok(Identity::founder(&options.name))
}

/// Removes the log of a start that was cut short: the witness first, for alone it
/// would speak of a log that was lost.
fn remove_beginning(wal: &Path) -> Result<(), ServeError> {
    let failed = "remove the log of a start cut short";
    match std::fs::remove_file(wal.join("witness")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(system(failed)(error)),
        _ => {}
    }
    sync_dir(wal).map_err(LogError::from)?;
    std::fs::remove_dir_all(wal).map_err(system(failed))
}

fn describe(
    identity: &Identity,
    clients: &TcpListener,
    peers: &TcpListener,
) -> Result<Machine, ServeError> {
    let url = |listener: &TcpListener| -> Result<Arc<str>, ServeError> {
        let address = listener.local_addr().map_err(system("learn the port"))?;
        Ok(Arc::from(format!("http://{address}")))
    };
    Ok(Machine {
        name: Arc::clone(&identity.name),
        node: identity.node,
        peer_url: url(peers)?,
        client_url: url(clients)?,
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

/// Ends the process because the log failed: what the disk holds is no longer
/// known, so nothing may be acknowledged after it.
#[expect(clippy::exit, reason = "a log that cannot be written leaves nothing to unwind for")]
pub(crate) fn end_process(error: &LogError) {
    tracing::error!("the log failed, and this machine stops");
    crate::cli::complain(error);
    std::process::exit(1);
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::System { action, source }
}
