//! The past in a cluster: every machine tells the same, also one that was not there; and
//! any of them puts it back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::{Reply, Server, eventually};

/// Checkpoints come so often that a newcomer begins with one.
const ARGS: [&str; 6] = ["--checkpoint-bytes", "50kB", "--segment-bytes", "64KiB", "-m", "10"];

fn set(server: &Server, key: &str, value: &str) {
    let reply = server.post(&format!("/v1/keys{key}"), &[("value", value), ("timeout", "60")]);
    assert_eq!(reply.status, 200, "{}", reply.body);
}

fn restore(server: &Server, key: &str, at: u64) -> Reply {
    let form = [("at", &*at.to_string()), ("timeout", "60")];
    server.post(&format!("/v1/restore{key}"), &form)
}

fn index(reply: &Reply) -> u64 {
    let line: Value = serde_json::from_str(&reply.body).unwrap();
    line["index"].as_u64().unwrap_or_else(|| panic!("{}", reply.body))
}

/// What a machine says of the past, once it has read it.
fn told(server: &Server, path: &str) -> String {
    let mut body = String::new();
    eventually("the past has been read from the log", || {
        let reply = server.get(path);
        body.clone_from(&reply.body);
        if reply.status != 200 {
            assert_eq!((reply.status, &*body), (503, "The Past Is Being Read From The Log\n"));
        }
        reply.status == 200
    });
    body
}

/// A machine that was not there has it from the others, and meanwhile does not say that it
/// is gone.
#[test]
fn all_machines_tell_the_same_past() {
    let mut cluster = Cluster::start(2, &ARGS);
    let value = "v".repeat(200);
    for number in 0..900 {
        let server = cluster.server(number % 2);
        set(server, &format!("/many/{}", number % 100), &format!("{value}{number}"));
    }
    let back = restore(cluster.server(1), "/many", 500);
    assert_eq!(back.status, 200, "{}", back.body);
    let newest = index(&back);
    cluster.add();
    let paths = [
        "/v1/keys/many?recursive=true&at=60".to_owned(),
        format!("/v1/keys/many?recursive=true&at={}", newest - 1),
        format!("/v1/keys/many?recursive=true&at={newest}"),
        format!("/v1/history/?recursive=true&to={newest}"),
        "/v1/history/many/7?reverse=true&limit=5".to_owned(),
        format!("/v1/diff/many?from=100&to={newest}"),
        format!("/v1/diff/many?from=500&to={newest}"),
    ];
    for path in paths {
        // The machine that has to read it comes first.
        let all: Vec<_> = (0..3).rev().map(|at| told(cluster.server(at), &path)).collect();
        assert!(all.iter().all(|body| *body == all[0]), "{path}");
        assert_eq!(path.contains("from=500"), all[0].is_empty(), "{path}");
    }
}

/// It is worked out where it is asked for, and finds its place where the leader is; also if
/// it is larger than other commands.
#[test]
fn restore_sent_to_a_follower_is_carried_to_the_leader() {
    let cluster = Cluster::start(3, &[]);
    let follower = (cluster.leader() + 1) % 3;
    let (follower, other) = (cluster.server(follower), cluster.server((follower + 1) % 3));
    let big = "b".repeat(700_000);
    for number in 0..4 {
        set(other, &format!("/p/{number}"), &big);
    }
    let at = index(&other.post("/v1/keys/mark", &[("value", "x")]));
    for number in 0..4 {
        assert_eq!(other.delete(&format!("/v1/keys/p/{number}")).status, 200);
    }
    let back = restore(follower, "/p", at);
    let expected = format!(
        "{{\"action\":\"RESTORE\",\"key\":\"/p\",\"at\":{at},\"changed\":4,\"index\":{}}}\n",
        at + 5
    );
    assert_eq!((back.status, back.body), (200, expected));
    let held = follower.get("/v1/keys/p?recursive=true&stale=true").body;
    assert_eq!(held.matches(&big).count(), 4);
    assert_eq!(other.get(&format!("/v1/diff/p?from={at}")).body, "");
}

/// A restore is a word of the second format: while one machine cannot read it, it is
/// refused, and he is named. What only reads is told all the while.
#[test]
fn restore_waits_for_all_to_read_it() {
    let old = ["--log-format", "1"];
    let mut cluster = Cluster::start_playing(3, &old);
    set(cluster.server(0), "/p/a", "1");
    let at = index(&cluster.server(0).post("/v1/keys/p/a", &[("value", "2")]));
    for machine in 0..3 {
        let server = cluster.server((machine + 1) % 3);
        let refused = restore(server, "/p", at - 1);
        let named = refused.body.strip_prefix("Upgrade Not Finished: node");
        assert!(refused.status == 409 && named.is_some(), "{}", refused.body);
        assert!(refused.body.ends_with(" Reads Log Format 1\n"), "{}", refused.body);
        let dry = [("at", &*(at - 1).to_string()), ("dry_run", "true")];
        let dry = server.post("/v1/restore/p", &dry);
        assert_eq!(dry.body, "{\"key\":\"/p/a\",\"from\":\"2\",\"to\":\"1\"}\n");
        let was = told(server, &format!("/v1/keys/p/a?at={}", at - 1));
        assert!(was.contains("\"value\":\"1\""), "{was}");
        cluster.kill(machine);
        cluster.launch(machine, &[]);
        cluster.wait(machine);
    }
    eventually("all read it", || restore(cluster.server(1), "/p", at - 1).status == 200);
    assert!(cluster.server(2).get("/v1/keys/p/a").body.contains("\"value\":\"1\""));
}
