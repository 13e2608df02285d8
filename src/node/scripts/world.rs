//! The world of a script: real machines in one thread, whose time stands still unless the
//! script lets it pass.
//!
//! ```text
//! command of the script ─▶ machines, until none of them has anything left to do
//!                          └─▶ what was answered meanwhile: output of that command
//! ```
//!
//! That is what makes a recording the same every time: nothing happens between two commands,
//! all clocks are that of the runtime, and chance has a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_log::{
    ClusterId, Command, Entry, LogFormat, LogId, LogTime, Machine as Described, Membership, NodeId,
    Payload, RaftIndex,
};
use etcd_projections::State;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::disk::Disk;
use super::network::Network;
use crate::consensus::{Consensus, Oneself, Surroundings, Timing};
use crate::node::Node;
use crate::node::assemble::{self, Parts, StartPoint};
use crate::storage::backfill::BackfillSource;
use crate::storage::checkpoint::{Checkpoint, CheckpointStore};
use crate::storage::disk_space::DiskRoom;
use crate::storage::stored::Stored;
use crate::util::clock::Clock;

/// How often each task gets its turn until the script goes on: more often than anything
/// takes that needs no time.
const TURNS: usize = 3000;

/// With this seed, the first machine is the first to stand for election.
const SEED: u64 = 5;

/// How long the machines of a group get to agree on who leads.
const ELECTION: Duration = Duration::from_secs(1);

/// The cluster that all belong to.
const CLUSTER: ClusterId = ClusterId(1);

/// The time at which every script begins.
const BEGIN: LogTime = LogTime(1_000_000_000);

/// What was heard since somebody listened, with the number of who was asked. Cloning gives
/// another handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    lines: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Heard {
    pub(super) fn say(&self, asked: usize, line: String) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push((asked, line));
    }

    /// Returns it in the order of the requests: which of two tasks speaks first that are both
    /// able to says nothing.
    fn take(&self) -> String {
        let mut lines =
            std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        lines.sort_by_key(|(asked, _)| *asked);
        lines.into_iter().map(|(_, line)| line + "\n").collect()
    }
}

/// A machine, and what it has on its disk.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) log: Disk,
    /// Up to where the script has seen its log.
    pub(super) seen: RaftIndex,
    dir: TempDir,
    ring: usize,
    checkpoint_bytes: usize,
    running: Option<(Node, Consensus)>,
}

impl Machine {
    /// Returns the machine while it runs.
    pub(super) fn node(&self) -> &Node {
        &self.running.as_ref().expect("it runs").0
    }

    /// Returns where its checkpoints lie.
    pub(super) fn checkpoints(&self) -> CheckpointStore {
        CheckpointStore::new(self.dir.path().to_owned(), self.ring)
    }

    fn described(&self) -> Described {
        Described {
            name: Arc::from(&*self.name),
            node: id(&self.name),
            peer_url: Arc::from(format!("http://{}", self.name)),
            client_url: Arc::from(format!("http://{}:4001", self.name)),
        }
    }
}

/// All machines of a script.
pub(super) struct World {
    runtime: Runtime,
    pub(super) network: Network,
    pub(super) machines: BTreeMap<String, Machine>,
    pub(super) heard: Heard,
    begun: Instant,
}

impl World {
    pub(super) fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime of one thread");
        let begun = runtime.block_on(async { Instant::now() });
        let (network, heard) = (Network::new(), Heard::default());
        Self { runtime, network, machines: BTreeMap::new(), heard, begun }
    }

    /// Makes so many machines, which are a group from the beginning, and starts them. Each
    /// writes a checkpoint after so many bytes.
    pub(super) fn found(&mut self, machines: usize, ring: usize, checkpoint_bytes: usize) {
        let names: Vec<_> = (1..=machines).map(|number| format!("n{number}")).collect();
        for name in &names {
            let (log, dir) = (Disk::with(vec![group(&names)]), TempDir::new().unwrap());
            let (seen, name) = (RaftIndex(0), name.clone());
            let machine = Machine { name, log, seen, dir, ring, checkpoint_bytes, running: None };
            self.machines.insert(machine.name.clone(), machine);
        }
        for name in &names {
            self.start(name);
        }
        self.pass(ELECTION);
        for machine in self.machines.values_mut() {
            machine.seen = machine.log.since(machine.seen).last().unwrap().id.index.next();
        }
    }

    /// Writes into the log who the machines are, at once, for the group is what the log says.
    pub(super) fn introduce(&self) {
        let mut commands = vec![Command::Sync { cluster: CLUSTER, format: LogFormat::NEWEST }];
        commands.extend(self.machines.values().map(|machine| Command::Join(machine.described())));
        let node = self.machines["n1"].node().clone();
        let placed = self.run(async move { node.inner.proposer.propose_group(commands).await });
        placed.expect("the first machine leads");
    }

    /// Starts a machine from its log alone.
    pub(super) fn start(&mut self, name: &str) {
        let machine = &self.machines[name];
        let begun = self.begun;
        let since_begun = move || u64::try_from(begun.elapsed().as_nanos()).expect("not yet");
        let parts = Parts {
            oneself: Oneself {
                cluster: CLUSTER,
                machine: machine.described(),
                reads: LogFormat::NEWEST,
                founds: false,
            },
            surroundings: Surroundings {
                network: Arc::new(self.network.of(name)),
                hints: Vec::new(),
                timing: Timing { seed: Some(SEED), ..Timing::default() },
                clock: Clock::new(move || LogTime(BEGIN.0 + since_begun())),
            },
            stored: Stored {
                log: machine.log.clone(),
                checkpoints: machine.checkpoints(),
                disk: DiskRoom::default(),
            },
            start: StartPoint {
                checkpoint: Checkpoint::empty(State::new(machine.ring)),
                file: None,
                behind: None,
            },
            backfill: BackfillSource(Arc::new(|| None)),
            checkpoint_bytes: machine.checkpoint_bytes,
            events: None,
            ring_capacity: machine.ring,
        };
        let running = self.run(assemble::start(parts)).unwrap();
        self.network.runs(name, running.0.clone());
        self.machines.get_mut(name).unwrap().running = Some(running);
    }

    /// Stops a machine. What it has on its disk stays.
    pub(super) fn stop(&mut self, name: &str) {
        let (node, consensus) = self.machines.get_mut(name).unwrap().running.take().unwrap();
        self.network.stops(name);
        self.run(async move {
            node.close();
            consensus.shutdown().await;
        });
    }

    /// Lets time pass.
    pub(super) fn pass(&self, time: Duration) {
        self.run(async { tokio::time::sleep(time).await });
    }

    /// Runs something, then the machines until they have nothing left to do.
    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            let done = work.await;
            rest().await;
            done
        })
    }

    /// Returns what comes of something, if it needs no time.
    pub(super) fn at_once<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                done = work => Some(done),
                () = rest() => None,
            }
        })
    }

    /// Lets something go on beside the script.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        // From within, so that what is spawned begins in this order.
        self.runtime.block_on(async { tokio::spawn(work).abort_handle() })
    }

    /// Returns what was heard since this was asked last.
    pub(super) fn heard(&self) -> String {
        self.heard.take()
    }

    /// Returns how a machine stands to the others.
    pub(super) fn consensus(&self, name: &str) -> Option<&Consensus> {
        self.machines[name].running.as_ref().map(|(_, consensus)| consensus)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let names: Vec<_> = self.machines.keys().cloned().collect();
        for name in names {
            if self.consensus(&name).is_some() {
                self.machines[&name].log.resume();
                self.stop(&name);
            }
        }
    }
}

/// Waits until nobody has anything left to do that needs no time.
async fn rest() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

/// The first entry of a log: who the group is.
fn group(names: &[String]) -> Arc<Entry> {
    let voters = vec![names.iter().map(|name| id(name)).collect::<BTreeSet<_>>()];
    let nodes = names.iter().map(|name| (id(name), Arc::from(&**name))).collect();
    let payload = Payload::Membership(Membership { voters, nodes });
    Arc::new(Entry { id: LogId::default(), payload })
}

/// Returns the id of a machine, which is in its name.
pub(super) fn id(name: &str) -> NodeId {
    NodeId(name.trim_start_matches('n').parse().expect("n and a number"))
}
