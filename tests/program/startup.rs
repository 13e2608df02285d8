//! A start that is not what was meant: what is said of it, and what it leaves behind.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use tempfile::TempDir;

use crate::support::{Server, etcd, eventually, refusal};

const ANY: [&str; 4] = ["-c", "0", "-s", "0"];

fn start_refused(dir: &Path, args: &[&str]) -> String {
    refusal(&[&ANY, args, &["-d", dir.to_str().unwrap()]].concat())
}

fn host(url: &str) -> &str {
    url.trim_start_matches("http://")
}

/// The names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn another_name_for_a_directory_is_refused() {
    let dir = TempDir::new().unwrap();
    let named = |name| [&ANY[..], &["-n", name]].concat();
    Server::start_with(dir.path(), &named("one")).stop("-TERM");
    let text = start_refused(dir.path(), &["-n", "two"]);
    assert!(text.contains("is the directory of machine one, and -n says two"), "{text}");
    assert!(
        text.contains("leave -n away, take another directory, or begin anew with -i"),
        "{text}"
    );
    // The same command again, or one that names nothing, goes on.
    Server::start_with(dir.path(), &named("one")).stop("-TERM");
    let server = Server::start(dir.path());
    assert!(server.announced[0].contains("machine one ("), "{:?}", server.announced);
}

#[test]
fn refused_start_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let other = TempDir::new().unwrap();
    let server = Server::start(other.path());
    let (client_port, peer_port) = server.ports();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let refused: [&[&str]; 3] = [
        &["-s", &peer_port],
        &["-C", host(&server.url)],
        &["-C", host(&server.peer_url), "-s", &client_port],
    ];
    for args in refused {
        let args: Vec<_> = args.iter().copied().chain(["-d"]).collect();
        let ports: &[&str] = if args.contains(&"-s") { &["-c", "0"] } else { &ANY };
        for into in [empty.clone(), dir.path().join("not/yet/there")] {
            let text = refusal(&[ports, &args, &[into.to_str().unwrap()]].concat());
            assert!(text.contains("cannot "), "{text}");
        }
        assert_eq!(names(dir.path()), ["empty"], "{args:?}");
        assert_eq!(names(&empty), [""; 0], "{args:?}");
    }
}

#[test]
fn start_anew_that_is_refused_brings_back_what_was_there() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/a", &[("value", "x")]);
    server.stop("-TERM");
    let before = names(dir.path());
    let other = TempDir::new().unwrap();
    let client_port = Server::start(other.path());
    let text = start_refused(dir.path(), &["-i", "-C", host(&client_port.url)]);
    assert!(text.contains("cannot join"), "{text}");
    assert_eq!(names(dir.path()), before);
    assert_eq!(Server::start(dir.path()).get("/v1/keys/a").status, 200);
}

#[test]
fn client_port_is_told_from_a_peer_port() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    let new = TempDir::new().unwrap();
    let (clients, peers) = (host(&server.url), host(&server.peer_url));
    let text = start_refused(new.path(), &["-C", clients]);
    let expected = format!(
        "etcd: cannot join: {clients} speaks HTTP: it is a client port; -C wants the peer port, 7001 by default\n"
    );
    assert!(text.ends_with(&expected), "{text}");
    let text = refusal(&["machine", "list", "-u", peers]);
    let expected = format!(
        "etcd: {peers} is the peer port of a machine: -u wants the client port, 4001 by default\n"
    );
    assert_eq!(text, expected);
    let text = refusal(&["machine", "remove", "x", "-u", &server.peer_url]);
    assert!(text.contains("is the peer port of a machine"), "{text}");
}

/// A directory that belongs to a cluster stays in it, whatever -C says; but it says so.
#[test]
fn machines_of_another_cluster_are_not_passed_over_in_silence() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let others = Server::start(other.path());
    Server::start(dir.path()).stop("-TERM");
    let through = format!("{},{}", host(&others.url), host(&others.peer_url));
    let server = Server::start_with(dir.path(), &[&ANY[..], &["-C", &through]].concat());
    let (mine, theirs) = (server.cluster(), others.cluster());
    assert_ne!(mine, theirs);
    let mut said = server.announced.clone();
    let expected = [
        format!("-C {} speaks HTTP: it is a client port", host(&others.url)),
        format!(
            "-C {} is of cluster {theirs}, but this directory belongs to cluster {mine}",
            host(&others.peer_url)
        ),
    ];
    eventually("both are mentioned", || {
        said.extend(server.said());
        expected.iter().all(|wanted| said.iter().any(|line| line.contains(wanted)))
    });
    assert_eq!(server.post("/v1/keys/a", &[("value", "x")]).status, 200);
}

/// The same command again: it says nothing.
#[test]
fn restart_with_the_same_command_is_silent() {
    let dir = TempDir::new().unwrap();
    let first = Server::start(&dir.path().join("one"));
    let through = [&ANY[..], &["-C", host(&first.peer_url), "-n", "two"]].concat();
    let joined = Server::start_with(&dir.path().join("two"), &through);
    joined.post("/v1/keys/a", &[("value", "x")]);
    joined.stop("-TERM");
    let again = Server::start_with(&dir.path().join("two"), &through);
    for _ in 0..100 {
        assert_eq!(again.post("/v1/keys/a", &[("value", "x")]).status, 200);
    }
    let said: Vec<_> = again.announced.iter().cloned().chain(again.said()).collect();
    assert!(!said.iter().any(|line| line.contains("-C ")), "{said:#?}");
}

/// Damage names what helps, on a line of its own.
#[test]
fn damage_says_what_to_do() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/a", &[("value", "x")]);
    server.stop("-TERM");
    let damage = |name: &str| {
        let path = dir.path().join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[good.len().min(100) / 2] ^= 1;
        fs::write(&path, bad).unwrap();
        let text = start_refused(dir.path(), &[]);
        fs::write(&path, good).unwrap();
        text
    };
    for (file, advice) in [
        ("wal/wal-1", "a machine of a cluster: remove it (etcd machine remove NAME)"),
        ("node.json", "put "),
    ] {
        let text = damage(file);
        let (fault, what_to_do) = text.trim_end().rsplit_once('\n').unwrap();
        assert!(fault.lines().last().unwrap().contains(file), "{text}");
        assert!(what_to_do.starts_with(&format!("etcd: what to do: {advice}")), "{text}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let text = refusal(&["-c", &port, "-s", "0", "-d", dir.path().to_str().unwrap()]);
    assert!(!text.contains("what to do"), "{text}");
}

/// A name is whatever makes one part of a key; it does not get out of its line.
#[test]
fn name_stays_on_its_line() {
    let dir = TempDir::new().unwrap();
    let name = "a\n2026-01-01T00:00:00Z  INFO all is well\u{1b}[31m\u{9b}1A\u{202e}";
    let server = Server::start_with(dir.path(), &[&ANY[..], &["-n", name]].concat());
    let shown = r"a\n2026-01-01T00:00:00Z  INFO all is well\u{1b}[31m\u{9b}1A\u{202e}";
    assert!(server.announced[0].contains(&format!("machine {shown} (")), "{:?}", server.announced);
    let listed = etcd(&["machine", "list", "-u", &server.url]).output().unwrap();
    let table = String::from_utf8(listed.stdout).unwrap();
    assert!(table.contains(shown) && table.lines().count() == 2, "{table:?}");
    assert_eq!(server.post("/v1/keys/a", &[("value", "x")]).status, 200);
    server.stop("-TERM");
    let text = start_refused(dir.path(), &["-n", "b\u{1b}c"]);
    assert!(text.contains(shown) && text.contains(r"-n says b\u{1b}c"), "{text:?}");
}

/// What the log would not take is refused before a machine begins to say it.
#[test]
fn address_that_cannot_be_described_is_refused() {
    let dir = TempDir::new().unwrap();
    let machine = dir.path().join("one");
    let mut command = etcd(&[&ANY[..], &["-n", "one", "--advertise-peer", "a&b:7001"]].concat());
    let output = command.arg("-d").arg(&machine).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(r#""a&b" is no name or address of a host"#), "{text}");
    assert!(!machine.exists());
}
