//! The tools for the log, run on the directory of a machine that has stopped.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use support::{Server, etcd};
use tempfile::TempDir;

fn tool(args: &[&str], dir: &Path) -> String {
    let output = etcd(&[&["log"], args].concat()).arg("-d").arg(dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A directory in which a few things have happened.
fn stopped() -> TempDir {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    server.post("/v1/keys/a", &[("value", "one")]);
    server.post("/v1/keys/b/c", &[("value", "two"), ("ttl", "1000")]);
    server.post("/v1/testAndSet/a", &[("prevValue", "x"), ("value", "y")]);
    server.delete("/v1/keys/a");
    let set = server.post("/v1/keys/soon", &[("value", "x"), ("ttl", "1")]);
    server.get(&format!("/v1/watch/soon?after={}", set.number("x-etcd-event")));
    server.post("/v1/keys/d", &[("value", "three")]);
    assert!(server.stop("-TERM").0.success());
    dir
}

/// The files below a directory, with what they hold and when they were changed.
fn contents(dir: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let changed = path.metadata().unwrap().modified().unwrap();
            found.insert(path.display().to_string(), (fs::read(&path).unwrap(), changed));
        }
    }
    found
}

/// The part of a line behind the time.
fn behind_time(line: &str) -> &str {
    line.split_once("Z  ").map_or(line, |(_, rest)| rest)
}

#[test]
fn show_tells_what_happened() {
    let dir = stopped();
    let shown = tool(&["show"], dir.path());
    let lines: Vec<_> = shown.lines().map(behind_time).skip(2).collect();
    assert!(lines[0].starts_with("sync cluster") && lines[1].starts_with("join"), "{lines:#?}");
    let expected = [
        r#"set /a = "one", new"#,
        r#"set /b/c = "two" for 1000 s, new"#,
        r#"testAndSet /a = "y" if it is "x", refused: test one==x fails"#,
        r#"delete /a, was "one""#,
        r#"set /soon = "x" for 1 s, new"#,
        r#"expire /soon, was "x""#,
        r#"set /d = "three", new"#,
    ];
    assert_eq!(lines[2..], expected);
}

#[test]
fn show_selects_by_index_and_key() {
    let dir = stopped();
    let by_index = tool(&["show", "--from", "4", "--to", "5"], dir.path());
    assert_eq!(by_index.lines().count(), 2, "{by_index}");
    let by_key = tool(&["show", "--key", "/b", "--json"], dir.path());
    let line: serde_json::Value = serde_json::from_str(&by_key).unwrap();
    assert_eq!(line["index"], 4);
    assert_eq!(line["command"]["set"]["key"], "/b/c");
    assert_eq!(line["event"]["number"], 4);
}

#[test]
fn replay_rebuilds_the_state_at_any_index() {
    let dir = stopped();
    let now = tool(&["replay"], dir.path());
    assert!(now.contains("  /d = \"three\"\n") && !now.contains("/a ="), "{now}");
    assert!(now.contains("deadlines: 1\n") && now.contains("\nindex: 8\nevent: 8\n"), "{now}");
    let then = tool(&["replay", "--to", "3"], dir.path());
    assert!(then.contains("  /a = \"one\"\n") && then.contains("\nindex: 3\n"), "{then}");
}

#[test]
fn export_and_import_give_the_same_digest() {
    let dir = stopped();
    let exported = tool(&["export"], dir.path());
    let file = dir.path().join("recorded.jsonl");
    fs::write(&file, &exported).unwrap();
    let copy = TempDir::new().unwrap();
    let imported = tool(&["import", file.to_str().unwrap()], copy.path());
    assert!(imported.starts_with("imported 8 commands; machine "), "{imported}");
    assert_eq!(tool(&["replay"], dir.path()), tool(&["replay"], copy.path()));
    assert_eq!(tool(&["export"], copy.path()), exported);
    // A machine goes on from there.
    let server = Server::start(copy.path());
    assert!(server.get("/v1/keys/d").body.contains(r#""value":"three""#));
    let watched = server.get("/v1/watch/a?index=3").body;
    assert_eq!(
        watched,
        "{\"action\":\"SET\",\"key\":\"/a\",\"value\":\"one\",\"newKey\":true,\"index\":3}\n"
    );
}

#[test]
fn log_that_leads_to_another_state_is_noticed() {
    let dir = stopped();
    let exported = tool(&["export"], dir.path());
    let (before, digest) =
        exported.split_once(r#""digest":""#).expect("the first batch has a check");
    let (digest, after) = digest.split_once('"').unwrap();
    let wrong = "badbadbadbadbadbadbadbadbadbadba";
    let file = dir.path().join("recorded.jsonl");
    fs::write(&file, format!(r#"{before}"digest":"{wrong}"{after}"#)).unwrap();
    let copy = TempDir::new().unwrap();
    tool(&["import", file.to_str().unwrap()], copy.path());
    let copy = copy.path().to_str().unwrap();
    for args in [vec!["log", "verify"], vec!["log", "replay"], vec!["-c", "0", "-s", "0"]] {
        let output = etcd(&[args, vec!["-d", copy]].concat()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        let expected = format!("has digest {digest}, the proposer's had {wrong}");
        assert!(text.contains(&expected), "{text}");
    }
}

#[test]
fn import_refuses_what_is_no_recording_and_what_is_not_empty() {
    let dir = stopped();
    let file = dir.path().join("recorded.jsonl");
    let import = |into: &Path| {
        let args = ["log", "import", file.to_str().unwrap(), "-d", into.to_str().unwrap()];
        let output = etcd(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    fs::write(&file, "{\"index\":1,\"time\":\"1970-01-01T00:00:00Z\",\"commands\":[]}\nnonsense\n")
        .unwrap();
    let empty = TempDir::new().unwrap();
    assert!(import(empty.path()).contains("line 2: not a batch of commands"));
    assert!(!empty.path().join("node.json").exists());
    assert!(import(dir.path()).contains("holds the data of a machine already"));
}

#[test]
fn verify_finds_a_log_good() {
    let dir = stopped();
    let verified = tool(&["verify"], dir.path());
    assert!(
        verified.starts_with("good: ") && verified.contains(" 8 commands, 8 events; "),
        "{verified}"
    );
}

#[test]
fn tools_change_nothing() {
    let dir = stopped();
    let before = contents(dir.path());
    for args in [&["show"][..], &["show", "--json"], &["replay"], &["verify"], &["export"]] {
        tool(args, dir.path());
    }
    assert!(before == contents(dir.path()));
}

#[test]
fn directory_without_data_is_refused() {
    let dir = TempDir::new().unwrap();
    let output = etcd(&["log", "show", "-d"]).arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("there is no node.json"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
