//! The table of errors, as far as one healthy machine can show it, and the limits
//! at the door.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use tempfile::TempDir;

use crate::support::{Server, eventually};

fn fresh() -> (TempDir, Server) {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/file", &[("value", "x")]);
    server.post("/v1/keys/dir/file", &[("value", "x")]);
    (dir, server)
}

/// Sends bytes as they are, and reads until the connection closes.
fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    stream.write_all(bytes).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

/// Sends a request with a body, and reads the whole answer as it comes.
fn ask(server: &Server, method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    raw(server, request.as_bytes())
}

#[test]
fn bad_requests_get_one_plain_line() {
    let (_dir, server) = fresh();
    let post = |path: &str, form: &[(&str, &str)]| server.post(path, form);
    let ttl = "Set: TTL Must Be A Whole Number Of Seconds, 1 Or More\n";
    let cases = [
        (server.get("/v1/keys/nothing"), 404, "404 page not found\n"),
        (server.delete("/v1/keys/nothing"), 404, "404 page not found\n"),
        (server.get("/v1/list/nothing"), 404, "404 page not found\n"),
        (
            post("/v1/testAndSet/nothing", &[("prevValue", "a"), ("value", "b")]),
            404,
            "404 page not found\n",
        ),
        (
            post("/v1/testAndSet/file", &[("prevValue", "a"), ("value", "b")]),
            400,
            "Test x==a fails\n",
        ),
        (post("/v1/keys/file", &[]), 400, "Set: Value Required\n"),
        (post("/v1/keys/file", &[("value", "")]), 400, "Set: Value Required\n"),
        (post("/v1/testAndSet/file", &[("prevValue", "x")]), 400, "TestAndSet: Value Required\n"),
        (post("/v1/testAndSet/file", &[("value", "x")]), 400, "TestAndSet: PrevValue Required\n"),
        (
            post("/v1/keys/file", &[("value", "x"), ("prevValue", "")]),
            400,
            "TestAndSet: PrevValue Required\n",
        ),
        (
            post("/v1/testAndSet/file", &[("prevValue", "a\nb"), ("value", "b")]),
            400,
            "Test x==a\\nb fails\n",
        ),
        (post("/v1/keys/file", &[("value", "x"), ("ttl", "0")]), 400, ttl),
        (post("/v1/keys/file", &[("value", "x"), ("ttl", "1.5")]), 400, ttl),
        (post("/v1/keys/file", &[("value", "x"), ("ttl", "soon")]), 400, ttl),
        (
            post("/v1/watch/file", &[("index", "x")]),
            400,
            "Watch From Index: Valid Index Required\n",
        ),
        (server.get("/v1/watch/file?index=-1"), 400, "Watch From Index: Valid Index Required\n"),
        (post("/v1/keys/dir", &[("value", "x")]), 400, "Not A File: /dir\n"),
        (server.delete("/v1/keys/dir"), 400, "Not A File: /dir\n"),
        (post("/v1/keys/", &[("value", "x")]), 400, "Not A File: /\n"),
        (post("/v1/keys/file/below", &[("value", "x")]), 400, "Not A Directory: /file\n"),
        (server.get("/v1/list/file"), 400, "Not A Directory: /file\n"),
        (server.get("/v1/keys/%FF"), 400, "Key Must Be UTF-8\n"),
        (post("/v1/keys/_etcd/x", &[("value", "x")]), 403, "Reserved For The System: /_etcd/x\n"),
        (server.delete("/v1/keys/_etcd/cluster"), 403, "Reserved For The System: /_etcd/cluster\n"),
        (server.get("/"), 404, "404 page not found\n"),
        (server.get("/v1/keysfoo"), 404, "404 page not found\n"),
        (server.get("/v2/keys/foo"), 404, "404 page not found\n"),
    ];
    for (reply, status, body) in cases {
        assert_eq!((reply.status, &*reply.body), (status, body));
        assert_eq!(reply.header("content-type"), "text/plain; charset=utf-8");
    }
}

/// A write on condition whose condition does not hold, or is none.
#[test]
fn conditions_that_do_not_hold_get_one_plain_line() {
    let (_dir, server) = fresh();
    server.post("/v1/keys/file", &[("value", "x")]);
    server.post("/v1/keys/dir/x", &[("value", "x")]);
    let post = |path: &str, form: &[(&str, &str)]| server.post(path, form);
    let cases = [
        (
            post("/v1/keys/file", &[("value", "y"), ("prevExist", "false")]),
            400,
            "Key Already Exists: /file\n",
        ),
        (
            post("/v1/keys/dir", &[("value", "y"), ("prevExist", "false")]),
            400,
            "Not A File: /dir\n",
        ),
        (
            post("/v1/keys/new", &[("value", "y"), ("prevExist", "true")]),
            400,
            "Set: PrevExist Must Be false\n",
        ),
        (
            post("/v1/keys/new", &[("value", "y"), ("prevExist", "false"), ("prevValue", "x")]),
            400,
            "Set: PrevValue And PrevExist Exclude Each Other\n",
        ),
        (server.delete("/v1/keys/file?prevValue=y"), 400, "Test x==y fails\n"),
        (server.delete("/v1/keys/new?prevValue=y"), 404, "404 page not found\n"),
        (server.delete("/v1/keys/file?prevValue="), 400, "Delete: PrevValue Required\n"),
        (
            server.delete("/v1/keys/dir?prevValue=y&dir=true"),
            400,
            "Delete: PrevValue And Dir Exclude Each Other\n",
        ),
    ];
    for (reply, status, body) in cases {
        assert_eq!((reply.status, &*reply.body), (status, body));
    }
}

/// A field that means nothing may have been meant: as a condition, as a limit, or as
/// the rest of a value with a `&` in it.
#[test]
fn write_with_a_field_that_is_not_known_is_refused() {
    let (_dir, server) = fresh();
    let long = "n".repeat(100);
    let cut = format!("Unknown Field: {}...\n", "n".repeat(64));
    let cases = [
        ("POST", "/v1/keys/file", "value=y&prevexist=false", "Unknown Field: prevexist\n"),
        ("PUT", "/v1/keys/file", "value=y&TTL=5", "Unknown Field: TTL\n"),
        ("POST", "/v1/keys/file", "value=a&b", "Unknown Field: b\n"),
        ("POST", "/v1/keys/file", "value=a&=b", "Unknown Field: (No Name)\n"),
        ("POST", "/v1/keys/file?recursive=true", "value=y", "Unknown Field: recursive\n"),
        ("POST", "/v1/keys/file", "value=y&a%0A%1B[2Jb=1", "Unknown Field: a\\n\\u{1b}[2Jb\n"),
        ("POST", "/v1/keys/file", "value=y&%FFa=1", "Unknown Field: \u{fffd}a\n"),
        ("POST", "/v1/keys/file", &*format!("value=y&{long}"), &*cut),
        ("POST", "/v1/keys/file", "{\"value\":\"y\"}", "Unknown Field: {\"value\":\"y\"}\n"),
        // What only reads know means nothing to a write.
        ("POST", "/v1/keys/file", "value=y&index=3", "Unknown Field: index\n"),
        ("POST", "/v1/testAndSet/file", "prevValue=x&value=y&ttl=5&x=", "Unknown Field: x\n"),
        ("DELETE", "/v1/keys/file?prevExist=false", "", "Unknown Field: prevExist\n"),
        (
            "POST",
            "/v1/testAndSet/file",
            "prevValue=x&value=y&prevExist=false",
            "Unknown Field: prevExist\n",
        ),
        ("POST", "/v1/keys/file?dir=true", "value=y", "Unknown Field: dir\n"),
        ("DELETE", "/v1/machines/nobody?force=true", "", "Unknown Field: force\n"),
    ];
    for (method, path, body, line) in cases {
        let reply = ask(&server, method, path, body);
        assert!(reply.starts_with("HTTP/1.1 400") && reply.ends_with(line), "{body}: {reply}");
    }
    assert!(server.get("/v1/keys/file").body.contains(r#""value":"x""#));
    let fields = "value=y&&prevValue=x&ttl=100&timeout=5&";
    assert!(ask(&server, "POST", "/v1/keys/file", fields).starts_with("HTTP/1.1 200"));
    assert!(ask(&server, "DELETE", "/v1/keys/file?timeout=5", "").starts_with("HTTP/1.1 200"));
    // Reads pass over what they do not know.
    assert_eq!(server.get("/v1/keys/dir?recursive=true&pretty&x=1").status, 200);
    assert_eq!(server.get("/v1/list/dir?sorted=true").status, 200);
    assert_eq!(server.post("/v1/watch/dir", &[("index", "3"), ("wait", "true")]).status, 200);
}

#[test]
fn field_given_twice_is_taken_from_where_it_stands_first() {
    let (_dir, server) = fresh();
    let reply = ask(&server, "POST", "/v1/keys/a", "value=first&value=second&ttl=&ttl=5");
    assert!(reply.contains(r#""value":"first""#) && !reply.contains("expiration"), "{reply}");
}

/// Clients of the first etcd send these when they mean nothing.
#[test]
fn empty_numbers_and_index_zero_mean_none() {
    let (_dir, server) = fresh();
    let set = server.post("/v1/keys/a", &[("value", "x"), ("ttl", "")]);
    assert!(set.status == 200 && !set.body.contains("expiration"), "{}", set.body);
    for index in ["", "0"] {
        // There are events from before: an index of 1 finds one.
        let nothing = server.get(&format!("/v1/watch/a?timeout=0&index={index}"));
        assert_eq!((nothing.status, nothing.number("x-etcd-event")), (204, 5));
    }
    assert_eq!(server.get("/v1/watch/a?timeout=0&index=1").status, 200);
}

/// Whatever a client has stored or sent, an error is one line that steers no terminal.
#[test]
fn error_text_carries_no_control_bytes() {
    let (_dir, server) = fresh();
    let text = "a\n\u{1b}[2J\u{7f}\u{9b}\0\r\t\u{2028}\u{202e}";
    let path = "%0A%1B%5B2J%7F%C2%9B%00%0D%09%E2%80%A8%E2%80%AE";
    let shown = r"\n\u{1b}[2J\u{7f}\u{9b}\0\r\t\u{2028}\u{202e}";
    server.post("/v1/keys/held", &[("value", text)]);
    server.post(&format!("/v1/keys/{path}"), &[("value", "x")]);
    server.post(&format!("/v1/keys/dir/{path}/x"), &[("value", "x")]);
    let form = [("prevValue", text), ("value", "x")];
    for (reply, line) in [
        (server.post("/v1/testAndSet/file", &form), format!("Test x==a{shown} fails\n")),
        (
            server.post("/v1/testAndSet/held", &[("prevValue", "x"), ("value", "y")]),
            format!("Test a{shown}==x fails\n"),
        ),
        (server.delete(&format!("/v1/keys/dir/{path}")), format!("Not A File: /dir/{shown}\n")),
        (server.get(&format!("/v1/list/{path}")), format!("Not A Directory: /{shown}\n")),
        (
            server.post(&format!("/v1/keys/_etcd/{path}"), &[("value", "x")]),
            format!("Reserved For The System: /_etcd/{shown}\n"),
        ),
    ] {
        assert_eq!(reply.body, line);
    }
}

#[test]
fn refused_at_the_door_takes_no_index() {
    let (_dir, server) = fresh();
    let before = server.get("/health").number("x-etcd-index");
    server.post("/v1/keys/file", &[]);
    server.post("/v1/keys/file", &[("value", "x"), ("TTL", "5")]);
    server.post("/v1/keys/_etcd/x", &[("value", "x")]);
    server.post("/v1/keys/file", &[("value", "x"), ("ttl", "-1")]);
    assert_eq!(server.get("/health").number("x-etcd-index"), before);
    // What the log had to decide takes one.
    server.post("/v1/keys/dir", &[("value", "x")]);
    assert_eq!(server.get("/health").number("x-etcd-index"), before + 1);
}

#[test]
fn other_methods_are_told_which_ones_go() {
    let (_dir, server) = fresh();
    for (method, path, allow) in [
        ("PATCH", "/v1/keys/file", "GET, HEAD, POST, PUT, DELETE"),
        ("GET", "/v1/testAndSet/file", "POST, PUT"),
        ("POST", "/v1/list/dir", "GET, HEAD"),
        ("DELETE", "/v1/watch/dir", "GET, HEAD, POST"),
        ("POST", "/version", "GET, HEAD"),
        ("OPTIONS", "/v1/machines", "GET, HEAD"),
        ("HEAD", "/v1/testAndSet/file", "POST, PUT"),
        ("GET", "/v1/machines/nobody", "DELETE"),
    ] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let reply = raw(&server, request.as_bytes()).to_lowercase();
        assert!(reply.starts_with("http/1.1 405"), "{method} {path}: {reply}");
        assert!(reply.contains(&format!("allow: {}\r\n", allow.to_lowercase())), "{reply}");
    }
}

#[test]
fn value_and_key_may_be_any_text() {
    let (_dir, server) = fresh();
    let value = "\u{0}\n\"quoted\" & <tagged> = 100% + ÄÖÜ 🗝";
    let set = server.post("/v1/keys/w%C3%B6rter/a%20b%3F", &[("value", value)]);
    assert!(set.body.contains(r#""key":"/wörter/a b?""#), "{}", set.body);
    let line: serde_json::Value =
        serde_json::from_str(&server.get("/v1/keys/w%C3%B6rter/a%20b%3F").body).unwrap();
    assert_eq!(line["value"], value);
    let bad = "POST /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nConnection: close\r\n\r\nvalue=%FF";
    assert!(raw(&server, bad.as_bytes()).ends_with("Value Must Be UTF-8\n"));
}

#[test]
fn field_in_body_and_query_is_taken_from_the_body() {
    let (_dir, server) = fresh();
    let set = server.post("/v1/keys/a?value=query&ttl=100", &[("value", "body")]);
    assert!(
        set.body.contains(r#""value":"body""#) && set.body.contains("expiration"),
        "{}",
        set.body
    );
    assert!(server.post("/v1/keys/b?value=query", &[]).body.contains(r#""value":"query""#));
}

#[test]
fn prev_value_on_a_set_tests_first() {
    let (_dir, server) = fresh();
    let failed = server.post("/v1/keys/file", &[("value", "y"), ("prevValue", "z")]);
    assert_eq!((failed.status, &*failed.body), (400, "Test x==z fails\n"));
    assert_eq!(server.post("/v1/keys/file", &[("value", "y"), ("prevValue", "x")]).status, 200);
}

#[test]
fn body_over_the_limit_is_refused_cleanly() {
    let (_dir, server) = fresh();
    let fits = "v".repeat((1 << 20) - "value=".len());
    assert_eq!(server.post("/v1/keys/big", &[("value", &fits)]).status, 200);
    let over = "v".repeat(1 << 20);
    let reply = server.post("/v1/keys/big", &[("value", &over)]);
    assert_eq!((reply.status, &*reply.body), (413, "Body Must Be Of At Most 1 MiB\n"));
    assert_eq!(reply.header("connection"), "close");
    // Of a body in pieces the length is known only in the end.
    let mut chunked =
        b"POST /v1/keys/big HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..3 {
        chunked.extend_from_slice(b"80000\r\n");
        chunked.extend_from_slice(&vec![b'v'; 0x80000]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert!(raw(&server, &chunked).starts_with("HTTP/1.1 413"));
    // Who asks first is told before sending anything.
    let asks = "POST /v1/keys/big HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\nExpect: 100-continue\r\n\r\n";
    assert!(raw(&server, asks.as_bytes()).starts_with("HTTP/1.1 413"));
}

#[test]
fn head_over_the_limit_is_refused() {
    let (_dir, server) = fresh();
    let head =
        format!("GET /version HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(20 << 10));
    let refused = raw(&server, head.as_bytes());
    assert!(refused.starts_with("HTTP/1.1 431"), "{refused}");
    assert!(refused.ends_with("\r\n\r\nHead Must Be Of At Most 16 KiB And 100 Fields\n"));
    let garbage = raw(&server, b"\x00\x01\x02 nonsense\r\n\r\n");
    assert!(garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    assert!(garbage.ends_with("\r\n\r\nMalformed Request\n"), "{garbage}");
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn key_over_the_limit_is_refused() {
    let (_dir, server) = fresh();
    let deep = "/x".repeat(200);
    let reply = server.post(&format!("/v1/keys{deep}"), &[("value", "x")]);
    assert_eq!(
        (reply.status, &*reply.body),
        (400, "Key Must Be Of At Most 4096 Bytes And 128 Parts\n")
    );
}

#[test]
fn reads_may_say_how_fresh_they_must_be() {
    let (_dir, server) = fresh();
    let index = server.post("/v1/keys/a", &[("value", "1")]).number("x-etcd-index");
    assert_eq!(server.get("/v1/keys/a?stale=true").status, 200);
    assert_eq!(server.get(&format!("/v1/keys/a?min_index={index}")).status, 200);
    let early = server.get(&format!("/v1/keys/a?min_index={}&timeout=0.05", index + 1));
    assert_eq!((early.status, early.header("retry-after")), (503, "1"));
    assert_eq!(early.body, "Index Not Reached\n");
    assert_eq!(server.get("/v1/keys/a?stale=maybe").body, "stale Must Be true Or false\n");
    assert_eq!(server.get("/v1/keys/a?timeout=soon").body, "Timeout Must Be A Number Of Seconds\n");
}

#[test]
fn more_connections_than_files_end_nothing() {
    let dir = TempDir::new().unwrap();
    // A soft and hard limit of 128 open files, of which half are for clients.
    let server = Server::start_limited(dir.path(), 128);
    let address = server.url.trim_start_matches("http://");
    let peers = server.peer_url.trim_start_matches("http://");
    let connect = |address| TcpStream::connect(address).unwrap();
    let idle: Vec<_> = (0..100).flat_map(|_| [connect(address), connect(peers)]).collect();
    // As many as these are, whoever watches over the machine sees that it is well.
    assert_eq!(server.get("/health").status, 200);
    drop(idle);
    // That they are gone is noticed one by one: until then there may be no place.
    eventually("there are places again", || {
        let reply = server.post("/v1/keys/a", &[("value", "x")]);
        let is_full = (reply.status, &*reply.body) == (503, "Too Many Connections\n");
        assert!(is_full || reply.status == 200, "{reply:?}");
        reply.status == 200
    });
}

#[test]
fn fields_that_mean_nothing_take_no_memory() {
    let (_dir, server) = fresh();
    let body = "a&".repeat(1 << 19);
    let head = format!(
        "POST /v1/watch/x?timeout=60 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let watches: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(body.as_bytes()).unwrap();
            stream
        })
        .collect();
    assert_eq!(server.get("/health").status, 200);
    assert!(server.resident_kib() < 100 << 10, "{} KiB", server.resident_kib());
    drop(watches);
}
