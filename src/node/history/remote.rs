//! History that this machine has not got, from one that has.

use std::time::Duration;

use etcd_log::{EventNumber, NodeId};

use super::cursor::WatchError;
use super::sink::{ReplaySink, Replayed};
use crate::peers::{CallError, Part, Peers, Refusal, Request, Response};
use crate::state::published::StateReader;
use crate::util::error_chain::ErrorChain;

/// How long to wait before asking again where nobody could answer.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a machine may be silent in the middle of it: a replay can take a while to
/// come by the first event of interest.
const SILENCE: Duration = Duration::from_secs(30);

/// The way to other machines' history. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(in crate::node) struct RemoteHistory {
    pub(in crate::node) me: NodeId,
    pub(in crate::node) peers: Peers,
    pub(in crate::node) published: StateReader,
}

impl RemoteHistory {
    /// Tells the sink what happened up to an event, from the first machine that
    /// knows. Returns whether all of it has been told.
    pub(in crate::node) async fn tell(
        &self,
        sink: &ReplaySink,
        upto: EventNumber,
    ) -> Result<bool, WatchError> {
        let machines = self.published.machines();
        let (mut oldest, mut all_answered) = (None, true);
        for machine in machines.iter().filter(|machine| machine.node != self.me) {
            match self.tell_from(machine.node, sink, upto).await {
                Ok(told) => return Ok(told),
                Err(CallError::Refused {
                    refusal: Refusal::NoLongerKept { oldest: is }, ..
                }) => {
                    oldest = Some(oldest.unwrap_or(is).min(is));
                }
                Err(error) => {
                    all_answered = false;
                    tracing::debug!("history was not told: {}", ErrorChain(&error));
                }
            }
        }
        if let Some(oldest) = oldest.filter(|_| all_answered) {
            return Err(WatchError::Gone { cursor: sink.cursor, oldest });
        }
        tokio::time::sleep(PAUSE).await;
        Ok(false)
    }

    /// Asks one machine. It fails only before anything has been told.
    async fn tell_from(
        &self,
        node: NodeId,
        sink: &ReplaySink,
        upto: EventNumber,
    ) -> Result<bool, CallError> {
        let request = Request::History(sink.request(upto));
        let mut conversation = self.peers.open_stream(node, &request, SILENCE).await?;
        let mut told = false;
        loop {
            let heard = tokio::select! {
                heard = conversation.next() => heard,
                // A machine may be looking for as long as it likes.
                () = sink.is_gone() => return Ok(false),
            };
            match heard {
                // It is still looking.
                Ok(Part::Piece(event)) if event.is_empty() => {}
                Ok(Part::Piece(event)) => {
                    let Ok(event) = serde_json::from_slice(&event) else { return Ok(false) };
                    told = true;
                    if sink.tell(Replayed::Event(event)).await.is_break() {
                        return Ok(false);
                    }
                }
                Ok(Part::Response(Response::History { .. })) => return Ok(true),
                // Another machine may know, or be quicker.
                Err(error) if !told => return Err(error),
                Ok(_) | Err(_) => return Ok(false),
            }
        }
    }
}
