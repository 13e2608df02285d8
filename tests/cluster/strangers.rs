//! What strangers and liars say on the peer ports of real processes: it is refused, and
//! neither stops a machine nor gets into its log.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use etcd::peers::{CallError, Peers, Refusal, Request, Response, Sockets, encode_entries};
use etcd_log::{
    Batch, ClusterId, Command, Entry, KeyPath, LogFormat, LogId, LogTime, Machine, NodeId, Payload,
    RaftIndex, Term, Vote,
};

use crate::support::cluster::Cluster;
use crate::support::{Server, etcd, eventually};

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
        let of = cluster.server(0).cluster().parse::<ClusterId>().unwrap();
        let (peers, to) = (Peers::new(from, of, Arc::new(Sockets::Plain)), NodeId(cluster.id(to)));
        peers.learn(to, server.peer_url.trim_start_matches("http://"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { peers, to, runtime }
    }

    fn ask(&self, request: &Request, entries: &[Arc<Entry>]) -> Result<Response, Refusal> {
        let behind = encode_entries(entries);
        let asked = self.peers.ask(self.to, request, &behind, LIMIT);
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

fn append(vote: Vote, previous: Option<LogId>, committed: Option<LogId>) -> Request {
    Request::Append { vote, previous, committed, time: LogTime::default() }
}

/// An entry that nobody has written, which sets a key.
fn forged(id: LogId) -> Arc<Entry> {
    let key = KeyPath::clean("/forged").unwrap();
    let command = Command::Set { key, value: Arc::from("x"), ttl: None };
    let batch = Batch::new(LogTime::default(), vec![command]);
    Arc::new(Entry { id, payload: Payload::Batch(Arc::new(batch)) })
}

fn not_believed(answer: Result<Response, Refusal>) {
    let refusal = answer.unwrap_err();
    assert!(matches!(refusal, Refusal::NotBelieved(_)), "{refusal:?}");
}

/// All go on, hold the same, and nothing of what was forged.
fn all_is_well(cluster: &Cluster) {
    let mut index = 0;
    // A leader that was overruled by a lie does not know what became of a write.
    eventually("a write is acknowledged", || {
        let written = cluster.server(0).post("/v1/keys/after?timeout=60", &[("value", "v")]);
        index = written.number("x-etcd-index");
        written.status == 200
    });
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
            not_believed(liar.ask(&Request::Vote { vote, last: Some(applied) }, &[]));
            let vote = Vote { committed: true, ..vote };
            not_believed(liar.ask(&append(vote, None, None), &[]));
            let (index, event) = (etcd_log::Index(5000), etcd_log::EventNumber(5000));
            let offer = Request::Checkpoint { vote, applied, index, event, bytes: 100 };
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

/// Anybody can say farewell; whether it is so, the cluster knows.
#[test]
fn farewell_counts_if_the_cluster_confirms_it() {
    let mut cluster = Cluster::start(3, &[]);
    for to in 0..3 {
        for from in [NodeId(7), node(&cluster, (to + 1) % 3)] {
            let liar = Liar::new(&cluster, to, from);
            assert_eq!(liar.ask(&Request::Removed, &[]), Err(Refusal::NotReady));
        }
    }
    all_is_well(&cluster);
    let url = cluster.server(0).url.clone();
    let removed = etcd(&["machine", "remove", "node3", "-u", &url]).output().unwrap();
    assert!(removed.status.success());
    let words = ended(&mut cluster, 2);
    assert!(words.contains("this machine was removed from the cluster"), "{words}");
}

/// What a process has said last, once it has ended.
fn ended(cluster: &mut Cluster, at: usize) -> String {
    let mut server = cluster.servers[at].take().unwrap();
    assert!(!server.wait().success());
    server.last_words().last().unwrap().clone()
}

#[test]
fn stranger_is_not_heard() {
    let cluster = Cluster::start(3, &[]);
    let (from, leader) = (NodeId(7), cluster.leader());
    let vote = Vote { term: Term(50), node: from, committed: true };
    let delete = Command::Delete { key: KeyPath::clean("/after").unwrap() };
    for to in 0..3 {
        let liar = Liar::new(&cluster, to, from);
        for _ in 0..3 {
            for request in [
                append(vote, None, None),
                Request::Vote { vote: Vote { committed: false, ..vote }, last: None },
                Request::Propose { commands: vec![delete.clone()] },
                Request::Leave { name: Arc::from("node1") },
                Request::Status,
                Request::Barrier,
            ] {
                assert_eq!(liar.ask(&request, &[]), Err(Refusal::Stranger), "{request:?}");
            }
        }
    }
    all_is_well(&cluster);
    assert_eq!(cluster.leader(), leader);
}

/// A machine was away while all others were replaced: it knows none of those who lead,
/// and nobody is left who could say who they are. They need it.
#[test]
fn machine_that_knows_nobody_any_longer_gets_back_in() {
    let mut cluster = Cluster::start(3, &[]);
    cluster.kill(2);
    cluster.add();
    cluster.add();
    let url = cluster.server(3).url.clone();
    eventually("the new ones have a vote", || {
        cluster.list().matches("\"role\":\"follower\"").count() == 3
    });
    for (at, name) in [(0, "node1"), (1, "node2")] {
        eventually("it is removed", || {
            let removed = etcd(&["machine", "remove", name, "-u", &url]).output().unwrap();
            let said = String::from_utf8_lossy(&removed.stderr).into_owned();
            removed.status.success() || said.contains("there is no machine")
        });
        ended(&mut cluster, at);
    }
    assert_eq!(cluster.server(3).post("/v1/keys/k?timeout=60", &[("value", "v")]).status, 200);
    cluster.launch(2, &[]);
    cluster.wait(2);
    let leader = cluster.leader();
    cluster.kill(leader);
    let written = cluster.server(2).post("/v1/keys/k?timeout=60", &[("value", "w")]);
    assert_eq!(written.status, 200, "{}", written.body);
}

/// Three hundred connections to each port, and a byte on each: a machine that comes back
/// finds the others, and they find it.
#[test]
fn strangers_take_no_places_from_members() {
    let mut cluster = Cluster::start(3, &[]);
    rlimit::increase_nofile_limit(2048).unwrap();
    let flood = |cluster: &Cluster, at: usize| {
        let address = cluster.server(at).peer_url.trim_start_matches("http://").to_owned();
        let connected = (0..300).map(|number: usize| {
            let mut stream = TcpStream::connect(&address).unwrap();
            // What machines begin with, and what others do.
            stream.write_all(if number.is_multiple_of(2) { b"e" } else { b"G" }).unwrap();
            stream
        });
        connected.collect::<Vec<_>>()
    };
    let follower = (cluster.leader() + 1) % 3;
    let mut held: Vec<_> = (0..3).map(|at| flood(&cluster, at)).collect();
    cluster.kill(follower);
    cluster.launch(follower, &[]);
    cluster.wait(follower);
    held.push(flood(&cluster, follower));
    let written = cluster.server(follower).post("/v1/keys/k?timeout=60", &[("value", "v")]);
    assert_eq!(written.status, 200, "{}", written.body);
    let other = (follower + 1) % 3;
    let said = cluster.server(other).said();
    let told = |line: &&String| line.contains("are of no member");
    assert_eq!(said.iter().filter(told).count(), 1, "{said:#?}");
    drop(held);
}

/// Starts a copy of a machine's directory on ports of its own.
fn start_copy(dir: &Path) -> Server {
    let mut command = etcd(&["-c", "0", "-s", "0", "-d"]);
    Server::launch(command.arg(dir))
}

fn copy(from: &Path, to: &Path) {
    assert!(Process::new("cp").arg("-r").args([from, to]).status().unwrap().success());
}

/// The copy that is started beside a machine finds it, and stops.
#[test]
fn copy_of_a_machine_that_runs_does_not_start() {
    let mut cluster = Cluster::start(3, &[]);
    let aside = tempfile::TempDir::new().unwrap();
    let dir = aside.path().join("copy");
    cluster.kill(2);
    copy(&cluster.dir(2), &dir);
    cluster.launch(2, &[]);
    cluster.wait(2);
    let mut copy = start_copy(&dir);
    assert!(!copy.wait().success());
    let words = copy.last_words();
    let told = format!(
        "this machine runs at {} as well, in another process",
        cluster.server(2).peer_url.trim_start_matches("http://")
    );
    assert!(words.last().unwrap().contains(&told), "{words:?}");
    all_is_well(&cluster);
}

/// A machine that is paused cannot be asked. When it goes on, its copy has been announced:
/// it stops, and says where that is. All that was acknowledged is there.
#[test]
fn machine_that_is_announced_elsewhere_stops() {
    let mut cluster = Cluster::start(3, &[]);
    let aside = tempfile::TempDir::new().unwrap();
    let dir = aside.path().join("copy");
    assert_eq!(cluster.server(2).post("/v1/keys/k", &[("value", "v")]).status, 200);
    cluster.server(2).signal("-STOP");
    copy(&cluster.dir(2), &dir);
    let mut copy = start_copy(&dir);
    copy.wait_until_ready();
    let written = copy.post("/v1/keys/after?timeout=60", &[("value", "v")]);
    assert_eq!(written.status, 200, "{}", written.body);
    let index = written.number("x-etcd-index");
    cluster.server(2).signal("-CONT");
    let words = ended(&mut cluster, 2);
    let address = copy.peer_url.trim_start_matches("http://");
    assert!(words.contains(&format!("this machine is announced at {address} by now")), "{words}");
    all_is_well(&cluster);
    let value = copy.get(&format!("/v1/keys/k?timeout=60&min_index={index}")).body;
    assert!(value.contains("\"value\":\"v\""), "{value}");
    // Nor does it come back while the copy runs.
    cluster.launch(2, &[]);
    let words = ended(&mut cluster, 2);
    assert!(words.contains(address), "{words}");
    eventually("the copy is well", || {
        copy.try_get("/health").is_some_and(|reply| reply.status == 200)
    });
}

/// Whoever has left does not come back by saying where he is.
#[test]
fn machine_that_was_removed_cannot_move() {
    let mut cluster = Cluster::start(3, &[]);
    let removed = node(&cluster, 2);
    let (url, place) = (cluster.server(0).url.clone(), cluster.server(2).peer_url.clone());
    let described = Machine {
        name: Arc::from("node3"),
        node: removed,
        peer_url: Arc::from("http://127.0.0.1:1"),
        client_url: Arc::from(place),
    };
    let out = etcd(&["machine", "remove", "node3", "-u", &url]).output().unwrap();
    assert!(out.status.success());
    ended(&mut cluster, 2);
    let leader = cluster.leader();
    let liar = Liar::new(&cluster, leader, removed);
    let moved = liar.ask(&Request::Move { machine: described.clone() }, &[]);
    assert!(matches!(moved, Err(Refusal::Removed | Refusal::Stranger)), "{moved:?}");
    // Nor does a member speak for it, in whatever words.
    let liar = Liar::new(&cluster, leader, node(&cluster, 1 - leader));
    not_believed(liar.ask(&Request::Move { machine: described.clone() }, &[]));
    let commands = vec![Command::Join(described)];
    not_believed(liar.ask(&Request::Propose { commands }, &[]));
    assert_eq!(cluster.server(0).get("/v1/machines").body.split(", ").count(), 2);
}

/// Nor is anybody let in under the id of a member that does not run, by another name.
#[test]
fn id_of_a_member_is_not_taken_by_another_name() {
    let mut cluster = Cluster::start(3, &[]);
    let about = (cluster.leader() + 1) % 3;
    let described = Machine {
        name: Arc::from("node4"),
        node: node(&cluster, about),
        peer_url: Arc::from("http://127.0.0.1:1"),
        client_url: Arc::from("http://127.0.0.1:2"),
    };
    cluster.kill(about);
    let leader = cluster.leader();
    for from in [NodeId(7), described.node] {
        let liar = Liar::new(&cluster, leader, from);
        let machine = described.clone();
        let refused = liar.ask(&Request::Join { machine, log_format: LogFormat::NEWEST }, &[]);
        let why = Refusal::Impossible(format!("its id is that of machine node{}", about + 1));
        assert_eq!(refused, Err(why));
    }
    cluster.launch(about, &[]);
    cluster.wait(about);
    all_is_well(&cluster);
}

/// Whoever speaks for a member that runs leads nobody away from it, nor does it stop.
#[test]
fn member_that_runs_is_not_found_elsewhere() {
    let cluster = Cluster::start(3, &[]);
    let leader = cluster.leader();
    let (about, elsewhere) = ((leader + 1) % 3, TcpListener::bind("127.0.0.1:0").unwrap());
    let elsewhere = elsewhere.local_addr().unwrap().to_string();
    let from = node(&cluster, about);
    let described = |address: &str| Machine {
        name: Arc::from(format!("node{}", about + 1)),
        node: from,
        peer_url: Arc::from(format!("http://{address}")),
        client_url: Arc::from(&*cluster.server(about).url),
    };
    let other = cluster.server((leader + 2) % 3).peer_url.clone();
    let other = other.trim_start_matches("http://");
    let liar = Liar::new(&cluster, leader, from);
    let stranger = Liar::new(&cluster, leader, NodeId(7));
    for address in [&*elsewhere, other] {
        for _ in 0..5 {
            let said = Request::PreVote { last: None, address: Arc::from(address) };
            assert!(liar.ask(&said, &[]).is_ok());
            let list = cluster.server(leader).get("/v1/machines?detail=true").body;
            let list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
            assert!(list.iter().all(|machine| machine["role"] != "unreachable"), "{list:?}");
        }
        let machine = described(address);
        not_believed(liar.ask(&Request::Move { machine: machine.clone() }, &[]));
        not_believed(stranger.ask(&Request::Join { machine, log_format: LogFormat::NEWEST }, &[]));
    }
    all_is_well(&cluster);
}
