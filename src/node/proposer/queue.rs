//! The queue: what waits to be proposed, bounded by bytes as they are written.
//!
//! ```text
//! request ─▶ room for its bytes? ─▶ claim ─┬─▶ taken: it is proposed
//!                                          └─▶ given up: its bytes are let go at once
//! ```
//!
//! Who has a command, the proposer or whoever waits for its answer, is settled by its
//! *claim*: one of the two gets it, and never both.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_log::{Command, Term};
use etcd_projections::Outcome;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::node::error::{Unavailable, WriteError};
use crate::peers::{LogPosition, ProposalError};

/// How many requests may wait. Beyond it, requests wait to wait.
const QUEUE: usize = 16 << 10;

/// How many bytes may wait, as they are written. Beyond it, requests wait to wait, each
/// with a body of its own. Five times the largest request, so that a few of them do not
/// keep all others out.
const QUEUE_BYTES: usize = 32 << 20;

/// How long the commands of another machine wait to wait. Their machine tries again.
const ROOM_LIMIT: Duration = Duration::from_secs(1);

/// A command that waits, until one side has it.
#[derive(Debug)]
pub(super) struct Claim {
    waits: Mutex<Option<Waits>>,
}

#[derive(Debug)]
struct Waits {
    command: Command,
    /// Its room in the queue.
    _room: OwnedSemaphorePermit,
}

impl Claim {
    /// Takes the command, to propose it; nothing, if it was given up.
    pub(super) fn take(&self) -> Option<Command> {
        self.lock().take().map(|waits| waits.command)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Waits>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side that waits for what becomes of a command. Whoever drops it has given the
/// command up: a client that is gone, say.
#[derive(Debug)]
pub(super) struct Place {
    claim: Arc<Claim>,
}

impl Place {
    /// Gives the command up. Returns whether it was still there: then it is not proposed,
    /// and will not be.
    pub(super) fn give_up(&self) -> bool {
        self.claim.lock().take().is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// What waits to be proposed.
#[derive(Debug)]
pub(super) enum Queued {
    /// A command of this machine's.
    Command {
        /// The command, unless it has been given up.
        claim: Arc<Claim>,
        /// How many bytes it takes.
        bytes: usize,
        /// The only term in which it may be proposed, if any may not.
        only_in: Option<Term>,
        /// Who waits.
        answer: oneshot::Sender<Result<Outcome, WriteError>>,
    },
    /// The commands that waited on another machine.
    Group {
        /// The commands.
        commands: Vec<Command>,
        /// How many bytes they take.
        bytes: usize,
        /// Their room in the queue.
        _room: OwnedSemaphorePermit,
        /// Who waits.
        answer: oneshot::Sender<Result<LogPosition, ProposalError>>,
    },
}

impl Queued {
    /// Returns whether it may be proposed by who leads in this term, if anybody does.
    pub(super) fn counts_in(&self, term: Option<Term>) -> bool {
        match self {
            Self::Command { only_in, .. } => only_in.is_none() || *only_in == term,
            Self::Group { .. } => true,
        }
    }

    /// Returns how many commands it holds, and how many bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        match self {
            Self::Command { bytes, .. } => (1, *bytes),
            Self::Group { commands, bytes, .. } => (commands.len(), *bytes),
        }
    }
}

/// The entrance of the queue. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    requests: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
}

/// Makes a queue: its entrance, and its exit.
pub(super) fn queue() -> (Queue, mpsc::Receiver<Queued>) {
    let (requests, exit) = mpsc::channel(QUEUE);
    (Queue { requests, room: Arc::new(Semaphore::new(QUEUE_BYTES)) }, exit)
}

impl Queue {
    /// Lets a command wait. Returns its place, and where its answer will come.
    ///
    /// # Errors
    ///
    /// If there is nobody who proposes any longer.
    pub(super) async fn enter(
        &self,
        command: Command,
        only_in: Option<Term>,
    ) -> Result<(Place, oneshot::Receiver<Result<Outcome, WriteError>>), WriteError> {
        let bytes = command.written_size();
        let room = self.room(bytes).await;
        let claim = Arc::new(Claim { waits: Mutex::new(Some(Waits { command, _room: room })) });
        let place = Place { claim: Arc::clone(&claim) };
        let (answer, outcome) = oneshot::channel();
        let request = Queued::Command { claim, bytes, only_in, answer };
        // The queue and the answer end only with the proposer's task.
        self.requests.send(request).await.map_err(|_| Unavailable::NoLeader)?;
        Ok((place, outcome))
    }

    /// Lets the commands of another machine wait.
    ///
    /// # Errors
    ///
    /// If there is no room for them, or nobody who proposes any longer.
    pub(super) async fn enter_group(
        &self,
        commands: Vec<Command>,
    ) -> Result<oneshot::Receiver<Result<LogPosition, ProposalError>>, ProposalError> {
        let bytes = commands.iter().map(Command::written_size).sum();
        let room = tokio::time::timeout(ROOM_LIMIT, self.room(bytes)).await;
        let room = room.map_err(|_| ProposalError::NoMajority)?;
        let (answer, placed) = oneshot::channel();
        let request = Queued::Group { commands, bytes, _room: room, answer };
        self.requests.send(request).await.map_err(|_| ProposalError::NotLeader)?;
        Ok(placed)
    }

    async fn room(&self, bytes: usize) -> OwnedSemaphorePermit {
        let permits = u32::try_from(bytes.min(QUEUE_BYTES)).expect("the queue is no larger");
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await;
        room.expect("the queue is never closed")
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::KeyPath;
    use futures_util::FutureExt as _;

    use super::*;
    use crate::util::limit;

    fn set(bytes: usize) -> Command {
        let key = KeyPath::clean("/foo").expect("a key");
        Command::Set { key, value: "v".repeat(bytes).into(), ttl: None }
    }

    fn claim(request: Queued) -> Arc<Claim> {
        match request {
            Queued::Command { claim, .. } => claim,
            Queued::Group { .. } => panic!("a command of this machine's was expected"),
        }
    }

    #[tokio::test]
    async fn one_side_gets_the_command() {
        limit::begin();
        let (queue, mut exit) = queue();
        let (place, _outcome) = queue.enter(set(1), None).await.unwrap();
        assert_eq!(claim(exit.recv().await.unwrap()).take(), Some(set(1)));
        assert!(!place.give_up(), "it is being proposed");
        let (place, _outcome) = queue.enter(set(1), None).await.unwrap();
        assert!(place.give_up());
        assert_eq!(claim(exit.recv().await.unwrap()).take(), None, "nobody waits for it");
    }

    /// Who had been let go in between would come back.
    #[tokio::test]
    async fn what_was_decided_in_one_term_does_not_count_in_another() {
        limit::begin();
        let (queue, mut exit) = queue();
        let (_place, _outcome) = queue.enter(set(1), Some(Term(3))).await.unwrap();
        let (_other, _its_outcome) = queue.enter(set(1), None).await.unwrap();
        let (bound, free) = (exit.recv().await.unwrap(), exit.recv().await.unwrap());
        for (term, counts) in [(Some(3), true), (Some(2), false), (Some(4), false), (None, false)] {
            assert_eq!(bound.counts_in(term.map(Term)), counts, "in {term:?}");
            assert!(free.counts_in(term.map(Term)));
        }
    }

    /// Whatever stays until the others have been proposed would fill the memory.
    #[tokio::test]
    async fn what_is_given_up_leaves_at_once() {
        limit::begin();
        let (queue, mut exit) = queue();
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(queue.enter(set(QUEUE_BYTES / 4 - 1000), None).await.unwrap());
        }
        assert!(queue.enter(set(QUEUE_BYTES / 4), None).now_or_never().is_none(), "it is full");
        drop(places.pop());
        let entered = queue.enter(set(QUEUE_BYTES / 4 - 1000), None).now_or_never();
        assert!(entered.is_some_and(|entered| entered.is_ok()));
        // Its place in the line is passed by.
        let mut waiting = Vec::new();
        assert_eq!(exit.recv_many(&mut waiting, 10).await, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn commands_of_others_do_not_wait_for_ever_to_wait() {
        limit::begin();
        let (queue, _exit) = queue();
        let _full = queue.enter(set(QUEUE_BYTES - 1000), None).await.unwrap();
        let refused = queue.enter_group(vec![set(1000)]).await;
        assert_eq!(refused.map(drop), Err(ProposalError::NoMajority));
    }

    /// Nothing that a client may send is larger, but what cannot fit would wait for ever.
    #[tokio::test]
    async fn what_is_larger_than_the_queue_gets_all_of_it() {
        limit::begin();
        let (queue, _exit) = queue();
        assert!(
            queue.enter(set(QUEUE_BYTES + 1), None).now_or_never().is_some_and(|it| it.is_ok())
        );
    }
}
