//! A liar: somebody who is no machine of the cluster, and says what he likes to all of
//! them, in his own name or in that of a member.
//!
//! ```text
//! liar ─▶ "I stand in term 2^64−1", "append this", "take this checkpoint", "farewell" ─▶ refused
//! ```
//!
//! In the name of a member he tells nothing that the member could have said: what leads
//! to no other place than the truth is no lie, and nobody can tell. So terms are out of
//! reach, entries have holes or contradict what the machine has applied, nobody is where
//! it is said to be, and whoever speaks for another one is not that one.
//!
//! Or he speaks for a leader that is down, and for nobody else: nothing of what he says
//! is believed, so it keeps nobody from being elected.

use std::sync::Arc;
use std::time::Duration;

use etcd::node::Node;
use etcd::peers::{Appended, CallError, Peers, Request, Response, encode_entries};
use etcd_log::{
    Batch, Command, Entry, EventNumber, Index, KeyPath, LogId, LogTime, Machine, NodeId, Payload,
    RaftIndex, Term, Vote,
};

use super::dice::Dice;
use super::links::Network;
use super::machine::CLUSTER;
use super::world::World;

/// The name of the place where he is.
pub(crate) const NAME: &str = "liar";

/// His own id.
const STRANGER: NodeId = NodeId(666);

/// How long it is between lies, in milliseconds.
const PAUSE: (u64, u64) = (10, 100);

/// How long he waits for an answer.
const LIMIT: Duration = Duration::from_secs(1);

/// Terms that no cluster reaches.
const ABSURD: [Term; 3] = [Term(u64::MAX), Term(1 << 62), Term(1 << 40)];

/// Lies whenever he is to.
pub(crate) async fn run(world: World) -> turmoil::Result {
    let dice = world.dice();
    loop {
        let (least, most) = PAUSE;
        tokio::time::sleep(dice.millis(least, most)).await;
        let up = world.machines_up();
        if !world.is_lied_to() || up.is_empty() {
            continue;
        }
        let (name, node, consensus) = dice.pick(&up);
        let liar = Liar { world: &world, dice: &dice, node, me: consensus.me(), from: STRANGER };
        let members: Vec<_> = up.iter().map(|(.., consensus)| consensus.me()).collect();
        let as_member = *dice.pick(&members);
        let from = match world.usurped() {
            Some(vote) => vote.node,
            None if dice.one_in(3) || as_member == liar.me => STRANGER,
            None => as_member,
        };
        let (request, entries) = Liar { from, ..liar }.lie();
        let peers = Peers::new(from, CLUSTER, Arc::new(Network::of(&world, NAME)));
        peers.learn(consensus.me(), &world.stored(name).address(name));
        let behind = encode_entries(&entries);
        let answer = peers.ask(consensus.me(), &request, &behind, LIMIT).await;
        if is_believed(&request, &answer) && can_tell(&world, name, &request) {
            world.violation(format_args!("{name} believes {request:?} of {from}: {answer:?}"));
        }
        if let Err(CallError::Refused { .. }) = answer {
            world.lie_was_refused();
        }
    }
}

/// Whether something came of what was said.
fn is_believed(request: &Request, answer: &Result<Response, CallError>) -> bool {
    match (request, answer) {
        // Whether it would vote, a machine tells everybody.
        (_, Err(_) | Ok(Response::PreVote { .. } | Response::Appended(Appended::Overruled(_)))) => {
            false
        }
        (_, Ok(Response::Voted { granted, .. })) => *granted,
        // Another one leads by now.
        (Request::Checkpoint { vote: asked, .. }, Ok(Response::Installed { vote })) => {
            (vote.term, vote.node) <= (asked.term, asked.node)
        }
        (_, Ok(_)) => true,
    }
}

/// Whether a machine can tell that what was said is a lie. One that was let in not long ago
/// does not know the entries from before its checkpoint; and one may have been removed.
fn can_tell(world: &World, name: &str, request: &Request) -> bool {
    match request {
        Request::Append { .. } | Request::Checkpoint { .. } => {
            world.stored(name).disk().history().is_some()
        }
        Request::Removed => {
            let up = world.machines_up();
            up.iter().all(|(_, node, _)| node.now().state.machines().get(name).is_some())
        }
        _ => true,
    }
}

/// Whom he speaks to, and in whose name.
struct Liar<'w> {
    world: &'w World,
    dice: &'w Dice,
    node: &'w Node,
    me: NodeId,
    from: NodeId,
}

impl Liar<'_> {
    fn lie(&self) -> (Request, Vec<Arc<Entry>>) {
        if let Some(vote) = self.world.usurped() {
            return match self.dice.below(3) {
                0 => self.contradict(),
                1 => self.leave_a_hole(),
                _ => (self.checkpoint(vote), Vec::new()),
            };
        }
        let absurd = leads(*self.dice.pick(&ABSURD), self.from);
        match self.dice.below(11) {
            0 => (stand(absurd), Vec::new()),
            1 => (append(absurd, None), Vec::new()),
            2 => (pulse(absurd), Vec::new()),
            3 => (self.checkpoint(absurd), Vec::new()),
            4 => (Request::Removed, Vec::new()),
            5 => self.speak_for_another(),
            6 => self.contradict(),
            7 => self.leave_a_hole(),
            8 => (be_elsewhere(), Vec::new()),
            9 => (self.move_away(), Vec::new()),
            _ => (self.checkpoint(self.believable().unwrap_or(absurd)), Vec::new()),
        }
    }

    /// The vote of the one who leads, where that does no harm: if there is nothing else
    /// that is wrong, it is the truth that it leads.
    fn believable(&self) -> Option<Vote> {
        let leader = self.world.usurped().or_else(|| self.world.leads_in_peace())?;
        (leader.node == self.from).then_some(leader)
    }

    /// What the machine has applied, and a vote in a term that is over.
    fn over(&self) -> Option<(LogId, Vote)> {
        let applied = self.node.now().applied?;
        let term = Term(applied.term.0.checked_sub(1)?);
        Some((applied, leads(term, self.from)))
    }

    fn speak_for_another(&self) -> (Request, Vec<Arc<Entry>>) {
        let term = Term(1 + self.dice.number() % 50);
        // Nobody speaks for a machine but that machine, and to it nobody does.
        let other = if self.from == STRANGER { NodeId(667) } else { self.me };
        let vote = leads(term, other);
        let request = match self.dice.below(4) {
            0 => stand(vote),
            1 => append(vote, None),
            2 => pulse(vote),
            _ => self.checkpoint(vote),
        };
        (request, Vec::new())
    }

    /// Has it written down that the machine is where nobody answers.
    fn move_away(&self) -> Request {
        let machines = self.node.now().state.machines().clone();
        let known = machines.iter().find(|machine| machine.node == self.from);
        let name = known.map_or_else(|| Arc::from(NAME), |known| Arc::clone(&known.name));
        let url = Arc::<str>::from(format!("http://{NAME}:7001"));
        let machine =
            Machine { name, node: self.from, peer_url: Arc::clone(&url), client_url: url };
        Request::Move { machine }
    }

    /// Entries that are others than those that the machine has applied.
    fn contradict(&self) -> (Request, Vec<Arc<Entry>>) {
        let Some((applied, over)) = self.over() else { return (Request::Removed, Vec::new()) };
        let vote = self.believable().unwrap_or(over);
        let at = RaftIndex(self.dice.number() % (applied.index.0 + 1));
        let previous = at.0.checked_sub(1).map(|index| id(RaftIndex(index), over));
        (append(vote, previous), vec![self.forged(id(at, over))])
    }

    fn leave_a_hole(&self) -> (Request, Vec<Arc<Entry>>) {
        let Some((applied, over)) = self.over() else { return (Request::Removed, Vec::new()) };
        let vote = self.believable().unwrap_or(over);
        let at = |ahead| self.forged(id(RaftIndex(applied.index.0 + ahead), over));
        let entries = match self.dice.below(3) {
            0 => vec![at(2)],
            1 => vec![at(1), at(3)],
            _ => vec![at(1), at(1)],
        };
        (append(vote, Some(applied)), entries)
    }

    /// A checkpoint that contains other entries than those that are applied.
    fn checkpoint(&self, vote: Vote) -> Request {
        let applied = self.over().map_or(id(RaftIndex(1000), vote), |(applied, over)| {
            // Whoever leads may have led before, and what it wrote then is there.
            let nobody = Vote { node: STRANGER, ..over };
            id(RaftIndex(self.dice.number() % (applied.index.0 + 1)), nobody)
        });
        let number = self.dice.number() % 10_000;
        let (index, event) = (Index(number), EventNumber(number));
        Request::Checkpoint { vote, applied, index, event, bytes: 100 }
    }

    /// An entry that nobody has written.
    fn forged(&self, id: LogId) -> Arc<Entry> {
        let (key, value) = (KeyPath::clean("/a").unwrap(), Arc::from(self.world.unique()));
        let command = Command::Set { key, value, ttl: None };
        let batch = Batch::new(LogTime::default(), vec![command]);
        Arc::new(Entry { id, payload: Payload::Batch(Arc::new(batch)) })
    }
}

/// The vote of a machine that says it leads.
fn leads(term: Term, node: NodeId) -> Vote {
    Vote { term, node, committed: true }
}

fn id(index: RaftIndex, vote: Vote) -> LogId {
    LogId { term: vote.term, node: vote.node, index }
}

fn stand(vote: Vote) -> Request {
    let vote = Vote { committed: false, ..vote };
    Request::Vote { vote, last: Some(id(RaftIndex(1000), vote)) }
}

fn append(vote: Vote, previous: Option<LogId>) -> Request {
    Request::Append { vote, previous, committed: None, time: LogTime::default() }
}

/// Says that the machine is where nobody answers.
fn be_elsewhere() -> Request {
    Request::PreVote { last: None, address: Arc::from(format!("{NAME}:7001")) }
}

fn pulse(vote: Vote) -> Request {
    Request::Pulse { vote, time: LogTime::default() }
}
