//! A cluster of three real processes: the transcript, leaving, moving, recovering.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a figure is told to whoever wants to see it")]

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd::peers::{CallError, Peers, Refusal, Request, Sockets};
use etcd_log::{ClusterId, NodeId};

use crate::support::cluster::Cluster;
use crate::support::{Server, etcd, eventually};

/// What the program says when it is run with these arguments.
fn said(args: &[&str]) -> String {
    let output = etcd(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).unwrap()
}

/// The transcript of the cluster: three commands, the first of them killed, all
/// killed, all started again.
#[test]
fn every_line_of_the_transcript() {
    let mut cluster = Cluster::start(3, &[]);
    assert_eq!(
        cluster.server(0).post("/v1/keys/foo", &[("value", "bar")]).body,
        "{\"action\":\"SET\",\"key\":\"/foo\",\"value\":\"bar\",\"newKey\":true,\"index\":5}\n"
    );
    let machines = cluster.server(2).get("/v1/machines").body;
    assert_eq!(machines.split(", ").count(), 3, "{machines}");
    let keys = cluster.server(1).get("/v1/keys/_etcd/machines/node2").body;
    assert!(keys.contains(&cluster.server(1).url), "{keys}");

    let read = "{\"action\":\"GET\",\"key\":\"/foo\",\"value\":\"bar\",\"index\":5}\n";
    cluster.kill(0);
    assert_eq!(cluster.server(1).get("/v1/keys/foo?timeout=60").body, read);
    assert_eq!(cluster.server(2).get("/v1/keys/foo?stale=true").body, read);
    cluster.kill(1);
    let alone = cluster.server(2).get("/v1/keys/foo?timeout=1.5");
    assert_eq!(alone.status, 503, "{}", alone.body);
    let which = alone.body.split(':').next().unwrap();
    assert!(matches!(which.trim_end(), "No Leader" | "No Majority"), "{}", alone.body);
    assert_eq!(cluster.server(2).get("/v1/keys/foo?stale=true").body, read);
    cluster.kill(2);

    for at in [2, 0, 1] {
        cluster.launch(at, &[]);
    }
    for at in 0..3 {
        cluster.wait(at);
        assert_eq!(cluster.server(at).get("/v1/keys/foo?timeout=60").body, read);
    }
}

/// All started at the same moment, the founder last: they find each other.
#[test]
fn machines_that_join_at_once_all_get_in() {
    let mut cluster = Cluster::start(1, &[]);
    for at in 1..4 {
        cluster.servers.push(None);
        cluster.launch_new(at);
    }
    for at in 1..4 {
        cluster.wait(at);
    }
    let index = cluster.server(3).post("/v1/keys/k", &[("value", "v")]).body;
    assert!(index.ends_with("\"index\":6}\n"), "one sync, four joins: {index}");
}

/// After the leader is killed the next write is acknowledged, ten times, and nothing
/// that was is lost. How long it took in the median is told.
#[test]
fn leader_that_is_killed_is_replaced() {
    let mut cluster = Cluster::start(3, &[]);
    let mut times = Vec::new();
    for round in 0..10 {
        let leader = cluster.leader();
        cluster.kill(leader);
        let killed = Instant::now();
        let value = round.to_string();
        let other = cluster.running().next().unwrap();
        eventually("a write is acknowledged", || {
            other.post("/v1/keys/round?timeout=20", &[("value", &value)]).status == 200
        });
        times.push(killed.elapsed());
        let read = other.get("/v1/keys/round?timeout=60").body;
        assert!(read.contains(&format!("\"value\":\"{value}\"")), "{read}");
        cluster.launch(leader, &[]);
        cluster.wait(leader);
    }
    times.sort();
    // A timing never fails a test: it is told (`--nocapture`).
    let median = times[times.len() / 2];
    eprintln!("a write after the leader was killed took {median:?} in the median of {times:?}");
}

/// Writes and reads are answered by every machine, and each sees its own writes at
/// any read level; testAndSet is decided once.
#[test]
fn every_machine_answers_everything() {
    let cluster = Cluster::start(3, &[]);
    for at in 0..3 {
        let (server, value) = (cluster.server(at), at.to_string());
        let reply = server.post("/v1/keys/k", &[("value", &value)]);
        let index = reply.number("x-etcd-index");
        assert!(server.get("/v1/keys/k?stale=true").number("x-etcd-index") >= index);
        for other in cluster.running() {
            assert!(other.get("/v1/keys/k").body.contains(&format!("\"value\":\"{value}\"")));
            let seen = other.get(&format!("/v1/keys/k?min_index={index}"));
            assert_eq!(seen.status, 200);
        }
        assert_eq!(server.get("/health").body, "{\"health\":\"true\"}\n");
        assert!(server.get("/leader").body.starts_with("http://127.0.0.1:"));
    }
    let form = [("prevValue", "2"), ("value", "won")];
    let tests = cluster.running().map(|server| server.post("/v1/testAndSet/k", &form));
    let statuses: Vec<_> = tests.map(|reply| reply.status).collect();
    assert_eq!(statuses, [200, 400, 400]);
    let rejected = cluster.server(2).delete("/v1/keys/none");
    assert_eq!((rejected.status, &*rejected.body), (404, "404 page not found\n"));
}

/// A watch goes on at another machine where it stopped, without gaps or repeats.
#[test]
fn watch_goes_on_elsewhere() {
    let mut cluster = Cluster::start(3, &["-m", "10"]);
    let write = |cluster: &Cluster, from: u64| {
        for number in from..from + 30 {
            let value = number.to_string();
            let running: Vec<_> = cluster.running().collect();
            let server = running[usize::try_from(number).unwrap() % running.len()];
            let reply = server.post("/v1/keys/n?timeout=60", &[("value", &value)]);
            assert_eq!(reply.status, 200, "{}", reply.body);
        }
    };
    let numbers = |server: &Server, after: u64, count: usize| {
        let path = format!("/v1/watch/n?stream=true&after={after}");
        let lines: Vec<_> = server.lines(&path, &[]).take(count).collect();
        let event = |line: &String| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let value = line["value"].as_str().unwrap().parse::<u64>().unwrap();
            (value, line["event"].as_u64().unwrap())
        };
        lines.iter().map(event).collect::<Vec<_>>()
    };
    write(&cluster, 0);
    let first = numbers(cluster.server(1), 0, 20);
    let leader = cluster.leader();
    cluster.kill(leader);
    write(&cluster, 30);
    let other = cluster.running().next().unwrap();
    let rest = numbers(other, first.last().unwrap().1, 40);
    let values: Vec<_> = first.iter().chain(&rest).map(|(value, _)| *value).collect();
    assert_eq!(values, (0..60).collect::<Vec<_>>());
}

#[test]
fn machine_can_be_removed_and_cannot_come_back() {
    let mut cluster = Cluster::start(3, &[]);
    let url = cluster.server(1).url.clone();
    let table = said(&["machine", "list", "-u", &url]);
    let mut lines = table.lines();
    assert!(lines.next().unwrap().starts_with("NAME   ID"), "{table}");
    assert!(lines.next().unwrap().contains("leader") && table.lines().count() == 4, "{table}");

    assert_eq!(said(&["machine", "remove", "node3", "-u", &url]), "machine node3 is removed\n");
    let mut removed = cluster.servers[2].take().unwrap();
    assert!(!removed.wait().success());
    let words = removed.last_words();
    let expected = "etcd: this machine was removed from the cluster, and serves no more";
    assert_eq!(words.last().unwrap(), expected, "{words:?}");
    let again = said(&["-d", cluster.dir(2).to_str().unwrap(), "-c", "0", "-s", "0"]);
    assert!(again.contains("this machine was removed from its cluster"), "{again}");
    let unknown = said(&["machine", "remove", "node3", "-u", &url]);
    assert_eq!(unknown, "etcd: there is no machine node3\n");

    // The leader removes itself; whoever is left goes on.
    assert_eq!(said(&["machine", "remove", "node1", "-u", &url]), "machine node1 is removed\n");
    assert!(!cluster.servers[0].take().unwrap().wait().success());
    eventually("the last one leads", || {
        cluster.server(1).post("/v1/keys/k", &[("value", "v")]).status == 200
    });
    let last = said(&["machine", "remove", "node2", "-u", &url]);
    assert_eq!(last, "etcd: the cluster refuses: the last machine cannot be removed\n");
}

/// A machine that comes back elsewhere says so, and the others follow; so do two at
/// once.
#[test]
fn machines_that_have_moved_are_found_again() {
    let mut cluster = Cluster::start(3, &[]);
    assert_eq!(cluster.server(0).post("/v1/keys/k", &[("value", "v")]).status, 200);
    for moved in [vec![2], vec![1, 2]] {
        for &at in &moved {
            cluster.kill(at);
            cluster.forget_ports(at);
        }
        for &at in &moved {
            cluster.launch(at, &[]);
        }
        for &at in &moved {
            cluster.wait(at);
        }
        for &at in &moved {
            let url = &cluster.server(at).url;
            eventually("all know where it is", || {
                cluster.running().all(|server| server.get("/v1/machines").body.contains(&**url))
            });
        }
    }
    assert_eq!(cluster.server(2).post("/v1/keys/k", &[("value", "w")]).status, 200);
}

#[test]
fn survivor_becomes_a_cluster_of_one() {
    let mut cluster = Cluster::start(3, &[]);
    for number in 0..20 {
        let value = number.to_string();
        assert_eq!(cluster.server(1).post("/v1/keys/k", &[("value", &value)]).status, 200);
    }
    (0..3).for_each(|at| cluster.kill(at));
    let dir = cluster.dir(1);
    let dir = dir.to_str().unwrap();
    let told = said(&["recover", "-d", dir]);
    assert!(told.contains("--force-new-cluster"), "{told}");
    let told = said(&["recover", "--force-new-cluster", "-d", dir]);
    assert!(told.starts_with("the history of machine node2 is certain up to command #"), "{told}");
    assert!(told.contains("is now a cluster of its own"), "{told}");

    cluster.launch(1, &[]);
    cluster.wait(1);
    let value = cluster.server(1).get("/v1/keys/k").body;
    assert!(value.contains("\"value\":\"19\""), "{value}");
    assert_eq!(cluster.server(1).get("/v1/machines").body.split(", ").count(), 1);
    // An old member does not get in by accident.
    cluster.launch(0, &[]);
    eventually("the old member has asked in vain", || {
        let said = cluster.server(0).said();
        said.iter().any(|line| line.contains("waiting for the other machines: no leader"))
    });
    assert_eq!(cluster.server(1).get("/v1/machines").body.split(", ").count(), 1);
    assert_eq!(cluster.server(1).post("/v1/keys/k", &[("value", "new")]).status, 200);
}

/// An empty machine, and one that was away while a lot was written, get a checkpoint
/// and what comes after it; and in the end all of history.
#[test]
fn machine_that_is_far_behind_gets_a_checkpoint() {
    let args = ["--checkpoint-bytes", "100kB", "--segment-bytes", "64KiB", "-m", "10"];
    let mut cluster = Cluster::start(3, &args);
    cluster.kill(2);
    let value = "v".repeat(200);
    for number in 0..3000 {
        let key = format!("/v1/keys/many/{}", number % 100);
        assert_eq!(cluster.server(1).post(&key, &[("value", &value)]).status, 200);
    }
    cluster.launch(2, &[]);
    cluster.wait(2);
    let came = |server: &Server, what: &str| server.said().iter().any(|line| line.contains(what));
    let announced = |server: &Server, what: &str| {
        server.announced.iter().any(|line| line.contains(what)) || came(server, what)
    };
    eventually("a checkpoint came", || announced(cluster.server(2), "a checkpoint at command"));
    cluster.add();
    // Whoever has no history yet passes the watch on.
    for at in [2, 3] {
        let first = cluster.server(at).get("/v1/watch/many?index=10");
        assert!(first.body.contains("\"index\":10}"), "{}", first.body);
    }
    let all = "the history from before the checkpoint has come";
    eventually("history has come", || announced(cluster.server(3), all));
    assert_eq!(cluster.server(3).get("/v1/keys/many/99").status, 200);
    for at in (0..4).rev() {
        let (status, _) = cluster.servers[at].take().unwrap().stop("-TERM");
        assert!(status.success());
        let dir = cluster.dir(at);
        let dir = dir.to_str().unwrap();
        let verified = said(&["log", "verify", "-d", dir]);
        assert!(verified.starts_with("good: ") && !verified.contains("etcd:"), "{verified}");
        let first = said(&["log", "show", "-d", dir, "--to", "1"]);
        assert!(first.contains("sync"), "{first}");
    }
}

/// What strangers say on the peer port is refused, and breaks nothing.
#[test]
fn strangers_are_refused() {
    let cluster = Cluster::start(1, &[]);
    let address = cluster.server(0).peer_url.trim_start_matches("http://").to_owned();
    for nonsense in [&b"etcd"[..], b"etcd\x02\x01\0\0\xff\xff\xff\xff", &[b'e'; 5000]] {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(nonsense).unwrap();
        drop(stream);
    }
    let known: ClusterId = cluster.server(0).cluster().parse().unwrap();
    let other = ClusterId(known.0 ^ 1);
    assert_eq!(refusal(other, None, &address), Refusal::OtherCluster(known));
    let wrong = refusal(known, Some(NodeId(5)), &address);
    assert!(matches!(wrong, Refusal::OtherMachine(_)), "{wrong:?}");
    // One that wants a name that is taken is told so.
    let dir = tempfile::TempDir::new().unwrap();
    let (path, url) = (dir.path().join("x"), address.clone());
    let taken =
        said(&["-d", path.to_str().unwrap(), "-c", "0", "-s", "0", "-n", "node1", "-C", &url]);
    assert!(taken.contains("there is a machine node1 already, with another id"), "{taken}");
    assert_eq!(cluster.server(0).get("/health").status, 200);
}

/// Why a machine does not answer one of this cluster, which takes it for this node.
fn refusal(cluster: ClusterId, node: Option<NodeId>, address: &str) -> Refusal {
    let peers = Peers::new(NodeId(7), cluster, Arc::new(Sockets::Plain));
    let asking = async {
        let (request, limit) = (Request::Status, Duration::from_mins(1));
        match node {
            None => peers.ask_at(address, &request, limit).await.map(|(_, answer)| answer),
            Some(node) => {
                peers.learn(node, address);
                peers.ask(node, &request, &[], limit).await
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(asking) {
        Err(CallError::Refused { refusal, .. }) => refusal,
        other => panic!("it was not refused: {other:?}"),
    }
}
