//! HTTP as it stands on the wire: what is refused before anybody reads it, who is told
//! what when there is no place left, and who is still there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{PATIENCE, Server, eventually};

fn fresh() -> (TempDir, Server) {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    (dir, server)
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn send(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(server);
    stream.write_all(bytes).unwrap();
    stream
}

/// Reads until the connection closes; a reset is not closed cleanly.
fn rest(mut stream: TcpStream) -> String {
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

/// Reads what somebody is told whose connection ends at once. What it has sent
/// meanwhile nobody reads, and the connection may be reset behind the answer.
fn last_words(mut stream: TcpStream) -> String {
    let mut reply = Vec::new();
    let ended = stream.read_to_end(&mut reply);
    assert!(ended.is_ok() || !reply.is_empty(), "nothing was said");
    String::from_utf8(reply).unwrap()
}

/// Sends bytes, and reads until the server closes the connection.
fn raw(server: &Server, bytes: &[u8]) -> String {
    rest(send(server, bytes))
}

/// Reads one answer with a length off a connection that stays open.
fn answer(stream: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

/// Asserts that an answer refuses with a status and one line, and ends the connection.
fn assert_refused(reply: &str, status: &str, line: &str) {
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{reply:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {reply}");
    assert_eq!(body, format!("{line}\n"));
    assert!(head.contains("connection: close"), "{head}");
    assert!(head.contains("content-type: text/plain; charset=utf-8"), "{head}");
}

/// Whether something has come that has not been read.
fn has_answer(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let found = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    found.is_ok()
}

const FULL: &str = "Too Many Connections";
const HOST: &str = "One Host Required";
const LINE_END: &str = "Lines Of The Head Must End With CR LF";
const LENGTH: &str = "Content-Length Must Be One Number";
const CODING: &str = "Transfer-Encoding Must Be chunked, In HTTP/1.1";
const BOTH: &str = "Content-Length And Transfer-Encoding Exclude Each Other";

/// Each with a body that would set a key, whichever way it is read.
#[test]
fn request_that_can_be_read_in_two_ways_is_refused() {
    let (_dir, server) = fresh();
    let body = "7\r\nvalue=a\r\n0\r\n\r\n";
    for (fields, line) in [
        ("Transfer-Encoding: chunked\r\n", HOST),
        ("Host: localhost\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n", HOST),
        ("Host: localhost\r\nContent-Length: 17\r\nTransfer-Encoding: chunked\r\n", BOTH),
        ("Host: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 17\r\n", BOTH),
        ("Host: localhost\r\nTransfer-Encoding: gzip, chunked\r\n", CODING),
        ("Host: localhost\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", CODING),
        ("Host: localhost\r\nTransfer-Encoding: identity\r\n", CODING),
        ("Host: localhost\r\nContent-Length: 17\r\nContent-Length: 17\r\n", LENGTH),
        ("Host: localhost\r\nContent-Length: 17, 17\r\n", LENGTH),
        ("Host: localhost\r\nContent-Length: +17\r\n", LENGTH),
        ("Host: localhost\nTransfer-Encoding: chunked\r\n", LINE_END),
        ("Host: localhost\r\nTransfer-Encoding: chunked\n", LINE_END),
        ("Host: localhost\r\nX: y\r Transfer-Encoding: chunked\r\n", "Malformed Request"),
        ("Host: localhost\r\nX: a\r\n b\r\nTransfer-Encoding: chunked\r\n", "Malformed Request"),
        ("Host: localhost\r\nTransfer-Encoding : chunked\r\n", "Malformed Request"),
    ] {
        let request = format!("POST /v1/keys/a HTTP/1.1\r\n{fields}\r\n{body}");
        assert_refused(&raw(&server, request.as_bytes()), "400", line);
    }
    assert_eq!(server.get("/v1/keys/a").status, 404);
}

#[test]
fn what_is_not_http_1_is_told_so() {
    let (_dir, server) = fresh();
    let version = "HTTP Version Not Supported: Use HTTP/1.1";
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0";
    assert_refused(&raw(&server, preface.as_bytes()), "505", version);
    assert_refused(&raw(&server, b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n"), "505", version);
    for bytes in [
        "GET /version\r\n",
        "nonsense\r\n\r\n",
        "\u{0}\u{1}\u{2} nonsense",
        "GET /a\u{7f}b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        assert_refused(&raw(&server, bytes.as_bytes()), "400", "Malformed Request");
    }
}

/// What a client sends behind it does not keep it from reading why.
#[test]
fn head_over_the_limit_is_told_so() {
    let (_dir, server) = fresh();
    let line = "Head Must Be Of At Most 16 KiB And 100 Fields";
    for length in [16 << 10, 20 << 10, 300 << 10] {
        let long = format!(
            "GET /version HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
            "x".repeat(length)
        );
        assert_refused(&raw(&server, long.as_bytes()), "431", line);
    }
    let path = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(20 << 10));
    assert_refused(&raw(&server, path.as_bytes()), "431", line);
    let many =
        format!("GET /version HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(100));
    assert_refused(&raw(&server, many.as_bytes()), "431", line);
    let most = format!(
        "GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n",
        "X: y\r\n".repeat(98)
    );
    assert!(raw(&server, most.as_bytes()).starts_with("HTTP/1.1 200"));
}

/// A head that never ends holds no place for long, nor does a silent connection.
#[test]
fn head_that_does_not_come_is_given_up() {
    let (_dir, server) = fresh();
    let mut silent = connect(&server);
    let begun = send(&server, b"GET /version HTTP/1.1\r\nHost:");
    let body = "POST /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nvalue";
    let without_body = send(&server, body.as_bytes());
    let mut used = send(&server, b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer(&mut used).0.starts_with("HTTP/1.1 200"));
    assert_refused(&rest(without_body), "408", "Body Did Not Come In Time");
    assert_refused(&rest(begun), "408", "Head Did Not Come In Time");
    // Who has said nothing is told nothing: it may be about to ask something else.
    for stream in [&mut silent, &mut used] {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}

/// However the bytes come: all at once, one by one, cut anywhere, several requests in
/// one piece, with bodies that look like requests.
#[test]
fn requests_are_told_apart_however_they_are_cut() {
    let (_dir, server) = fresh();
    let fake = "value=\nGET /v1/keys/fake HTTP/1.1\n\nHost";
    let requests = [
        "\r\nPUT /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\nvalue=1"
            .to_owned(),
        "GET /v1/keys/a?stale=true HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        format!("PUT /v1/keys/b HTTP/1.1\r\nhost:\r\ncontent-length: {}\r\n\r\n{fake}", fake.len()),
        "DELETE /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
    ];
    let bytes = requests.concat().into_bytes();
    let check = |reply: String| {
        assert_eq!(reply.matches("HTTP/1.1 200 OK\r\n").count(), 4, "{reply}");
        assert!(reply.contains(r#""value":"\nGET /v1/keys/fake HTTP/1.1\n\nHost""#), "{reply}");
        assert!(reply.ends_with("}\n") && reply.contains(r#"{"action":"DELETE""#), "{reply}");
    };
    check(raw(&server, &bytes));
    for cut in (1..bytes.len()).step_by(5) {
        let mut stream = send(&server, &bytes[..cut]);
        // What has come so far is read before the rest comes.
        assert_eq!(server.get("/version").status, 200);
        stream.write_all(&bytes[cut..]).unwrap();
        check(rest(stream));
    }
    let mut stream = connect(&server);
    stream.set_nodelay(true).unwrap();
    for byte in &bytes {
        stream.write_all(&[*byte]).unwrap();
    }
    check(rest(stream));
}

/// The second of two requests in one piece is looked at as well; and behind a body in
/// chunks nothing is.
#[test]
fn request_behind_another_one_is_looked_at() {
    let (_dir, server) = fresh();
    let first = "PUT /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\nvalue=1";
    let reply = raw(&server, format!("{first}GET /v1/keys/a HTTP/1.1\r\n\r\n").as_bytes());
    let (answered, refused) = reply.split_at(reply.rfind("HTTP/1.1 ").unwrap());
    assert!(answered.starts_with("HTTP/1.1 200") && answered.ends_with("}\n"), "{reply}");
    assert_refused(refused, "400", HOST);
    let chunks = "POST /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
        7\r\nvalue=2\r\n0\r\n\r\n";
    let reply = raw(&server, format!("{chunks}DELETE /v1/keys/a HTTP/1.1\r\n\r\n").as_bytes());
    assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{reply}");
    assert!(reply.contains("connection: close") && reply.contains(r#""value":"2""#), "{reply}");
    assert!(server.get("/v1/keys/a").body.contains(r#""value":"2""#));
}

#[test]
fn head_is_get_without_a_body() {
    let (_dir, server) = fresh();
    server.post("/v1/keys/dir/a", &[("value", "x")]);
    let ask = |method: &str, path: &str| {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let reply = raw(&server, request.as_bytes());
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let is_clock = |line: &&str| line.starts_with("date: ");
        let head: Vec<_> = head.lines().filter(|line| !is_clock(line)).map(str::to_owned).collect();
        (head, body.to_owned())
    };
    for path in [
        "/v1/keys/dir/a",
        "/v1/keys/dir",
        "/v1/keys/nothing",
        "/v1/keys/%FF",
        "/v1/list/dir",
        "/v1/watch/dir?index=3",
        "/v1/testAndSet/dir/a",
        "/v1/machines",
        "/v1/machines?detail=true",
        "/leader",
        "/v1/leader",
        "/version",
        "/health",
        "/nothing",
    ] {
        let (head, body) = ask("HEAD", path);
        assert_eq!((head, &*body), (ask("GET", path).0, ""), "{path}");
    }
    // A watch would wait: HEAD says where a watch would go on.
    let (head, _) = ask("HEAD", "/v1/watch/elsewhere");
    assert_eq!(head[0], "HTTP/1.1 204 No Content");
    assert!(head.contains(&"x-etcd-event: 3".to_owned()), "{head:?}");
    for path in ["/v1/watch/dir?stream=true", "/v1/watch/dir?stream=true&index=3&timeout=60"] {
        let (head, body) = ask("HEAD", path);
        assert_eq!((&*head[0], &*body), ("HTTP/1.1 200 OK", ""), "{path}");
    }
}

/// Some programs say that they have said all before they listen.
#[test]
fn client_that_closes_its_sending_side_gets_its_answer() {
    let (_dir, server) = fresh();
    let half_closed = |bytes: &str| {
        let stream = send(&server, bytes.as_bytes());
        stream.shutdown(Shutdown::Write).unwrap();
        stream
    };
    let set = "POST /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\nvalue=1";
    assert!(rest(half_closed(set)).ends_with("\"index\":3}\n"));
    let get = "GET /v1/keys/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert!(rest(half_closed(&get.repeat(2))).matches("\"value\":\"1\"").count() == 2);
    let watch = half_closed("GET /v1/watch/b HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let stream = half_closed("GET /v1/watch/b?stream=true HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("the watches have begun, and seen something", || {
        server.post("/v1/keys/b", &[("value", "x")]);
        has_answer(&watch)
    });
    assert!(rest(watch).contains(r#""key":"/b""#));
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains(r#""key":"/b""#)));
    // A body that is cut short is not waited for.
    let short = half_closed(
        "POST /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nvalue",
    );
    assert!(rest(short).ends_with("Body Incomplete\n"));
    assert_eq!(rest(half_closed("GET /v1/keys/a HTTP/1.1\r\n")), "");
}

/// A client that is gone looks like one that has closed its sending side, until its
/// system says so. Nothing happens at the prefix: no answer finds it out.
#[test]
fn client_that_is_gone_does_not_hold_its_watch() {
    let (_dir, server) = fresh();
    let sockets = || server.open_files().iter().filter(|name| name.starts_with("socket:")).count();
    let before = sockets();
    let ask = b"GET /v1/watch/quiet HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let [gone, half_gone, half_closed] = [(); 3].map(|()| send(&server, ask));
    eventually("all are served", || sockets() == before + 3);
    for stream in [&half_gone, &half_closed] {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for stream in [gone, half_gone] {
        // As the system of a client does that has forgotten it: it is reset.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
    }
    eventually("who is gone is noticed", || sockets() == before + 1);
    assert!(!has_answer(&half_closed), "who still listens is not sent away");
    // Whether its system has forgotten it is asked by keepalive.
    let port = format!(":{:04X}", half_closed.local_addr().unwrap().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut ours = fields.filter(|fields| fields[2].ends_with(&port));
    // Half closed from there, and the timer that runs is the one of keepalive.
    assert!(ours.any(|fields| fields[3] == "08" && fields[5].starts_with("02:")), "{table}");
}

/// Opens watches until the places for clients are all taken, and returns who has one.
fn take_all_places(server: &Server) -> Vec<TcpStream> {
    let ask = b"GET /v1/watch/x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut watches: Vec<_> = (0..100).map(|_| send(server, ask)).collect();
    let mut said = Vec::new();
    eventually("it is said that all places are taken", || {
        said.extend(server.said());
        said.iter().any(|line| line.contains("clients are turned away"))
    });
    let said = said.iter().find(|line| line.contains("turned away")).unwrap();
    let (_, places) = said.split_once("all ").unwrap();
    let places: usize = places.split(' ').next().unwrap().parse().unwrap();
    // Most of the files that there are, and not a third of them.
    assert!(places > 60, "{said}");
    for turned_away in watches.drain(places..) {
        assert_refused(&last_words(turned_away), "503", FULL);
    }
    watches
}

#[test]
fn client_without_a_place_is_told_so() {
    let dir = TempDir::new().unwrap();
    let server = Server::start_limited(dir.path(), 128);
    let watches = take_all_places(&server);
    let refused = server.post("/v1/keys/a", &[("value", "x")]);
    assert_eq!((refused.status, &*refused.body), (503, "Too Many Connections\n"));
    assert_eq!(refused.header("retry-after"), "1");
    let big = server.post("/v1/keys/a", &[("value", &"x".repeat(500_000))]);
    assert_eq!(big.status, 503);
    // Who watches over the machine has to know that it is well.
    assert_eq!(server.get("/health").body, "{\"health\":\"true\"}\n");
    assert_eq!(server.get("/version").header("connection"), "close");
    assert_refused(&raw(&server, b"GET /health HTTP/1.1\r\n\r\n"), "400", HOST);
    // It is said seldom, however many come.
    assert!(!server.said().iter().any(|line| line.contains("turned away")));
    assert!(watches.iter().all(|watch| !has_answer(watch)), "those who have a place keep it");
    // They may still listen, as far as anybody can see; but others need their places.
    drop(watches);
    eventually("there are places again", || server.get("/v1/keys/a").status == 404);
}

/// Strangers who say nothing hold no place for long, and `/health` is answered
/// however many they are.
#[test]
fn silent_strangers_keep_nobody_from_health() {
    let dir = TempDir::new().unwrap();
    let server = Server::start_limited(dir.path(), 128);
    let watches = take_all_places(&server);
    let mut strangers = Vec::new();
    for _ in 0..10 {
        strangers.extend((0..20).map(|_| connect(&server)));
        strangers.push(send(&server, b"GET /health HTTP/1.1\r\nHost"));
        assert_eq!(server.get("/health").status, 200);
    }
    // Also those who never said anything: nobody waits in silence.
    for stranger in strangers {
        assert_refused(&last_words(stranger), "503", FULL);
    }
    drop(watches);
}
