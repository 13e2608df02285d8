//! The proposer: packs the commands that wait into one batch, and proposes one
//! batch at a time.
//!
//! ```text
//! commands ─▶ queue ─▶ batch: the leader's time, and all that wait ─▶ consensus
//!                        ▲                                                │
//!                        └── a deadline has passed: a tick  outcomes, one each
//! ```
//!
//! While one batch is under way, the next one gathers: the more there is to do,
//! the larger the batches, and the fewer fsyncs a command costs.
//!
//! A request that nobody waits for any longer is not proposed. Who wins, the
//! request's time limit or the proposer, is settled by one atomic flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_log::{Batch, Check, Command};
use etcd_projections::{Outcome, Position};
use tokio::sync::{mpsc, oneshot};

use super::{Unavailable, WriteError, clock, unavailable};
use crate::consensus::{Consensus, ProposeError};
use crate::published::Reader;

/// How many requests may wait. Beyond it, requests wait to wait.
const QUEUE: usize = 16 << 10;

/// How many commands go into a batch at most: so many that an fsync costs each
/// of them nothing, and so few that applying them holds nobody up.
const BATCH_COMMANDS: usize = 2048;

/// How many bytes of commands go into a batch, about: one command more may go
/// over. Bounds an entry, and so what a reader of the log has in memory.
const BATCH_BYTES: usize = 4 << 20;

/// After how many commands a batch says what the state was, for all machines to
/// compare with. The digest contains all of history, so none is left out.
const CHECK_COMMANDS: usize = 1000;

/// How long to wait before trying again where nobody leads.
pub(super) const RETRY: Duration = Duration::from_millis(20);

/// How long a machine that does not lead waits before it looks again whether it
/// must let keys expire.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// How long to rely on a timer for the next deadline.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long a batch may take until its outcome counts as unknown.
const BATCH_LIMIT: Duration = Duration::from_mins(1);

/// The sending end of the queue.
#[derive(Clone, Debug)]
pub(super) struct Proposer {
    queue: mpsc::Sender<Request>,
    consensus: Consensus,
}

#[derive(Debug)]
struct Request {
    command: Command,
    /// Set by whoever is first: the proposer, which takes the request, or the
    /// waiting side, which gives it up.
    settled: Arc<AtomicBool>,
    answer: oneshot::Sender<Result<Outcome, WriteError>>,
}

impl Proposer {
    /// Starts the proposer's task.
    pub(super) fn start(consensus: Consensus, published: Reader) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE);
        let task = Task {
            consensus: consensus.clone(),
            published,
            requests,
            waiting: Vec::new(),
            // The first batch says what this machine starts from.
            unchecked: CHECK_COMMANDS,
        };
        tokio::spawn(task.run());
        Self { queue, consensus }
    }

    /// Proposes a command, and waits for its outcome. While nobody leads it tries
    /// again: nothing has been proposed then.
    pub(super) async fn propose(
        &self,
        command: Command,
        limit: Duration,
    ) -> Result<Outcome, WriteError> {
        let settled = Arc::new(AtomicBool::new(false));
        let trying = async {
            loop {
                match self.try_once(command.clone(), &settled).await {
                    Err(WriteError::Unavailable(_)) => settled.store(false, Ordering::Release),
                    result => return result,
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        match tokio::time::timeout(limit, trying).await {
            Ok(outcome) => outcome,
            Err(_) if settled.swap(true, Ordering::AcqRel) => Err(WriteError::Unknown),
            Err(_) => Err(unavailable(&self.consensus).into()),
        }
    }

    async fn try_once(
        &self,
        command: Command,
        settled: &Arc<AtomicBool>,
    ) -> Result<Outcome, WriteError> {
        let (answer, outcome) = oneshot::channel();
        let request = Request { command, settled: Arc::clone(settled), answer };
        // The queue and the answer end only with the proposer's task.
        self.queue.send(request).await.map_err(|_| Unavailable::NoLeader)?;
        outcome.await.unwrap_or(Err(WriteError::Unknown))
    }
}

struct Task {
    consensus: Consensus,
    published: Reader,
    requests: mpsc::Receiver<Request>,
    /// Requests taken from the queue that did not fit into the last batch.
    waiting: Vec<Request>,
    /// How many commands were proposed since the last check.
    unchecked: usize,
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
                    () = due(&self.consensus, &self.published) => is_due = true,
                }
            } else {
                let room = BATCH_COMMANDS.saturating_sub(self.waiting.len());
                self.top_up(room);
            }
            let (batch, answers) = self.pack();
            // If nobody waits any longer, there is nothing to propose.
            if is_due || !answers.is_empty() {
                self.propose(batch, answers).await;
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

    /// Packs the requests that somebody still waits for, up to the bounds.
    fn pack(&mut self) -> (Batch, Vec<oneshot::Sender<Result<Outcome, WriteError>>>) {
        let mut batch = Batch::new(clock::now(), Vec::new());
        let (mut answers, mut bytes, mut taken) = (Vec::new(), 0, 0);
        for request in &self.waiting {
            if bytes >= BATCH_BYTES {
                break;
            }
            bytes += request.command.size();
            taken += 1;
        }
        for Request { command, settled, answer } in self.waiting.drain(..taken) {
            if !answer.is_closed() && !settled.swap(true, Ordering::AcqRel) {
                batch.commands.push(command);
                answers.push(answer);
            }
        }
        self.unchecked += batch.commands.len();
        if self.unchecked >= CHECK_COMMANDS {
            self.unchecked = 0;
            batch.check = Some(self.check());
        }
        (batch, answers)
    }

    /// What the state is that this machine proposes from.
    fn check(&self) -> Check {
        let now = self.published.now();
        let (Position { index, event, time }, digest) = (now.state.position(), now.state.digest());
        Check { index, event, time, digest }
    }

    async fn propose(
        &self,
        batch: Batch,
        answers: Vec<oneshot::Sender<Result<Outcome, WriteError>>>,
    ) {
        let proposed = self.consensus.propose(Arc::new(batch));
        let error = match tokio::time::timeout(BATCH_LIMIT, proposed).await {
            Ok(Ok(outcomes)) => {
                assert_eq!(outcomes.len(), answers.len(), "each command has one outcome");
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    // Whoever does not wait any longer has been told so already.
                    let _gone = answer.send(Ok(outcome));
                }
                return;
            }
            Ok(Err(ProposeError::NotLeader)) => WriteError::Unavailable(Unavailable::NoLeader),
            Ok(Err(ProposeError::Unknown)) | Err(_) => WriteError::Unknown,
        };
        for answer in answers {
            let _gone = answer.send(Err(error));
        }
        // A tick that fails would be due again at once.
        tokio::time::sleep(RETRY).await;
    }
}

/// Waits until this machine leads and a key is due.
async fn due(consensus: &Consensus, published: &Reader) {
    loop {
        let now = published.now();
        let position = now.state.position();
        let next = now.state.expiry().next().map(|(deadline, _)| clock::until(deadline));
        let changed = published.wait_for(|state| state.state.position() != position);
        match next {
            Some(Duration::ZERO) if consensus.leads() => return,
            // Somebody else's to let expire; look again at the next heartbeat.
            Some(Duration::ZERO) => tokio::time::sleep(HEARTBEAT).await,
            Some(wait) => {
                // Timers follow another clock than deadlines do, which may be set
                // or go on while the machine is suspended.
                let _changed = tokio::time::timeout(wait.min(LOOK_AGAIN), changed).await;
            }
            None => {
                if changed.await.is_none() {
                    return std::future::pending().await;
                }
            }
        }
    }
}
