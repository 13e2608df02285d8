//! What this machine answers to the others.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{ClusterId, LogFormat, LogTime, Machine, NodeId};

use super::members::{JoinError, LeaveError};
use super::moved::Found;
use super::proposer;
use super::{Node, WriteError};
use crate::consensus::{CheckpointHeader, Role};
use crate::peers::{Handler, Incoming, ProposalError, Refusal, Request, Response, Status};

/// From how far ahead of this machine's clock a leader's is worth a word.
const SKEW: Duration = Duration::from_millis(500);

/// How long a leader may take to prove that it leads.
pub(super) const BARRIER_LIMIT: Duration = Duration::from_millis(500);

/// How long a request of another machine for a change of the members may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

impl Handler for Node {
    fn identity(&self) -> (NodeId, ClusterId) {
        (self.inner.machine.node, self.inner.cluster)
    }

    fn listens_to(&self, node: NodeId) -> bool {
        self.heeds(node)
    }

    async fn answer(
        &self,
        request: Request,
        mut incoming: Incoming<'_>,
    ) -> Result<Response, Refusal> {
        let consensus = &self.inner.consensus;
        if !request.is_for_non_members() && !self.heeds(incoming.from) {
            return Err(Refusal::Stranger);
        }
        match request {
            Request::Append { vote, previous, committed, time } => {
                self.compare_clocks(vote.node, time);
                let (from, entries) = (incoming.from, incoming.behind.clone());
                incoming.busy(consensus.append(from, vote, previous, committed, &entries)).await
            }
            Request::Pulse { vote, time } => {
                self.compare_clocks(vote.node, time);
                consensus.pulse(incoming.from, vote)
            }
            Request::Vote { vote, last } => consensus.vote(incoming.from, vote, last).await,
            Request::PreVote { last, address } => {
                self.pre_vote(incoming.from, last, &address).await
            }
            Request::Checkpoint { vote, applied, index, event, bytes } => {
                let offer = CheckpointHeader { applied, index, event, bytes };
                consensus.install(&mut incoming, vote, offer).await
            }
            Request::Propose { commands } => self.propose_for_another(commands).await,
            Request::Barrier => self.pass_barrier().await,
            Request::Join { machine, log_format } => self.let_in(machine, log_format).await,
            Request::Leave { name } => self.let_go(&name).await,
            Request::Move { machine } => self.let_move(incoming.from, machine).await,
            Request::Removed => self.hear_farewell().await,
            Request::Knows { node } => Ok(self.tell_of(incoming.from, node).await),
            Request::Process => Ok(Response::Process { number: self.inner.peers.process() }),
            Request::LogFormat => Ok(Response::LogFormat(self.inner.reads)),
            Request::Status => Ok(Response::Status(self.standing())),
            Request::History(wanted) => {
                self.while_open(self.serve_history(&mut incoming, wanted)).await
            }
            Request::Entries { from, upto } => {
                self.while_open(self.serve_entries(&mut incoming, from, upto)).await
            }
        }
    }
}

impl Node {
    /// Gives an answer that takes long, unless the machine closes.
    async fn while_open(
        &self,
        answer: impl Future<Output = Result<Response, Refusal>>,
    ) -> Result<Response, Refusal> {
        let mut closing = self.closing();
        tokio::select! {
            answer = answer => answer,
            () = closing.begun() => Err(Refusal::NotReady),
        }
    }

    /// Says whether this machine would vote for another one, and looks whether that is
    /// where it says. A leader tells who is no longer a member.
    async fn pre_vote(
        &self,
        from: NodeId,
        last: Option<etcd_log::LogId>,
        address: &str,
    ) -> Result<Response, Refusal> {
        let consensus = &self.inner.consensus;
        if self.is_member(from) {
            if let Some(known) = self.inner.looked_for.known_elsewhere(from, address) {
                return Err(Refusal::RunsElsewhere(known));
            }
            self.look_for(from, address);
        } else if consensus.leads() {
            // It counts for good: whoever has just begun to lead may not know yet who has
            // joined, and whoever led may be overruled by now.
            let has_passed = self.inner.barrier.pass(BARRIER_LIMIT).await.is_ok();
            if has_passed && consensus.leads() && !self.is_member(from) {
                return Err(Refusal::Removed);
            }
        }
        // Whoever is doubted counts as one that has nothing.
        Ok(consensus.pre_vote(last.filter(|_| !consensus.doubts(from))))
    }

    async fn propose_for_another(
        &self,
        commands: Vec<etcd_log::Command>,
    ) -> Result<Response, Refusal> {
        if self.inner.disk.is_short() {
            return Err(Refusal::Proposal(ProposalError::DiskFull));
        }
        let is_for_leader = |command: &etcd_log::Command| {
            use etcd_log::Command::{Join, Leave, Sync, Upgrade};
            matches!(command.wanted(), Sync { .. } | Join(_) | Leave { .. } | Upgrade { .. })
        };
        if commands.iter().any(is_for_leader) {
            // There is a request for each, which the leader looks into.
            let text = "no other machine proposes who the members are";
            return Err(Refusal::NotBelieved(text.to_owned()));
        }
        let format = self.inner.published.format();
        if commands.iter().any(|command| command.format() > format) {
            // Who asks is ahead of this machine: it has applied the upgrade already.
            return Err(Refusal::Proposal(ProposalError::NotLeader));
        }
        if proposer::is_too_large(&commands) {
            return Err(Refusal::NotUnderstood("too many commands at once".to_owned()));
        }
        let placed = self.inner.proposer.propose_group(commands).await;
        placed.map(Response::Placed).map_err(Refusal::Proposal)
    }

    async fn pass_barrier(&self) -> Result<Response, Refusal> {
        if !matches!(self.inner.consensus.role(), Role::Leader) {
            return Err(Refusal::NotLeader(None));
        }
        let passed = self.inner.barrier.pass_once().await;
        passed.map(|upto| Response::Barrier { upto }).map_err(|_| Refusal::NotReady)
    }

    /// Lets a machine join, or says who can.
    async fn let_in(&self, machine: Machine, reads: LogFormat) -> Result<Response, Refusal> {
        self.check_leads()?;
        let address = machine.peer_address();
        if self.runs_elsewhere(machine.node, address).await {
            let text = format!("machine {} runs already, and not at {address}", machine.node);
            return Err(Refusal::NotBelieved(text));
        }
        let joined = self.join(machine, reads, CHANGE_LIMIT).await;
        joined.map_err(|error| not_joined(&error))?;
        Ok(Response::Joined { cluster: self.inner.cluster })
    }

    /// Writes down where another machine is by now, which says so itself.
    async fn let_move(&self, from: NodeId, machine: Machine) -> Result<Response, Refusal> {
        if machine.node != from {
            let text = format!("machine {from} says where machine {} is", machine.node);
            return Err(Refusal::NotBelieved(text));
        }
        self.check_leads()?;
        let address = machine.peer_address();
        // Who has left is told so, wherever it is.
        if self.is_member(from) {
            match self.find(from, address).await {
                Found::There => {}
                Found::NotThere => {
                    let text = format!("machine {from} is not found at {address}");
                    return Err(Refusal::NotBelieved(text));
                }
                Found::TwiceAt(known) => return Err(Refusal::RunsElsewhere(known)),
            }
        }
        let moved = self.move_member(machine, CHANGE_LIMIT).await;
        moved.map_err(|error| not_joined(&error))?;
        Ok(Response::Done)
    }

    async fn let_go(&self, name: &Arc<str>) -> Result<Response, Refusal> {
        self.check_leads()?;
        let left = self.leave_as_leader(name, CHANGE_LIMIT).await;
        left.map_err(|error| match error {
            LeaveError::NotFound(_) => Refusal::NotFound,
            LeaveError::Write(WriteError::Unknown) => Refusal::Proposal(ProposalError::Unknown),
            LeaveError::Write(_) => Refusal::NotReady,
            error => Refusal::Impossible(error.to_string()),
        })?;
        Ok(Response::Done)
    }

    fn check_leads(&self) -> Result<(), Refusal> {
        match self.inner.consensus.role() {
            Role::Leader => Ok(()),
            Role::Follower(leader) => {
                Err(Refusal::NotLeader(self.inner.consensus.following(leader)))
            }
            Role::NoLeader | Role::LeaderWithoutQuorum => Err(Refusal::NotReady),
        }
    }

    /// Says how this machine stands.
    pub(super) fn standing(&self) -> Status {
        let now = self.now();
        Status {
            leads: self.inner.consensus.leads(),
            applied: now.state.position().index,
            entry: now.applied.map(|id| id.index).unwrap_or_default(),
        }
    }

    /// Reports a leader whose clock is ahead of this machine's: keys expire by the
    /// leader's, and after the next election by another one.
    fn compare_clocks(&self, leader: NodeId, time: LogTime) {
        let ahead = self.inner.clock.until(time);
        if ahead < SKEW {
            return;
        }
        let machines = self.inner.published.machines();
        // Whoever has just joined does not know the name yet.
        let name = machines.iter().find(|machine| machine.node == leader).map(|found| &found.name);
        let Some(name) = name.filter(|_| self.inner.skew_told.is_due()) else { return };
        let ahead = ahead.as_millis();
        tracing::warn!(
            "the clock of machine {name}, which leads, is {ahead} ms ahead of this one's"
        );
    }
}

fn not_joined(error: &JoinError) -> Refusal {
    match error {
        JoinError::Format { .. }
        | JoinError::NameTaken { .. }
        | JoinError::OtherName { .. }
        | JoinError::Rejected(_)
        | JoinError::Refused(_) => Refusal::Impossible(error.to_string()),
        JoinError::Removed(_) => Refusal::Removed,
        JoinError::Write(_) => Refusal::NotReady,
    }
}
