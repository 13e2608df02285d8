//! A machine that was made out of a cluster's exported log, beside that cluster: each
//! has a history of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tempfile::TempDir;

use crate::support::cluster::Cluster;
use crate::support::{Server, etcd, eventually};

/// How many writes each side takes while the other one runs.
const WRITES: u64 = 1000;

fn tool(args: &[&str], dir: &Path) -> String {
    let output = etcd(args).arg("-d").arg(dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Exports the log of a machine that has stopped, and makes a directory out of it.
fn imported(from: &Path, into: &Path) {
    let recorded = into.join("recorded.jsonl");
    fs::write(&recorded, tool(&["log", "export"], from)).unwrap();
    tool(&["log", "import", recorded.to_str().unwrap()], &into.join("node"));
}

/// Ends the load, whatever comes before.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes, until it is told to stop.
fn load(server: &Server, stop: &AtomicBool, done: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let number = done.load(Ordering::Relaxed).to_string();
        let set = server.post("/v1/keys/load/0", &[("value", &number)]);
        if set.status == 200 {
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn imported_machine_leaves_the_cluster_alone_that_its_log_is_of() {
    let mut cluster = Cluster::start(3, &[]);
    assert_eq!(cluster.server(0).post("/v1/keys/before", &[("value", "v")]).status, 200);
    let last = cluster.server(0).post("/v1/keys/load/0", &[("value", "v")]);
    assert_eq!(last.status, 200);
    // What is acknowledged, this machine may not know to be committed yet.
    let reached = format!("/v1/keys/load/0?min_index={}&timeout=60", last.number("x-etcd-index"));
    assert_eq!(cluster.server(2).get(&reached).status, 200);
    let (status, _) = cluster.servers[2].take().unwrap().stop("-TERM");
    assert!(status.success());
    let dir = TempDir::new().unwrap();
    imported(&cluster.dir(2), dir.path());
    cluster.launch(2, &[]);
    cluster.wait(2);

    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _ended = Stop(&stop);
        scope.spawn(|| load(cluster.server(0), &stop, &done));
        eventually("the cluster is under load", || done.load(Ordering::Relaxed) > 100);
        let alone = Server::start(&dir.path().join("node"));
        assert_ne!(alone.cluster(), cluster.server(0).cluster());
        for number in 0..WRITES {
            let (key, value) = (format!("/v1/keys/alone/{}", number % 100), number.to_string());
            assert_eq!(alone.post(&key, &[("value", &value)]).status, 200);
        }
        let then = done.load(Ordering::Relaxed);
        eventually("the cluster goes on", || done.load(Ordering::Relaxed) > then + WRITES);
        assert_eq!(alone.get("/v1/keys/before").status, 200);
        assert_eq!(alone.get("/v1/machines").body.trim_end(), alone.url);
        for server in cluster.running() {
            assert_eq!(server.get("/v1/keys/alone").status, 404);
            assert_eq!(server.get("/v1/machines").body.split(", ").count(), 3);
        }
        // Whoever wants to can join it, and has its history.
        let through = alone.peer_url.trim_start_matches("http://");
        let other = dir.path().join("other");
        let joined = Server::start_with(&other, &["-c", "0", "-s", "0", "-C", through]);
        assert_eq!(joined.cluster(), alone.cluster());
        assert_eq!(joined.get("/v1/keys/before").status, 200);
        assert!(joined.stop("-TERM").0.success());
        assert!(alone.stop("-TERM").0.success());
    });

    for at in 0..3 {
        let (status, words) = cluster.servers[at].take().unwrap().stop("-TERM");
        assert!(status.success(), "{words:#?}");
        assert!(tool(&["log", "verify"], &cluster.dir(at)).starts_with("good: "));
    }
    assert!(tool(&["log", "verify"], &dir.path().join("node")).starts_with("good: "));
}
