//! Members: machines join and leave through the log, and the Raft group follows.
//!
//! ```text
//! join, leave ─▶ log ─▶ machines, by name ─┐
//!                                          ├─ the leader compares, and makes them agree
//! Raft group: voters, learners ────────────┘  one step at a time, whoever leads
//! ```
//!
//! What the log says is wanted, the group is brought to (`reconcile`). So a join or a
//! leave that was cut short by a crash is finished by the next leader, from whatever was
//! left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_log::{Command, LogFormat, Machine, NodeId, Term};
use etcd_projections::{Machines, Rejection, What};
use futures_util::future::join_all;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

use super::announcement::Announcement;
use super::error::{Unavailable, WriteError};
use super::{Freshness, Node};
use crate::peers::{CallError, Refusal, Request, Response, Status};
use crate::state::published::Published;

/// How often the leader looks whether the group is what the log says.
pub(super) const INTERVAL: Duration = Duration::from_millis(50);

/// How long a machine that was removed is told so, and how often.
const FAREWELLS: (u32, Duration) = (60, Duration::from_millis(500));

/// How long another machine may take to say how it stands.
pub(super) const STANDING_LIMIT: Duration = Duration::from_secs(1);

/// How long a leader may take to write down where another machine is.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(3);

/// The turn to change the members.
pub(super) struct ChangePermit<'n> {
    _alone: MutexGuard<'n, ()>,
    /// The term in which this machine leads.
    pub(super) term: Term,
    /// The machines of the cluster, as of now.
    pub(super) machines: Machines,
    /// What the log may say, as of now.
    pub(super) format: LogFormat,
}

/// Why a machine may not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Another machine has its name.
    #[error(
        "there is a machine {name} already, with another id: remove it first, or take another name"
    )]
    NameTaken {
        /// The name.
        name: Arc<str>,
    },
    /// Its id is that of another machine.
    #[error("its id is that of machine {known}")]
    OtherName {
        /// The name under which it is known.
        known: Arc<str>,
    },
    /// It cannot read the log.
    #[error("this cluster's log is of format {format}, machine {name} reads format {reads}")]
    Format {
        /// Its name.
        name: Arc<str>,
        /// The newest format that it reads.
        reads: LogFormat,
        /// The format in force.
        format: LogFormat,
    },
    /// It is known to nobody, and says that it has moved.
    #[error("machine {0} is no member, or no longer")]
    Removed(Arc<str>),
    /// It was refused by the log.
    #[error("machine {0} cannot be described in the log")]
    Rejected(Arc<str>),
    /// It was refused by the leader.
    #[error("{0}")]
    Refused(String),
    /// It could not be written into the log.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a machine was not removed.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    /// There is no such machine.
    #[error("there is no machine {0}")]
    NotFound(Arc<str>),
    /// There would be none left.
    #[error("the last machine cannot be removed")]
    Last,
    /// The others would not be a majority of themselves.
    #[error("without machine {0} no majority would be left: bring back another one first")]
    NoMajority(Arc<str>),
    /// The leader refused.
    #[error("{0}")]
    Refused(String),
    /// It could not be written into the log.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<Unavailable> for JoinError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Write(unavailable.into())
    }
}

impl From<Unavailable> for LeaveError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Write(unavailable.into())
    }
}

/// A machine, and how it stands.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// The machine.
    pub machine: Machine,
    /// Whether it has a vote.
    pub votes: bool,
    /// How it stands; nothing, if it does not answer.
    pub standing: Option<Status>,
}

impl Node {
    /// Writes a machine into the log, unless it is there already.
    /// Whoever cannot read the log would stop at its next command.
    pub(super) async fn join(
        &self,
        machine: Machine,
        reads: LogFormat,
        limit: Duration,
    ) -> Result<(), JoinError> {
        let deadline = Instant::now() + limit;
        let turn = self.turn_to_change(deadline).await?;
        if reads < turn.format {
            let (name, format) = (machine.name, turn.format);
            return Err(JoinError::Format { name, reads, format });
        }
        if turn.machines.iter().next().is_none() {
            // The founder comes first.
            return Err(Unavailable::NoLeader.into());
        }
        let is_known = |known: &&Machine| known.node == machine.node && known.name != machine.name;
        if let Some(known) = turn.machines.iter().find(is_known) {
            return Err(JoinError::OtherName { known: Arc::clone(&known.name) });
        }
        match turn.machines.get(&machine.name) {
            Some(known) if *known == machine => return Ok(()),
            // One that never had a vote may have been a try that was given up.
            Some(known) if known.node != machine.node && self.votes(known.node) => {
                return Err(JoinError::NameTaken { name: Arc::clone(&machine.name) });
            }
            Some(_) | None => {}
        }
        self.write_member(&turn, machine, deadline).await
    }

    /// Writes into the log where a member is reached by now. Whoever has left does not
    /// come back by saying so.
    pub(super) async fn move_member(
        &self,
        machine: Machine,
        limit: Duration,
    ) -> Result<(), JoinError> {
        let deadline = Instant::now() + limit;
        let turn = self.turn_to_change(deadline).await?;
        let me = self.inner.machine.node;
        let may_introduce_itself = || {
            // A founder, or one that was made a cluster of its own.
            let membership = self.inner.consensus.membership();
            machine.node == me && membership.nodes.keys().all(|node| *node == me)
        };
        match turn.machines.iter().find(|known| known.node == machine.node) {
            Some(known) if *known == machine => return Ok(()),
            Some(known) if known.name != machine.name => {
                return Err(JoinError::Rejected(machine.name));
            }
            None if !may_introduce_itself() => return Err(JoinError::Removed(machine.name)),
            Some(_) | None => {}
        }
        self.write_member(&turn, machine, deadline).await
    }

    async fn write_member(
        &self,
        turn: &ChangePermit<'_>,
        machine: Machine,
        deadline: Instant,
    ) -> Result<(), JoinError> {
        let name = Arc::clone(&machine.name);
        let left = deadline.saturating_duration_since(Instant::now());
        let join = Command::Join(machine);
        let outcome = self.inner.proposer.propose_in(turn.term, join, left).await?;
        match outcome.what {
            What::Rejection(_) => Err(JoinError::Rejected(name)),
            What::Event(_) | What::Tick => Ok(()),
        }
    }

    /// Has this machine's addresses written into the log, by whoever leads: until they are,
    /// nobody can rely on it.
    pub(super) async fn announce(&self) -> Result<(), JoinError> {
        let (consensus, machine) = (&self.inner.consensus, self.inner.machine.clone());
        let announced = match consensus.leader() {
            Some(leader) if leader != consensus.me() => {
                let request = Request::Move { machine };
                let asking = self.inner.peers.ask(leader, &request, &[], ANNOUNCE_LIMIT);
                match asking.await {
                    Ok(_) => Ok(()),
                    Err(CallError::Refused { refusal: Refusal::Removed, .. }) => {
                        Err(JoinError::Removed(Arc::clone(&self.inner.machine.name)))
                    }
                    Err(CallError::Refused {
                        refusal: Refusal::RunsElsewhere(address), ..
                    }) => {
                        // Two would share one vote: the one that was there first goes on.
                        let why = format!("another process of it runs at {address}");
                        self.goes_on(&Announcement::Announcing, &Announcement::Elsewhere(address));
                        Err(JoinError::Refused(why))
                    }
                    Err(CallError::Refused {
                        refusal: Refusal::Impossible(why) | Refusal::NotBelieved(why),
                        ..
                    }) => Err(JoinError::Refused(why)),
                    // It is asked again: to say it twice does no harm.
                    Err(_) => Err(Unavailable::NoLeader.into()),
                }
            }
            Some(_) | None => self.move_member(machine, ANNOUNCE_LIMIT).await,
        };
        match announced {
            Err(JoinError::Removed(_)) => {
                consensus.removed();
                Ok(())
            }
            announced => announced,
        }
    }

    /// Waits until nobody else changes the members, and returns who they are.
    ///
    /// What is proposed in the turn counts in its term alone: another leader may have let
    /// somebody go meanwhile, and does not wait for this one. As long as this machine has
    /// led without a break, nobody else has.
    pub(super) async fn turn_to_change(
        &self,
        deadline: Instant,
    ) -> Result<ChangePermit<'_>, Unavailable> {
        let turn = self.inner.changing_members.lock();
        let turn = tokio::time::timeout_at(deadline, turn).await;
        let alone = turn.map_err(|_| Unavailable::NoLeader)?;
        let term = self.inner.consensus.leads_in().ok_or(Unavailable::NoLeader)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let published = self.read(Freshness::Linearizable, left).await?;
        let (machines, format) = (published.state.machines().clone(), published.state.format());
        Ok(ChangePermit { _alone: alone, term, machines, format })
    }

    fn votes(&self, node: NodeId) -> bool {
        self.inner.consensus.membership().voters.iter().any(|voters| voters.contains(&node))
    }

    /// Removes a machine from the cluster, whichever machine leads.
    ///
    /// # Errors
    ///
    /// If it may not be removed, or the log cannot be written within `limit`.
    pub async fn leave(&self, name: &Arc<str>, limit: Duration) -> Result<(), LeaveError> {
        let consensus = &self.inner.consensus;
        match consensus.leader() {
            Some(leader) if leader != consensus.me() => {
                let request = Request::Leave { name: Arc::clone(name) };
                let asked = self.inner.peers.ask(leader, &request, &[], limit).await;
                asked.map(drop).map_err(|error| match error {
                    CallError::Refused { refusal: Refusal::NotFound, .. } => {
                        LeaveError::NotFound(Arc::clone(name))
                    }
                    CallError::Refused { refusal: Refusal::Impossible(why), .. } => {
                        LeaveError::Refused(why)
                    }
                    error if error.is_without_effect() => Unavailable::NoLeader.into(),
                    _ => LeaveError::Write(WriteError::Unknown),
                })
            }
            Some(_) | None => self.leave_as_leader(name, limit).await,
        }
    }

    /// Removes a machine, and waits until the group has followed.
    pub(super) async fn leave_as_leader(
        &self,
        name: &Arc<str>,
        limit: Duration,
    ) -> Result<(), LeaveError> {
        let deadline = Instant::now() + limit;
        let left = || deadline.saturating_duration_since(Instant::now());
        let turn = self.turn_to_change(deadline).await?;
        let node = self.may_leave(name)?;
        let command = Command::Leave { name: Arc::clone(name) };
        let outcome = self.inner.proposer.propose_in(turn.term, command, left()).await?;
        if let What::Rejection(Rejection::KeyNotFound) = outcome.what {
            return Err(LeaveError::NotFound(Arc::clone(name)));
        }
        let followed = async {
            while self.inner.consensus.membership().nodes.contains_key(&node) {
                tokio::time::sleep(INTERVAL).await;
            }
        };
        // It is in the log: the group follows, if later. A machine that has never got into
        // the group hears nothing of it otherwise.
        if tokio::time::timeout(left(), followed).await.is_ok() {
            self.say_farewell(node);
        }
        Ok(())
    }

    /// Returns which machine is to leave, if it may.
    fn may_leave(&self, name: &Arc<str>) -> Result<NodeId, LeaveError> {
        let machines = self.inner.published.machines();
        let machine = machines.get(name).ok_or_else(|| LeaveError::NotFound(Arc::clone(name)))?;
        if machines.iter().count() == 1 {
            return Err(LeaveError::Last);
        }
        let consensus = &self.inner.consensus;
        if !consensus.leads() {
            // Only a leader hears whether the others are there.
            return Err(Unavailable::NoLeader.into());
        }
        if self.votes(machine.node) && !consensus.has_quorum_without(machine.node) {
            return Err(LeaveError::NoMajority(Arc::clone(name)));
        }
        Ok(machine.node)
    }

    /// Lists the machines of the cluster, and how each stands.
    pub async fn list_machines(&self) -> Vec<MemberStatus> {
        let machines = self.inner.published.machines();
        let asking = machines.iter().map(|machine| async {
            let standing = self.ask_standing(machine.node).await;
            MemberStatus { machine: machine.clone(), votes: self.votes(machine.node), standing }
        });
        join_all(asking).await
    }

    async fn ask_standing(&self, node: NodeId) -> Option<Status> {
        if node == self.inner.consensus.me() {
            return Some(self.standing());
        }
        let asked = self.inner.peers.ask(node, &Request::Status, &[], STANDING_LIMIT).await;
        match asked {
            Ok(Response::Status(standing)) => Some(standing),
            Ok(_) | Err(_) => None,
        }
    }

    /// Keeps the address book as the log has it: who moved says so there.
    pub(super) async fn follow_addresses(self) {
        let mut known = BTreeMap::new();
        loop {
            let machines = self.inner.published.machines();
            for machine in machines.iter() {
                self.inner.peers.note_name(machine.node, &machine.name);
                let before = known.insert(machine.node, Arc::clone(&machine.peer_url));
                if before.as_ref() != Some(&machine.peer_url) {
                    self.inner.peers.learn(machine.node, machine.peer_address());
                }
            }
            let changed = |next: &Published| !same(next.state.machines(), &machines);
            if self.inner.published.wait_for(changed).await.is_none() {
                return;
            }
        }
    }

    /// Tells a machine that it has been removed: nobody else does.
    pub(super) fn say_farewell(&self, node: NodeId) {
        if node == self.inner.consensus.me() {
            self.inner.consensus.removed();
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            let (times, pause) = FAREWELLS;
            for _ in 0..times {
                let saying = this.inner.peers.ask(node, &Request::Removed, &[], STANDING_LIMIT);
                if this.is_member(node) || saying.await.is_ok() {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
        });
    }
}

fn same(left: &Machines, right: &Machines) -> bool {
    left.iter().eq(right.iter())
}
