//! The machines of a script: the real ones, on a wire and disks that the script breaks, and
//! a clock that goes on when nothing else can.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd::consensus::{Consensus, Oneself, Surroundings, Timing};
use etcd::node::Node;
use etcd::node::assemble::{self, Parts, StartPoint};
use etcd::server::join::join;
use etcd::storage::backfill::BackfillSource;
use etcd::storage::checkpoint::{Checkpoint, CheckpointStore};
use etcd::storage::disk_space::DiskRoom;
use etcd::storage::stored::Stored;
use etcd::util::clock::Clock;
use etcd_log::{ClusterId, LogFormat, LogStorage as _, LogTime, Machine, NodeId};
use etcd_projections::State;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::disk::{Disk, ScriptLog};
use super::shown;
use super::wire::{Network, Wire, until};

const RING: usize = 20;

/// When scripts begin, in seconds since 1970.
const EPOCH: u64 = 1_373_500_000;

/// How often all are looked at.
const TICK: Duration = Duration::from_millis(1);

/// How long a machine that was removed goes on answering what it was asked before.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// No script waits so long for anything.
const PATIENCE: Duration = Duration::from_mins(1);

/// All machines of a script.
#[derive(Default)]
pub(super) struct Cluster {
    pub(super) wire: Wire,
    hosts: BTreeMap<NodeId, Arc<Host>>,
    pub(super) seed: u64,
    /// How each machine stood to the others when it was looked at last.
    roles: BTreeMap<NodeId, String>,
    /// Who was in the group then, as its leader had it.
    group: String,
}

/// What outlives the processes of a machine.
struct Host {
    me: NodeId,
    disk: Disk,
    checkpoints: TempDir,
    /// Whether it founds the cluster, or has joined it.
    founds: bool,
    has_joined: Mutex<bool>,
    running: Mutex<Option<Running>>,
}

/// A process, and what it is told with that it is gone.
struct Running {
    gone: watch::Sender<bool>,
    /// Nothing, as long as it has not joined.
    process: Option<(Node, Consensus)>,
}

impl Cluster {
    /// Starts a machine that was never there, which founds the cluster or joins it.
    pub(super) fn add(&mut self, me: NodeId, founds: bool) {
        let (disk, checkpoints) = (Disk::default(), TempDir::new().unwrap());
        let (has_joined, running) = (Mutex::new(founds), Mutex::default());
        let host = Host { me, disk, checkpoints, founds, has_joined, running };
        self.hosts.insert(me, Arc::new(host));
        self.start(me);
    }

    /// Starts a process of a machine.
    pub(super) fn start(&self, me: NodeId) {
        let host = Arc::clone(&self.hosts[&me]);
        let others = self.hosts.keys().filter(|node| **node != me);
        let others: Vec<_> = others.map(|node| address(*node)).collect();
        let (sender, gone) = watch::channel(false);
        *host.running.lock().unwrap() = Some(Running { gone: sender, process: None });
        let (wire, seed) = (self.wire.clone(), self.seed);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = until(gone.clone()) => {}
                () = run(host, wire, others, seed, gone.clone()) => {}
            }
        });
    }

    /// Kills a process: its disk keeps what was synced.
    pub(super) fn kill(&self, me: NodeId) {
        stop(&self.hosts[&me], &self.wire);
    }

    pub(super) fn disk(&self, me: NodeId) -> &Disk {
        &self.hosts[&me].disk
    }

    pub(super) fn names(&self) -> Vec<NodeId> {
        self.hosts.keys().copied().collect()
    }

    pub(super) fn process(&self, me: NodeId) -> Option<(Node, Consensus)> {
        self.hosts.get(&me)?.running.lock().unwrap().as_ref()?.process.clone()
    }

    /// Lets time pass.
    pub(super) async fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.tick().await;
        }
    }

    /// Lets time pass until something holds.
    pub(super) async fn until(&mut self, holds: impl Fn(&Self) -> bool) -> Result<(), String> {
        let begun = Instant::now();
        while !holds(self) {
            if begun.elapsed() > PATIENCE {
                return Err(format!("it does not come to that:\n{}", self.wire.told()));
            }
            self.tick().await;
        }
        Ok(())
    }

    /// Lets a moment pass, and writes down how all stand after it.
    async fn tick(&mut self) {
        sleep(TICK).await;
        for me in self.names() {
            let Some((_, consensus)) = self.process(me) else {
                self.roles.remove(&me);
                continue;
            };
            let role = shown::role(&consensus);
            if self.roles.get(&me) != Some(&role) {
                self.wire.note(format!("n{} {role}", me.0));
                self.roles.insert(me, role);
            }
            let group = shown::group(&consensus.membership());
            if consensus.leads() && group != self.group {
                self.wire.note(format!("n{} has the group: {group}", me.0));
                self.group = group;
            }
        }
    }

    /// Whether a machine stands so to the others, or has such a group.
    pub(super) fn is(&self, me: NodeId, what: &str) -> bool {
        let Some((_, consensus)) = self.process(me) else { return what == "is gone" };
        let group = shown::group(&consensus.membership());
        match what {
            "is joint" => group.contains('|'),
            "has a learner" => group.contains("learners"),
            role => shown::role(&consensus).starts_with(role),
        }
    }

    /// How each machine stands, a line each.
    pub(super) fn state(&self) -> String {
        let lines = self.hosts.keys().map(|me| {
            let Some((node, consensus)) = self.process(*me) else {
                return format!("n{} is gone\n", me.0);
            };
            let (role, term) = (shown::role(&consensus), consensus.term());
            let last = shown::id(consensus.last_entry());
            let applied = node.now().state.position().index;
            let group = consensus.leads().then(|| shown::group(&consensus.membership()));
            let group = group.map(|group| format!(", {group}")).unwrap_or_default();
            format!("n{} {role}: {term}, last {last}, applied {applied}{group}\n", me.0)
        });
        lines.collect()
    }
}

fn stop(host: &Host, wire: &Wire) {
    let Some(running) = host.running.lock().unwrap().take() else { return };
    host.disk.kill();
    wire.down(host.me);
    running.gone.send_replace(true);
    if let Some((node, consensus)) = running.process {
        node.close();
        tokio::spawn(async move { consensus.shutdown().await });
    }
}

/// Runs a process of a machine, until that is removed.
async fn run(
    host: Arc<Host>,
    wire: Wire,
    others: Vec<String>,
    seed: u64,
    gone: watch::Receiver<bool>,
) {
    let name = format!("n{}", host.me.0);
    let network = Arc::new(Network { wire: wire.clone(), me: host.me, gone: gone.clone() });
    let machine = Machine {
        name: Arc::from(&*name),
        node: host.me,
        peer_url: Arc::from(format!("http://{}", address(host.me))),
        client_url: Arc::from(format!("http://{name}:4001")),
    };
    if !*host.has_joined.lock().unwrap() {
        let network = Arc::<Network>::clone(&network);
        let _cluster = join(&machine, LogFormat::NEWEST, &others, network).await.unwrap();
        *host.has_joined.lock().unwrap() = true;
    }
    let parts = parts(&host, machine, network, others, seed);
    let (node, consensus) = assemble::start(parts).await.unwrap();
    wire.up(&node, gone);
    if let Some(running) = &mut *host.running.lock().unwrap() {
        running.process = Some((node.clone(), consensus.clone()));
    }
    let introduced = async {
        node.introduce().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        error = consensus.failure() => wire.note(format!("{name} fails: {error}")),
        () = consensus.until_removed() => {
            wire.note(format!("{name} knows that it was removed"));
            node.close();
            sleep(LAST_WORDS).await;
        }
        () = introduced => {}
    }
    stop(&host, &wire);
}

fn parts(
    host: &Host,
    machine: Machine,
    network: Arc<Network>,
    hints: Vec<String>,
    seed: u64,
) -> Parts<ScriptLog> {
    let log = host.disk.open();
    let begun = Instant::now();
    // What the log holds is older than what this clock says.
    let entries = log.state().last.map_or(0, |last| last.index.0);
    let clock = Clock::new(move || {
        let now = Duration::from_secs(EPOCH + entries) + begun.elapsed();
        LogTime(u64::try_from(now.as_nanos()).unwrap())
    });
    Parts {
        oneself: Oneself {
            cluster: ClusterId(1),
            machine,
            reads: LogFormat::NEWEST,
            founds: host.founds,
        },
        surroundings: Surroundings {
            network,
            hints,
            timing: Timing { seed: Some(seed), ..Timing::default() },
            clock,
        },
        stored: Stored {
            log,
            checkpoints: CheckpointStore::new(host.checkpoints.path().to_owned(), RING),
            disk: DiskRoom::default(),
        },
        start: StartPoint {
            checkpoint: Checkpoint::empty(State::new(RING)),
            file: None,
            behind: None,
        },
        backfill: BackfillSource(Arc::new(|| None)),
        checkpoint_bytes: usize::MAX,
        events: None,
        ring_capacity: RING,
    }
}

/// Where a machine is reached.
fn address(node: NodeId) -> String {
    format!("n{}:7001", node.0)
}
