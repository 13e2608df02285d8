//! A machine of the simulation: the real one, on a simulated disk, network and clock.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd::checkpoint::{Checkpoint, CheckpointStore, leads_into};
use etcd::clock::Clock;
use etcd::consensus::{Consensus, Timing};
use etcd::disk::DiskRoom;
use etcd::machine::{self, Parts};
use etcd::node::{Fill, Node};
use etcd::peers::{self, Connect, Connecting, Stream};
use etcd_log::{ClusterId, LogStorage as _, LogTime, Machine, NodeId};
use etcd_projections::State;
use tempfile::TempDir;
use turmoil::net::{TcpListener, TcpStream};

use super::client;
use super::log::{Disk, SimFiller, SimLog};
use super::world::World;

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
    pub(crate) ahead: Duration,
}

/// Who a machine is, once it knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) founder: bool,
}

/// The simulated network.
#[derive(Debug)]
struct Turmoil;

impl Connect for Turmoil {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// Runs a machine until it crashes, or is removed from the cluster.
pub(crate) async fn run(world: World, name: String, through: Vec<String>) -> turmoil::Result {
    let stored = world.stored(&name);
    // By its name, for names are used once.
    let node = NodeId(name.bytes().fold(7, |id, byte| id * 31 + u64::from(byte)));
    let described = Machine {
        name: Arc::from(&*name),
        node,
        peer_url: Arc::from(format!("http://{name}:7001")),
        client_url: Arc::from(format!("http://{name}:4001")),
    };
    let known = *stored.identity.lock().unwrap();
    let identity = match known {
        Some(identity) => identity,
        None if through.is_empty() => Identity { cluster: ClusterId(1), founder: true },
        None => {
            let cluster = etcd::join::join(&described, &through, Arc::new(Turmoil)).await?;
            Identity { cluster, founder: false }
        }
    };
    *stored.identity.lock().unwrap() = Some(identity);
    let (node, consensus) = start(&world, &stored, described, identity, through).await?;
    world.up(&name, &node, &consensus);
    let listener = TcpListener::bind("0.0.0.0:7001").await?;
    tokio::spawn(listen(listener, node.clone()));
    let serving = async {
        node.introduce().await;
        world.note(format_args!("{name} is ready"));
        for _ in 0..world.clients() {
            tokio::spawn(client::run(world.clone(), node.clone()));
        }
        client::watch(world.clone(), name.clone(), node.clone()).await;
    };
    tokio::select! {
        failure = consensus.failure() => return Err(failure.into()),
        () = consensus.until_removed() => {}
        () = serving => {}
    }
    world.note(format_args!("{name} was removed"));
    world.removed(&name);
    node.close();
    Ok(())
}

async fn listen(listener: TcpListener, node: Node) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let node = node.clone();
        tokio::spawn(async move {
            // Whoever asks sees that the connection has ended.
            let _ended = peers::serve(Box::new(stream), node, std::future::pending()).await;
        });
    }
}

async fn start(
    world: &World,
    stored: &Stored,
    machine: Machine,
    identity: Identity,
    through: Vec<String>,
) -> Result<(Node, Consensus), Box<dyn std::error::Error>> {
    let log = SimLog::open(&stored.disk, &world.dice());
    let filled = log.clone();
    let checkpoints = CheckpointStore::new(stored.checkpoints.path().to_owned(), RING);
    checkpoints.remove_drafts()?;
    checkpoints.settle_received(log.state().committed.map(|id| id.index))?;
    let first = log.first();
    let newest = checkpoints.newest(|file| leads_into(file, first))?;
    let (start, file) = newest.map_or_else(
        || (Checkpoint::empty(State::new(RING)), None),
        |(checkpoint, file)| (checkpoint, Some(file)),
    );
    let ahead = u64::try_from(stored.ahead.as_nanos())?;
    let clock = Clock::new(move || {
        let now = turmoil::since_epoch().expect("only machines of the simulation ask");
        LogTime(u64::try_from(now.as_nanos()).expect("not yet") + ahead)
    });
    let parts = Parts {
        cluster: identity.cluster,
        machine,
        founds: identity.founder,
        log,
        fill: Fill(Arc::new(move || Some(Box::new(SimFiller::new(&filled)?)))),
        starts_behind: start.applied,
        checkpoints,
        start,
        file,
        checkpoint_bytes: CHECKPOINT_BYTES,
        ring_capacity: RING,
        disk: DiskRoom::default(),
        network: Arc::new(Turmoil),
        hints: through,
        timing: Timing { seed: Some(world.dice().number()), ..Timing::default() },
        clock,
    };
    Ok(machine::start(parts).await?)
}
