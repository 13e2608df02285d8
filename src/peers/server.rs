//! The answering side: one task for each connection.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use etcd_log::{ClusterId, NodeId};

use super::frame::{self, Envelope, Frame, FrameError, Kind, MOST_BYTES, STRANGERS_BYTES};
use super::message::{self, Refusal, Request, Response};
use super::network::{self, Stream};
use super::places::{Place, Places};

/// How long somebody may be connected without a word who is no member.
const STRANGERS_LIMIT: Duration = Duration::from_secs(5);

/// How long an answer may be that goes at once: far longer than any that says something.
const ANSWER_BYTES: usize = 1 << 20;

/// How often a machine shows that it is still busy with an answer.
const SIGN_OF_LIFE: Duration = Duration::from_millis(300);

/// Who answers the requests of other machines.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Returns which machine this is, and of which cluster.
    fn identity(&self) -> (NodeId, ClusterId);

    /// Returns whether a machine is listened to: it is a member, as far as this one knows,
    /// or this one is new and knows nobody.
    fn listens_to(&self, node: NodeId) -> bool;

    /// Answers a request.
    ///
    /// # Errors
    ///
    /// With why not.
    fn answer(
        &self,
        request: Request,
        incoming: Incoming<'_>,
    ) -> impl Future<Output = Result<Response, Refusal>> + Send;
}

/// A request that came in: what belongs to it.
pub struct Incoming<'c> {
    /// Who asks.
    pub from: NodeId,
    /// What stands behind it.
    pub behind: Bytes,
    stream: &'c mut dyn Stream,
    envelope: Envelope,
}

impl Incoming<'_> {
    /// Waits for the next piece of the request; nothing, at its end.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub async fn next_piece(&mut self) -> Result<Option<Bytes>, FrameError> {
        match frame::read(&mut self.stream, None, |_| MOST_BYTES).await? {
            Some(Frame { kind: Kind::Piece, body, .. }) => Ok(Some(body)),
            Some(Frame { kind: Kind::End, .. }) => Ok(None),
            Some(_) | None => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// Works on the answer, and shows meanwhile that somebody is at it.
    pub async fn busy<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = work.as_mut() => return done,
                // If nobody waits any longer, it is done all the same.
                () = tokio::time::sleep(SIGN_OF_LIFE) => drop(self.tell(&[]).await),
            }
        }
    }

    /// Sends a piece of the answer.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub async fn tell(&mut self, piece: &[u8]) -> std::io::Result<()> {
        frame::write(&mut self.stream, Kind::Piece, self.envelope, piece).await
    }
}

/// Answers what is asked on a connection, until it ends, or `stop` does; the answer
/// that is under way then is still given.
///
/// # Errors
///
/// If the connection breaks, or what comes is not what machines say to each other.
pub async fn serve(
    stream: Box<dyn Stream>,
    handler: impl Handler,
    stop: impl Future<Output = ()>,
) -> Result<(), FrameError> {
    let place = Places::without_end().take();
    serve_at(&place, stream, handler, stop).await
}

/// The same at a place, which may be lost to somebody else. Whoever is no member may not
/// be silent for long.
///
/// # Errors
///
/// As [`serve`].
pub async fn serve_at(
    place: &Place,
    stream: Box<dyn Stream>,
    handler: impl Handler,
    stop: impl Future<Output = ()>,
) -> Result<(), FrameError> {
    let mut stream = network::buffered(stream);
    let (mut stop, mut lost) = (pin!(stop), pin!(place.lost()));
    loop {
        let frame = tokio::select! {
            frame = next_frame(place, &mut stream, &handler) => frame?,
            () = stop.as_mut() => return Ok(()),
            () = lost.as_mut() => return Ok(()),
        };
        let Some(frame) = frame else { return Ok(()) };
        place.set_idle(false);
        let is_refused = tokio::select! {
            refused = answer(&mut stream, &handler, &frame) => refused?,
            () = lost.as_mut() => return Ok(()),
        };
        place.set_idle(true);
        if is_refused {
            // Pieces of the request may still be on their way, which are no requests.
            return Ok(());
        }
    }
}

/// Waits for the next frame; for a stranger's, not for long.
async fn next_frame(
    place: &Place,
    stream: &mut Box<dyn Stream>,
    handler: &impl Handler,
) -> Result<Option<Frame>, FrameError> {
    let (me, cluster) = handler.identity();
    let most = |envelope: &Envelope| {
        let is_for_me = envelope.cluster == cluster && envelope.to == me;
        if is_for_me && handler.listens_to(envelope.from) {
            // The body may take long.
            place.belongs_to(envelope.from);
            place.set_idle(false);
            MOST_BYTES
        } else {
            STRANGERS_BYTES
        }
    };
    let patience = (!place.is_a_members()).then_some(STRANGERS_LIMIT);
    frame::read(stream, patience, most).await
}

/// Answers a frame. Returns whether the answer is a refusal.
async fn answer(
    stream: &mut Box<dyn Stream>,
    handler: &impl Handler,
    frame: &Frame,
) -> Result<bool, FrameError> {
    let (me, cluster) = handler.identity();
    let envelope = Envelope { cluster, from: me, to: frame.envelope.from };
    let answer = match open(frame, me, cluster) {
        Ok((request, behind)) => {
            let from = frame.envelope.from;
            let incoming = Incoming { from, behind, stream: &mut *stream, envelope };
            handler.answer(request, incoming).await
        }
        Err(refusal) => Err(refusal),
    };
    let (kind, body) = encode(&answer);
    frame::write(stream, kind, envelope, &body).await?;
    Ok(kind == Kind::Refusal)
}

/// Writes an answer. What it quotes of the request may be longer than any frame.
fn encode(answer: &Result<Response, Refusal>) -> (Kind, Vec<u8>) {
    let (kind, body) = match answer {
        Ok(answer) => (Kind::Response, message::encode(answer, &[])),
        Err(refusal) => (Kind::Refusal, message::encode(refusal, &[])),
    };
    if body.len() <= ANSWER_BYTES {
        return (kind, body);
    }
    let text = format!("an answer of {} bytes, where {ANSWER_BYTES} may be", body.len());
    (Kind::Refusal, message::encode(&Refusal::NotUnderstood(text), &[]))
}

/// Opens a frame that is for this machine, and holds a request.
fn open(frame: &Frame, me: NodeId, cluster: ClusterId) -> Result<(Request, Bytes), Refusal> {
    let Envelope { cluster: of, from: _, to } = frame.envelope;
    // Nothing that comes from elsewhere is so much as read, save who asks to join.
    if of != cluster && of != ClusterId(0) {
        return Err(Refusal::OtherCluster(cluster));
    }
    if to != me && to != NodeId(0) {
        return Err(Refusal::OtherMachine(me));
    }
    if frame.kind != Kind::Request {
        return Err(Refusal::NotUnderstood("no request was asked".to_owned()));
    }
    let (request, behind): (Request, _) =
        message::decode(&frame.body).map_err(Refusal::NotUnderstood)?;
    if of != cluster && !request.is_for_strangers() {
        return Err(Refusal::OtherCluster(cluster));
    }
    if to != me && !request.is_for_anyone() {
        return Err(Refusal::OtherMachine(me));
    }
    let behind = frame.body.slice_ref(behind);
    Ok((request, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const CLUSTER: ClusterId = ClusterId(7);

    fn opened(cluster: u64, to: u64, kind: Kind, request: &Request) -> Result<(), Refusal> {
        let envelope = Envelope { cluster: ClusterId(cluster), from: NodeId(2), to: NodeId(to) };
        let frame = Frame { kind, envelope, body: message::encode(request, &[]).into() };
        open(&frame, ME, CLUSTER).map(drop)
    }

    /// What cannot be read is quoted in the answer: a frame full of it must end nobody.
    #[test]
    fn answer_is_no_longer_than_a_frame() {
        let short = Err(Refusal::NotUnderstood("what?".to_owned()));
        let name = "x".repeat(MOST_BYTES - 16);
        let request = message::encode(&std::collections::BTreeMap::from([(name, 0)]), &[]);
        let unread = message::decode::<Request>(&request).map(drop).unwrap_err();
        assert!(unread.len() > MOST_BYTES, "it is quoted whole");
        for (answer, most) in [(short, 40), (Err(Refusal::NotUnderstood(unread)), 200)] {
            let (kind, body) = encode(&answer);
            assert!(kind == Kind::Refusal && body.len() < most, "{} bytes", body.len());
            assert!(message::decode::<Refusal>(&body).is_ok());
        }
    }

    /// Who may ask what: of this cluster or another, this machine or another, with
    /// zeros for "not known".
    #[test]
    fn strangers_may_ask_little() {
        let machine = etcd_log::Machine {
            name: "x".into(),
            node: NodeId(2),
            peer_url: "http://h:1".into(),
            client_url: "http://h:2".into(),
        };
        let join = Request::Join { machine, log_format: etcd_log::LogFormat::FIRST };
        let pre_vote = Request::PreVote { last: None, address: "h:1".into() };
        let (ok, other_cluster) = (Ok(()), Err(Refusal::OtherCluster(CLUSTER)));
        let other_machine = Err(Refusal::OtherMachine(ME));
        for (cluster, to, request, expected) in [
            (7, 1, &Request::Barrier, &ok),
            (7, 0, &Request::Barrier, &other_machine),
            (7, 3, &Request::Barrier, &other_machine),
            (0, 1, &Request::Barrier, &other_cluster),
            (8, 1, &Request::Barrier, &other_cluster),
            (7, 0, &pre_vote, &ok),
            (0, 0, &pre_vote, &other_cluster),
            (7, 3, &pre_vote, &other_machine),
            (0, 0, &join, &ok),
            (0, 3, &join, &other_machine),
            (8, 0, &join, &other_cluster),
        ] {
            let found = opened(cluster, to, Kind::Request, request);
            assert_eq!(&found, expected, "{request:?} to {to} of {cluster}");
        }
        let answer = opened(7, 1, Kind::Response, &Request::Barrier);
        assert!(matches!(answer, Err(Refusal::NotUnderstood(_))));
    }
}
