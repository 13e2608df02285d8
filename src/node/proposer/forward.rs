//! Forwarding: what waits on a machine that does not lead goes to the one that does.
//!
//! ```text
//! commands that wait ─▶ leader: in the log, at this place ─▶ applied here ─▶ answers
//! ```
//!
//! They are answered once this machine has applied them: whoever writes here can read
//! here what was written.

use std::time::Duration;

use etcd_log::{Command, NodeId};
use tokio::time::Instant;

use super::{BATCH_LIMIT, OVERRULED_LIMIT, Queued, RETRY, Task, Waiting, answer_all, refuse_all};
use crate::consensus::{Applied, Consensus};
use crate::peers::{CallError, LogPosition, ProposalError, Refusal, Request, Response, travel};
use crate::state::published::StateReader;
use crate::state::recent_outcomes::Ticket;

/// How long a leader may take for its answer, once it has the commands. What waits behind
/// it waits as long: a connection may be dead, and only silence says so.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

impl Task {
    /// Forwards what waits to the leader, in one message.
    pub(super) async fn forward(&mut self, leader: NodeId) {
        // Another machine took this one for the leader.
        let (groups, own) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|request| matches!(request, Queued::Group { .. }));
        self.waiting = groups;
        self.refuse(ProposalError::NotLeader);
        self.waiting = own;
        let (commands, waiting) = self.pack();
        if waiting.is_empty() {
            return;
        }
        let ticket = self.context.outcomes.keep();
        let count = commands.len();
        let limit = ANSWER_LIMIT + travel(commands.iter().map(Command::written_size).sum());
        let request = Request::Propose { commands };
        let asked = self.context.peers.ask(leader, &request, &[], limit);
        let asked = tokio::select! {
            asked = asked => asked.map_err(|error| why_not(&error)),
            // Whether the lost leader had it is not known.
            () = lost(&self.context.consensus, leader) => Err(ProposalError::Unknown),
        };
        match asked {
            Ok(Response::Placed(placed)) => {
                let published = self.context.published.clone();
                tokio::spawn(answer_when_applied(published, ticket, placed, count, waiting));
            }
            Ok(_) => refuse_all(waiting, ProposalError::Unknown),
            Err(error) => {
                refuse_all(waiting, error);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Waits until the commands have been applied here, and answers what came of them.
async fn answer_when_applied(
    published: StateReader,
    ticket: Ticket,
    placed: LogPosition,
    count: usize,
    waiting: Vec<Waiting>,
) {
    let LogPosition { entry, skip } = placed;
    let applied = published.wait_for(|now| now.applied.map(|id| id.index) >= Some(entry));
    let applied = tokio::time::timeout(BATCH_LIMIT, applied).await;
    let outcomes = applied.ok().flatten().and_then(|_| ticket.of(entry, skip, count));
    match outcomes {
        Some(outcomes) => answer_all(waiting, Applied { entry, outcomes }),
        // They are in the log; what came of them went by while a checkpoint came.
        None => refuse_all(waiting, ProposalError::Unknown),
    }
}

/// Whether a call to the leader may have had an effect.
fn why_not(error: &CallError) -> ProposalError {
    match error {
        CallError::Refused { refusal: Refusal::Proposal(why), .. } => *why,
        error if error.is_without_effect() => ProposalError::NotLeader,
        _ => ProposalError::Unknown,
    }
}

/// Waits until another machine leads than this one, or it has not been heard for a
/// while: what it is asked on the same connection may take long then, even once it is
/// heard again.
async fn lost(consensus: &Consensus, leader: NodeId) {
    let mut unheard_since = None;
    loop {
        tokio::time::sleep(consensus.timing().heartbeat).await;
        match consensus.leader() {
            Some(now) if now == leader => unheard_since = None,
            Some(_) => return,
            None => {
                let since = *unheard_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= OVERRULED_LIMIT {
                    return;
                }
            }
        }
    }
}
