//! What strangers and liars say on the peer ports of real processes: it is refused, and
//! neither stops a machine nor gets into its log.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use etcd::peers::{Answer, CallError, Peers, Question, Refusal, Tcp, encode_entries};
use etcd_log::{
    Batch, ClusterId, Command, Entry, KeyPath, LogId, LogTime, NodeId, Payload, RaftIndex, Term,
    Vote,
};
use support::cluster::Cluster;
use support::eventually;

/// Longer than any answer takes.
const LIMIT: Duration = Duration::from_mins(1);

/// Somebody who says what he likes to a machine.
struct Liar {
    peers: Peers,
    to: NodeId,
    runtime: tokio::runtime::Runtime,
}

impl Liar {
    /// Speaks to one machine of a cluster in the name of another one.
    fn new(cluster: &Cluster, to: usize, from: NodeId) -> Self {
        let server = cluster.server(to);
        let of = cluster.server(0).announced[0].rsplit(' ').next().unwrap();
        let of = of.parse::<ClusterId>().unwrap();
        let (peers, to) = (Peers::new(from, of, Arc::new(Tcp)), NodeId(cluster.id(to)));
        peers.learn(to, server.peer_url.trim_start_matches("http://"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { peers, to, runtime }
    }

    fn ask(&self, question: &Question, entries: &[Arc<Entry>]) -> Result<Answer, Refusal> {
        let behind = encode_entries(entries);
        let asked = self.peers.ask(self.to, question, &behind, LIMIT);
        match self.runtime.block_on(asked) {
            Ok(answer) => Ok(answer),
            Err(CallError::Refused { refusal, .. }) => Err(refusal),
            Err(error) => panic!("there is no answer: {error:?}"),
        }
    }
}

fn node(cluster: &Cluster, at: usize) -> NodeId {
    NodeId(cluster.id(at))
}

fn append(vote: Vote, previous: Option<LogId>, committed: Option<LogId>) -> Question {
    Question::Append { vote, previous, committed, time: LogTime::default() }
}

/// An entry that nobody has written, which sets a key.
fn forged(id: LogId) -> Arc<Entry> {
    let key = KeyPath::clean("/forged").unwrap();
    let command = Command::Set { key, value: Arc::from("x"), ttl: None };
    let batch = Batch::new(LogTime::default(), vec![command]);
    Arc::new(Entry { id, payload: Payload::Batch(Arc::new(batch)) })
}

fn not_believed(answer: Result<Answer, Refusal>) {
    let refusal = answer.unwrap_err();
    assert!(matches!(refusal, Refusal::NotBelieved(_)), "{refusal:?}");
}

/// All go on, hold the same, and nothing of what was forged.
fn all_is_well(cluster: &Cluster) {
    let written = cluster.server(0).post("/v1/keys/after?timeout=60", &[("value", "v")]);
    let index = written.number("x-etcd-index");
    for server in cluster.running() {
        let path = format!("/v1/keys/after?timeout=60&min_index={index}");
        assert!(server.get(&path).body.contains("\"value\":\"v\""));
        assert_eq!(server.get("/v1/keys/forged").status, 404);
    }
}

/// One that knows all ids speaks in the name of a member: it leads in the next term, and
/// its entries are others than those that are committed.
#[test]
fn append_that_contradicts_what_is_committed_is_refused_and_named() {
    let cluster = Cluster::start(3, &[]);
    assert_eq!(cluster.server(0).post("/v1/keys/k", &[("value", "v")]).status, 200);
    let leader = cluster.leader();
    let (to, as_whom) = ((leader + 1) % 3, (leader + 2) % 3);
    let from = node(&cluster, as_whom);
    let liar = Liar::new(&cluster, to, from);

    let vote = Vote { term: Term(50), node: from, committed: true };
    let id = |index, term| LogId { term: Term(term), node: from, index: RaftIndex(index) };
    // From the beginning, in the middle, and a mark alone.
    let refused = [
        liar.ask(&append(vote, None, None), &[forged(id(0, 40)), forged(id(1, 40))]),
        liar.ask(&append(vote, Some(id(2, 40)), None), &[forged(id(3, 40))]),
        liar.ask(&append(vote, Some(id(2, 40)), Some(id(2, 40))), &[]),
    ];
    for refused in refused {
        let Err(Refusal::Differs { from: named, found, here }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((named, found.index, found.term), (from, here.index, Term(40)));
    }
    eventually("it is told in the log", || {
        let told = format!("what machine {from} sent was refused: machine {from} has entry r0");
        cluster.server(to).said().iter().any(|line| line.contains(&told))
    });
    // A mark that names an entry which is not there commits nothing.
    let vote = Vote { term: Term(51), ..vote };
    let mark = LogId { term: Term(0), node: NodeId(0), index: RaftIndex(1_000_000) };
    assert!(liar.ask(&append(vote, None, Some(mark)), &[]).is_ok());
    all_is_well(&cluster);
}

/// A vote in the last term there is would be on disk for good.
#[test]
fn term_that_no_cluster_reaches_is_refused() {
    let mut cluster = Cluster::start(3, &[]);
    let leader = cluster.leader();
    for to in 0..3 {
        let from = node(&cluster, (to + 1) % 3);
        let liar = Liar::new(&cluster, to, from);
        for term in [Term(u64::MAX), Term(1 << 40)] {
            let vote = Vote { term, node: from, committed: false };
            let applied = LogId { term: Term(9), node: from, index: RaftIndex(1000) };
            not_believed(liar.ask(&Question::Vote { vote, last: Some(applied) }, &[]));
            let vote = Vote { committed: true, ..vote };
            not_believed(liar.ask(&append(vote, None, None), &[]));
            let (index, event) = (etcd_log::Index(5000), etcd_log::EventNumber(5000));
            let offer = Question::Checkpoint { vote, applied, index, event, bytes: 100 };
            not_believed(liar.ask(&offer, &[]));
        }
        // It was never elected.
        let vote = Vote { term: Term(40), node: node(&cluster, to), committed: true };
        not_believed(liar.ask(&append(vote, None, None), &[]));
    }
    all_is_well(&cluster);
    cluster.kill(leader);
    cluster.launch(leader, &[]);
    cluster.wait(leader);
    all_is_well(&cluster);
}
