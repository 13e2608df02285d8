//! A machine of the simulation: the real one, on a simulated disk, network and clock.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use etcd::consensus::{Consensus, Oneself, Surroundings, Timing};
use etcd::node::Node;
use etcd::node::assemble::{self, Parts, StartPoint};
use etcd::peers;
use etcd::storage::backfill::BackfillSource;
use etcd::storage::checkpoint::{Checkpoint, CheckpointStore, leads_into};
use etcd::storage::disk_space::DiskRoom;
use etcd::storage::events::EventStore;
use etcd::storage::stored::Stored as Kept;
use etcd::util::clock::Clock;
use etcd_log::{ClusterId, Index, KeyPath, LogFormat, LogStorage as _, LogTime, Machine, NodeId};
use etcd_projections::{SnapshotItem, State, TreeNode};
use tempfile::TempDir;
use turmoil::net::TcpListener;

use super::client::KEYS;
use super::dice::Dice;
use super::links::Network;
use super::log::{Disk, SimLog};
use super::real_log::RealDisk;
use super::world::World;
use super::{client, past, probe, reads};

/// The cluster that all belong to.
pub(crate) const CLUSTER: ClusterId = ClusterId(1);

/// Where a machine listens at first.
const PORT: u16 = 7001;

/// How many events a ring holds: so few that watches have to replay the log.
const RING: usize = 20;

/// After how many bytes of batches a checkpoint is written: often.
const CHECKPOINT_BYTES: usize = 20_000;

/// What a machine has on disk.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) identity: Mutex<Option<Identity>>,
    pub(crate) disk: Arc<Mutex<Disk>>,
    pub(crate) checkpoints: TempDir,
    /// How far its clock is ahead.
    ahead: Duration,
    /// How many seconds more it is at the moment.
    jumped: Arc<AtomicI64>,
    /// Where it listens.
    port: AtomicU16,
    /// What it has stored of what happened: never synced, and a cache.
    events: TempDir,
    /// Whether it reads the first format of the log alone, as an old version does.
    is_old: AtomicBool,
}

/// Who a machine is, once it knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) founder: bool,
}

impl Stored {
    /// What a machine has that was never started, with a clock that is so far ahead.
    pub(crate) fn new(ahead: Duration, has_real_log: bool) -> Self {
        let mut disk = Disk::default();
        disk.real = has_real_log.then(RealDisk::new);
        Self {
            identity: Mutex::default(),
            disk: Arc::new(Mutex::new(disk)),
            checkpoints: TempDir::new().unwrap(),
            ahead,
            jumped: Arc::default(),
            port: AtomicU16::new(PORT),
            events: TempDir::new().unwrap(),
            is_old: AtomicBool::new(false),
        }
    }

    /// Makes the machine one of an old version, or of this one, the next time that it starts.
    pub(crate) fn set_old(&self, is_old: bool) {
        self.is_old.store(is_old, Ordering::Relaxed);
    }

    /// The newest format of the log that the machine reads.
    pub(crate) fn reads(&self) -> LogFormat {
        let is_old = self.is_old.load(Ordering::Relaxed);
        if is_old { LogFormat::FIRST } else { LogFormat::NEWEST }
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap()
    }

    /// Where others reach the machine, the next time that it starts.
    pub(crate) fn address(&self, name: &str) -> String {
        format!("{name}:{}", self.port.load(Ordering::Relaxed))
    }

    /// Gives the machine another address for the next time that it starts.
    pub(crate) fn move_away(&self) {
        self.port.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts its clock so many seconds ahead of where it would be, or behind.
    pub(crate) fn jump(&self, seconds: i64) {
        self.jumped.store(seconds, Ordering::Relaxed);
    }

    /// Copies what is there, as it is; nothing, if it has the real log, whose files may be
    /// in the middle of a change.
    pub(crate) fn copy(&self) -> Option<Self> {
        let copy = Self {
            identity: Mutex::new(*self.identity.lock().unwrap()),
            disk: Arc::new(Mutex::new(self.disk().copy()?)),
            checkpoints: TempDir::new().unwrap(),
            ahead: self.ahead,
            jumped: Arc::clone(&self.jumped),
            port: AtomicU16::new(self.port.load(Ordering::Relaxed)),
            events: TempDir::new().unwrap(),
            is_old: AtomicBool::new(false),
        };
        for file in std::fs::read_dir(self.checkpoints.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.checkpoints.path().join(file.file_name())).unwrap();
        }
        Some(copy)
    }

    /// Lets others ask.
    async fn listen(&self, network: Arc<Network>, node: &Node) -> io::Result<()> {
        let port = self.port.load(Ordering::Relaxed);
        let listener = TcpListener::bind(("0.0.0.0", port)).await?;
        tokio::spawn(listen(listener, network, node.clone()));
        Ok(())
    }

    pub(crate) fn has_checkpoint(&self) -> bool {
        let store = CheckpointStore::new(self.checkpoints.path().to_owned(), RING);
        store.newest(|_| true).unwrap().is_some()
    }

    /// Takes a key out of its newest checkpoint, as a flipped bit in its memory would.
    /// Returns which, if there is one.
    pub(crate) fn lose_key(&self, dice: &Dice) -> Option<KeyPath> {
        let store = CheckpointStore::new(self.checkpoints.path().to_owned(), RING);
        let (checkpoint, _) = store.newest(|_| true).unwrap()?;
        let Checkpoint { applied, membership, state } = checkpoint;
        let keys = KEYS.map(|key| KeyPath::clean(key).unwrap());
        let is_there = |key: &KeyPath| matches!(state.tree().get(key), Some(TreeNode::File { .. }));
        let there: Vec<_> = keys.into_iter().filter(is_there).collect();
        let lost = (!there.is_empty()).then(|| dice.pick(&there).clone())?;
        let is_lost = |item: &SnapshotItem| match item {
            SnapshotItem::File { key, .. } => *key == lost,
            SnapshotItem::Directory { .. } | SnapshotItem::Event(_) | SnapshotItem::Request(_) => {
                false
            }
        };
        let pieces: Vec<_> = state.snapshot_items().filter(|item| !is_lost(item)).collect();
        let mut summary = state.snapshot_header();
        summary.nodes -= 1;
        let state = State::from_snapshot(&summary, pieces, RING).unwrap();
        store.write(&Checkpoint { applied, membership, state }).unwrap();
        Some(lost)
    }

    fn clock(&self) -> Clock {
        let (ahead, jumped) = (self.ahead, Arc::clone(&self.jumped));
        Clock::new(move || {
            let now = turmoil::since_epoch().expect("only machines of the simulation ask") + ahead;
            let jumped = jumped.load(Ordering::Relaxed);
            let by = Duration::from_secs(jumped.unsigned_abs());
            let now = if jumped < 0 { now.saturating_sub(by) } else { now + by };
            LogTime(u64::try_from(now.as_nanos()).expect("not yet"))
        })
    }
}

/// Runs a machine until it crashes, or is removed from the cluster.
pub(crate) async fn run(world: World, name: String, through: Vec<String>) -> turmoil::Result {
    let stored = world.stored(&name);
    let (name, address) = (Arc::<str>::from(&*name), stored.address(&name));
    let network = Arc::new(Network::of(&world, &name));
    let described = described(&name, &address);
    let known = *stored.identity.lock().unwrap();
    let identity = match known {
        Some(identity) => identity,
        None if through.is_empty() => Identity { cluster: CLUSTER, founder: true },
        None => {
            let cluster = etcd::server::join::join(
                &described,
                stored.reads(),
                &through,
                Arc::<Network>::clone(&network),
            )
            .await?;
            Identity { cluster, founder: false }
        }
    };
    *stored.identity.lock().unwrap() = Some(identity);
    // Whoever is away while all others move is told where they are, as by an operator.
    let through = if known.is_some() { world.addresses_but(&name) } else { through };
    let parts = parts(&world, &stored, described, identity, Arc::clone(&network), through)?;
    let (node, consensus) = match start(parts).await {
        Ok(started) => started,
        // It has found out from its own log.
        Err(error) if world.has_lost_a_key(&name) => {
            world.stopped(&name, &*error);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    world.up(&name, &node, &consensus);
    stored.listen(network, &node).await?;
    let serving = serve(&world, &name, &node);
    tokio::select! {
        failure = consensus.failure() => {
            if !world.has_lost_a_key(&name) {
                return Err(failure.into());
            }
            world.stopped(&name, &failure);
            return Ok(());
        }
        () = consensus.until_removed() => {}
        address = node.until_elsewhere() => {
            world.note(format_args!("{name} is announced at {address}, and stops"));
            world.gave_way(&name);
            return Ok(());
        }
        () = serving => {}
    }
    world.note(format_args!("{name} was removed"));
    world.removed(&name);
    node.close();
    Ok(())
}

/// Runs a second process of a machine on a copy of what that has, at another place, until
/// one of the two stops.
pub(crate) async fn run_twin(
    world: World,
    of: String,
    place: String,
    stored: Arc<Stored>,
) -> turmoil::Result {
    let described = described(&of, &stored.address(&place));
    let network = Arc::new(Network::of(&world, &place));
    let identity = stored.identity.lock().unwrap().unwrap();
    let through = world.addresses_but(&of);
    let parts = parts(&world, &stored, described, identity, Arc::clone(&network), through)?;
    world.note(format_args!("{place} is a copy of {of}"));
    let (node, consensus) = match start(parts).await {
        Ok(started) => started,
        Err(error) => {
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            world.note(format_args!("{place} does not start: {why}"));
            return if why.contains("in another process") { Ok(()) } else { Err(error) };
        }
    };
    stored.listen(network, &node).await?;
    let introduced = async {
        node.introduce().await;
        world.note(format_args!("{place} has taken the place of {of}"));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        failure = consensus.failure() => return Err(failure.into()),
        () = consensus.until_removed() => world.note(format_args!("{place} was removed")),
        address = node.until_elsewhere() => {
            world.note(format_args!("{place} finds {of} at {address}, and stops"));
        }
        () = introduced => {}
    }
    node.close();
    Ok(())
}

/// How others know a machine.
fn described(name: &str, address: &str) -> Machine {
    // By its name, for names are used once.
    let node = NodeId(name.bytes().fold(7, |id, byte| id * 31 + u64::from(byte)));
    Machine {
        name: Arc::from(name),
        node,
        peer_url: Arc::from(format!("http://{address}")),
        client_url: Arc::from(format!("http://{name}:4001")),
    }
}

/// Starts a machine, and tells its log of the checkpoints that are good.
async fn start(parts: Parts<SimLog>) -> Result<(Node, Consensus), Box<dyn std::error::Error>> {
    let (stored, applied) = (parts.stored.clone(), parts.start.checkpoint.applied);
    let started = assemble::start(parts).await?;
    stored.note_checkpoints(|file| Some(file.raft_index) <= applied.map(|id| id.index))?;
    Ok(started)
}

/// Lets clients in: those of a machine that has never been a part of its cluster have
/// to wait until it is.
async fn serve(world: &World, name: &Arc<str>, node: &Node) {
    let read = || tokio::spawn(reads::run(world.clone(), Arc::clone(name), node.clone()));
    let is_new = node.now().state.position().index == Index(0);
    if !is_new && !world.has_lost_a_key(name) {
        read();
    }
    node.introduce().await;
    world.ready(name);
    while world.has_lost_a_key(name) {
        // Nobody believes it.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if is_new {
        read();
    }
    for _ in 0..world.clients() {
        tokio::spawn(client::run(world.clone(), Arc::clone(name), node.clone()));
    }
    tokio::spawn(past::compare(world.clone(), name.to_string(), node.clone()));
    tokio::spawn(probe::small(world.clone(), Arc::clone(name), node.clone()));
    tokio::spawn(probe::large(world.clone(), Arc::clone(name), node.clone()));
    client::watch(world.clone(), name.to_string(), node.clone()).await;
}

async fn listen(listener: TcpListener, network: Arc<Network>, node: Node) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let (stream, node) = (network.accepted(stream), node.clone());
        tokio::spawn(async move {
            // Whoever asks sees that the connection has ended.
            let _ended = peers::serve(stream, node, std::future::pending()).await;
        });
    }
}

/// What a machine starts from.
fn parts(
    world: &World,
    stored: &Stored,
    machine: Machine,
    identity: Identity,
    network: Arc<Network>,
    through: Vec<String>,
) -> Result<Parts<SimLog>, Box<dyn std::error::Error>> {
    let log = SimLog::open(&stored.disk, machine.node, &world.dice());
    let filled = log.clone();
    let checkpoints = CheckpointStore::new(stored.checkpoints.path().to_owned(), RING);
    checkpoints.remove_drafts()?;
    checkpoints.settle_received(log.state().committed.map(|id| id.index))?;
    let first = log.first();
    let newest = checkpoints.newest(|file| leads_into(file, first))?;
    let (checkpoint, file) = newest.map_or_else(
        || (Checkpoint::empty(State::new(RING)), None),
        |(checkpoint, file)| (checkpoint, Some(file)),
    );
    let at = checkpoint.state.position();
    let events = EventStore::open(stored.events.path(), identity.cluster, at)?;
    Ok(Parts {
        oneself: Oneself {
            cluster: identity.cluster,
            machine,
            reads: stored.reads(),
            founds: identity.founder,
        },
        surroundings: Surroundings {
            network,
            hints: through,
            timing: Timing { seed: Some(world.dice().number()), ..Timing::default() },
            clock: stored.clock(),
        },
        start: StartPoint { behind: log.starts_behind(checkpoint.applied), checkpoint, file },
        stored: Kept { log, checkpoints, disk: DiskRoom::default() },
        backfill: BackfillSource(Arc::new(move || filled.filler())),
        checkpoint_bytes: CHECKPOINT_BYTES,
        events: Some(events),
        ring_capacity: RING,
    })
}
