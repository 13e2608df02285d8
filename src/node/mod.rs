//! A machine, and the few things that it can be asked: propose, read, watch.
//!
//! What clients speak to (`api`) knows this handle and nothing behind it.

mod acquaintance;
mod answers;
pub mod assemble;
mod audience;
mod backfill;
mod barrier;
mod elsewhere;
mod farewell;
mod history;
mod hold;
mod log_clock;
mod members;
mod moved;
mod news;
mod proposer;
mod reconcile;
mod tell;
mod twin;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{ClusterId, Command, Index, KeyPath, LogTime, Machine};
use etcd_projections::Outcome;
use tokio::sync::{Mutex, watch as latest};
use tokio::time::Instant;

use crate::consensus::{Consensus, Role};
use crate::peers::Peers;
use crate::state::published::{Published, Reader};
use crate::state::recent_outcomes::Outcomes;
use crate::storage::checkpoint::CheckpointStore;
use crate::storage::disk_space::DiskRoom;
use crate::storage::log_stream::LogSource;
use crate::util::clock::Clock;
use crate::util::error_chain::OneLine;
use crate::util::rate_limit::Seldom;
use acquaintance::Acquaintance;
use barrier::Barrier;
use elsewhere::Elsewhere;
use history::History;
use hold::Hold;
use moved::LookedFor;
use proposer::{Means, Proposer};
use twin::Announcement;

pub use backfill::{Fill, FillHistory};
pub(crate) use log_clock::JUMP;
pub use log_clock::LogClock;
pub use members::{JoinError, LeaveError, Listed, address_of};
pub use watch::{Cursor, Seen, Start, Watch, WatchError};

/// How long one try of a machine to introduce itself may take.
const INTRODUCTION_LIMIT: Duration = Duration::from_secs(3);

/// How often a machine looks whether it has got its vote.
const VOTE_INTERVAL: Duration = Duration::from_millis(10);

/// How often a machine says that it waits for others.
const WAITING_WORD: Duration = Duration::from_secs(3);

/// How long a machine waits before it says again what the log has refused: each time is a
/// command there.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Why there is no answer to a request that itself is fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// No machine leads, as far as this one knows.
    #[error("no leader")]
    NoLeader,
    /// The leader could not reach a majority in time.
    #[error("no majority")]
    NoMajority,
    /// This machine has not applied the command that a read wants to see.
    #[error("index not reached")]
    NotReached,
}

/// Why a write was not answered with an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It was not proposed, and will not be.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The disk is short of room: it was not proposed, and will not be.
    #[error("the disk is nearly full")]
    DiskFull,
    /// It was proposed, and what came of it is not known.
    #[error("the outcome is unknown")]
    Unknown,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It sees every write that was answered before it was asked for.
    Linearizable,
    /// It sees what this machine has applied, and nothing from before what it had
    /// acknowledged when it was stopped last, unless the others are silent.
    Stale,
    /// It sees this command, at least.
    AtLeast(Index),
}

/// What a machine is made of.
#[derive(Debug)]
pub struct NodeOptions {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// How the others and the clients know it.
    pub machine: Machine,
    /// The engine.
    pub consensus: Consensus,
    /// The way to the other machines.
    pub peers: Peers,
    /// Where other machines may be found that have moved.
    pub hints: Vec<String>,
    /// What it has applied.
    pub published: Reader,
    /// What came of what it has applied last.
    pub outcomes: Outcomes,
    /// The time.
    pub clock: Clock,
    /// The time for the log.
    pub log_clock: LogClock,
    /// The room on its disk.
    pub disk: DiskRoom,
    /// Its log, for those who watch from an old index.
    pub log: LogSource,
    /// What fills in history that is missing from it.
    pub fill: Fill,
    /// Its checkpoints, for the same.
    pub checkpoints: CheckpointStore,
    /// How many events the ring holds.
    pub ring_capacity: usize,
}

/// A machine. Cloning gives another handle on the same one.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cluster: ClusterId,
    machine: Machine,
    consensus: Consensus,
    peers: Peers,
    hints: Vec<String>,
    acquaintance: Acquaintance,
    looked_for: LookedFor,
    published: Reader,
    clock: Clock,
    log_clock: LogClock,
    disk: DiskRoom,
    proposer: Proposer,
    barrier: Barrier,
    hold: Hold,
    history: History,
    /// Held by the one change of the members that is under way.
    changing_members: Mutex<()>,
    /// Held while it is found out whether this machine was removed.
    farewell: Mutex<()>,
    skew_told: Seldom,
    /// How far this process has come with saying where the machine is.
    announcement: latest::Sender<Announcement>,
    closing: latest::Sender<bool>,
}

impl Node {
    /// Starts the tasks of a machine.
    pub fn start(options: NodeOptions) -> Self {
        let NodeOptions { cluster, machine, consensus, peers, published, clock, disk, .. } =
            options;
        let log_clock = options.log_clock;
        let proposer = Proposer::start(Means {
            consensus: consensus.clone(),
            peers: peers.clone(),
            published: published.clone(),
            outcomes: options.outcomes,
            clock: log_clock.clone(),
        });
        let barrier = Barrier::start(consensus.clone(), peers.clone(), published.clone());
        let hold = Hold::start(consensus.clone(), barrier.clone());
        let elsewhere =
            Elsewhere { me: machine.node, peers: peers.clone(), published: published.clone() };
        let history = History::new(
            options.log,
            options.checkpoints,
            published.clone(),
            elsewhere,
            options.ring_capacity,
        );
        let (closing, _) = latest::channel(false);
        let inner = Inner {
            cluster,
            machine,
            consensus,
            peers,
            hints: options.hints,
            acquaintance: Acquaintance::default(),
            looked_for: LookedFor::default(),
            published,
            clock,
            log_clock,
            disk,
            proposer,
            barrier,
            hold,
            history,
            changing_members: Mutex::default(),
            farewell: Mutex::default(),
            skew_told: Seldom::default(),
            announcement: latest::channel(Announcement::Unannounced).0,
            closing,
        };
        let node = Self { inner: Arc::new(inner) };
        tokio::spawn(node.clone().follow_addresses());
        tokio::spawn(node.clone().reconcile());
        tokio::spawn(node.clone().tell_news());
        tokio::spawn(node.clone().backfill(options.fill));
        node
    }

    /// Makes this machine known to the cluster, unless it is already: the first
    /// commands of a fresh cluster are its `sync` and the `join` of its founder, and a
    /// machine that has moved says where it is. One that others do not know any longer
    /// was removed. Tries until it has succeeded.
    ///
    /// The few bytes that this takes may come from the disk's reserve: a machine
    /// that cannot be found could not even be read from.
    pub async fn introduce(&self) {
        tokio::spawn(self.clone().look_out());
        let mut told = Instant::now();
        while let Err(error) = self.try_to_introduce().await {
            if told.elapsed() > WAITING_WORD {
                told = Instant::now();
                tracing::info!("waiting for the other machines: {}", OneLine(&error));
            }
            let is_refused = matches!(error, JoinError::Rejected(_) | JoinError::Refused(_));
            tokio::time::sleep(if is_refused { REFUSED_PAUSE } else { proposer::RETRY }).await;
        }
        // Unless it did not have to be said.
        self.goes_on(&Announcement::Unannounced, &Announcement::Announced);
        self.goes_on(&Announcement::Announcing, &Announcement::Announced);
    }

    async fn try_to_introduce(&self) -> Result<(), JoinError> {
        let published = self.read(Freshness::Linearizable, INTRODUCTION_LIMIT).await?;
        if published.state.position().index == Index(0) {
            let sync = Command::Sync { cluster: self.inner.cluster };
            self.inner.proposer.propose(sync, INTRODUCTION_LIMIT).await?;
        }
        let machine = &self.inner.machine;
        let machines = published.state.machines().clone();
        drop(published);
        let known = machines.iter().find(|known| known.node == machine.node);
        let consensus = &self.inner.consensus;
        let is_alone = consensus.membership().nodes.keys().all(|node| *node == machine.node);
        match known {
            Some(known) if known == machine => return Ok(()),
            None if machines.iter().next().is_some() && !is_alone => {
                consensus.removed();
                return Ok(());
            }
            Some(known) if known.peer_url != machine.peer_url => {
                self.look_for_twin_at(address_of(&known.peer_url)).await;
            }
            Some(_) | None => {}
        }
        self.goes_on(&Announcement::Unannounced, &Announcement::Announcing);
        if *self.inner.announcement.borrow() != Announcement::Announcing {
            // It stops.
            return std::future::pending().await;
        }
        self.announce().await?;
        // From here on this machine knows it, too.
        self.read(Freshness::Linearizable, INTRODUCTION_LIMIT).await?;
        Ok(())
    }

    /// Proposes a command, and returns what came of it once it is committed and
    /// applied on this machine.
    ///
    /// # Errors
    ///
    /// If that is not so within `limit`. Whether the command may still happen is
    /// in the error.
    pub async fn propose(&self, command: Command, limit: Duration) -> Result<Outcome, WriteError> {
        if self.inner.disk.is_short() {
            return Err(WriteError::DiskFull);
        }
        self.inner.proposer.propose(command, limit).await
    }

    /// Returns a state that is fresh enough, waiting for it up to `limit`.
    ///
    /// # Errors
    ///
    /// If there is none in time.
    pub async fn read(
        &self,
        freshness: Freshness,
        limit: Duration,
    ) -> Result<Arc<Published>, Unavailable> {
        match freshness {
            Freshness::Stale => {
                self.inner.hold.passed(limit).await?;
                Ok(self.now())
            }
            Freshness::Linearizable => {
                self.inner.barrier.pass(limit).await?;
                Ok(self.now())
            }
            Freshness::AtLeast(index) => {
                let deadline = Instant::now() + limit;
                self.inner.hold.passed(limit).await?;
                let reached = |published: &Published| published.state.position().index >= index;
                let waiting = self.inner.published.wait_for(reached);
                let reached = tokio::time::timeout_at(deadline, waiting).await;
                reached.ok().flatten().ok_or(Unavailable::NotReached)
            }
        }
    }

    /// Waits until this machine has its vote: whoever counts on it may lose another one.
    pub async fn until_it_votes(&self) {
        while !self.has_vote() {
            tokio::time::sleep(VOTE_INTERVAL).await;
        }
    }

    /// Returns whether this machine has its vote, for good.
    pub fn has_vote(&self) -> bool {
        self.inner.consensus.has_vote_for_good()
    }

    /// Watches a prefix, once this machine shows what it has. "Now" is not before what it
    /// had acknowledged when it was stopped last.
    ///
    /// # Errors
    ///
    /// If it does not within `limit`.
    pub async fn watch(
        &self,
        prefix: KeyPath,
        start: Start,
        limit: Duration,
    ) -> Result<Watch, Unavailable> {
        self.inner.hold.passed(limit).await?;
        let Inner { published, history, .. } = &*self.inner;
        Ok(Watch::new(prefix, start, published.clone(), history.clone(), self.closing()))
    }

    /// Returns the state as this machine has applied it.
    pub fn now(&self) -> Arc<Published> {
        self.inner.published.now()
    }

    /// Returns the cluster that the machine belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.inner.cluster
    }

    /// Returns the time at which a state is looked at: by this machine's clock,
    /// but not before the state's own.
    pub fn time(&self, published: &Published) -> LogTime {
        self.inner.log_clock.now(published.state.position().time)
    }

    /// Returns the machine that leads, if one is known.
    pub fn leader(&self) -> Option<Machine> {
        let leader = self.inner.consensus.leader()?;
        let now = self.now();
        now.state.machines().iter().find(|machine| machine.node == leader).cloned()
    }

    /// Ends all watches, politely: each gets to know that there will be no more.
    pub fn close(&self) {
        self.inner.closing.send_replace(true);
    }

    /// Returns what tells when the machine closes.
    pub fn closing(&self) -> Closing {
        Closing { closing: self.inner.closing.subscribe() }
    }
}

/// Tells when the machine closes.
#[derive(Clone, Debug)]
pub struct Closing {
    closing: latest::Receiver<bool>,
}

impl Closing {
    /// Returns whether the machine is closing.
    pub fn has_begun(&self) -> bool {
        *self.closing.borrow()
    }

    /// Waits until the machine closes.
    pub async fn begun(&mut self) {
        // A machine that is gone has closed, too.
        let _closed = self.closing.wait_for(|closing| *closing).await.is_ok();
    }
}

/// Says what is missing, after a time limit has passed.
fn unavailable(consensus: &Consensus) -> Unavailable {
    match consensus.role() {
        Role::Leader | Role::Cut | Role::Follower(_) => Unavailable::NoMajority,
        Role::Lost => Unavailable::NoLeader,
    }
}
