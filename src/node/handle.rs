//! The handle: the parts of a machine, and what it can be asked.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{
    Asked, ClusterId, Command, Index, LogFormat, LogStorage, LogTime, Machine, RequestId,
};
use etcd_projections::Outcome;
use tokio::sync::{Mutex, watch as latest};
use tokio::time::Instant;

use super::acquaintance::Acquaintance;
use super::announcement::Announcement;
use super::closing::Closing;
use super::error::{Unavailable, WriteError};
use super::history::History;
use super::history::remote::RemoteHistory;
use super::hold::Hold;
use super::looked_for::LookedFor;
use super::past::PastViews;
use super::proposer::{Proposer, ProposerContext};
use super::read_barrier::Barrier;
use super::view::Places;
use super::watch::{Start, Watch};
use crate::consensus::{Consensus, Oneself, Surroundings};
use crate::peers::Peers;
use crate::state::filter::Filter;
use crate::state::log_clock::LogClock;
use crate::state::published::{Published, StateReader};
use crate::state::recent_outcomes::RecentOutcomes;
use crate::storage::backfill::BackfillSource;
use crate::storage::disk_space::DiskRoom;
use crate::storage::events::EventStore;
use crate::storage::log_stream::LogSource;
use crate::storage::stored::Stored;
use crate::util::clock::Clock;
use crate::util::rate_limit::RateLimit;

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
pub struct NodeOptions<L> {
    /// Who it is.
    pub oneself: Oneself,
    /// What is around it.
    pub surroundings: Surroundings,
    /// Its log and its checkpoints, for those who watch from an old index.
    pub stored: Stored<L>,
    /// The engine.
    pub consensus: Consensus,
    /// The way to the other machines.
    pub peers: Peers,
    /// What it has applied.
    pub published: StateReader,
    /// What came of what it has applied last.
    pub outcomes: RecentOutcomes,
    /// The time for the log.
    pub log_clock: LogClock,
    /// What fills in history that is missing from it.
    pub backfill: BackfillSource,
    /// What it has stored of what happened, for the same; none, if it stores nothing.
    pub events: Option<EventStore>,
    /// How many events the ring holds.
    pub ring_capacity: usize,
}

/// A machine. Cloning gives another handle on the same one.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) cluster: ClusterId,
    pub(super) machine: Machine,
    pub(super) reads: LogFormat,
    pub(super) consensus: Consensus,
    pub(super) peers: Peers,
    pub(super) hints: Vec<String>,
    pub(super) acquaintance: Acquaintance,
    pub(super) looked_for: LookedFor,
    pub(super) published: StateReader,
    pub(super) clock: Clock,
    pub(super) log_clock: LogClock,
    pub(super) disk: DiskRoom,
    pub(super) proposer: Proposer,
    pub(super) barrier: Barrier,
    pub(super) hold: Hold,
    pub(super) history: Arc<History>,
    pub(super) views: Places,
    pub(super) past: PastViews,
    /// Held by the one change of the members that is under way.
    pub(super) changing_members: Mutex<()>,
    /// Held while it is found out whether this machine was removed.
    pub(super) farewell: Mutex<()>,
    pub(super) skew_told: RateLimit,
    /// How far this process has come with saying where the machine is.
    pub(super) announcement: latest::Sender<Announcement>,
    pub(super) closing: latest::Sender<bool>,
}

impl Node {
    /// Starts the tasks of a machine.
    pub fn start<L: LogStorage>(options: NodeOptions<L>) -> Self {
        let NodeOptions { consensus, peers, published, .. } = options;
        let Oneself { cluster, machine, reads, .. } = options.oneself;
        let Surroundings { hints, clock, .. } = options.surroundings;
        let Stored { log, checkpoints, disk } = options.stored;
        let log_clock = options.log_clock;
        let proposer = Proposer::start(ProposerContext {
            consensus: consensus.clone(),
            peers: peers.clone(),
            published: published.clone(),
            outcomes: options.outcomes,
            clock: log_clock.clone(),
        });
        let barrier = Barrier::start(consensus.clone(), peers.clone(), published.clone());
        let hold = Hold::start(consensus.clone(), barrier.clone());
        let remote = RemoteHistory {
            me: machine.node,
            peers: peers.clone(),
            published: published.clone(),
            caught: Arc::default(),
        };
        let history = History::new(
            LogSource::new(log),
            checkpoints,
            options.events,
            published.clone(),
            remote,
            options.ring_capacity,
        );
        let (closing, _) = latest::channel(false);
        let inner = Inner {
            cluster,
            machine,
            reads,
            consensus,
            peers,
            hints,
            acquaintance: Acquaintance::default(),
            looked_for: LookedFor::default(),
            published,
            clock,
            log_clock,
            disk,
            proposer,
            barrier,
            hold,
            history: Arc::new(history),
            views: Places::default(),
            past: PastViews::default(),
            changing_members: Mutex::default(),
            farewell: Mutex::default(),
            skew_told: RateLimit::default(),
            announcement: latest::channel(Announcement::Unannounced).0,
            closing,
        };
        let node = Self { inner: Arc::new(inner) };
        tokio::spawn(node.clone().follow_addresses());
        tokio::spawn(node.clone().reconcile());
        tokio::spawn(node.clone().upgrade());
        tokio::spawn(node.clone().tell_news());
        tokio::spawn(node.clone().backfill(options.backfill));
        tokio::spawn(node.clone().fill_gaps());
        node
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
        let deadline = Instant::now() + limit;
        self.until_it_may_say(command.format(), deadline).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        self.inner.proposer.propose(command, left).await
    }

    /// Returns a command as it is asked for under an id, from here on.
    ///
    /// # Panics
    ///
    /// If it does not say all that a client has said: see [`Asked::new`].
    pub fn once(&self, id: RequestId, command: Command) -> Command {
        Command::As(Asked::new(id, self.inner.published.index(), command))
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

    /// Watches for what a filter passes, once this machine shows what it has. "Now" is not
    /// before what it had acknowledged when it was stopped last.
    ///
    /// # Errors
    ///
    /// If it does not within `limit`.
    pub async fn watch(
        &self,
        filter: Filter,
        start: Start,
        limit: Duration,
    ) -> Result<Watch, Unavailable> {
        self.inner.hold.passed(limit).await?;
        let Inner { published, history, .. } = &*self.inner;
        Ok(Watch::new(filter, start, published.clone(), Arc::clone(history), self.closing()))
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
