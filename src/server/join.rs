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

use etcd_log::{ClusterId, LogFormat, Machine, NodeId};
use tokio::time::Instant;

use crate::peers::{CallError, Connect, FrameError, Peers, Refusal, Request, Response};
use crate::util::error_chain::ErrorChain;

/// How long to wait after all have been asked in vain: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long an answer may take: a leader may have to be elected meanwhile.
const LIMIT: Duration = Duration::from_secs(15);

/// How often to say that nobody answers.
const WORD: Duration = Duration::from_secs(3);

/// How often a machine that knows its cluster asks in vain what stands where it might
/// have joined.
const TRIES: u32 = 10;

/// How long to wait after such a try: at first, and at most.
const TRY_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// How long such an answer may take.
const TRY_LIMIT: Duration = Duration::from_secs(5);

/// Why a machine cannot join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefused {
    /// It is not let in.
    #[error("cannot join the cluster of {through}: {why}")]
    Refused {
        /// The machine that refused, or its leader did.
        through: Arc<str>,
        /// Why.
        why: Refusal,
    },
    /// No machine speaks to machines there.
    #[error(
        "cannot join: {0} speaks HTTP: it is a client port; -C wants the peer port, 7001 by default"
    )]
    Http(Arc<str>),
}

/// Asks the machines at these addresses in turn, until one lets this one in, which reads
/// logs up to a format.
///
/// # Errors
///
/// If one refuses for good.
pub async fn join(
    machine: &Machine,
    reads: LogFormat,
    through: &[String],
    network: Arc<dyn Connect>,
) -> Result<ClusterId, JoinRefused> {
    let peers = Peers::new(machine.node, ClusterId(0), network);
    let request = Request::Join { machine: machine.clone(), log_format: reads };
    let (mut pause, most) = PAUSES;
    let mut told = None;
    loop {
        for address in through {
            match ask(&peers, address, &request).await {
                Ok(cluster) => return Ok(cluster),
                Err(CallError::Refused { to, refusal: why @ Refusal::Impossible(_) }) => {
                    return Err(JoinRefused::Refused { through: to, why });
                }
                Err(error) if speaks_http(&error) => {
                    return Err(JoinRefused::Http(Arc::from(&**address)));
                }
                Err(error) => {
                    if told.is_none_or(|told: Instant| told.elapsed() > WORD) {
                        tracing::info!("not joined yet, trying again: {}", ErrorChain(&error));
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
async fn ask(peers: &Peers, address: &str, request: &Request) -> Result<ClusterId, CallError> {
    let asked = match peers.ask_at(address, request, LIMIT).await {
        Err(CallError::Refused { refusal: Refusal::NotLeader(Some(leader)), .. }) => {
            peers.ask_at(&leader.address, request, LIMIT).await
        }
        asked => asked,
    };
    match asked?.1 {
        Response::Joined { cluster } => Ok(cluster),
        _ => Err(CallError::Refused {
            to: Arc::from(address),
            refusal: Refusal::NotUnderstood("it said something else".to_owned()),
        }),
    }
}

/// Says so if those through whom one could join are of another cluster than the machine:
/// its directory wins over whatever is asked for at its start, and that must not go
/// unnoticed. They need not be there at once.
pub(crate) async fn say_if_elsewhere(
    (me, cluster): (NodeId, ClusterId),
    mut through: Vec<String>,
    network: Arc<dyn Connect>,
) {
    let peers = Peers::new(me, cluster, network);
    let (mut pause, most) = TRY_PAUSES;
    for _ in 0..TRIES {
        let mut silent = Vec::new();
        for address in through {
            // Of the same cluster, whoever is asked says only who he is.
            match peers.ask_at(&address, &Request::Status, TRY_LIMIT).await {
                Err(CallError::Refused { refusal: Refusal::OtherCluster(other), .. }) => {
                    tracing::warn!(
                        "-C {address} is of cluster {other}, but this directory belongs to cluster {cluster}, which it stays in"
                    );
                }
                Err(error) if speaks_http(&error) => {
                    tracing::warn!(
                        "-C {address} speaks HTTP: it is a client port; -C wants the peer port, 7001 by default"
                    );
                }
                Ok(_) | Err(CallError::Refused { .. }) => {}
                Err(CallError::NotSent { .. } | CallError::Lost { .. }) => silent.push(address),
            }
        }
        if silent.is_empty() {
            return;
        }
        through = silent;
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(most);
    }
}

/// Returns whether what answered is no machine's peer port, but some server for browsers.
fn speaks_http(error: &CallError) -> bool {
    matches!(error, CallError::Lost { source: FrameError::Magic(magic), .. } if magic == b"HTTP")
}
