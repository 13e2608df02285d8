//! What is kept of the past: the same after any start, whatever becomes of the store that
//! it is read from; and nothing of what is kept no longer.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::past::{ARGS, json, restore, set};
use crate::support::{Server, eventually};

/// All that is asked of the past of a machine, and answered.
fn answers(server: &Server) -> Vec<String> {
    let mut paths = vec![
        "/v1/history/k?recursive=true".to_owned(),
        "/v1/history/k/7?reverse=true".to_owned(),
        "/v1/history/k?recursive=true&from=40&to=90".to_owned(),
        "/v1/diff/k?from=20&to=150".to_owned(),
    ];
    paths.extend([3, 60, 150, 199].map(|at| format!("/v1/keys/k?recursive=true&at={at}")));
    let ask = |path: &String| {
        let mut body = String::new();
        eventually("the past has been read from the log", || {
            let reply = server.get(path);
            body.clone_from(&reply.body);
            if reply.status == 503 {
                assert_eq!(body, "The Past Is Being Read From The Log\n");
            } else {
                assert_eq!(reply.status, 200, "{path}: {body}");
            }
            reply.status == 200
        });
        body
    };
    paths.iter().map(ask).collect()
}

fn event_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir.join("events")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn past_is_the_same_after_any_start() {
    let dir = TempDir::new().unwrap();
    let args = [&ARGS[..], &["--checkpoint-bytes", "20000"]].concat();
    let mut server = Server::start_with(dir.path(), &args);
    let value = "v".repeat(300);
    for number in 0..200 {
        set(&server, &format!("/k/{}", number % 17), &format!("{value}{number}"));
    }
    let told = answers(&server);
    server.stop("-KILL");
    server = Server::start_with(dir.path(), &args);
    assert_eq!(answers(&server), told, "after a hard stop");
    assert!(server.stop("-TERM").0.success());
    fs::remove_dir_all(dir.path().join("events")).unwrap();
    server = Server::start_with(dir.path(), &args);
    assert_eq!(answers(&server), told, "without what was stored");
    assert!(server.stop("-TERM").0.success());
    for at in [3, 70, 400] {
        for path in event_files(dir.path()) {
            let mut bytes = fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 4;
            fs::write(&path, bytes).unwrap();
        }
        server = Server::start_with(dir.path(), &args);
        assert_eq!(answers(&server), told, "with byte {at} of all files changed");
        assert!(server.stop("-TERM").0.success());
    }
}

#[test]
fn machine_that_stores_nothing_says_so() {
    let dir = TempDir::new().unwrap();
    drop(Server::start_with(dir.path(), &ARGS));
    fs::remove_dir_all(dir.path().join("events")).unwrap();
    fs::write(dir.path().join("events"), "in the way").unwrap();
    let server = Server::start_with(dir.path(), &ARGS);
    let reply = server.get("/v1/keys/?at=1");
    assert_eq!((reply.status, &*reply.body), (503, "This Machine Stores No Events\n"));
}

/// The oldest index that is kept, as somebody is told who asks for an older one.
fn oldest(server: &Server) -> Option<u64> {
    let reply = server.get("/v1/keys/k?at=3");
    (reply.status == 410).then(|| {
        let rest = reply.body.strip_prefix("At: 3 Is No Longer Kept; The Oldest Is ").unwrap();
        rest.trim_end().parse().unwrap()
    })
}

#[test]
fn what_is_kept_no_longer_is_not_told() {
    let dir = TempDir::new().unwrap();
    let more = ["--segment-bytes", "4096", "--checkpoint-bytes", "8000", "--retain", "1KiB"];
    let args = [&ARGS[..], &more].concat();
    let mut server = Server::start_with(dir.path(), &args);
    let value = "v".repeat(100);
    for number in 0..300 {
        set(&server, &format!("/k/{number}"), &value);
    }
    eventually("some is no longer kept", || oldest(&server).is_some());
    let check = |server: &Server| {
        let oldest_now = oldest(server).unwrap();
        let (last, first) = (oldest_now - 1, oldest_now);
        let gone = |field: &str, at: u64| {
            (410, format!("{field}: {at} Is No Longer Kept; The Oldest Is {first}\n"))
        };
        let asked = [
            (format!("/v1/keys/k?at={last}"), gone("At", last)),
            (format!("/v1/list/k?at={last}"), gone("At", last)),
            (format!("/v1/history/k?from={last}"), gone("From", last)),
            ("/v1/history/k?from=0".to_owned(), gone("From", 0)),
            (format!("/v1/history/k?from={first}&to={last}"), gone("To", last)),
            (format!("/v1/diff/k?from={last}"), gone("From", last)),
        ];
        let asked = asked.map(|(path, expected)| {
            let reply = server.get(&path);
            (path, (reply.status, reply.body), expected)
        });
        let form = [("at", &*last.to_string()), ("dry_run", "true")];
        let refused = restore(server, "/k", &form);
        let since = [("at", &*first.to_string()), ("if_index", "1"), ("dry_run", "true")];
        let since = restore(server, "/elsewhere", &since);
        let at = server.get(&format!("/v1/keys/k?recursive=true&at={first}"));
        let history = server.get("/v1/history/?recursive=true");
        let diff = server.get(&format!("/v1/diff/k?from={first}"));
        if oldest(server) != Some(first) {
            return false;
        }
        for (path, found, expected) in asked {
            assert_eq!(found, expected, "{path}");
        }
        assert_eq!((refused.status, refused.body), gone("At", last));
        assert_eq!((since.status, since.body), gone("if_index", 1));
        // Command 3 has set the first key.
        assert_eq!((at.status, at.body.lines().count() as u64), (200, first - 2));
        let begins = json(history.body.lines().next().unwrap())["index"].as_u64();
        assert_eq!((history.status, begins), (200, Some(first)));
        assert_eq!((diff.status, diff.body.lines().count() as u64), (200, 302 - first));
        true
    };
    eventually("nothing more goes", || check(&server));
    // A machine that has nothing stored waits, and then says the same.
    assert!(server.stop("-TERM").0.success());
    fs::remove_dir_all(dir.path().join("events")).unwrap();
    server = Server::start_with(dir.path(), &args);
    eventually("it is stored again", || {
        let reply = server.get("/v1/history/?recursive=true");
        let by_time = server.get("/v1/keys/k?at=-0s");
        assert!([200, 503].contains(&reply.status) && by_time.status == 200, "{}", reply.body);
        reply.status == 200
    });
    eventually("nothing more goes", || check(&server));
}
