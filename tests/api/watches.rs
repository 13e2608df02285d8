//! Watches against a real process: streams, cursors, history, time limits.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::support::{PATIENCE, Server};

fn small_ring() -> (TempDir, Server) {
    let dir = TempDir::new().unwrap();
    let server = Server::start_with(dir.path(), &["-c", "0", "-s", "0", "-m", "10"]);
    (dir, server)
}

fn write(server: &Server, from: usize, to: usize) {
    for number in from..to {
        let reply = server.post(&format!("/v1/keys/k/{number}"), &[("value", "x")]);
        assert_eq!(reply.status, 200);
    }
}

#[test]
fn stream_crosses_history_ring_and_live_without_gap_or_repeat() {
    let (_dir, server) = small_ring();
    write(&server, 0, 100);
    let mut stream = server.lines("/v1/watch/k?stream=true&index=1", &[]);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&server, 100, 200));
        for number in 0..200 {
            let line = stream.next().unwrap();
            assert!(line.contains(&format!(r#""key":"/k/{number}""#)), "{number}: {line}");
            // Two events come before: the cluster's founding and its first machine.
            assert!(line.contains(&format!(r#""event":{},"#, number + 3)), "{number}: {line}");
        }
        writer.join().unwrap();
    });
}

/// A watch that falls behind a small ring, catches up, and falls behind again must
/// not see what a replay had still in hand for it.
#[test]
fn streams_between_history_and_ring_repeat_nothing() {
    let dir = TempDir::new().unwrap();
    let server = Server::start_with(dir.path(), &["-c", "0", "-s", "0", "-m", "3"]);
    write(&server, 0, 50);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let mut stream = server.lines("/v1/watch/k?stream=true&index=3", &[]);
            scope.spawn(move || {
                for number in 0..600 {
                    let line = stream.next().unwrap();
                    assert!(
                        line.contains(&format!(r#""event":{},"#, number + 3)),
                        "{number}: {line}"
                    );
                }
            });
        }
        for part in 0..5 {
            let (server, from) = (&server, 50 + part * 110);
            scope.spawn(move || write(server, from, from + 110));
        }
    });
}

#[test]
fn watch_older_than_the_ring_is_served_from_the_log() {
    let (_dir, server) = small_ring();
    write(&server, 0, 50);
    for index in [3, 10, 30, 52] {
        let line = server.get(&format!("/v1/watch/k?index={index}")).body;
        let expected = format!(
            "{{\"action\":\"SET\",\"key\":\"/k/{}\",\"value\":\"x\",\"newKey\":true,\"index\":{index}}}\n",
            index - 3
        );
        assert_eq!(line, expected);
    }
}

#[test]
fn old_watch_gets_the_bytes_that_a_live_one_got() {
    let (_dir, server) = small_ring();
    let mut live = server.lines("/v1/watch/?stream=true&after=2", &[]);
    server.post("/v1/keys/ttl", &[("value", "x"), ("ttl", "100")]);
    write(&server, 0, 30);
    let live: Vec<_> = (0..31).map(|_| live.next().unwrap()).collect();
    let old: Vec<_> =
        server.lines("/v1/watch/?stream=true&after=2&timeout=5", &[]).take(31).collect();
    assert_eq!(live, old);
}

#[test]
fn server_sent_events_resume_by_their_id() {
    let (_dir, server) = small_ring();
    write(&server, 0, 20);
    let accept = ("Accept", "text/event-stream");
    let mut stream = server.lines("/v1/watch/k?index=1", &[accept]);
    assert_eq!(stream.next().unwrap(), "id: 3");
    assert!(stream.next().unwrap().starts_with(r#"data: {"action":"SET","key":"/k/0","#));
    assert_eq!(stream.next().unwrap(), "");
    drop(stream);
    let mut stream = server.lines("/v1/watch/k?index=1", &[accept, ("Last-Event-ID", "7")]);
    assert_eq!(stream.next().unwrap(), "id: 8");
    let mut stream = server.lines("/v1/watch/k?after=21", &[accept]);
    assert_eq!(stream.next().unwrap(), "id: 22");
}

#[test]
fn watch_that_runs_out_of_time_says_where_to_go_on() {
    let (_dir, server) = small_ring();
    write(&server, 0, 3);
    let nothing = server.get("/v1/watch/elsewhere?timeout=0.05");
    assert_eq!((nothing.status, &*nothing.body), (204, ""));
    assert_eq!(nothing.number("x-etcd-event"), 5);
    server.post("/v1/keys/elsewhere", &[("value", "x")]);
    let next = server.get("/v1/watch/elsewhere?after=5");
    assert_eq!(next.number("x-etcd-event"), 6);
    // A stream whose time is over just ends.
    let ended = server.get("/v1/watch/elsewhere?stream=true&after=6&timeout=0.05");
    assert_eq!((ended.status, &*ended.body), (200, ""));
}

#[test]
fn watch_covers_whole_parts_of_a_key() {
    let (_dir, server) = small_ring();
    server.post("/v1/keys/foobar", &[("value", "x")]);
    server.post("/v1/keys/foo/bar", &[("value", "x")]);
    assert!(server.get("/v1/watch/foo?index=1").body.contains(r#""key":"/foo/bar""#));
}

#[test]
fn rejections_make_no_event() {
    let (_dir, server) = small_ring();
    server.delete("/v1/keys/a");
    server.post("/v1/testAndSet/a", &[("prevValue", "x"), ("value", "y")]);
    let nothing = server.get("/v1/watch/a?index=1&timeout=0.05");
    assert_eq!((nothing.status, nothing.number("x-etcd-index")), (204, 4));
}

/// Opens a stream, and reads nothing of it. Little fits between there and here, so
/// that it is soon stuck.
fn sleeper(server: &Server) -> TcpStream {
    let address: SocketAddr = server.url.trim_start_matches("http://").parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(1 << 16).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    let request = "GET /v1/watch/k?stream=true&index=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

#[test]
fn client_that_does_not_read_holds_up_nobody() {
    let (_dir, server) = small_ring();
    let mut sleepers: Vec<_> = (0..20).map(|_| sleeper(&server)).collect();
    // Ten MiB in all, more than a socket takes: 4 MiB unless the system is told otherwise.
    let big = "x".repeat(1 << 17);
    for _ in 0..40 {
        // A machine that is busy with other things may need longer than the five seconds
        // that a write has by itself. Whoever is held up, is so for ever.
        let reply = server.post("/v1/keys/k/0?timeout=50", &[("value", &big)]);
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    // Another watch, old and new, is served meanwhile.
    assert!(server.get("/v1/watch/k?index=40").body.contains(r#""index":40}"#));
    // And the one that wakes up finds everything, in order.
    let mut woken = sleepers.pop().unwrap();
    let mut read = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    let last = br#""event":42,"#;
    while !read.windows(last.len()).any(|window| window == last) {
        let length = woken.read(&mut chunk).unwrap();
        assert!(length > 0, "the stream ended");
        // Only the ends of lines are of interest: the values are long.
        read.extend(chunk[..length].iter().filter(|byte| **byte != b'x'));
    }
    let text = String::from_utf8_lossy(&read);
    let places: Vec<_> =
        (3..=42).map(|event| text.find(&format!(r#""event":{event},"#)).unwrap()).collect();
    assert!(places.is_sorted());
}

/// Sets so many keys below `/k`, a hundred different ones: many at a time, so that it takes
/// no longer than it has to.
fn write_many(server: &Server, count: usize) {
    const WRITERS: usize = 50;
    let address = server.url.trim_start_matches("http://");
    let body = format!("value={}", "x".repeat(500));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let body = &body;
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut answers = BufReader::new(stream.try_clone().unwrap());
                for number in 0..count / WRITERS {
                    let key = (writer + number * WRITERS) % 100;
                    let length = body.len();
                    let head = format!(
                        "PUT /v1/keys/k/{key}?timeout=50 HTTP/1.1\r\nHost: localhost\r\n\
                         Content-Length: {length}\r\n\r\n"
                    );
                    stream.write_all((head + body).as_bytes()).unwrap();
                    let mut line = String::new();
                    answers.read_line(&mut line).unwrap();
                    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
                    // The answer ends with the only line that has no carriage return.
                    while line.ends_with("\r\n") {
                        line.clear();
                        answers.read_line(&mut line).unwrap();
                    }
                }
            });
        }
    });
}

/// Whoever sleeps while twenty thousand events go by gets all of them, in order, and they
/// are not kept for it: of twenty who sleep, each would hold more than ten MiB.
#[test]
fn stream_that_cannot_keep_up_falls_back_to_the_log() {
    const EVENTS: usize = 20_000;
    let (_dir, server) = small_ring();
    write_many(&server, 1000);
    let sleepers: Vec<_> = (0..20).map(|_| sleeper(&server)).collect();
    let before = server.resident_kib();
    write_many(&server, EVENTS - 1000);
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 100 << 10, "by {grown} KiB");
    for sleeper in sleepers.into_iter().take(2) {
        sleeper.set_read_timeout(Some(PATIENCE)).unwrap();
        // Each event is a chunk of its own.
        let lines = BufReader::new(sleeper).lines().map(Result::unwrap);
        let mut events = lines.filter(|line| line.starts_with('{'));
        for number in 3..EVENTS + 3 {
            let line = events.next().unwrap();
            assert!(line.contains(&format!(r#""event":{number},"#)), "{number}: {line}");
        }
    }
}

/// Sets, deletes and lets expire so much that a ring of twenty has forgotten most of it, and
/// returns what a stream was told meanwhile.
fn changes(server: &Server) -> Vec<String> {
    let live = server.lines("/v1/watch/?stream=true&after=0", &[]);
    server.post("/v1/keys/k/short", &[("value", "x"), ("ttl", "1")]);
    for number in 0..15 {
        let key = format!("/v1/keys/k/{number}");
        server.post(&key, &[("value", "x"), ("ttl", "1000")]);
        server.post(&key, &[("value", "a \"value\"")]);
        if number % 3 == 0 {
            server.delete(&key);
            // It is refused, and takes an index nevertheless.
            server.delete(&key);
        }
    }
    assert_eq!(server.get("/v1/watch/k/short?action=expire&after=0").status, 200);
    let last = server.post("/v1/keys/k/end", &[("value", "x")]).number("x-etcd-event");
    live.take(usize::try_from(last).unwrap()).collect()
}

/// Asserts that watches from everywhere get what one got that was there. Returns the answers
/// to those who want one event, from each index.
fn answers(server: &Server, live: &[String]) -> HashMap<u64, String> {
    let index = |line: &String| serde_json::from_str::<Value>(line).unwrap()["index"].as_u64();
    let mut answers = HashMap::new();
    for after in 0..live.len() {
        let stream = server.lines(&format!("/v1/watch/?stream=true&after={after}"), &[]);
        assert!(stream.take(live.len() - after).eq(live[after..].iter().cloned()), "{after}");
    }
    for from in 1..=live.last().and_then(index).unwrap() {
        let wanted: Vec<_> = live.iter().filter(|line| index(line) >= Some(from)).collect();
        let stream = server.lines(&format!("/v1/watch/?stream=true&index={from}"), &[]);
        assert!(stream.take(wanted.len()).eq(wanted.into_iter().cloned()), "{from}");
        answers.insert(from, server.get(&format!("/v1/watch/?index={from}")).body);
    }
    answers
}

/// From the ring and the store, from the store alone, and from the log.
#[test]
fn watch_from_anywhere_gets_the_same_bytes_wherever_they_are_read() {
    let dir = TempDir::new().unwrap();
    let args = ["-c", "0", "-s", "0", "-m", "20", "--checkpoint-bytes", "2000"];
    let server = Server::start_with(dir.path(), &args);
    let live = changes(&server);
    let told = answers(&server, &live);
    assert!(server.stop("-TERM").0.success());
    let server = Server::start_with(dir.path(), &args);
    assert_eq!(answers(&server, &live), told);
    assert!(server.stop("-TERM").0.success());
    fs::remove_dir_all(dir.path().join("events")).unwrap();
    fs::write(dir.path().join("events"), "in the way").unwrap();
    let server = Server::start_with(dir.path(), &args);
    assert_eq!(answers(&server, &live), told);
}

#[test]
fn watch_that_gives_up_in_the_middle_of_history_is_sent_back_there() {
    let (_dir, server) = small_ring();
    write(&server, 0, 30);
    // Nothing there matches. The time is over before the log has been replayed, or
    // just after: either is told as it is.
    let nothing = server.get("/v1/watch/elsewhere?index=5&timeout=0");
    assert_eq!(nothing.status, 204);
    match nothing.header("x-etcd-event") {
        "" => assert_eq!(nothing.number("x-etcd-index"), 4),
        event => assert_eq!(event, "32"),
    }
}

#[test]
fn watch_in_the_future_is_sent_back_there() {
    let (_dir, server) = small_ring();
    let nothing = server.get("/v1/watch/k?index=1000&timeout=0.05");
    assert_eq!((nothing.status, nothing.number("x-etcd-index")), (204, 999));
    assert_eq!(nothing.header("x-etcd-event"), "");
}

#[test]
fn watches_end_politely_when_the_machine_stops() {
    let (_dir, server) = small_ring();
    let mut stream = server.lines("/v1/watch/k?stream=true&index=1", &[]);
    write(&server, 0, 1);
    stream.next().unwrap();
    let (status, _) = server.stop("-TERM");
    assert!(status.success());
    assert_eq!(stream.next(), None);
}
