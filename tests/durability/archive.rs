//! The archive of a real process: history served from sealed files, copies of it,
//! dropping, and damage that is noticed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::{Server, etcd, eventually};

const ARGS: [&str; 12] = [
    "-c",
    "0",
    "-s",
    "0",
    "-m",
    "10",
    "--segment-bytes",
    "4096",
    "--checkpoint-bytes",
    "8000",
    "--retain",
    "forever",
];

/// How many keys are set.
const KEYS: u64 = 200;

fn sealed(dir: &Path) -> Vec<PathBuf> {
    let Ok(files) = fs::read_dir(dir.join("archive")) else { return Vec::new() };
    let paths = files.map(|file| file.unwrap().path());
    let mut sealed: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "sealed")).collect();
    sealed.sort();
    sealed
}

/// A machine with some history.
fn filled(dir: &Path, args: &[&str]) -> Server {
    let server = Server::start_with(dir, args);
    let value = "v".repeat(100);
    for number in 0..KEYS {
        server.post(&format!("/v1/keys/k/{number}"), &[("value", &value)]);
    }
    server
}

/// A machine with most of its history in sealed files.
fn sealed_up(dir: &Path) -> Server {
    let server = filled(dir, &ARGS);
    eventually("much is sealed", || sealed(dir).len() >= 5);
    server
}

/// The numbers of the keys that a watch from an index sees, in order.
fn watched(server: &Server, index: u64, count: usize) -> Vec<u64> {
    let lines = server.lines(&format!("/v1/watch/k?stream=true&index={index}"), &[]);
    let number = |line: String| -> u64 {
        let (_, rest) = line.split_once(r#""key":"/k/"#).unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    };
    lines.map(number).take(count).collect()
}

fn verify(dir: &Path) -> (bool, String) {
    let output = etcd(&["log", "verify", "-d"]).arg(dir).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn watch_crosses_sealed_files_segments_and_the_live_end() {
    let dir = TempDir::new().unwrap();
    let server = sealed_up(dir.path());
    let all: Vec<_> = (0..KEYS).collect();
    assert_eq!(watched(&server, 3, all.len()), all);
    assert_eq!(watched(&server, 103, 20), all[100..120]);
    assert!(server.stop("-TERM").0.success());
    let server = Server::start_with(dir.path(), &ARGS);
    assert_eq!(watched(&server, 3, all.len()), all);
}

#[test]
fn start_from_sealed_history_writes_no_checkpoint() {
    let dir = TempDir::new().unwrap();
    let server = sealed_up(dir.path());
    assert!(server.stop("-TERM").0.success());
    let checkpoints = || fs::read_dir(dir.path().join("checkpoints")).unwrap().count();
    let before = checkpoints();
    let server = Server::start_with(dir.path(), &ARGS);
    assert_eq!(server.get("/v1/keys/k/0").status, 200);
    assert_eq!(checkpoints(), before);
}

#[test]
fn copy_of_the_archive_is_a_backup() {
    let dir = TempDir::new().unwrap();
    let server = sealed_up(dir.path());
    let backup = TempDir::new().unwrap();
    // While the machine goes on.
    copy(&dir.path().join("archive"), &backup.path().join("archive"));
    drop(server);
    let (good, text) = verify(backup.path());
    assert!(good && text.starts_with("good: "), "{text}");
    let exported = etcd(&["log", "export", "-d"]).arg(backup.path()).output().unwrap();
    assert!(exported.status.success());
    let recorded = backup.path().join("recorded.jsonl");
    fs::write(&recorded, exported.stdout).unwrap();
    let restored = TempDir::new().unwrap();
    let imported = etcd(&["log", "import"])
        .arg(recorded)
        .arg("-d")
        .arg(restored.path().join("data"))
        .output()
        .unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let server = Server::start_with(&restored.path().join("data"), &ARGS);
    assert_eq!(server.get("/v1/keys/k/10").status, 200);
}

#[test]
fn dropped_history_is_gone_and_said_to_be() {
    let dir = TempDir::new().unwrap();
    let mut args = ARGS;
    args[11] = "2000B";
    let server = filled(dir.path(), &args);
    eventually("something is dropped", || server.get("/v1/watch/k?index=3").status == 410);
    let gone = server.get("/v1/watch/k?index=3").body;
    let (start, oldest) = gone.trim_end().rsplit_once(' ').unwrap();
    assert_eq!(start, "Watch From Index: 3 Is No Longer Kept; The Oldest Is");
    // A stream says so, too, before its body begins.
    let stream = server.get("/v1/watch/k?index=3&stream=true");
    assert_eq!((stream.status, &stream.body[..]), (410, &gone[..]));
    let oldest: u64 = oldest.parse().unwrap();
    assert!(oldest > 4, "{gone}");
    // What is said to be kept is.
    let seen = server.get(&format!("/v1/watch/k?index={oldest}")).body;
    assert!(seen.contains(&format!(r#""key":"/k/{}""#, oldest - 3)), "{oldest}: {seen}");
    assert!(server.stop("-TERM").0.success());
    let (good, text) = verify(dir.path());
    assert!(good, "{text}");
    let server = Server::start_with(dir.path(), &args);
    assert_eq!(server.get("/v1/keys/k/0").status, 200);
    assert_eq!(server.get("/v1/watch/k?index=3").status, 410);
}

#[test]
fn damaged_history_is_noticed_and_the_state_is_served() {
    let dir = TempDir::new().unwrap();
    let server = sealed_up(dir.path());
    assert!(server.stop("-TERM").0.success());
    let path = &sealed(dir.path())[1];
    let mut bytes = fs::read(path).unwrap();
    bytes[40] ^= 1;
    fs::write(path, bytes).unwrap();
    let (good, text) = verify(dir.path());
    let expected = format!("{} is damaged at byte 16", path.display());
    assert!(!good && text.contains(&expected), "{text}");
    let server = Server::start_with(dir.path(), &ARGS);
    assert_eq!(server.get("/v1/keys/k/0").status, 200);
    // It is found without anybody asking for it.
    eventually("the damage is reported", || {
        server.said().iter().any(|line| line.contains(&expected))
    });
    assert_eq!(server.post("/v1/keys/a", &[("value", "x")]).status, 200);
}

/// A stream that comes to damage says so in its last line, and where it had come to; a watch
/// that begins there is refused.
#[test]
fn stream_that_comes_to_damage_says_so_last() {
    let dir = TempDir::new().unwrap();
    assert!(sealed_up(dir.path()).stop("-TERM").0.success());
    // Nothing is stored that could stand in for the log.
    fs::remove_dir_all(dir.path().join("events")).unwrap();
    fs::write(dir.path().join("events"), "in the way").unwrap();
    let server = Server::start_with(dir.path(), &ARGS);
    let path = &sealed(dir.path())[1];
    let mut bytes = fs::read(path).unwrap();
    bytes[40] ^= 1;
    fs::write(path, bytes).unwrap();
    let why = |last: usize| format!("The Log Cannot Be Read; Go On After Event {last}");
    // Cut off by nothing but itself, and the connection can be used again.
    let lines: Vec<_> = server.lines("/v1/watch/?stream=true&after=0", &[]).collect();
    let (error, events) = lines.split_last().unwrap();
    assert!(!events.is_empty(), "{error}");
    for (line, number) in events.iter().zip(1..) {
        assert!(line.contains(&format!(r#""event":{number},"#)), "{number}: {line}");
    }
    assert_eq!(*error, format!(r#"{{"error":"{}"}}"#, why(events.len())));
    let accept = [("Accept", "text/event-stream")];
    let lines: Vec<_> = server.lines("/v1/watch/?after=0", &accept).collect();
    let words = format!(r#"data: {{"error":"{}"}}"#, why(events.len()));
    assert_eq!(lines[3 * events.len()..], ["event: error", &words, ""]);
    for fields in ["", "&stream=true"] {
        let refused = server.get(&format!("/v1/watch/?after={}{fields}", events.len()));
        assert_eq!((refused.status, &*refused.body), (500, "The Log Cannot Be Read\n"));
    }
    assert_eq!(server.get("/v1/watch/k?index=202").status, 200);
}
