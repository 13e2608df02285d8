//! History that this machine has not got, from one that has.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{EventNumber, NodeId};
use etcd_projections::Event;

use super::cursor::WatchError;
use super::sink::{ReplaySink, Replayed};
use crate::peers::{CallError, Part, Peers, Refusal, Request, Response};
use crate::state::published::StateReader;
use crate::util::error_chain::ErrorChain;
use crate::util::rate_limit::RateLimit;

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
    /// When a machine was caught at a lie last, and that was told.
    pub(in crate::node) caught: Arc<RateLimit>,
}

/// Why a machine does not tell what happened, or is not believed.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("machine {0} tells of {1}, which cannot be")]
    Lie(NodeId, String),
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
                Err(TellError::Call(CallError::Refused {
                    refusal: Refusal::NoLongerKept { oldest: is },
                    ..
                })) => {
                    oldest = Some(oldest.unwrap_or(is).min(is));
                }
                Err(lie @ TellError::Lie(..)) if self.caught.is_due() => {
                    all_answered = false;
                    tracing::warn!("history was not told: {}", ErrorChain(&lie));
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

    /// Asks one machine. It fails only before anything has been told, or if it lies: then
    /// another one may know.
    async fn tell_from(
        &self,
        node: NodeId,
        sink: &ReplaySink,
        upto: EventNumber,
    ) -> Result<bool, TellError> {
        let request = Request::History(sink.request(upto));
        let mut conversation = self.peers.open_stream(node, &request, SILENCE).await?;
        let mut told = None;
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
                    let lie = |what| TellError::Lie(node, what);
                    let event = believed(&event, sink, told, upto).map_err(lie)?;
                    told = Some(event.number);
                    if sink.tell(Replayed::Event(event)).await.is_break() {
                        return Ok(false);
                    }
                }
                Ok(Part::Response(Response::History { reached })) if reached == upto => {
                    return Ok(true);
                }
                // Another machine may know, or be quicker.
                Err(error) if told.is_none() => return Err(error.into()),
                Ok(_) | Err(_) => return Ok(false),
            }
        }
    }
}

/// Reads an event that another machine tells, behind those up to `told`.
///
/// # Errors
///
/// If it is none that was asked for: with what it is instead.
fn believed(
    text: &[u8],
    sink: &ReplaySink,
    told: Option<EventNumber>,
    upto: EventNumber,
) -> Result<Arc<Event>, String> {
    let event: Arc<Event> =
        serde_json::from_slice(text).map_err(|error| format!("no event ({error})"))?;
    let number = event.number;
    if number > upto || told.is_some_and(|told| number <= told) {
        let behind = told.map_or_else(String::new, |told| format!(", behind event {told}"));
        return Err(format!("event {number}{behind}, and is to tell up to {upto}"));
    }
    if !sink.wants(&event) {
        return Err(format!("event {number} at command {}, which nobody waits for", event.index));
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use etcd_log::{Index, KeyPath, LogTime};
    use etcd_projections::{Change, State};

    use super::*;
    use crate::node::history::cursor::Cursor;
    use crate::node::history::sink::{self, Replaying};
    use crate::peers::Incoming;
    use crate::peers::testing::{Respond, peers_with};
    use crate::state::published;
    use crate::util::limit;

    /// A machine that tells these events, whatever it is asked; then it says how far it is,
    /// or goes on looking for more.
    #[derive(Clone, Debug)]
    struct Teller {
        events: Vec<Event>,
        reached: Option<EventNumber>,
    }

    impl Respond for Teller {
        async fn respond(
            &self,
            _request: Request,
            mut incoming: Incoming<'_>,
        ) -> Result<Response, Refusal> {
            for event in &self.events {
                let text = serde_json::to_vec(event).unwrap();
                incoming.tell(&text).await.map_err(|_| Refusal::NotReady)?;
            }
            match self.reached {
                Some(reached) => Ok(Response::History { reached }),
                None => std::future::pending().await,
            }
        }
    }

    /// The last event that is wanted; the first one is number 3, below `/a`.
    const UPTO: EventNumber = EventNumber(9);

    fn event(number: u64, key: &str) -> Event {
        let (number, index) = (EventNumber(number), Index(number));
        let change = Change::Set { value: Arc::from("v"), prev: None, deadline: None };
        Event { number, index, time: LogTime(1), key: KeyPath::clean(key).unwrap(), change }
    }

    fn wanted() -> (ReplaySink, Replaying) {
        let prefix = KeyPath::clean("/a").unwrap();
        sink::new(Cursor::Number(EventNumber(3)), prefix, Index(0), None)
    }

    async fn tell(teller: Teller, sink: &ReplaySink) -> Result<bool, TellError> {
        let peers = peers_with(teller);
        let (_, published) = published::channel(State::new(10), None);
        let remote = RemoteHistory { me: NodeId(1), peers, published, caught: Arc::default() };
        remote.tell_from(NodeId(2), sink, UPTO).await
    }

    #[tokio::test]
    async fn what_was_asked_for_is_taken() {
        limit::begin();
        let (sink, mut replaying) = wanted();
        let events = vec![event(3, "/a"), event(9, "/a/b")];
        assert!(tell(Teller { events, reached: Some(UPTO) }, &sink).await.unwrap());
        for number in [3, 9] {
            let next = replaying.next().await.unwrap();
            assert!(matches!(next, Replayed::Event(event) if event.number.0 == number));
        }
        assert!(sink.tell(Replayed::Reached(UPTO)).await == ControlFlow::Continue(()));
    }

    #[tokio::test]
    async fn machine_that_lies_is_given_up() {
        limit::begin();
        for lie in [
            vec![event(2, "/a")],
            vec![event(10, "/a")],
            vec![event(u64::MAX, "/a")],
            vec![event(5, "/b")],
            vec![event(5, "/a"), event(4, "/a")],
            vec![event(5, "/a"), event(5, "/a")],
        ] {
            let (sink, _replaying) = wanted();
            let told = tell(Teller { events: lie.clone(), reached: Some(UPTO) }, &sink).await;
            assert!(matches!(told, Err(TellError::Lie(NodeId(2), _))), "{lie:?}: {told:?}");
        }
    }

    #[tokio::test]
    async fn machine_that_stops_before_the_end_has_not_told_all() {
        limit::begin();
        let (sink, _replaying) = wanted();
        let teller = Teller { events: vec![event(3, "/a")], reached: Some(EventNumber(8)) };
        assert!(!tell(teller, &sink).await.unwrap());
    }

    #[tokio::test]
    async fn replay_elsewhere_ends_with_its_client() {
        limit::begin();
        let (sink, mut replaying) = wanted();
        let teller = Teller { events: vec![event(3, "/a")], reached: None };
        let client = async move {
            let _first = replaying.next().await.unwrap();
            drop(replaying);
        };
        let (told, ()) = tokio::join!(tell(teller, &sink), client);
        assert!(!told.unwrap());
    }
}
