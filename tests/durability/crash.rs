//! kill -9 under load, round after round: nothing that was acknowledged is lost.
//! Segments are small and checkpoints frequent, so that kills fall into sealing
//! and checkpointing as well.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;

use crate::support::{Server, etcd, eventually};

const ROUNDS: usize = 50;
const WRITERS: usize = 8;
/// How many acknowledged writes a round waits for before the kill.
const WRITES: usize = 150;

const ARGS: [&str; 8] =
    ["-c", "0", "-s", "0", "--segment-bytes", "16384", "--checkpoint-bytes", "20000"];

/// What a writer knows of its key: the last value that was acknowledged, and the
/// one that was under way.
#[derive(Clone, Debug, Default)]
struct Known {
    acknowledged: usize,
    under_way: usize,
}

#[test]
fn nothing_acknowledged_is_lost() {
    let dir = TempDir::new().unwrap();
    let mut known = vec![Known::default(); WRITERS];
    let mut last_index = 0;
    for round in 0..ROUNDS {
        let server = Server::start_with(dir.path(), &ARGS);
        check(&server, &known, last_index, round);
        last_index = write_until_killed(server, &mut known);
    }
    let server = Server::start_with(dir.path(), &ARGS);
    check(&server, &known, last_index, ROUNDS);
    check_history(&server);
    eventually("twenty sealed files", || sealed_files(dir.path()) >= 20);
    server.stop("-TERM");
    let verified = etcd(&["log", "verify", "-d"]).arg(dir.path()).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

/// Whoever is quick enough to ask at once gets nothing from before what was acknowledged.
#[test]
fn nothing_from_before_what_was_acknowledged_is_shown() {
    let dir = TempDir::new().unwrap();
    let (mut port, mut url) = ("0".to_owned(), String::new());
    for round in 1..=10 {
        let mut command = etcd(&["-c", &port, "-s", "0", "-d"]);
        let mut server = Server::launch(command.arg(dir.path()));
        if round > 1 {
            // From before it says that it is ready.
            let value = first_answer(&format!("{url}/v1/keys/a?stale=true"));
            assert_eq!(value, format!("value {}", (round - 1) * 100), "round {round}");
        }
        server.wait_until_ready();
        (port, url) = (server.ports().0, server.url.clone());
        for number in (round - 1) * 100 + 1..=round * 100 {
            let value = format!("value {number}");
            assert_eq!(server.post("/v1/keys/a", &[("value", &value)]).status, 200);
        }
        server.kill();
    }
}

/// Asks until there is an answer, and returns the value in it.
fn first_answer(url: &str) -> String {
    let mut value = None;
    eventually("it answers", || {
        let Ok(mut reply) = ureq::get(url).call() else { return false };
        let line: serde_json::Value =
            serde_json::from_str(&reply.body_mut().read_to_string().unwrap()).unwrap();
        value = Some(line["value"].as_str().unwrap().to_owned());
        true
    });
    value.unwrap()
}

fn sealed_files(dir: &Path) -> usize {
    let files = std::fs::read_dir(dir.join("archive")).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "sealed")).count()
}

/// Writes with several clients until the process is killed in the middle of it.
/// Returns the highest index that was acknowledged.
fn write_until_killed(server: Server, known: &mut [Known]) -> u64 {
    let (killed, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let highest = Mutex::new(0);
    std::thread::scope(|scope| {
        for (writer, known) in known.iter_mut().enumerate() {
            let url = format!("{}/v1/keys/writer/{writer}", server.url);
            let (killed, written, highest) = (&killed, &written, &highest);
            scope.spawn(move || {
                while !killed.load(Ordering::Relaxed) {
                    known.under_way = known.acknowledged.max(known.under_way) + 1;
                    let value = known.under_way.to_string();
                    let Ok(reply) = ureq::post(&url).send_form([("value", &*value)]) else {
                        continue;
                    };
                    if reply.status() == 200 {
                        let index: u64 =
                            reply.headers()["x-etcd-index"].to_str().unwrap().parse().unwrap();
                        let mut highest = highest.lock().unwrap();
                        *highest = index.max(*highest);
                        known.acknowledged = known.under_way;
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        eventually("enough was written", || written.load(Ordering::Relaxed) >= WRITES);
        server.kill();
        killed.store(true, Ordering::Relaxed);
    });
    highest.into_inner().unwrap()
}

fn check(server: &Server, known: &[Known], last_index: u64, round: usize) {
    let index = server.get("/health").number("x-etcd-index");
    assert!(index >= last_index, "round {round}: went back to {index} from {last_index}");
    for (writer, known) in known.iter().enumerate() {
        let reply = server.get(&format!("/v1/keys/writer/{writer}"));
        if known.acknowledged == 0 && reply.status == 404 {
            continue;
        }
        let line: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        let value: usize = line["value"].as_str().unwrap().parse().unwrap();
        assert!(
            (known.acknowledged..=known.under_way).contains(&value),
            "round {round}: writer {writer} finds {value}, knows {known:?}"
        );
    }
}

/// Every event since the beginning can be watched, none is there twice, and each
/// writer's values only go up.
fn check_history(server: &Server) {
    let last = server.get("/health").number("x-etcd-index");
    let mut latest: BTreeMap<String, usize> = BTreeMap::new();
    let mut next = 1;
    for line in server.lines("/v1/watch/?stream=true&after=0", &[]) {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["event"], next, "{line}");
        next += 1;
        let key = event["key"].as_str().unwrap().to_owned();
        if key.starts_with("/writer/") {
            let value = event["value"].as_str().unwrap().parse().unwrap();
            let before = latest.insert(key, value).unwrap_or(0);
            assert!(value > before, "{line}");
        }
        if event["index"] == last {
            return;
        }
    }
    panic!("the stream ended at event {next}");
}
