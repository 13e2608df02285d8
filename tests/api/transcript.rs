//! The transcript of the first etcd's README, against a real process.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Server, eventually};

fn fresh() -> (TempDir, Server) {
    let dir = TempDir::new().unwrap();
    let server = Server::start(&dir.path().join("node"));
    (dir, server)
}

/// Takes the expiration out of a line, and checks its form: RFC 3339 with
/// nanoseconds and an offset.
fn without_expiration(line: &str) -> String {
    let (before, rest) = line.split_once(r#""expiration":""#).expect("an expiration");
    let (expiration, after) = rest.split_once(r#"","#).expect("a field behind it");
    let time = chrono::DateTime::parse_from_rfc3339(expiration).expect("RFC 3339");
    assert_eq!(time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, false), expiration);
    format!("{before}{after}")
}

#[test]
fn every_line_of_the_transcript() {
    let (_dir, server) = fresh();
    assert_transcript(&server);
}

/// Goes through the transcript with a fresh machine.
pub(crate) fn assert_transcript(server: &Server) {
    let message = "/v1/keys/message";
    assert_eq!(
        server.post(message, &[("value", "Hello world")]).body,
        "{\"action\":\"SET\",\"key\":\"/message\",\"value\":\"Hello world\",\"newKey\":true,\"index\":3}\n"
    );
    assert_eq!(
        server.get(message).body,
        "{\"action\":\"GET\",\"key\":\"/message\",\"value\":\"Hello world\",\"index\":3}\n"
    );
    assert_eq!(
        server.post(message, &[("value", "Hello etcd")]).body,
        "{\"action\":\"SET\",\"key\":\"/message\",\"prevValue\":\"Hello world\",\"value\":\"Hello etcd\",\"index\":4}\n"
    );
    assert_eq!(
        server.delete(message).body,
        "{\"action\":\"DELETE\",\"key\":\"/message\",\"prevValue\":\"Hello etcd\",\"index\":5}\n"
    );

    let set = server.post("/v1/keys/foo", &[("value", "bar"), ("ttl", "5")]);
    assert_eq!(
        without_expiration(&set.body),
        "{\"action\":\"SET\",\"key\":\"/foo\",\"value\":\"bar\",\"newKey\":true,\"ttl\":4,\"index\":6}\n"
    );
    let expired = server.get("/v1/watch/foo?timeout=30");
    assert_eq!(
        without_expiration(&expired.body),
        "{\"action\":\"DELETE\",\"key\":\"/foo\",\"prevValue\":\"bar\",\"index\":6}\n"
    );
    let gone = server.get("/v1/keys/foo");
    assert_eq!((gone.status, &*gone.body), (404, "404 page not found\n"));

    let barbar = "{\"action\":\"SET\",\"key\":\"/foo/foo\",\"value\":\"barbar\",\"newKey\":true,\"index\":7}\n";
    std::thread::scope(|scope| {
        // Whether the watch or the set comes first, the watch from this index sees it.
        let watch = scope.spawn(|| server.post("/v1/watch/foo", &[("index", "7")]).body);
        assert_eq!(server.post("/v1/keys/foo/foo", &[("value", "barbar")]).body, barbar);
        assert_eq!(watch.join().unwrap(), barbar);
    });
    assert_eq!(server.post("/v1/watch/foo", &[("index", "7")]).body, barbar);
    locks_and_listings(server);
}

fn locks_and_listings(server: &Server) {
    assert_eq!(
        server.post("/v1/keys/testAndSet", &[("value", "one")]).body,
        "{\"action\":\"SET\",\"key\":\"/testAndSet\",\"value\":\"one\",\"newKey\":true,\"index\":8}\n"
    );
    let failed =
        server.post("/v1/testAndSet/testAndSet", &[("prevValue", "two"), ("value", "three")]);
    assert_eq!((failed.status, &*failed.body), (400, "Test one==two fails\n"));
    assert_eq!(
        server.post("/v1/testAndSet/testAndSet", &[("prevValue", "one"), ("value", "two")]).body,
        "{\"action\":\"SET\",\"key\":\"/testAndSet\",\"prevValue\":\"one\",\"value\":\"two\",\"index\":10}\n"
    );
    assert_eq!(
        server.post("/v1/keys/foo/foo_dir/bar", &[("value", "barbarbar")]).body,
        "{\"action\":\"SET\",\"key\":\"/foo/foo_dir/bar\",\"value\":\"barbarbar\",\"newKey\":true,\"index\":11}\n"
    );
    assert_eq!(
        server.get("/v1/list/foo/").body,
        "{\"Key\":\"foo\",\"Value\":\"barbar\",\"Type\":\"f\"} {\"Key\":\"foo_dir\",\"Value\":\".\",\"Type\":\"d\"}\n"
    );
    assert_eq!(
        server.get("/v1/keys/foo").body,
        "[{\"action\":\"GET\",\"key\":\"/foo/foo\",\"value\":\"barbar\",\"index\":11},\
         {\"action\":\"GET\",\"key\":\"/foo/foo_dir\",\"dir\":true,\"index\":11}]\n"
    );
}

#[test]
fn live_watch_sees_the_next_event() {
    let (_dir, server) = fresh();
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| server.get("/v1/watch/foo?timeout=50"));
        // The watch begins somewhen: one of these sets is the next event for it.
        while !watch.is_finished() {
            server.post("/v1/keys/other", &[("value", "x")]);
            server.post("/v1/keys/foo/foo", &[("value", "barbar")]);
        }
        let seen = watch.join().unwrap();
        assert!(seen.body.starts_with(r#"{"action":"SET","key":"/foo/foo""#), "{}", seen.body);
    });
}

#[test]
fn cluster_and_program_tell_who_they_are() {
    let (_dir, server) = fresh();
    // Programs read these as they are: a newline would become a part of an address.
    for path in ["/leader", "/v1/leader"] {
        assert_eq!(server.get(path).body, server.peer_url);
    }
    assert_eq!(server.get("/v1/machines").body, server.url);
    assert_eq!(server.get("/version").body, format!("etcd {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(server.get("/health").body, "{\"health\":\"true\"}\n");
    let machine = server.get("/v1/keys/_etcd/machines/node").body;
    assert!(machine.contains(&server.url) && machine.contains(&server.peer_url), "{machine}");
}

/// As Go's `encoding/json` wrote it in 2013, wherever text of a client stands in JSON.
#[test]
fn text_is_escaped_as_the_first_etcd_did() {
    let (_dir, server) = fresh();
    let text = "<a&b>\u{2028}\u{2029}\t\n";
    let escaped = r"\u003ca\u0026b\u003e\u2028\u2029\u0009\n";
    let path = "/v1/keys/dir/%3Ca%26b%3E%E2%80%A8%E2%80%A9%09%0A";
    server.post(path, &[("value", text)]);
    let set = server.post(path, &[("value", text)]).body;
    let expected = format!(
        "{{\"action\":\"SET\",\"key\":\"/dir/{escaped}\",\"prevValue\":\"{escaped}\",\"value\":\"{escaped}\",\"index\":4}}\n"
    );
    assert_eq!(set, expected);
    let got = format!("\"key\":\"/dir/{escaped}\",\"value\":\"{escaped}\"");
    assert!(server.get(path).body.contains(&got));
    assert!(server.get("/v1/keys/dir").body.contains(&got));
    let listed = format!("{{\"Key\":\"{escaped}\",\"Value\":\"{escaped}\",\"Type\":\"f\"}}\n");
    assert_eq!(server.get("/v1/list/dir").body, listed);
    // A watch and a stream, now and from history, give the bytes that the set gave.
    assert_eq!(server.get("/v1/watch/dir?index=4").body, set);
    let line = server.lines("/v1/watch/dir?index=4&stream=true", &[]).next().unwrap();
    assert!(line.starts_with(set.trim_end().trim_end_matches('}')), "{line}");
}

#[test]
fn every_answer_says_which_state_gave_it() {
    let (_dir, server) = fresh();
    let set = server.post("/v1/keys/a", &[("value", "1")]);
    assert_eq!((set.number("x-etcd-index"), set.number("x-etcd-event")), (3, 3));
    let missing = server.delete("/v1/keys/b");
    assert_eq!((missing.status, missing.number("x-etcd-index")), (404, 4));
    let get = server.get("/v1/keys/a");
    assert_eq!((get.number("x-etcd-index"), get.number("x-raft-term")), (4, 1));
    assert_eq!(get.header("content-type"), "application/json");
    assert_eq!(server.get("/version").header("content-type"), "text/plain; charset=utf-8");
    // Raft's own first entries are one of membership and one of the new leader.
    assert_eq!(get.number("x-raft-index"), 5);
    let cluster = server.get("/v1/keys/_etcd/cluster");
    let id = cluster.header("x-etcd-cluster-id");
    assert!(cluster.body.contains(&format!(r#""value":"{id} format=3""#)), "{}", cluster.body);
}

#[test]
fn key_expires_no_earlier_than_it_should() {
    let (_dir, server) = fresh();
    let mut stream = server.lines("/v1/watch/?stream=true&index=3", &[]);
    let asked = Instant::now();
    let set = server.post("/v1/keys/soon", &[("value", "x"), ("ttl", "1")]);
    assert!(stream.next().unwrap().contains(r#""action":"SET","key":"/soon""#));
    let expired = stream.next().unwrap();
    let waited = asked.elapsed();
    // Never early; how late it may be is measured by the benchmarks, not here.
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    assert!(
        expired.starts_with(r#"{"action":"EXPIRE","key":"/soon","prevValue":"x""#),
        "{expired}"
    );
    let deadline = time_in(&set.body, "expiration");
    assert!(time_in(&expired, "time") >= deadline, "{expired}");
    assert_eq!(time_in(&expired, "expiration"), deadline);
}

fn time_in(line: &str, field: &str) -> chrono::DateTime<chrono::FixedOffset> {
    let (_, rest) =
        line.split_once(&format!(r#""{field}":""#)).unwrap_or_else(|| panic!("{field} in {line}"));
    rest.split('"').next().unwrap().parse().unwrap()
}

#[test]
fn keys_that_fell_due_while_the_machine_was_down_expire_when_it_leads_again() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    let set = server.post("/v1/keys/soon", &[("value", "x"), ("ttl", "1")]);
    let index = set.number("x-etcd-index");
    server.kill();
    let deadline = time_in(&set.body, "expiration");
    eventually("the deadline has passed", || chrono::Utc::now() > deadline);
    let server = Server::start(dir.path());
    let mut seen = server.lines(&format!("/v1/watch/soon?index={index}&stream=true"), &[]);
    assert!(seen.next().unwrap().contains(r#""action":"SET""#));
    assert!(seen.next().unwrap().contains(r#"{"action":"EXPIRE","key":"/soon""#));
    assert_eq!(server.get("/v1/keys/soon").status, 404);
}

#[test]
fn directory_that_holds_nothing_is_deleted_on_request() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/a/b", &[("value", "x")]);
    let delete = |path: &str| {
        let reply = server.delete(path);
        (reply.status, reply.body)
    };
    let refused = |status, text: &str| (status, text.to_owned());
    assert_eq!(delete("/v1/keys/a?dir=true"), refused(400, "Not Empty: /a\n"));
    assert_eq!(delete("/v1/keys/a/b?dir=true"), refused(400, "Not A Directory: /a/b\n"));
    server.delete("/v1/keys/a/b");
    assert_eq!(delete("/v1/keys/a"), refused(400, "Not A File: /a\n"));
    let deleted = "{\"action\":\"DELETE\",\"key\":\"/a\",\"dir\":true,\"index\":8}\n";
    assert_eq!(delete("/v1/keys/a?dir=true"), refused(200, deleted));
    assert_eq!(server.get("/v1/watch/a?index=8").body, deleted);
    assert_eq!(server.get("/v1/keys/a").status, 404);
    // The log tells it, and a start knows it.
    server.kill();
    let server = Server::start(dir.path());
    assert_eq!(server.get("/v1/keys/a").status, 404);
}
