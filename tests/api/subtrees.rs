//! Subtrees, and parts of listings: sorted, whole, and followed without gap or overlap.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Lines, Server};

fn fresh() -> (TempDir, Server) {
    let dir = TempDir::new().unwrap();
    // A ring so small that who follows a subtree has to read the log.
    let server = Server::start_with(dir.path(), &["-c", "0", "-s", "0", "-m", "10"]);
    (dir, server)
}

fn set(server: &Server, key: &str, value: &str) -> u64 {
    let reply = server.post(&format!("/v1/keys{key}"), &[("value", value)]);
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.number("x-etcd-event")
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn field<'a>(line: &'a Value, name: &str) -> &'a str {
    line[name].as_str().unwrap_or_default()
}

/// What a client holds that takes in the lines of a subtree that it follows.
#[derive(Debug, Default)]
struct Folded {
    keys: BTreeMap<String, String>,
    event: u64,
}

impl Folded {
    /// Takes in a line. Returns whether all of the state has been told.
    fn take(&mut self, line: &Value) {
        let key = field(line, "key").to_owned();
        match field(line, "action") {
            "GET" => {
                assert_eq!(self.event, 0, "a line of the state behind it: {line}");
                assert!(self.keys.insert(key, field(line, "value").to_owned()).is_none());
                return;
            }
            "STATE" => assert_eq!(self.event, 0),
            "SET" => {
                let before = self.keys.insert(key, field(line, "value").to_owned());
                assert_eq!(before.as_deref(), line["prevValue"].as_str(), "{line}");
            }
            _ if line["dir"] == true => {}
            _ => {
                let before = self.keys.remove(&key);
                assert_eq!(before.as_deref(), line["prevValue"].as_str(), "{line}");
            }
        }
        let event = line["event"].as_u64().unwrap();
        assert!(event > self.event, "{line}");
        self.event = event;
    }

    fn take_upto(&mut self, stream: &mut Lines, event: u64) {
        while self.event < event {
            self.take(&json(&stream.next().expect("the stream goes on")));
        }
    }
}

/// What is below a key now, as the subtree says.
fn now(server: &Server, key: &str) -> BTreeMap<String, String> {
    let lines = server.get(&format!("/v1/keys{key}?recursive=true")).body;
    let lines = lines.lines().map(json);
    lines.map(|line| (field(&line, "key").to_owned(), field(&line, "value").to_owned())).collect()
}

#[test]
fn subtree_is_a_line_for_each_file_sorted_by_key() {
    let (_dir, server) = fresh();
    for key in ["/d/b", "/d/a/x/1", "/d/a-b", "/d/a/x-y", "/d/z", "/da", "/d/a/w"] {
        set(&server, key, "1");
    }
    server.delete("/v1/keys/d/z");
    let subtree = server.get("/v1/keys/d/?recursive=true");
    let line =
        |key| format!("{{\"action\":\"GET\",\"key\":\"{key}\",\"value\":\"1\",\"index\":10}}\n");
    let keys = ["/d/a-b", "/d/a/w", "/d/a/x-y", "/d/a/x/1", "/d/b"];
    assert!(keys.is_sorted());
    assert_eq!(subtree.body, keys.map(line).concat());
    assert_eq!(subtree.header("content-type"), "application/json");
    assert_eq!((subtree.number("x-etcd-index"), subtree.number("x-etcd-event")), (10, 10));
    let children = server.get("/v1/keys/d/?recursive=true&children=true").body;
    assert_eq!(children, ["/d/a-b", "/d/b"].map(line).concat());
    // A file is one line; what is not there is told; a directory may be empty.
    assert_eq!(server.get("/v1/keys/d/a/w?recursive=true").body, line("/d/a/w"));
    assert_eq!(server.get("/v1/keys/nothing?recursive=true").status, 404);
    server.delete("/v1/keys/d/a/x/1");
    assert_eq!(server.get("/v1/keys/d/a/x?recursive=true").body, "");
    let root = now(&server, "/");
    assert!(root.contains_key("/_etcd/cluster") && root.contains_key("/da"), "{root:?}");
}

#[test]
fn subtree_is_followed_from_its_state_on() {
    let (_dir, server) = fresh();
    set(&server, "/d/a", "1");
    let path = "/v1/keys/d/?recursive=true&stream=true";
    let mut stream = server.lines(path, &[]);
    assert_eq!(stream.next().unwrap(), r#"{"action":"GET","key":"/d/a","value":"1","index":3}"#);
    let state = stream.next().unwrap();
    let begins = r#"{"action":"STATE","key":"/d","index":3,"event":3,"time":""#;
    assert!(state.starts_with(begins), "{state}");
    set(&server, "/dd", "1");
    set(&server, "/d/b/c", "2");
    let event = stream.next().unwrap();
    let begins = r#"{"action":"SET","key":"/d/b/c","value":"2","newKey":true,"index":5,"event":5,"#;
    assert!(event.starts_with(begins), "{event}");
    // Its events are filtered as those of a watch.
    let mut filtered = server.lines(&format!("{path}&children=true&action=delete"), &[]);
    assert!(filtered.next().unwrap().contains(r#""key":"/d/a""#));
    assert!(filtered.next().unwrap().contains(r#""action":"STATE""#));
    set(&server, "/d/a", "3");
    server.delete("/v1/keys/d/b/c");
    server.delete("/v1/keys/d/a");
    assert_eq!(json(&filtered.next().unwrap())["event"], 8);
}

#[test]
fn directory_that_is_not_there_yet_can_be_waited_for() {
    let (_dir, server) = fresh();
    let mut stream = server.lines("/v1/keys/d/?recursive=true&stream=true", &[]);
    assert!(
        stream.next().unwrap().starts_with(r#"{"action":"STATE","key":"/d","index":2,"event":2"#)
    );
    set(&server, "/d/a", "1");
    assert!(stream.next().unwrap().starts_with(r#"{"action":"SET","key":"/d/a""#));
}

#[test]
fn subtree_as_server_sent_events_resumes_behind_its_state() {
    let (_dir, server) = fresh();
    set(&server, "/d/a", "1");
    let (path, accept) = ("/v1/keys/d/?recursive=true", ("Accept", "text/event-stream"));
    let mut stream = server.lines(path, &[accept]);
    assert!(stream.next().unwrap().starts_with(r#"data: {"action":"GET","key":"/d/a""#));
    assert_eq!(stream.next().unwrap(), "");
    assert_eq!(stream.next().unwrap(), "id: 3");
    assert!(stream.next().unwrap().starts_with(r#"data: {"action":"STATE","key":"/d""#));
    assert_eq!(stream.next().unwrap(), "");
    set(&server, "/d/b", "2");
    assert_eq!(stream.next().unwrap(), "id: 4");
    let mut resumed = server.lines(path, &[accept, ("Last-Event-ID", "3")]);
    assert_eq!(resumed.next().unwrap(), "id: 4");
    let after = server.lines(&format!("{path}&stream=true&after=3"), &[]).next().unwrap();
    assert!(after.contains(r#""event":4,"#), "{after}");
}

/// While others write, delete, and let keys expire, many who begin at different moments
/// hold what is there: at each event what the one hold who began earlier.
#[test]
fn lines_of_a_subtree_fold_to_the_state_at_any_later_moment() {
    let (_dir, server) = fresh();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let server = &server;
                scope.spawn(move || {
                    for number in 0..80_u32 {
                        let key = format!("/v1/keys/d/{writer}/{}/{}", number % 3, number * 7 % 11);
                        let value = format!("{writer}-{number}");
                        match number % 5 {
                            0 => drop(server.delete(&key)),
                            1 => drop(server.post(&key, &[("value", &*value), ("ttl", "1")])),
                            _ => drop(server.post(&key, &[("value", &*value)])),
                        }
                    }
                })
            })
            .collect();
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let mut stream = server.lines("/v1/keys/d/?recursive=true&stream=true", &[]);
                let mut folded = Folded::default();
                // Some of it is read while others begin.
                folded.take(&json(&stream.next().unwrap()));
                (stream, folded)
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        // Those with a time to live are gone behind this one.
        server.post("/v1/keys/d/last", &[("value", "x"), ("ttl", "1")]);
        let gone = server.get("/v1/watch/d/last?action=expire&after=0");
        let end = gone.number("x-etcd-event");
        let wanted = now(&server, "/d/");
        assert!(!wanted.is_empty());
        for (mut stream, mut folded) in clients {
            folded.take_upto(&mut stream, end);
            assert_eq!(folded.keys, wanted);
        }
    });
}

/// All that happened anywhere: each event has a number, and none is missing.
#[test]
fn subtree_of_everything_has_every_event_behind_its_state() {
    let (_dir, server) = fresh();
    std::thread::scope(|scope| {
        let server = &server;
        let writer = scope.spawn(move || {
            (0..200).map(|number| set(server, &format!("/k/{}", number % 20), "x")).last().unwrap()
        });
        let mut streams: Vec<_> =
            (0..5).map(|_| server.lines("/v1/keys/?recursive=true&stream=true", &[])).collect();
        let last = writer.join().unwrap();
        for stream in &mut streams {
            let state =
                stream.map(|line| json(&line)).find(|line| field(line, "action") == "STATE");
            let first = state.unwrap()["event"].as_u64().unwrap() + 1;
            for number in first..=last {
                assert_eq!(json(&stream.next().unwrap())["event"], number);
            }
        }
    });
}

/// Goes through a listing in parts of so many entries, as its answers say.
fn in_parts(server: &Server, path: &str, limit: usize) -> Vec<String> {
    let (mut parts, mut start) = (Vec::new(), String::new());
    loop {
        let sign = if path.contains('?') { '&' } else { '?' };
        let part = server.get(&format!("{path}{sign}limit={limit}&start={start}"));
        assert_eq!(part.status, 200, "{}", part.body);
        parts.push(part.body.trim_end().to_owned());
        part.header("x-etcd-next").clone_into(&mut start);
        if start.is_empty() {
            return parts;
        }
    }
}

#[test]
fn parts_of_a_listing_together_are_all_of_it() {
    let (_dir, server) = fresh();
    for key in ["a%20b", "a%26b", "a%2Bb", "a-b", "a/x", "a/y/z", "%C3%9F", "%22q%22", "z%25"] {
        set(&server, &format!("/d/{key}"), "1");
    }
    let whole = |path: &str| server.get(path).body.trim_end().to_owned();
    for limit in [1, 2, 3, 7, 100] {
        let lists = in_parts(&server, "/v1/list/d/", limit);
        assert_eq!(lists.join(" "), whole("/v1/list/d/"), "{limit}");
        let arrays = in_parts(&server, "/v1/keys/d", limit);
        let inner: Vec<_> = arrays.iter().map(|part| &part[1..part.len() - 1]).collect();
        assert_eq!(format!("[{}]", inner.join(",")), whole("/v1/keys/d"), "{limit}");
        let subtrees = in_parts(&server, "/v1/keys/d?recursive=true", limit);
        assert_eq!(subtrees.join("\n"), whole("/v1/keys/d?recursive=true"), "{limit}");
        assert!(subtrees.iter().all(|part| part.lines().count() <= limit));
        let root = in_parts(&server, "/v1/keys/?recursive=true", limit);
        assert_eq!(root.join("\n"), whole("/v1/keys/?recursive=true"), "{limit}");
    }
    // Of a subtree, it is what stands behind the directory's slash.
    let part = server.get("/v1/keys/d?recursive=true&limit=5&start=a");
    assert_eq!(part.header("x-etcd-next"), "a/y/z");
    let all = server.get("/v1/keys/d?limit=7");
    assert_eq!(all.header("x-etcd-next"), "%C3%9F");
    assert_eq!(server.get("/v1/keys/d?limit=8&start=a").header("x-etcd-next"), "");
    assert_eq!(server.get("/v1/keys/d/a-b?recursive=true&limit=1").header("x-etcd-next"), "");
}

#[test]
fn part_that_cannot_be_is_refused() {
    let (_dir, server) = fresh();
    set(&server, "/d/a/b", "1");
    let limit = "Limit Must Be A Whole Number, 1 Or More\n";
    let start = "Start Must Be A Key Below The Directory\n";
    for (path, line) in [
        ("/v1/keys/d?limit=0", limit),
        ("/v1/keys/d/a/b?limit=x", limit),
        ("/v1/list/d?limit=-1", limit),
        ("/v1/keys/d?recursive=true&limit=1.5", limit),
        ("/v1/keys/d?start=a/b", start),
        ("/v1/list/d?start=..", start),
        ("/v1/keys/d?recursive=true&start=/", start),
        ("/v1/keys/d?recursive=true&stream=true&limit=5", "Stream Goes Without Limit And Start\n"),
        ("/v1/keys/d?recursive=maybe", "recursive Must Be true Or false\n"),
    ] {
        let reply = server.get(path);
        assert_eq!((reply.status, &*reply.body), (400, line), "{path}");
    }
    // A write knows nothing of them.
    let refused = server.post("/v1/keys/d/a/b?limit=5", &[("value", "x")]);
    assert_eq!((refused.status, &*refused.body), (400, "Unknown Field: limit\n"));
}
