//! Large answers: of one state, however long it takes to read them, and never silently
//! short.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, SockRef, Socket, Type};
use tempfile::TempDir;

use crate::support::{PATIENCE, Server, eventually};

const KEYS: usize = 200;

/// What is asked for: the directory.
const NOW: &str = "/v1/keys/d";

/// How many bytes a value has, besides its number: ten MiB in all, which are more than
/// fit between a machine and a client that does not read.
const PADDING: usize = 50 << 10;

fn value(number: usize) -> String {
    format!("{number}-{}", "v".repeat(PADDING))
}

fn set(server: &Server, number: usize) {
    let key = format!("/v1/keys/d/{:03}?timeout=50", number % KEYS);
    assert_eq!(server.post(&key, &[("value", &value(number))]).status, 200);
}

/// A directory in which the write of number N has set key N modulo [`KEYS`], and has index
/// N + 3.
fn large() -> (TempDir, Server) {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    (0..KEYS).for_each(|number| set(&server, number));
    (dir, server)
}

/// What key holds what once the write of a number has been the last one.
fn held(key: usize, last: usize) -> usize {
    last - (last + KEYS - key) % KEYS
}

/// The answers to a request for the directory, at an index.
fn array(index: u64) -> String {
    let last = usize::try_from(index).unwrap() - 3;
    let mut all = String::new();
    for key in 0..KEYS {
        let (sign, value) = (if key == 0 { '[' } else { ',' }, value(held(key, last)));
        let line =
            format!(r#"{{"action":"GET","key":"/d/{key:03}","value":"{value}","index":{index}}}"#);
        write!(all, "{sign}{line}").unwrap();
    }
    all + "]\n"
}

fn list(index: u64) -> String {
    let last = usize::try_from(index).unwrap() - 3;
    let child =
        |key| format!(r#"{{"Key":"{key:03}","Value":"{}","Type":"f"}}"#, value(held(key, last)));
    (0..KEYS).map(child).collect::<Vec<_>>().join(" ") + "\n"
}

/// Asks for something, with little room for what comes.
fn ask(server: &Server, path: &str, version: &str) -> TcpStream {
    let address: SocketAddr = server.url.trim_start_matches("http://").parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(1 << 16).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request =
        format!("GET {path} HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn is_broken_off(sleeper: &TcpStream) {
    let mut error = None;
    eventually("a reader that takes nothing is broken off", || {
        error = SockRef::from(sleeper).take_error().unwrap();
        error.is_some()
    });
    assert_eq!(error.unwrap().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn large_answer_is_of_one_state_while_others_write() {
    let (_dir, server) = large();
    std::thread::scope(|scope| {
        let server = &server;
        let writer = scope.spawn(move || (KEYS..KEYS + 60).for_each(|number| set(server, number)));
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                scope.spawn(move || {
                    for _ in 0..3 {
                        let path = if reader == 0 { "/v1/keys/d" } else { "/v1/list/d" };
                        let reply = server.get(path);
                        assert_eq!(reply.status, 200, "{}", reply.body);
                        assert_eq!(reply.header("content-length"), "");
                        let index = reply.number("x-etcd-index");
                        let wanted = if reader == 0 { array(index) } else { list(index) };
                        assert!(reply.body == wanted, "at {index}");
                    }
                })
            })
            .collect();
        writer.join().unwrap();
        for reader in readers {
            reader.join().unwrap();
        }
    });
    // Whole, in lines, and in a part that is large itself.
    let lines = server.get("/v1/keys/d?recursive=true").body;
    assert_eq!(lines.lines().count(), KEYS);
    let part = server.get("/v1/keys/d?recursive=true&limit=150");
    assert_eq!((part.body.lines().count(), part.header("x-etcd-next")), (150, "150"));
    let mut followed = server.lines("/v1/keys/d?recursive=true&stream=true", &[]);
    assert!(followed.by_ref().take(KEYS).eq(lines.lines()));
    assert!(followed.next().unwrap().starts_with(r#"{"action":"STATE","key":"/d","#));
    set(&server, KEYS + 60);
    assert!(followed.next().unwrap().starts_with(r#"{"action":"SET","key":"/d/060","#));
}

/// A client that does not read is broken off, whether or not it would know by the form of
/// the answer that there is more; and the others are served meanwhile.
#[test]
fn reader_that_takes_nothing_is_broken_off() {
    let (_dir, server) = large();
    let mut sleepers: Vec<_> = ["1.0", "1.1"].map(|version| ask(&server, NOW, version)).into();
    // As many more as there may be at a time; then others have to wait for them to go.
    let before = server.resident_kib();
    sleepers.extend((2..16).map(|_| ask(&server, NOW, "1.1")));
    // All the tree changes while they are at it. They see that of before, which is there
    // once for all of them, and of the answers no more than a few pieces.
    (KEYS..2 * KEYS).for_each(|number| set(&server, number));
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 100 << 10, "by {grown} KiB: each answer alone has ten MiB");
    // Who looks back has other places.
    let then = server.get("/v1/keys/d/000?at=3");
    assert_eq!(then.status, 200, "{}", then.body);
    sleepers.iter().for_each(is_broken_off);
    // There is room again, and who reads gets all.
    let mut reply = String::new();
    ask(&server, NOW, "1.0").read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1."), "{head}");
    assert!(body == array(2 * KEYS as u64 + 2));
}

/// What is told of the past is broken off as well; and a diff takes up its place until then.
#[test]
fn reader_that_takes_nothing_of_the_past_is_broken_off() {
    let (_dir, server) = large();
    let history = "/v1/history/d?recursive=true";
    let mut sleepers = vec![ask(&server, history, "1.0"), ask(&server, history, "1.1")];
    sleepers.extend((0..16).map(|_| ask(&server, "/v1/diff/d?from=2", "1.1")));
    eventually("all places are taken", || {
        let reply = server.get("/v1/keys/d/000?at=3&timeout=0.1");
        reply.status == 503 && reply.body == "Too Many Large Answers\n"
    });
    let now = server.get("/v1/keys/d");
    assert_eq!(now.status, 200, "what is there now has other places");
    sleepers.iter().for_each(is_broken_off);
    // There is room again, and who reads gets all.
    for path in [history, "/v1/diff/d?from=2"] {
        assert_eq!(server.get(path).body.lines().count(), KEYS, "{path}");
    }
}
