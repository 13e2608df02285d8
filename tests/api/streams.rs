//! What a watch passes over, how far it says that it has come, and how its stream ends.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Lines, Server};

/// With a ring so small that the log is read as well.
fn small_ring() -> (TempDir, Server) {
    let dir = TempDir::new().unwrap();
    let server = Server::start_with(dir.path(), &["-c", "0", "-s", "0", "-m", "10"]);
    (dir, server)
}

fn set(server: &Server, key: &str) {
    assert_eq!(server.post(&format!("/v1/keys{key}"), &[("value", "x")]).status, 200);
}

fn delete(server: &Server, key: &str) {
    assert_eq!(server.delete(&format!("/v1/keys{key}")).status, 200);
}

fn field<'a>(line: &'a Value, name: &str) -> &'a str {
    line[name].as_str().unwrap_or_default()
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// The lines of a stream up to an event.
fn upto(stream: &mut Lines, last: u64) -> Vec<Value> {
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &Value| line["event"] != last) {
        lines.push(json(&stream.next().expect("the stream goes on")));
    }
    lines
}

/// Sets and deletes below `/d`, and one key that expires; the last one is a set of `/d/end`,
/// whose event is returned.
fn many_changes(server: &Server) -> u64 {
    server.post("/v1/keys/d/short", &[("value", "x"), ("ttl", "1")]);
    for number in 0..10 {
        set(server, &format!("/d/{number}"));
        set(server, &format!("/d/deep/{number}"));
        set(server, &format!("/dd/{number}"));
        if number % 3 == 0 {
            delete(server, &format!("/d/{number}"));
            delete(server, &format!("/d/deep/{number}"));
        }
    }
    let expired = server.get("/v1/watch/d/short?action=expire&after=0").body;
    assert_eq!(field(&json(&expired), "action"), "DELETE");
    server.post("/v1/keys/d/end", &[("value", "x")]).number("x-etcd-event")
}

/// Whether a watch on `/d` with these fields wants a line.
fn fits(line: &Value, children: bool, actions: &str) -> bool {
    let rest = field(line, "key").strip_prefix("/d/");
    rest.is_some_and(|rest| !children || !rest.contains('/'))
        && actions.split(',').any(|action| action.to_uppercase() == field(line, "action"))
}

#[test]
fn watch_with_a_filter_is_the_watch_without_one_filtered() {
    let (_dir, server) = small_ring();
    let last = many_changes(&server);
    let all = upto(&mut server.lines("/v1/watch/?stream=true&after=0", &[]), last);
    assert_eq!(all.len() as u64, last);
    for children in [false, true] {
        for actions in ["set", "delete", "expire", "set,expire", "set,delete,expire"] {
            let wanted = all.iter().filter(|line| fits(line, children, actions));
            let wanted: Vec<_> = wanted.cloned().collect();
            let fields = format!("children={children}&action={actions}");
            let stream = format!("/v1/watch/d?stream=true&after=0&{fields}");
            let given: Vec<_> = server.lines(&stream, &[]).take(wanted.len()).collect();
            let given: Vec<_> = given.iter().map(|line| json(line)).collect();
            assert_eq!(given, wanted, "{fields}");
            // One by one it is the same, and nothing comes behind them.
            let mut after = 0;
            for line in &wanted {
                let next = server.get(&format!("/v1/watch/d?after={after}&{fields}"));
                after = next.number("x-etcd-event");
                assert_eq!(line["event"], after, "{fields}");
            }
            let nothing = server.get(&format!("/v1/watch/d?after={after}&timeout=0.01&{fields}"));
            assert_eq!(nothing.status, 204, "{fields}: {}", nothing.body);
        }
    }
}

#[test]
fn long_poll_waits_on_for_an_event_that_fits() {
    let (_dir, server) = small_ring();
    std::thread::scope(|scope| {
        let path = "/v1/watch/d?children=true&action=delete&after=2";
        let poll = scope.spawn(|| server.get(path).body);
        set(&server, "/d/a");
        set(&server, "/d/x/y");
        delete(&server, "/d/x/y");
        delete(&server, "/d/a");
        let line = poll.join().unwrap();
        assert!(line.starts_with(r#"{"action":"DELETE","key":"/d/a","#), "{line}");
    });
}

/// Whoever goes on where each answer says misses nothing and gets nothing twice, by event
/// and by index, while the watch passes over what does not fit.
#[test]
fn poll_that_finds_nothing_says_how_far_it_has_seen() {
    let (_dir, server) = small_ring();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (0..100).for_each(|number| set(&server, &format!("/d/{}/{number}", number % 4)));
            set(&server, "/d/2/end");
        });
        let polls = ["after=2", "index=3"].map(|start| {
            let server = &server;
            scope.spawn(move || {
                let (mut start, mut keys) = (start.to_owned(), Vec::new());
                let by_event = start.starts_with("after");
                while keys.last().is_none_or(|key| key != "/d/2/end") {
                    let reply = server.get(&format!("/v1/watch/d/2?timeout=0.002&{start}"));
                    let mut index = reply.header("x-etcd-index").parse::<u64>().unwrap();
                    if reply.status == 200 {
                        let line = json(&reply.body);
                        keys.push(field(&line, "key").to_owned());
                        index = line["index"].as_u64().unwrap();
                    }
                    if !by_event {
                        start = format!("index={}", index + 1);
                    } else if !reply.header("x-etcd-event").is_empty() {
                        start = format!("after={}", reply.header("x-etcd-event"));
                    }
                }
                keys
            })
        });
        writer.join().unwrap();
        let numbers = (0..100).filter(|number| number % 4 == 2);
        let wanted: Vec<_> = numbers.map(|number| format!("/d/2/{number}")).collect();
        for poll in polls {
            let mut keys = poll.join().unwrap();
            assert_eq!(keys.pop().as_deref(), Some("/d/2/end"));
            assert_eq!(keys, wanted);
        }
    });
}

#[test]
fn action_that_there_is_not_is_named() {
    let (_dir, server) = small_ring();
    for (action, line) in [
        ("paint", "Action: Unknown Action: paint\n"),
        ("set,Delete", "Action: Unknown Action: Delete\n"),
        ("", "Action: Unknown Action: (No Name)\n"),
    ] {
        for path in ["watch/d?timeout=1", "keys/d?recursive=true"] {
            let reply = server.get(&format!("/v1/{path}&action={action}"));
            assert_eq!((reply.status, &*reply.body), (400, line), "{path}");
        }
    }
    assert_eq!(server.get("/v1/watch/d?children=x").body, "children Must Be true Or false\n");
}

/// What expires, and what was to expire when it is deleted, says which deadline that was.
#[test]
fn expiry_says_which_deadline_has_passed() {
    let (_dir, server) = small_ring();
    let mut stream = server.lines("/v1/watch/?stream=true&after=2", &[]);
    server.post("/v1/keys/a", &[("value", "x"), ("ttl", "1")]);
    server.post("/v1/keys/b", &[("value", "x"), ("ttl", "100")]);
    delete(&server, "/b");
    let lines = upto(&mut stream, 6);
    let (set_a, set_b, deleted, expired) = (&lines[0], &lines[1], &lines[2], &lines[3]);
    assert_eq!(field(expired, "action"), "EXPIRE");
    assert!(!field(expired, "expiration").is_empty());
    assert_eq!(expired["expiration"], set_a["expiration"]);
    assert_eq!(deleted["expiration"], set_b["expiration"]);
    assert_ne!(expired["expiration"], set_b["expiration"]);
    // It did not expire before that.
    let time =
        |line: &Value, name| chrono::DateTime::parse_from_rfc3339(field(line, name)).unwrap();
    assert!(time(expired, "time") >= time(expired, "expiration"));
    // An answer that is one line has it too.
    let one = json(&server.get("/v1/watch/a?action=expire&after=2").body);
    assert_eq!(one["expiration"], set_a["expiration"]);
}

/// Waits as long as a stream has to be quiet: fifteen seconds.
#[test]
fn quiet_stream_says_how_far_it_has_come() {
    let (_dir, server) = small_ring();
    set(&server, "/d/a");
    let path = "/v1/watch/d?after=2";
    let mut lines = server.lines(&format!("{path}&stream=true&bookmarks=true"), &[]);
    let mut events = server.lines(path, &[("Accept", "text/event-stream")]);
    let mut bare = server.lines(&format!("{path}&stream=true"), &[]);
    assert_eq!(json(&lines.next().unwrap())["event"], 3);
    assert_eq!(json(&bare.next().unwrap())["event"], 3);
    assert_eq!(events.by_ref().take(3).count(), 3);
    (0..20).for_each(|number| set(&server, &format!("/elsewhere/{number}")));
    // Nothing of that is told, and yet it has been passed.
    let bookmark = json(&lines.next().unwrap());
    assert_eq!(field(&bookmark, "action"), "BOOKMARK");
    assert_eq!((&bookmark["index"], &bookmark["event"]), (&23.into(), &23.into()));
    assert!(!field(&bookmark, "time").is_empty());
    assert_eq!(events.by_ref().take(3).collect::<Vec<_>>(), [":", "id: 23", ""]);
    // From there it goes on.
    set(&server, "/d/b");
    assert_eq!(json(&lines.next().unwrap())["event"], 24);
    assert_eq!(json(&bare.next().unwrap())["event"], 24);
    let mut resumed =
        server.lines(path, &[("Accept", "text/event-stream"), ("Last-Event-ID", "23")]);
    for stream in [&mut events, &mut resumed] {
        assert_eq!(stream.next().unwrap(), "id: 24");
    }
}

/// Whoever goes on behind the last words of a stream gets what follows, once.
#[test]
fn last_words_of_a_machine_that_stops_are_a_bookmark() {
    let (dir, server) = small_ring();
    let fields = "stream=true&after=2&bookmarks=true";
    let mut lines = server.lines(&format!("/v1/watch/d?{fields}"), &[]);
    let mut events = server.lines("/v1/watch/d?after=2", &[("Accept", "text/event-stream")]);
    let mut ahead = server.lines("/v1/watch/d?stream=true&bookmarks=true&index=100", &[]);
    set(&server, "/d/a");
    set(&server, "/elsewhere");
    assert_eq!(json(&lines.next().unwrap())["event"], 3);
    assert_eq!(events.by_ref().take(3).count(), 3);
    let (status, _) = server.stop("-TERM");
    assert!(status.success());
    let bookmark = json(&lines.next().unwrap());
    let place = (field(&bookmark, "action"), &bookmark["index"], &bookmark["event"]);
    assert_eq!(place, ("BOOKMARK", &4.into(), &4.into()));
    assert_eq!(lines.next(), None);
    assert_eq!(events.collect::<Vec<_>>(), [":", "id: 4", ""]);
    assert_eq!(ahead.next().unwrap(), r#"{"action":"BOOKMARK","index":99}"#);

    let server = Server::start(dir.path());
    set(&server, "/d/b");
    let next = server.get("/v1/watch/d?after=4").body;
    assert!(next.contains(r#""key":"/d/b""#), "{next}");
}

#[test]
fn stream_whose_time_is_over_says_how_far_it_has_come_where_that_is_wanted() {
    let (_dir, server) = small_ring();
    set(&server, "/elsewhere");
    let fields = "stream=true&bookmarks=true&timeout=0.05";
    let ended = server.get(&format!("/v1/watch/d?{fields}")).body;
    let place = json(&ended);
    assert_eq!((&place["index"], &place["event"]), (&3.into(), &3.into()));
    assert_eq!(server.get("/v1/watch/d?stream=true&timeout=0.05").body, "");
}
