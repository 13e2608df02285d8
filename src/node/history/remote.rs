//! History that this machine has not got, from one that has.

use std::time::Duration;

use etcd_log::{EventNumber, NodeId};

use super::cursor::WatchError;
use super::sink::{Audience, Found};
use crate::peers::{Answer, CallError, Heard, Peers, Question, Refusal};
use crate::state::published::Reader;
use crate::util::error_chain::OneLine;

/// How long to wait before asking again where nobody could answer.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a machine may be silent in the middle of it: a replay can take a while to
/// come by the first event of interest.
const SILENCE: Duration = Duration::from_secs(30);

/// The way to other machines' history. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(in crate::node) struct Elsewhere {
    pub(in crate::node) me: NodeId,
    pub(in crate::node) peers: Peers,
    pub(in crate::node) published: Reader,
}

impl Elsewhere {
    /// Tells the audience what happened up to an event, from the first machine that
    /// knows. Returns whether all of it has been told.
    pub(in crate::node) async fn tell(
        &self,
        audience: &Audience,
        upto: EventNumber,
    ) -> Result<bool, WatchError> {
        let machines = self.published.machines();
        let (mut oldest, mut all_answered) = (None, true);
        for machine in machines.iter().filter(|machine| machine.node != self.me) {
            match self.tell_from(machine.node, audience, upto).await {
                Ok(told) => return Ok(told),
                Err(CallError::Refused {
                    refusal: Refusal::NoLongerKept { oldest: is }, ..
                }) => {
                    oldest = Some(oldest.unwrap_or(is).min(is));
                }
                Err(error) => {
                    all_answered = false;
                    tracing::debug!("history was not told: {}", OneLine(&error));
                }
            }
        }
        if let Some(oldest) = oldest.filter(|_| all_answered) {
            return Err(WatchError::Gone { cursor: audience.cursor, oldest });
        }
        tokio::time::sleep(PAUSE).await;
        Ok(false)
    }

    /// Asks one machine. It fails only before anything has been told.
    async fn tell_from(
        &self,
        node: NodeId,
        audience: &Audience,
        upto: EventNumber,
    ) -> Result<bool, CallError> {
        let question = Question::History(audience.question(upto));
        let mut conversation = self.peers.converse(node, &question, SILENCE).await?;
        let mut told = false;
        loop {
            match conversation.next().await {
                // It is still looking.
                Ok(Heard::Piece(event)) if event.is_empty() => {}
                Ok(Heard::Piece(event)) => {
                    let Ok(event) = serde_json::from_slice(&event) else { return Ok(false) };
                    told = true;
                    if !audience.tell(Found::Event(event)).await {
                        return Ok(false);
                    }
                }
                Ok(Heard::Answer(Answer::History { .. })) => return Ok(true),
                // Another machine may know, or be quicker.
                Err(error) if !told => return Err(error),
                Ok(_) | Err(_) => return Ok(false),
            }
        }
    }
}
