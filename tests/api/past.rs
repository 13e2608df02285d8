//! The past against a real process: what was, what happened, what changed, and putting it
//! back; byte for byte, and whatever becomes of the store that it is read from.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use chrono::{DateTime, FixedOffset};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{PATIENCE, Reply, Server, agent, eventually};

pub(crate) const ARGS: [&str; 6] = ["-c", "0", "-s", "0", "-m", "10"];

fn fresh() -> (TempDir, Server) {
    let dir = TempDir::new().unwrap();
    let server = Server::start_with(dir.path(), &ARGS);
    (dir, server)
}

pub(crate) fn set(server: &Server, key: &str, value: &str) {
    let reply = server.post(&format!("/v1/keys{key}"), &[("value", value)]);
    assert_eq!(reply.status, 200, "{}", reply.body);
}

fn set_for(server: &Server, key: &str, ttl: &str) -> u64 {
    let reply = server.post(&format!("/v1/keys{key}"), &[("value", "x"), ("ttl", ttl)]);
    assert_eq!(reply.status, 200, "{}", reply.body);
    json(&reply.body)["index"].as_u64().unwrap()
}

/// A machine with a few commands: from the third on, the eighth is the newest.
fn told() -> (TempDir, Server) {
    let (dir, server) = fresh();
    set(&server, "/p/a", "1");
    set(&server, "/p/b", "2");
    set(&server, "/p/a", "3");
    assert_eq!(server.delete("/v1/keys/p/b").status, 200);
    set(&server, "/p/d/x", "4");
    set(&server, "/q", "5");
    (dir, server)
}

pub(crate) fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// A body, without the times in it.
fn timeless(body: &str) -> String {
    let mut parts = body.split(",\"time\":\"");
    let mut text = parts.next().unwrap().to_owned();
    parts.for_each(|part| text.push_str(part.split_once('"').unwrap().1));
    text
}

pub(crate) fn restore(server: &Server, key: &str, form: &[(&str, &str)]) -> Reply {
    server.post(&format!("/v1/restore{key}"), form)
}

/// What is below a key, without where it stands.
fn held(server: &Server, key: &str, more: &str) -> String {
    let reply = server.get(&format!("/v1/keys{key}?recursive=true{more}"));
    if reply.status == 404 {
        return String::new();
    }
    assert_eq!(reply.status, 200, "{}", reply.body);
    let line = |line: &str| {
        let line = json(line);
        format!("{}={} ttl: {}\n", line["key"], line["value"], line["ttl"] != Value::Null)
    };
    reply.body.lines().map(line).collect()
}

#[test]
fn what_was_is_told_byte_for_byte() {
    let (_dir, server) = told();
    let a = r#"{"action":"GET","key":"/p/a","value":"1","index":4}"#;
    let b = r#"{"action":"GET","key":"/p/b","value":"2","index":4}"#;
    for (path, status, body) in [
        (
            "/v1/keys/p/a?at=3",
            200,
            "{\"action\":\"GET\",\"key\":\"/p/a\",\"value\":\"1\",\"index\":3}\n",
        ),
        ("/v1/keys/p/a?at=4", 200, &format!("{a}\n")),
        ("/v1/keys/p/a?at=2", 404, "404 page not found\n"),
        ("/v1/keys/p?at=2", 404, "404 page not found\n"),
        ("/v1/keys/p/a?at=0", 404, "404 page not found\n"),
        ("/v1/keys/p/b?at=6", 404, "404 page not found\n"),
        ("/v1/keys/p?at=4", 200, &format!("[{a},{b}]\n")),
        ("/v1/keys/p?at=4&limit=1", 200, &format!("[{a}]\n")),
        ("/v1/keys/p?at=4&start=b", 200, &format!("[{b}]\n")),
        ("/v1/keys/p?at=4&recursive=true", 200, &format!("{a}\n{b}\n")),
        ("/v1/keys/p?at=4&recursive=true&limit=1&start=b", 200, &format!("{b}\n")),
        (
            "/v1/list/p/?at=7",
            200,
            "{\"Key\":\"a\",\"Value\":\"3\",\"Type\":\"f\"} {\"Key\":\"d\",\"Value\":\".\",\"Type\":\"d\"}\n",
        ),
        ("/v1/list/p/?at=4&limit=1", 200, "{\"Key\":\"a\",\"Value\":\"1\",\"Type\":\"f\"}\n"),
        ("/v1/list/p/a?at=4", 400, "Not A Directory: /p/a\n"),
        ("/v1/list/p?at=2", 404, "404 page not found\n"),
    ] {
        let reply = server.get(path);
        assert_eq!((reply.status, &*reply.body), (status, body), "{path}");
    }
    let part = server.get("/v1/keys/p?at=4&limit=1");
    assert_eq!((part.header("x-etcd-next"), part.number("x-etcd-index")), ("b", 4));
    assert!(part.number("x-raft-term") > 0 && part.number("x-raft-index") > 0);
    let subtree = server.get("/v1/keys/?at=7&recursive=true&limit=2");
    assert_eq!(subtree.header("x-etcd-next"), "p/a", "{}", subtree.body);
}

#[test]
fn what_happened_and_what_changed_are_told_byte_for_byte() {
    let (_dir, server) = told();
    let line = |key: &str, rest: &str, index: u64| {
        format!(
            "{{\"action\":\"SET\",\"key\":\"{key}\",{rest},\"index\":{index},\"event\":{index}}}\n"
        )
    };
    let a1 = line("/p/a", r#""value":"1","newKey":true"#, 3);
    let b = line("/p/b", r#""value":"2","newKey":true"#, 4);
    let a2 = line("/p/a", r#""prevValue":"1","value":"3""#, 5);
    let gone =
        "{\"action\":\"DELETE\",\"key\":\"/p/b\",\"prevValue\":\"2\",\"index\":6,\"event\":6}\n";
    let d = line("/p/d/x", r#""value":"4","newKey":true"#, 7);
    for (path, body) in [
        ("/v1/history/p/a", format!("{a1}{a2}")),
        ("/v1/history/p", String::new()),
        ("/v1/history/nothing?recursive=true", String::new()),
        ("/v1/history/p?recursive=true", format!("{a1}{b}{a2}{gone}{d}")),
        ("/v1/history/p?recursive=true&reverse=true", format!("{d}{gone}{a2}{b}{a1}")),
        ("/v1/history/p?recursive=true&from=4&to=5", format!("{b}{a2}")),
        ("/v1/history/p?recursive=true&from=4&limit=1", b.clone()),
        ("/v1/history/p?recursive=true&to=6&reverse=true&limit=2", format!("{gone}{a2}")),
        (
            "/v1/diff/p?from=4&to=7",
            "{\"key\":\"/p/a\",\"from\":\"1\",\"to\":\"3\"}\n{\"key\":\"/p/b\",\"from\":\"2\"}\n{\"key\":\"/p/d/x\",\"to\":\"4\"}\n".to_owned(),
        ),
        ("/v1/diff/p/d?from=0", "{\"key\":\"/p/d/x\",\"to\":\"4\"}\n".to_owned()),
        ("/v1/diff/p?from=7&to=7", String::new()),
    ] {
        let reply = server.get(path);
        assert_eq!((reply.status, timeless(&reply.body)), (200, body), "{path}");
        assert!(reply.number("x-raft-term") > 0 && reply.number("x-raft-index") > 0, "{path}");
    }
    for (path, index) in [("/v1/history/p", 8), ("/v1/diff/p?from=3&to=5", 5)] {
        assert_eq!(server.get(path).number("x-etcd-index"), index, "{path}");
    }
}

#[test]
fn putting_back_is_told_byte_for_byte() {
    let (_dir, server) = told();
    let now = held(&server, "/", "");
    let dry = restore(&server, "/p", &[("at", "4"), ("dry_run", "true")]);
    let diff = "{\"key\":\"/p/a\",\"from\":\"3\",\"to\":\"1\"}\n{\"key\":\"/p/b\",\"to\":\"2\"}\n{\"key\":\"/p/d/x\",\"from\":\"4\"}\n";
    assert_eq!((dry.status, &*dry.body), (200, diff));
    assert_eq!(dry.number("x-etcd-index"), 8, "of what is there now");
    assert!(dry.number("x-raft-term") > 0 && dry.number("x-raft-index") > 0);
    assert_eq!(held(&server, "/", ""), now, "nothing is written");
    for (key, form, status, body) in [
        ("/p", [("at", "4"), ("if_index", "5")], 409, "Restore: /p/d/x Was Changed By 7\n"),
        ("/p/a", [("at", "4"), ("if_index", "4")], 409, "Restore: /p/a Was Changed By 5\n"),
        (
            "/p",
            [("at", "4"), ("if_index", "7")],
            200,
            "{\"action\":\"RESTORE\",\"key\":\"/p\",\"at\":4,\"changed\":3,\"index\":9}\n",
        ),
        (
            "/p",
            [("at", "4"), ("if_index", "9")],
            200,
            "{\"action\":\"RESTORE\",\"key\":\"/p\",\"at\":4,\"changed\":0,\"index\":9}\n",
        ),
        (
            "/",
            [("at", "2"), ("ttl", "drop")],
            200,
            "{\"action\":\"RESTORE\",\"key\":\"/\",\"at\":2,\"changed\":3,\"index\":10}\n",
        ),
        (
            "/p/d/x",
            [("at", "8"), ("ttl", "keep")],
            200,
            "{\"action\":\"RESTORE\",\"key\":\"/p/d/x\",\"at\":8,\"changed\":1,\"index\":11}\n",
        ),
    ] {
        let reply = restore(&server, key, &form);
        assert_eq!((reply.status, &*reply.body), (status, body), "{key} {form:?}");
    }
    assert_eq!(held(&server, "/p", "&at=9"), held(&server, "/p", "&at=4"));
    assert_eq!(server.get("/v1/keys/p/d?at=9").status, 404, "a directory that had come");
    assert_eq!(server.get("/v1/keys/p?at=10").status, 404);
    assert_eq!(server.get("/v1/diff/p?from=4&to=9").body, "");
    // All of it under one index.
    let lines = server.get("/v1/history/?recursive=true&from=9&to=9").body;
    assert_eq!(lines.lines().count(), 4, "{lines}");
    assert!(lines.lines().all(|line| json(line)["index"] == 9), "{lines}");
}

#[test]
fn what_cannot_be_told_is_said_byte_for_byte() {
    let (_dir, server) = told();
    for (path, status, body) in [
        ("/v1/keys/p?at=yesterday", 400, "At: Neither An Index Nor A Time: yesterday\n"),
        ("/v1/keys/p?at=", 400, "At: Neither An Index Nor A Time: (No Name)\n"),
        ("/v1/keys/p?at=-10w", 400, "At: Neither An Index Nor A Time: -10w\n"),
        ("/v1/history/p?from=x", 400, "From: Neither An Index Nor A Time: x\n"),
        ("/v1/diff/p?from=3&to=y", 400, "To: Neither An Index Nor A Time: y\n"),
        ("/v1/keys/p?at=99", 400, "At: 99 Is Not Reached; The Newest Is 8\n"),
        ("/v1/list/p?at=9", 400, "At: 9 Is Not Reached; The Newest Is 8\n"),
        ("/v1/history/p?from=99", 400, "From: 99 Is Not Reached; The Newest Is 8\n"),
        ("/v1/history/p?from=3&to=99", 400, "To: 99 Is Not Reached; The Newest Is 8\n"),
        ("/v1/diff/p?from=3&to=99", 400, "To: 99 Is Not Reached; The Newest Is 8\n"),
        ("/v1/diff/p?from=7&to=5", 400, "From 7 Is After To 5\n"),
        ("/v1/history/p?from=7&to=5", 400, "From 7 Is After To 5\n"),
        ("/v1/history/p?from=5&to=4", 400, "From 5 Is After To 4\n"),
        ("/v1/diff/p", 400, "Diff: From Required\n"),
        ("/v1/history/p?limit=0", 400, "Limit Must Be A Whole Number, 1 Or More\n"),
        ("/v1/history/p?reverse=maybe", 400, "reverse Must Be true Or false\n"),
        ("/v1/keys/p?at=3&recursive=true&stream=true", 400, "At And Stream Exclude Each Other\n"),
        ("/v1/restore/p?at=3", 405, "Method Not Allowed\n"),
    ] {
        let reply = server.get(path);
        assert_eq!((reply.status, &*reply.body), (status, body), "{path}");
    }
    let later = server.get("/v1/keys/p?at=2199-01-01T00:00:00Z");
    let newest = later.header("x-etcd-time");
    let expected =
        format!("At: 2199-01-01T00:00:00.000000000Z Is Not Reached; The Newest Is {newest}\n");
    assert_eq!((later.status, later.body.clone()), (400, expected));
    for (key, form, status, body) in [
        ("/p", vec![], 400, "Restore: At Required\n"),
        ("/p", vec![("at", "99")], 400, "At: 99 Is Not Reached; The Newest Is 8\n"),
        ("/p", vec![("at", "x")], 400, "At: Neither An Index Nor A Time: x\n"),
        ("/p", vec![("at", "3"), ("if_index", "x")], 400, "if_index: Valid Index Required\n"),
        ("/p", vec![("at", "3"), ("ttl", "5")], 400, "Restore: TTL Must Be rest, keep Or drop\n"),
        ("/p", vec![("at", "3"), ("dry_run", "x")], 400, "dry_run Must Be true Or false\n"),
        ("/p", vec![("at", "3"), ("dryrun", "1")], 400, "Unknown Field: dryrun\n"),
        ("/_etcd/machines", vec![("at", "1")], 403, "Reserved For The System: /_etcd/machines\n"),
    ] {
        let reply = restore(&server, key, &form);
        assert_eq!((reply.status, &*reply.body), (status, body), "{key} {form:?}");
    }
    // What is the system's own counts for nothing where all is put back.
    let all = restore(&server, "/", &[("at", "0"), ("if_index", "8"), ("dry_run", "true")]);
    assert!(all.status == 200 && !all.body.contains("_etcd"), "{}", all.body);
}

/// Nobody is told that too many ask, if it is the reading that takes so long.
#[test]
fn what_is_not_read_in_time_is_said() {
    let (_dir, server) = told();
    for path in ["keys/p/a?at=3", "keys/p?at=3", "history/p/a?from=3", "diff/p?from=3"] {
        let reply = server.get(&format!("/v1/{path}&stale=true&timeout=0"));
        let late = "The Past Took Too Long: Give It More Time With timeout=\n";
        assert_eq!((reply.status, &*reply.body), (503, late), "{path}");
    }
}

#[test]
fn head_answers_as_get_does() {
    let (_dir, server) = told();
    for path in ["/v1/keys/p/a?at=3", "/v1/keys/p?at=3", "/v1/history/p/a", "/v1/diff/p?from=3"] {
        let get = server.get(path);
        let head = agent(PATIENCE).head(format!("{}{path}", server.url)).call().unwrap();
        assert_eq!(head.status(), 200, "{path}");
        let index = head.headers()["x-etcd-index"].to_str().unwrap();
        assert_eq!(index, get.header("x-etcd-index"), "{path}");
        assert_eq!(head.into_body().read_to_string().unwrap(), "", "{path}");
    }
}

#[test]
fn times_are_moments_in_any_zone() {
    let (_dir, server) = told();
    let lines = server.get("/v1/history/p?recursive=true").body;
    for line in lines.lines().map(json) {
        let (index, time) = (line["index"].as_u64().unwrap(), line["time"].as_str().unwrap());
        let then = DateTime::parse_from_rfc3339(time).unwrap();
        let elsewhere = then.with_timezone(&FixedOffset::east_opt(9000).unwrap()).to_rfc3339();
        let by_index = server.get(&format!("/v1/keys/p?recursive=true&at={index}"));
        for time in [elsewhere.clone(), elsewhere.replace('+', "%2B")] {
            let by_time = server.get(&format!("/v1/keys/p?recursive=true&at={time}"));
            assert_eq!(by_time.number("x-etcd-index"), index, "{time}");
            assert_eq!(by_time.body, by_index.body, "{time}");
        }
        // What was a nanosecond before is another thing.
        let before = (then - chrono::TimeDelta::nanoseconds(1)).to_utc().to_rfc3339();
        let before = server.get(&format!("/v1/keys/?at={}", before.replace('+', "%2B")));
        assert_eq!(before.number("x-etcd-index"), index - 1);
    }
    assert_eq!(server.get("/v1/keys/p/a?at=-0s").number("x-etcd-index"), 8);
    assert_eq!(server.get("/v1/keys/p/a?at=-10m").status, 404, "nothing was there then");
    assert_eq!(server.get("/v1/history/p/a?from=-10m").body.lines().count(), 2);
    assert_eq!(server.get("/v1/diff/p?from=-10m").body.lines().count(), 2);
}

#[test]
fn what_expired_was_there_and_can_come_back() {
    let (_dir, server) = fresh();
    let index = set_for(&server, "/t/lock", "1");
    set(&server, "/t/other", "y");
    let gone = || server.get("/v1/keys/t/lock").status == 404;
    eventually("it expires", gone);
    let then = server.get(&format!("/v1/keys/t/lock?at={index}"));
    assert!(then.body.contains(r#""value":"x""#) && then.body.contains("expiration"));
    // It went behind the second command: that saw it, and now does not.
    assert_eq!(server.get(&format!("/v1/keys/t/lock?at={}", index + 1)).status, 200);
    assert_eq!(server.get("/v1/keys/t/lock?at=-0s").status, 404);
    let diff = |to: &str| server.get(&format!("/v1/diff/t?from={}{to}", index + 1)).body;
    assert_eq!(diff(""), "{\"key\":\"/t/lock\",\"from\":\"x\"}\n");
    assert_eq!(diff(&format!("&to={}", index + 1)), "");
    // Its time has passed: it does not come back, and nobody is told that it will.
    let at = index.to_string();
    for dry in ["true", "false"] {
        let form = [("at", at.as_str()), ("ttl", "keep"), ("dry_run", dry)];
        assert!(!restore(&server, "/t/lock", &form).body.contains("\"to\":"));
        assert!(gone());
    }
    let back = restore(&server, "/t/lock", &[("at", &at)]);
    assert!(back.body.contains(r#""changed":1"#), "{}", back.body);
    // It has a second again.
    let line = server.get("/v1/history/t/lock?reverse=true&limit=1").body;
    eventually("it expires again", gone);
    assert!(line.contains(r#""action":"SET""#) && line.contains("expiration"), "{line}");
    let back = restore(&server, "/t/lock", &[("at", &at), ("ttl", "drop")]);
    assert!(back.body.contains(r#""changed":1"#), "{}", back.body);
    let line = server.get("/v1/keys/t/lock").body;
    assert!(line.contains(r#""value":"x""#) && !line.contains("expiration"), "{line}");
}

/// A lock that was to go must not stay for ever.
#[test]
fn deadline_is_put_back_where_the_value_is_the_same() {
    let (_dir, server) = fresh();
    let at = set_for(&server, "/lock", "1000").to_string();
    set(&server, "/lock", "x");
    let back = restore(&server, "/lock", &[("at", &at)]);
    assert!(back.body.contains(r#""changed":1"#), "{}", back.body);
    assert!(server.get("/v1/keys/lock").body.contains("expiration"));
}

/// Whatever begins and ends a history: the parts make the whole, expiries among them.
#[test]
fn histories_in_parts_are_the_whole() {
    let (_dir, server) = fresh();
    for round in 0..6 {
        set_for(&server, &format!("/h/{round}"), "1");
        set(&server, "/h/x", "y");
        if round % 2 == 0 {
            let gone = || server.get(&format!("/v1/keys/h/{round}")).status == 404;
            eventually("it expires", gone);
        }
    }
    let form = [("at", "4")];
    assert_eq!(restore(&server, "/h", &form).status, 200);
    let whole = server.get("/v1/history/?recursive=true");
    let newest = whole.number("x-etcd-index");
    assert!(whole.body.contains("EXPIRE"));
    for from in 1..=newest {
        for to in from..=newest {
            let path = format!("/v1/history/?recursive=true&from={from}&to={to}");
            let index = |line: &&str| json(line)["index"].as_u64().unwrap();
            let lines = whole.body.lines().filter(|line| (from..=to).contains(&index(line)));
            let lines: Vec<_> = lines.collect();
            let part = server.get(&path).body;
            // What has expired since is behind the newest command.
            let known = |line: &&str| to < newest || lines.contains(line);
            assert_eq!(part.lines().filter(known).collect::<Vec<_>>(), lines, "{path}");
            let mut backward: Vec<_> = part.lines().collect();
            let reverse = server.get(&format!("{path}&reverse=true")).body;
            let mut reverse: Vec<_> = reverse.lines().collect();
            reverse.reverse();
            reverse.truncate(backward.len());
            backward.truncate(reverse.len());
            assert_eq!(reverse, backward, "{path}");
        }
    }
}

/// Nothing of it is left out because something else is in its place.
#[test]
fn what_came_into_the_way_goes_again() {
    let (_dir, server) = fresh();
    set(&server, "/p/d", "1");
    server.delete("/v1/keys/p/d");
    set(&server, "/p/d/x/y", "2");
    server.delete("/v1/keys/p/d/x/y");
    // An empty directory stands where the file was.
    let dry = restore(&server, "/p", &[("at", "3"), ("dry_run", "true")]);
    assert_eq!(dry.body, "{\"key\":\"/p/d\",\"to\":\"1\"}\n");
    assert!(restore(&server, "/p", &[("at", "3")]).body.contains(r#""changed":1"#));
    assert_eq!(server.get("/v1/list/p").body, "{\"Key\":\"d\",\"Value\":\"1\",\"Type\":\"f\"}\n");
    // A file stands above what is to come back.
    let above = restore(&server, "/p/d/x/y", &[("at", "5")]);
    assert_eq!((above.status, &*above.body), (400, "Not A Directory: /p/d\n"));
}

/// Writes until it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Puts back while others write: returns what each restore was answered.
fn restore_amid_writes(server: &Server, written: &str, times: usize) -> Vec<Reply> {
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = Ends(&ends);
        for writer in 0..2 {
            let ends = &ends;
            scope.spawn(move || {
                for number in 0.. {
                    if ends.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("{written}/{writer}-{}", number % 5);
                    set(server, &key, &number.to_string());
                }
            });
        }
        let changing = |number: usize| {
            set(server, "/p/own", &number.to_string());
            restore(server, "/p", &[("at", "12")])
        };
        (0..times).map(changing).collect()
    })
}

fn ten_keys() -> (TempDir, Server) {
    let (dir, server) = fresh();
    for number in 0..10 {
        set(&server, &format!("/p/{number}"), "first");
    }
    (dir, server)
}

/// Writes elsewhere do not keep a restore from its place.
#[test]
fn restore_finds_its_place_amid_writes_elsewhere() {
    let (_dir, server) = ten_keys();
    let then = held(&server, "/p", "&at=12");
    for reply in restore_amid_writes(&server, "/elsewhere", 20) {
        assert_eq!(reply.status, 200, "{}", reply.body);
        let index = &json(&reply.body)["index"];
        assert_eq!(held(&server, "/p", &format!("&at={index}")), then);
    }
}

/// What is written below it meanwhile is put back as well, or nothing is.
#[test]
fn restore_amid_writes_below_is_whole_or_refused() {
    let (_dir, server) = ten_keys();
    let then = held(&server, "/p", "&at=12");
    for reply in restore_amid_writes(&server, "/p/below", 20) {
        if reply.status == 409 {
            assert!(reply.body.starts_with("Overtaken: Another Command Came Behind "));
            continue;
        }
        assert_eq!(reply.status, 200, "{}", reply.body);
        let index = &json(&reply.body)["index"];
        assert_eq!(held(&server, "/p", &format!("&at={index}")), then);
    }
}

/// Of two at the same time, one comes first; and both are whole.
#[test]
fn restores_at_the_same_time_come_one_after_the_other() {
    let (_dir, server) = ten_keys();
    for number in 0..10 {
        set(&server, &format!("/p/{number}"), "second");
    }
    let held_at = |at: &str| held(&server, "/p", &format!("&at={at}"));
    let states = ["12", "22", "17"].map(held_at);
    let restored: Vec<_> = thread::scope(|scope| {
        let restoring = ["12", "22", "17"].map(|at| {
            let server = &server;
            scope.spawn(move || {
                let once = |_| restore(server, "/p", &[("at", at)]);
                (at, (0..5).map(once).collect::<Vec<_>>())
            })
        });
        restoring.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (mut first, mut changing) = (Vec::new(), Vec::new());
    for ((at, replies), state) in restored.iter().zip(&states) {
        for reply in replies {
            assert_eq!(reply.status, 200, "{at}: {}", reply.body);
            let line = json(&reply.body);
            first.push(line["index"].as_u64().unwrap());
            if line["changed"] != 0 {
                changing.push(line["index"].as_u64().unwrap());
                assert_eq!(held_at(&line["index"].to_string()), *state, "{at}: {line}");
            }
        }
    }
    let all = changing.len();
    changing.sort_unstable();
    changing.dedup();
    assert_eq!(changing.len(), all, "each has an index of its own: {first:?}");
}
