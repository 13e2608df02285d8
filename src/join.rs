//! Joining: how a new machine becomes one of a cluster.
//!
//! ```text
//! mint an id, write it down ─▶ ask each address in turn ─▶ the leader: `join` into the log
//!                                    ▲ not ready, nobody there │
//!                                    └──── wait a little ◀─────┴─▶ joined: which cluster
//! ```
//!
//! The id is written down first: a machine that is killed in the middle asks again
//! as the same one, and the log has it once.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{ClusterId, LOG_FORMAT, Machine};
use tokio::time::Instant;

use crate::one_line::OneLine;
use crate::peers::{Answer, CallError, Connect, Peers, Question, Refusal};

/// How long to wait after all have been asked in vain: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long an answer may take: a leader may have to be elected meanwhile.
const LIMIT: Duration = Duration::from_secs(15);

/// How often to say that nobody answers.
const WORD: Duration = Duration::from_secs(3);

/// Why a machine cannot join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot join the cluster of {through}: {why}")]
pub struct JoinRefused {
    /// The machine that refused, or its leader did.
    pub through: Arc<str>,
    /// Why.
    pub why: Refusal,
}

/// Asks the machines at these addresses in turn, until one lets this one in.
///
/// # Errors
///
/// If one refuses for good.
pub async fn join(
    machine: &Machine,
    through: &[String],
    network: Arc<dyn Connect>,
) -> Result<ClusterId, JoinRefused> {
    let peers = Peers::new(machine.node, ClusterId(0), network);
    let question = Question::Join { machine: machine.clone(), log_format: LOG_FORMAT };
    let (mut pause, most) = PAUSES;
    let mut told = None;
    loop {
        for address in through {
            match ask(&peers, address, &question).await {
                Ok(cluster) => return Ok(cluster),
                Err(error) => {
                    if let CallError::Refused { to, refusal: why @ Refusal::Impossible(_) } = error
                    {
                        return Err(JoinRefused { through: to, why });
                    }
                    if told.is_none_or(|told: Instant| told.elapsed() > WORD) {
                        tracing::info!("not joined yet, trying again: {}", OneLine(&error));
                        told = Some(Instant::now());
                    }
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(most);
    }
}

/// Asks the machine at an address, or the leader that it follows.
async fn ask(peers: &Peers, address: &str, question: &Question) -> Result<ClusterId, CallError> {
    let asked = match peers.ask_at(address, question, LIMIT).await {
        Err(CallError::Refused { refusal: Refusal::NotLeader(Some(leader)), .. }) => {
            peers.ask_at(&leader.address, question, LIMIT).await
        }
        asked => asked,
    };
    match asked?.1 {
        Answer::Joined { cluster } => Ok(cluster),
        _ => Err(CallError::Refused {
            to: Arc::from(address),
            refusal: Refusal::NotUnderstood("it said something else".to_owned()),
        }),
    }
}
