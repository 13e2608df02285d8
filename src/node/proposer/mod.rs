//! The proposer: packs the commands that wait into one batch, and brings one batch
//! at a time into the log.
//!
//! ```text
//!                      leader: batch with its time ─▶ consensus ─▶ outcomes
//! commands ─▶ queue ─▶ ┤           ▲ commands of followers, deadlines: ticks
//!                      follower: one message to the leader ─▶ where they stand
//!                                            applied here ─▶ outcomes
//! ```
//!
//! While one batch is under way, the next one gathers: the more there is to do,
//! the larger the batches, and the fewer fsyncs a command costs.
//!
//! A request that nobody waits for any longer is not proposed. Who wins, the
//! request's time limit or the proposer, is settled by its claim (`queue`). A command
//! is tried again only where it is certain that it was not proposed; or if it is asked for
//! under an id, for then it is not done twice.

mod context;
mod expiry;
mod forward;
mod queue;
mod rebase;

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{Batch, Check, Command, Term};
use etcd_projections::{Outcome, Position, Rejection, What};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::error::{Unavailable, WriteError, unavailable};
use crate::consensus::{Applied, Consensus, Role};
use crate::peers::{LogPosition, ProposalError};
use context::BATCH_COMMANDS;
use expiry::{batch_time, due, make_up_for};
use queue::{Place, Queue, Queued, queue};
use rebase::rebase;

pub(super) use context::ProposerContext;
pub(super) use rebase::concerns;

/// How many bytes of commands go into a batch, as they are written; one request that is
/// larger goes alone. Bounds an entry, and so what a reader of the log has in memory, and
/// how long a small write waits behind others on a slow link.
const BATCH_BYTES: usize = 1 << 20;

/// How many bytes one command takes at most: more than any that a client may send, a
/// body of 1 MiB of control characters.
const COMMAND_BYTES: usize = 8 << 20;

/// After how many commands a batch says what the state was, for all machines to
/// compare with. The digest contains all of history, so none is left out.
const CHECK_COMMANDS: u64 = 1000;

/// How long to wait before trying again where nobody leads.
pub(super) const RETRY: Duration = Duration::from_millis(20);

/// For how many rounds of the scheduler the answers of a batch wait, so that the next
/// batch is on its way before hundreds of connections are served: 10 % more writes.
const ROUNDS: usize = 3;

/// How long a batch may take until its outcome counts as unknown.
const BATCH_LIMIT: Duration = Duration::from_mins(1);

/// How long a machine that leads no longer waits for what it had proposed: another
/// leader may have it by then, or never will.
const OVERRULED_LIMIT: Duration = Duration::from_secs(1);

/// Returns whether a command was refused because it may have been done before.
fn is_forgotten(outcome: &Outcome) -> bool {
    matches!(outcome.what, What::Rejection(Rejection::RequestForgotten))
}

/// Returns whether another machine has sent more at once than any would.
pub(super) fn is_too_large(commands: &[Command]) -> bool {
    let bytes = commands.iter().map(Command::written_size).sum::<usize>();
    let most = if commands.len() > 1 { BATCH_BYTES } else { COMMAND_BYTES };
    commands.len() > BATCH_COMMANDS || bytes > most
}

/// The sending end of the queue.
#[derive(Clone, Debug)]
pub(super) struct Proposer {
    queue: Queue,
    consensus: Consensus,
}

/// Who waits for what came of a part of a batch.
enum Waiting {
    Command(oneshot::Sender<Result<Outcome, WriteError>>),
    Group { count: usize, answer: oneshot::Sender<Result<LogPosition, ProposalError>> },
}

impl Proposer {
    /// Starts the proposer's task.
    pub(super) fn start(context: ProposerContext) -> Self {
        let (queue, requests) = queue();
        let consensus = context.consensus.clone();
        let task = Task { context, requests, waiting: Vec::new() };
        tokio::spawn(task.run());
        Self { queue, consensus }
    }

    /// Proposes a command, and waits for its outcome. While nobody leads it tries
    /// again: nothing has been proposed then. If it is asked for under an id, it is tried
    /// again also where it may have been: it is not done twice.
    pub(super) async fn propose(
        &self,
        command: Command,
        limit: Duration,
    ) -> Result<Outcome, WriteError> {
        let is_done_once = matches!(command, Command::As(_));
        let (mut place, mut may_be_done) = (None, false);
        let trying = async {
            loop {
                match self.try_once(command.clone(), None, &mut place).await {
                    // Nobody remembers whether a try before it was done.
                    Ok(outcome) if is_forgotten(&outcome) => return Err(WriteError::Unknown),
                    Err(WriteError::Unknown) if is_done_once => may_be_done = true,
                    Err(WriteError::Unavailable(_)) => {}
                    // What is certain of this try is not so of those before it.
                    Err(_) if may_be_done => {}
                    result => return result,
                }
                place = None;
                tokio::time::sleep(RETRY).await;
            }
        };
        let tried = tokio::time::timeout(limit, trying).await;
        match tried {
            Ok(told) => told,
            Err(_) if may_be_done => Err(WriteError::Unknown),
            Err(_) => self.late(place),
        }
    }

    /// Proposes a command, if this machine still leads in this term, and has led in no
    /// later one: what it was decided by may not be so any more. Tries once.
    pub(super) async fn propose_in(
        &self,
        term: Term,
        command: Command,
        limit: Duration,
    ) -> Result<Outcome, WriteError> {
        let mut place = None;
        let trying = self.try_once(command, Some(term), &mut place);
        let tried = tokio::time::timeout(limit, trying).await;
        tried.unwrap_or_else(|_| self.late(place))
    }

    /// Says what is known of a command whose time is over.
    fn late(&self, place: Option<Place>) -> Result<Outcome, WriteError> {
        let is_proposed = place.is_some_and(|place| !place.give_up());
        Err(if is_proposed { WriteError::Unknown } else { unavailable(&self.consensus).into() })
    }

    async fn try_once(
        &self,
        command: Command,
        only_in: Option<Term>,
        place: &mut Option<Place>,
    ) -> Result<Outcome, WriteError> {
        let (entered, outcome) = self.queue.enter(command, only_in).await?;
        *place = Some(entered);
        outcome.await.unwrap_or(Err(WriteError::Unknown))
    }

    /// Proposes the commands that waited on another machine, and returns where they
    /// stand once they are applied here.
    pub(super) async fn propose_group(
        &self,
        commands: Vec<Command>,
    ) -> Result<LogPosition, ProposalError> {
        let placed = self.queue.enter_group(commands).await?;
        placed.await.unwrap_or(Err(ProposalError::Unknown))
    }
}

struct Task {
    context: ProposerContext,
    requests: mpsc::Receiver<Queued>,
    /// Requests taken from the queue that did not fit into the last batch.
    waiting: Vec<Queued>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let mut is_due = false;
            if self.waiting.is_empty() {
                tokio::select! {
                    received = self.requests.recv_many(&mut self.waiting, BATCH_COMMANDS) => {
                        if received == 0 {
                            return;
                        }
                    }
                    () = due(&self.context) => is_due = true,
                }
            } else {
                let room = BATCH_COMMANDS.saturating_sub(self.waiting.len());
                self.top_up(room);
            }
            match self.context.consensus.role() {
                Role::Leader => self.lead(is_due).await,
                Role::Follower(leader) => self.forward(leader).await,
                Role::NoLeader => self.refuse(ProposalError::NotLeader),
                Role::LeaderWithoutQuorum => self.refuse(ProposalError::NoMajority),
            }
        }
    }

    /// Takes what else waits by now.
    fn top_up(&mut self, room: usize) {
        for _ in 0..room {
            match self.requests.try_recv() {
                Ok(request) => self.waiting.push(request),
                Err(_) => return,
            }
        }
    }

    /// Proposes what waits, and whatever a key whose time has come needs.
    async fn lead(&mut self, is_due: bool) {
        let (commands, waiting) = self.pack();
        // If nobody waits any longer, there is nothing to propose.
        if is_due || !waiting.is_empty() {
            let batch = self.batch(commands);
            self.propose(batch, waiting).await;
        }
    }

    /// Packs the requests that somebody still waits for, up to the bounds.
    fn pack(&mut self) -> (Vec<Command>, Vec<Waiting>) {
        let (mut packed, mut waiting) = (Vec::new(), Vec::new());
        let (fitting, term) = (self.fitting(), self.context.consensus.leads_in());
        for request in self.waiting.drain(..fitting) {
            let counts = request.counts_in(term);
            match request {
                Queued::Command { answer, .. } if !counts => {
                    let _gone = answer.send(Err(Unavailable::NoLeader.into()));
                }
                Queued::Command { claim, answer, .. } => {
                    if let Some(command) = claim.take() {
                        packed.push(command);
                        waiting.push(Waiting::Command(answer));
                    }
                }
                Queued::Group { commands, answer, .. } => {
                    waiting.push(Waiting::Group { count: commands.len(), answer });
                    packed.extend(commands);
                }
            }
        }
        (packed, waiting)
    }

    /// Returns how many of the requests that wait go into one batch: the first in any
    /// case.
    fn fitting(&self) -> usize {
        let (mut commands, mut bytes) = (0, 0);
        let fits = |request: &&Queued| {
            let (more_commands, more_bytes) = request.size();
            let is_first = commands == 0;
            (commands, bytes) = (commands + more_commands, bytes + more_bytes);
            is_first || (commands <= BATCH_COMMANDS && bytes <= BATCH_BYTES)
        };
        self.waiting.iter().take_while(fits).count()
    }

    /// Makes a batch: with the time, which never goes back, nor so far on that too many
    /// keys would expire at once; and now and then with what the state is that this
    /// machine proposes from.
    fn batch(&self, mut commands: Vec<Command>) -> Batch {
        let now = self.context.published.now();
        let (position, digest) = (now.state.position(), now.state.digest());
        let clock = self.context.clock.now(position.time);
        let time = batch_time(now.state.expiry(), clock);
        make_up_for(Duration::from_nanos(clock.0 - time.0), &mut commands);
        rebase(&now.state, &mut commands);
        let last = position.index.0 + commands.len() as u64;
        let mut batch = Batch::new(time, commands);
        // Counted from the last check that was applied: one that was proposed may have
        // been lost. After a start none is known, and the first batch says what this
        // machine starts from.
        if now.state.checked().is_none_or(|checked| last - checked.index.0 >= CHECK_COMMANDS) {
            let Position { index, event, time } = position;
            let entry = now.applied.map(|id| id.index);
            batch.check = Some(Check { entry, index, event, time, digest });
        }
        batch
    }

    async fn propose(&self, batch: Batch, waiting: Vec<Waiting>) {
        let consensus = &self.context.consensus;
        let proposed = consensus.propose(Arc::new(batch));
        let proposed = tokio::time::timeout(BATCH_LIMIT, proposed);
        let applied = tokio::select! {
            applied = proposed => applied.unwrap_or(Err(ProposalError::Unknown)),
            () = overruled(consensus) => Err(ProposalError::Unknown),
        };
        match applied {
            Ok(applied) => {
                tokio::spawn(async move {
                    for _ in 0..ROUNDS {
                        tokio::task::yield_now().await;
                    }
                    answer_all(waiting, applied);
                });
            }
            Err(error) => {
                refuse_all(waiting, error);
                // A tick that fails would be due again at once.
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Answers all that waits that it was not proposed.
    fn refuse(&mut self, why: ProposalError) {
        for request in self.waiting.drain(..) {
            match request {
                Queued::Command { answer, .. } => {
                    let _gone = answer.send(Err(why.into()));
                }
                Queued::Group { answer, .. } => {
                    let _gone = answer.send(Err(why));
                }
            }
        }
    }
}

/// Tells each who waits what came of his part of a batch.
fn answer_all(waiting: Vec<Waiting>, applied: Applied) {
    let Applied { entry, outcomes } = applied;
    let mut outcomes = outcomes.into_iter();
    let mut skip = 0;
    for one in waiting {
        // Whoever does not wait any longer has been told so already.
        match one {
            Waiting::Command(answer) => {
                let outcome = outcomes.next().expect("each command has one outcome");
                let _gone = answer.send(Ok(outcome));
                skip += 1;
            }
            Waiting::Group { count, answer } => {
                outcomes.by_ref().take(count).for_each(drop);
                let _gone = answer.send(Ok(LogPosition { entry, skip }));
                skip += count;
            }
        }
    }
}

fn refuse_all(waiting: Vec<Waiting>, why: ProposalError) {
    for one in waiting {
        match one {
            Waiting::Command(answer) => {
                let _gone = answer.send(Err(why.into()));
            }
            Waiting::Group { answer, .. } => {
                let _gone = answer.send(Err(why));
            }
        }
    }
}

/// Waits until this machine has not led for a while: another one may lead by then, or
/// the majority is gone.
async fn overruled(consensus: &Consensus) {
    let mut since = None;
    loop {
        tokio::time::sleep(consensus.timing().heartbeat).await;
        if consensus.leads() {
            since = None;
        } else if since.get_or_insert_with(Instant::now).elapsed() >= OVERRULED_LIMIT {
            return;
        }
    }
}
