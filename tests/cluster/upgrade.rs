//! Upgrades: three machines of an earlier version become ones of this version, one by one,
//! while clients write.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::cluster::Cluster;
use crate::support::{PATIENCE, Reply, Server, agent, etcd, eventually, last_fault};

/// Plays a version that reads the first format alone.
const OLD: [&str; 2] = ["--log-format", "1"];

/// The format that this version begins with.
const NEWEST: u32 = 3;

fn create(server: &Server, key: &str) -> Reply {
    server.post(&format!("/v1/keys/{key}"), &[("value", "me"), ("prevExist", "false")])
}

/// What the log may say, as a machine has it.
fn format(server: &Server) -> u32 {
    let said = server.get("/v1/keys/_etcd/cluster?stale=true").body;
    let format = said.split_once(" format=").map(|(_, rest)| rest.split('"').next().unwrap());
    format.map_or(1, |format| format.parse().unwrap())
}

/// Writes to the machines in turn, each value once; returns what was acknowledged, by key.
fn write(urls: &[String], writer: usize, ends: &AtomicBool) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    for number in 0.. {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("/w{writer}/{}", number % 50), format!("{writer}-{number}"));
        let url = format!("{}/v1/keys{key}", urls[number % urls.len()]);
        let form = [("value", value.as_str()), ("timeout", "60")];
        match agent(PATIENCE).post(&url).send_form(form) {
            Ok(reply) if reply.status() == 200 => {
                acknowledged.insert(key, value);
            }
            // It may have been written, and then is what counts; or one that comes is.
            Ok(_) | Err(_) => {
                acknowledged.remove(&key);
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    acknowledged
}

/// Ends the writers, also if the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a word of a later format is answered while one machine cannot read it, and that it
/// works once all can. Nothing that was acknowledged meanwhile is lost.
#[test]
fn cluster_is_upgraded_one_machine_at_a_time() {
    let cluster = upgraded(1, |server| create(server, "lock"));
    assert_eq!(create(cluster.server(1), "lock").status, 200);
    assert_eq!(create(cluster.server(2), "lock").body, "Key Already Exists: /lock\n");
}

/// The same from the second format, which knows no requests under an id.
#[test]
fn cluster_is_upgraded_from_the_second_format() {
    let ask =
        |server: &Server| server.ask("PUT", "/v1/keys/once?value=x", &[("x-request-id", "once")]);
    let cluster = upgraded(2, ask);
    assert_eq!(ask(cluster.server(1)).header("x-etcd-replayed"), "");
    assert_eq!(ask(cluster.server(2)).header("x-etcd-replayed"), "true");
}

/// Returns a cluster that was of machines that read an old format, and has become one of this
/// version while clients wrote; meanwhile, what takes a later format was refused.
fn upgraded(old: u32, later: impl Fn(&Server) -> Reply) -> Cluster {
    let mut cluster = Cluster::start_playing(3, &["--log-format", &old.to_string()]);
    let urls: Vec<_> = cluster.running().map(|server| server.url.clone()).collect();
    let ends = AtomicBool::new(false);
    let acknowledged: Vec<_> = thread::scope(|scope| {
        let writing = Ends(&ends);
        let writers: Vec<ScopedJoinHandle<'_, _>> = (0..3)
            .map(|writer| {
                scope.spawn({
                    let (urls, ends) = (&urls, &ends);
                    move || write(urls, writer, ends)
                })
            })
            .collect();
        for at in 0..3 {
            let refused = later(cluster.server((at + 1) % 3));
            assert_eq!(refused.status, 409, "{}", refused.body);
            let named = refused.body.trim_end().strip_prefix("Upgrade Not Finished: node");
            let named =
                named.and_then(|rest| rest.strip_suffix(&*format!(" Reads Log Format {old}")));
            let late = at + 1..=3;
            assert!(
                named.is_some_and(|name| late.contains(&name.parse().unwrap())),
                "{}",
                refused.body
            );
            assert!(cluster.running().all(|server| format(server) == old));
            cluster.kill(at);
            cluster.launch(at, &[]);
            cluster.wait(at);
        }
        eventually("the new format is in force", || {
            cluster.running().all(|server| format(server) == NEWEST)
        });
        drop(writing);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    for (key, value) in acknowledged.iter().flatten() {
        let read = cluster.server(0).get(&format!("/v1/keys{key}"));
        assert!(read.body.contains(&format!("\"value\":\"{value}\"")), "{key}: {}", read.body);
    }
    assert!(acknowledged.iter().all(|written| written.len() > 2), "{acknowledged:?}");
    cluster
}

/// A machine that is away may come back as it was: it is in the way, by name.
#[test]
fn machine_that_does_not_answer_is_in_the_way() {
    let mut cluster = Cluster::start_playing(3, &OLD);
    cluster.kill(2);
    for at in 0..2 {
        cluster.kill(at);
        cluster.launch(at, &[]);
    }
    (0..2).for_each(|at| cluster.wait(at));
    let refused = create(cluster.server(0), "lock");
    assert_eq!(
        (refused.status, &*refused.body),
        (409, "Upgrade Not Finished: node3 Does Not Answer\n")
    );
    cluster.launch(2, &[]);
    cluster.wait(2);
    eventually("all read it", || create(cluster.server(0), "lock").status == 200);
}

/// Whoever cannot read the log is not let in, and is told so.
#[test]
fn newcomer_that_cannot_read_the_log_is_refused() {
    let cluster = Cluster::start(1, &[]);
    assert_eq!(format(cluster.server(0)), NEWEST);
    let dir = TempDir::new().unwrap();
    let (dir, peers) = (dir.path().join("late"), cluster.server(0).ports().1);
    let through = format!("127.0.0.1:{peers}");
    let dir = dir.to_str().unwrap();
    let args = ["-d", dir, "-c", "0", "-s", "0", "-C", &through, OLD[0], OLD[1]];
    let fault = last_fault(&args);
    assert!(
        fault.ends_with("this cluster's log is of format 3, machine late reads format 1"),
        "{fault}"
    );
    // In a cluster that still says nothing of the second format, it is welcome.
    let old = Cluster::start_playing(1, &OLD);
    let through = format!("127.0.0.1:{}", old.server(0).ports().1);
    let joined = Server::hear_out(etcd(&args[..6]).arg("-C").arg(&through).args(OLD));
    assert_eq!(old.server(0).get("/v1/machines").body.split(", ").count(), 2);
    drop(joined);
}

/// What a later version wrote is refused by an earlier one, and by name: it is not taken
/// for damage.
#[test]
fn earlier_version_stops_at_what_it_cannot_read() {
    let mut cluster = Cluster::start(1, &[]);
    assert_eq!(create(cluster.server(0), "lock").status, 200);
    cluster.kill(0);
    cluster.launch(0, &OLD);
    let server = cluster.servers[0].as_mut().unwrap();
    assert_eq!(server.wait().code(), Some(1));
    let words = server.last_words().join("\n");
    assert!(words.contains("log format 2, and this machine reads 1 at most"), "{words}");
}
