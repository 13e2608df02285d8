//! The process: how it starts, why it does not, and how it stops.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::time::Instant;

use tempfile::TempDir;

use crate::support::{Server, etcd, last_fault};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn port_in_use_is_refused_on_one_line() {
    let dir = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let line = last_fault(&["-d", text(dir.path()), "-c", &port, "-s", "0"]);
    assert_eq!(
        line,
        format!("etcd: cannot listen on 127.0.0.1:{port}: Address already in use (os error 98)")
    );
    let line = last_fault(&["-d", text(dir.path()), "-c", "0", "-s", &port]);
    assert!(line.starts_with(&format!("etcd: cannot listen on 127.0.0.1:{port}")), "{line}");
}

#[test]
fn directory_in_use_is_refused_on_one_line() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    let expected = format!("etcd: {} is in use by another process", text(dir.path()));
    assert_eq!(last_fault(&["-d", text(dir.path()), "-c", "0", "-s", "0"]), expected);
    let expected = format!(
        "etcd: {} is in use: a machine runs there. It can be asked (--url), its archive/ be read, and what it has sealed be verified (verify --live)",
        text(dir.path())
    );
    for tool in ["show", "replay", "verify", "export"] {
        assert_eq!(last_fault(&["log", tool, "-d", text(dir.path())]), expected);
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn directory_that_cannot_be_made_is_refused_on_one_line() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let below = file.join("below");
    let line = last_fault(&["-d", text(&below), "-c", "0", "-s", "0"]);
    assert_eq!(
        line,
        format!("etcd: cannot create {}: Not a directory (os error 20)", text(&below))
    );
}

#[test]
fn directory_of_a_newer_format_is_refused_on_one_line() {
    let dir = TempDir::new().unwrap();
    Server::start(dir.path()).stop("-TERM");
    let path = dir.path().join("node.json");
    let newer = fs::read_to_string(&path)
        .unwrap()
        .replace("\"format\":1", "\"format\":2,\"color\":\"red\"");
    fs::write(&path, newer).unwrap();
    let line = last_fault(&["-d", text(dir.path()), "-c", "0", "-s", "0"]);
    let expected =
        format!("etcd: {}: format 2 is newer than the 1 that this version knows", text(&path));
    assert_eq!(line, expected);
}

/// While nobody answers, a machine that wants to join says so and tries again; it
/// is nobody's yet.
#[test]
fn joining_waits_for_somebody_to_answer() {
    let dir = TempDir::new().unwrap();
    let nobody = "127.0.0.1:1";
    let mut joining = etcd(&["-d", text(dir.path()), "-c", "0", "-s", "0", "-C", nobody]);
    let mut joining = joining.spawn().unwrap();
    let stderr = BufReader::new(joining.stderr.take().unwrap());
    let line = stderr.lines().map(Result::unwrap).find(|line| line.contains("not joined yet"));
    joining.kill().unwrap();
    joining.wait().unwrap();
    let line = line.unwrap();
    assert!(line.contains("trying again: cannot reach 127.0.0.1:1: "), "{line}");
    assert!(!dir.path().join("node.json").exists(), "it has not joined");
}

/// What cannot be meant is told from what is wrong with the machine: by the status, too.
#[test]
fn command_line_that_makes_no_sense_is_wrong_usage() {
    let dir = TempDir::new().unwrap();
    for (args, expected) in [
        (
            ["-n", "a/b"],
            r#"etcd: "a/b" cannot be the name of a machine: it must be one part of a key"#,
        ),
        (
            ["--election", "100-200"],
            "etcd: --election must begin with three times --heartbeat, 300 ms, at least, not with 100 ms",
        ),
        (["--election", "soon"], "expected two times like 600-1200"),
        (["-a", "0.0.0.0"], "say those with --advertise-peer and --advertise-client"),
    ] {
        let output = etcd(&["-d", text(dir.path()), args[0], args[1]]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn damaged_log_is_refused_with_place_and_index() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    for _ in 0..5 {
        server.post("/v1/keys/a", &[("value", "x")]);
    }
    server.stop("-TERM");
    let segment = dir.path().join("wal/wal-1");
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(6).position(|window| window == b"\"/a\",\"").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    for args in [vec!["-c", "0", "-s", "0"], vec!["log", "verify"]] {
        let line = last_fault(&[args, vec!["-d", text(dir.path())]].concat());
        let expected = format!("etcd: {} is damaged at byte ", text(&segment));
        assert!(line.starts_with(&expected) && line.contains("command #3"), "{line}");
    }
}

#[test]
fn start_says_what_it_is_where_and_what_it_recovered() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    let announced = server.announced.join("\n");
    for part in [
        "etcd 0.1.0: machine",
        "of cluster",
        "clients: http://127.0.0.1:",
        "data: ",
        "a new cluster",
    ] {
        assert!(announced.contains(part), "{announced}");
    }
    server.post("/v1/keys/a", &[("value", "x")]);
    server.kill();
    let announced = Server::start(dir.path()).announced.join("\n");
    assert!(
        announced.contains("recovered up to command #4, 5 keys and directories"),
        "{announced}"
    );
}

#[test]
fn restart_on_the_same_ports_takes_no_index() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    let (clients, peers) = server.ports();
    server.post("/v1/keys/a", &[("value", "x")]);
    server.stop("-TERM");
    let server = Server::start_with(dir.path(), &["-c", &clients, "-s", &peers]);
    let get = server.get("/v1/keys/a");
    assert_eq!(get.body, "{\"action\":\"GET\",\"key\":\"/a\",\"value\":\"x\",\"index\":3}\n");
    assert_eq!(get.number("x-raft-term"), 2);
}

#[test]
fn signals_end_the_process_politely() {
    for signal in ["-TERM", "-INT"] {
        let dir = TempDir::new().unwrap();
        let server = Server::start(dir.path());
        server.post("/v1/keys/a", &[("value", "x")]);
        let asked = Instant::now();
        let (status, lines) = server.stop(signal);
        assert!(status.success(), "{signal}: {status}");
        assert!(asked.elapsed().as_secs() < 5);
        assert!(lines.last().unwrap().contains("the log is complete on disk"), "{lines:?}");
    }
}

#[test]
fn starting_anew_sets_aside_what_was_there() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/a", &[("value", "x")]);
    server.stop("-TERM");
    let server = Server::start_with(dir.path(), &["-c", "0", "-s", "0", "-i"]);
    assert_eq!(server.get("/v1/keys/a").status, 404);
    assert_eq!(server.post("/v1/keys/a", &[("value", "y")]).number("x-etcd-index"), 3);
    let mut entries = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let aside = entries.find(|path| path.join("node.json").exists()).unwrap();
    let told = format!("what was there is set aside in {}", aside.display());
    assert!(server.announced.iter().any(|line| line.ends_with(&told)), "{:?}", server.announced);
    let replayed = etcd(&["log", "replay", "-d", text(&aside)]).output().unwrap();
    assert!(String::from_utf8(replayed.stdout).unwrap().contains(r#"/a = "x""#));
}

#[test]
fn peer_port_tells_the_version() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    let mut reply = ureq::get(format!("{}/version", server.peer_url)).call().unwrap();
    assert_eq!(reply.body_mut().read_to_string().unwrap(), "etcd 0.1.0\n");
}

#[test]
fn disk_short_of_room_refuses_writes_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/a", &[("value", "x")]);
    let ports = server.ports();
    server.stop("-TERM");
    // No disk has so much room.
    let reserve = (1_u64 << 60).to_string();
    let args = ["-c", &*ports.0, "-s", &*ports.1, "--disk-reserve", &*reserve];
    let server = Server::start_with(dir.path(), &args);
    let refused = server.post("/v1/keys/a", &[("value", "y")]);
    let line = "Disk Nearly Full: Writes Are Refused Until There Is Room\n";
    assert_eq!((refused.status, &*refused.body), (507, line));
    assert_eq!(server.delete("/v1/keys/a").status, 507);
    assert!(server.get("/v1/keys/a").body.contains(r#""value":"x""#));
    assert!(server.get("/v1/watch/a?index=3").body.contains(r#""value":"x""#));
    assert_eq!(server.get("/health").status, 200);
    server.stop("-TERM");
    let server = Server::start(dir.path());
    assert_eq!(server.post("/v1/keys/a", &[("value", "y")]).status, 200);
}

#[test]
fn start_anew_that_cannot_listen_sets_nothing_aside() {
    let dir = TempDir::new().unwrap();
    Server::start(dir.path()).stop("-TERM");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let line = last_fault(&["-d", text(dir.path()), "-i", "-c", &port, "-s", "0"]);
    assert!(line.contains("cannot listen on"), "{line}");
    assert!(dir.path().join("node.json").exists() && dir.path().join("wal").exists());
}

/// A directory keeps its name alone: what deep keys take grows with what was sent, not
/// with its square.
#[test]
fn deep_keys_take_no_more_memory_than_was_sent() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    let below = "/0123456789012345678901234567890".repeat(127);
    let before = server.resident_kib();
    for number in 0..500 {
        server.post(&format!("/v1/keys/{number:031}{below}"), &[("value", "x")]);
    }
    // 2 MiB were sent; the paths of all directories on the way are 127 MiB.
    let taken = server.resident_kib() - before;
    assert!(taken < 64 << 10, "{taken} KiB");
}

/// What was to be done is done, whoever hears of it.
#[test]
fn recovery_is_done_though_nobody_hears_of_it() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/a", &[("value", "x")]);
    let cluster = server.cluster().to_owned();
    server.stop("-TERM");
    let mut recover = etcd(&["recover", "--force-new-cluster", "-d", text(dir.path())]);
    let mut recover = recover.spawn().unwrap();
    drop(recover.stdout.take());
    let output = recover.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !said.contains("etcd: "), "{said}");
    let server = Server::start(dir.path());
    assert_ne!(server.cluster(), cluster);
    assert_eq!(server.get("/v1/keys/a").status, 200);
}
