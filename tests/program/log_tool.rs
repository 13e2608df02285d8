//! The tools for the log, run on the directory of a machine that has stopped.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use etcd::storage::data_dir::Identity;
use etcd::tools::log::{self, Import};
use etcd::util::error_chain::ErrorChain;
use etcd_log::{
    Batch, Check, Digest, Entry, Index, LogId, LogStorage as _, Payload, RaftIndex, Recording, Wal,
    WalOptions, Write,
};
use etcd_projections::{Position, State};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tempfile::TempDir;

use crate::support::{Server, etcd, eventually, refusal};

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
fn show_selects_by_action_time_and_leader() {
    let dir = stopped();
    let shown = |args: &[&str]| {
        let shown = tool(&[&["show"], args].concat(), dir.path());
        shown.lines().map(|line| behind_time(line).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(shown(&["--action", "expire"]), [r#"expire /soon, was "x""#]);
    assert_eq!(shown(&["--action", "set", "--key", "/d"]), [r#"set /d = "three", new"#]);
    let json = tool(&["show", "--from", "5", "--to", "5", "--json"], dir.path());
    let line: serde_json::Value = serde_json::from_str(&json).unwrap();
    let time = line["time"].as_str().unwrap();
    let by_index = shown(&["--from", "5"]);
    assert_eq!(shown(&["--since", time]), by_index);
    assert!(shown(&["--until", time]).iter().any(|line| line.starts_with("testAndSet")));
    assert!(!shown(&["--until", time]).contains(by_index.last().unwrap()));
    let node = fs::read_to_string(dir.path().join("node.json")).unwrap();
    let node: Identity = serde_json::from_str(&node).unwrap();
    assert_eq!(shown(&["--leader", &node.node.to_string(), "--from", "5"]), by_index);
    assert!(shown(&["--leader", "00000000000000ff"]).is_empty());
    for wrong in [["--action", "paint"], ["--since", "noon"], ["--leader", "node1"]] {
        let output = etcd(&[&["log", "show"], &wrong[..]].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn stats_count_what_happened() {
    let dir = stopped();
    let text = tool(&["stats"], dir.path());
    let kinds = "delete 1, join 1, set 4, sync 1, testAndSet 1";
    assert!(text.starts_with(&format!("commands: 8, 1 of them refused; {kinds}\n")), "{text}");
    assert!(text.contains("\nevents:   8, 1 of them expiries\n"), "{text}");
    assert!(text.contains("\nbusiest keys:\n       3  /a\n       2  /soon\n"), "{text}");
    assert!(text.contains("█ "), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&tool(&["stats", "--json"], dir.path())).unwrap();
    assert_eq!((&json["commands"], &json["refused"]), (&8.into(), &1.into()));
    assert_eq!(json["busiestKeys"][0]["key"], "/a");
    let spans = json["rate"]["commands"].as_array().unwrap();
    assert_eq!(spans.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 8);
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
    assert!(imported.starts_with("imported 8 commands, the last is #8 at 20"), "{imported}");
    let replay = |dir: &Path| tool(&["replay", "--to", "8"], dir);
    assert_eq!(replay(dir.path()), replay(copy.path()));
    let (history, end) = exported.trim_end().rsplit_once('\n').unwrap();
    assert!(end.starts_with(r#"{"end":{"index":8,"time":"20"#), "{end}");
    // What comes behind it makes a cluster of one.
    let again = tool(&["export"], copy.path());
    assert!(again.starts_with(history), "{again}");
    let shown = tool(&["show", "--from", "9"], copy.path());
    let shown: Vec<_> = shown.lines().map(behind_time).collect();
    assert!(shown[0].starts_with("sync cluster") && shown[0].contains(", was \""), "{shown:#?}");
    assert!(shown[1].starts_with("leave ") && shown.len() == 2, "{shown:#?}");
    // A machine goes on from there.
    let server = Server::start(copy.path());
    assert!(server.get("/v1/keys/d").body.contains(r#""value":"three""#));
    let watched = server.get("/v1/watch/a?index=3").body;
    assert_eq!(
        watched,
        "{\"action\":\"SET\",\"key\":\"/a\",\"value\":\"one\",\"newKey\":true,\"index\":3}\n"
    );
}

/// What a tool or a machine says that refuses a directory.
fn refused(args: &[&str], dir: &Path) -> String {
    refusal(&[args, &["-d", dir.to_str().unwrap()]].concat())
}

/// Adds a batch to the log of a machine that has stopped.
fn append(dir: &Path, batch: impl FnOnce(&State) -> Batch) {
    let identity: Identity =
        serde_json::from_slice(&fs::read(dir.join("node.json")).unwrap()).unwrap();
    let on_fatal = Arc::new(|error| panic!("the log failed: {error}"));
    let options = WalOptions::new(dir.join("wal"), dir.join("archive"), identity.node, on_fatal);
    let (wal, _) = Wal::open(&options).unwrap();
    let mut state = State::new(1);
    let reader = wal.reader();
    let entries = reader.iter(RaftIndex(0)..RaftIndex(u64::MAX)).map(Result::unwrap);
    let mut last = LogId::default();
    for entry in entries {
        last = entry.id;
        entry.batch().into_iter().for_each(|batch| drop(state.apply(batch)));
    }
    let id = LogId { index: last.index.next(), ..last };
    let entry = Entry { id, payload: Payload::Batch(Arc::new(batch(&state))) };
    wal.write_and_wait(Write::Append(vec![Arc::new(entry)]), Duration::MAX).unwrap();
    wal.close().unwrap();
}

#[test]
fn log_that_leads_to_another_state_is_noticed() {
    let dir = stopped();
    let (exported, wrong) = (tool(&["export"], dir.path()), Digest(0xbad));
    let mut right = None;
    append(dir.path(), |state| {
        let Position { index, event, time } = state.position();
        right = Some(state.digest());
        let check = Some(Check { entry: None, index, event, time, digest: wrong });
        Batch { check, ..Batch::new(time, Vec::new()) }
    });
    let expected = format!("has digest {}, the proposer's had {wrong}", right.unwrap());
    let serve = ["-c", "0", "-s", "0"];
    for args in [&["log", "verify"][..], &["log", "replay"], &["log", "export"], &serve] {
        let text = refused(args, dir.path());
        assert!(text.contains(&expected), "{text}");
    }
    // A recording is not believed either, in the middle or at its end.
    let (batches, end) = exported.split_at(exported.find("{\"end\"").unwrap());
    for (altered, expected) in
        [(batches, "the proposer's had"), (end, "the file says 00000000000000000000000000000bad")]
    {
        let at = altered.find(r#""digest":""#).unwrap() + 10;
        let altered = format!("{}{wrong}{}", &altered[..at], &altered[at + 32..]);
        let whole = if altered.starts_with("{\"end") {
            format!("{batches}{altered}")
        } else {
            format!("{altered}{end}")
        };
        let (file, copy) = (dir.path().join("recorded.jsonl"), TempDir::new().unwrap());
        fs::write(&file, whole).unwrap();
        let text = refused(&["log", "import", file.to_str().unwrap()], copy.path());
        assert!(text.contains(expected), "{text}");
        assert_eq!(fs::read_dir(copy.path()).unwrap().count(), 0);
    }
}

#[test]
fn import_refuses_what_is_no_recording_and_what_is_not_empty() {
    let dir = stopped();
    let file = dir.path().join("recorded.jsonl");
    let import = |into: &Path| refused(&["log", "import", file.to_str().unwrap()], into);
    fs::write(&file, "{\"index\":1,\"time\":\"1970-01-01T00:00:00Z\",\"commands\":[]}\nnonsense\n")
        .unwrap();
    let empty = TempDir::new().unwrap();
    assert!(import(empty.path()).contains("line 2: not a batch of commands"));
    fs::write(&file, "\n").unwrap();
    assert!(import(empty.path()).contains("holds no command"));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    assert!(import(&empty.path().join("not/there")).contains("holds no command"));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    let before = contents(dir.path());
    assert!(import(dir.path()).contains("holds the data of a machine already"));
    assert!(before == contents(dir.path()));
}

/// Cut off anywhere, a recording is not taken for a whole one, and the last command that
/// is there is named.
#[test]
fn recording_that_was_cut_off_is_refused() {
    let dir = stopped();
    let exported = tool(&["export"], dir.path());
    let (empty, file) = (TempDir::new().unwrap(), dir.path().join("recorded.jsonl"));
    let import = |text: &[u8], without_end| {
        fs::write(&file, text).unwrap();
        let import = Import { file: file.clone(), name: None, without_end, to: None };
        log::import(&import, empty.path(), &mut Vec::new())
    };
    let without_end = exported.trim_end().len();
    // Between any two lines, and in the middle of each.
    let is_cut = |at: &usize| at.is_multiple_of(17) || exported[..*at].ends_with('\n');
    for length in (0..without_end).filter(is_cut) {
        let cut = &exported[..length];
        let whole_lines = &cut[..cut.rfind('\n').map_or(0, |at| at + 1)];
        let commands = Recording::read(whole_lines.as_bytes()).unwrap().last;
        let rest = &exported[whole_lines.len()..length];
        let line = exported[whole_lines.len()..].lines().next().unwrap();
        let is_whole = rest == line;
        let last = if is_whole { Recording::read(cut.as_bytes()).unwrap().last } else { commands };
        let Err(error) = import(cut.as_bytes(), false) else { panic!("{length} bytes are taken") };
        let text = ErrorChain(&error).to_string();
        let is_named = text.contains(&format!("command {last},"))
            || text.contains(&format!("command is {last}:"));
        assert!(is_named || (last == Index(0) && text.contains("holds no command")), "{text}");
        assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0, "{text}");
    }
    let batches = &exported[..exported.find("{\"end\"").unwrap()];
    fs::write(&file, batches).unwrap();
    for verb in [&["show"][..], &["verify"], &["stats"], &["diff", "3"], &["replay"], &["export"]] {
        let text = refused(&[&["log"], verb].concat(), &file);
        let expected = "recorded.jsonl: breaks off after command #8, without a line that says that this is the end: cut off, or made by an earlier version; --without-end takes it as it is\n";
        assert!(text.ends_with(expected), "{verb:?}: {text}");
    }
    // Whoever knows why it has no end can have it.
    import(batches.as_bytes(), true).unwrap();
    assert!(tool(&["verify"], empty.path()).contains(" 10 commands, "));
}

/// However long a recording is, no more of it is in memory than is written at a time; and half
/// of it is nobody's.
#[test]
fn import_writes_what_it_reads_and_leaves_nothing_if_it_is_cut_off() {
    let (dir, exported) = (TempDir::new().unwrap(), tool(&["export"], stopped().path()));
    let into = dir.path().join("copy");
    let mut import = etcd(&["log", "import", "-", "-d", into.to_str().unwrap()]);
    let mut import = import.stdin(Stdio::piped()).spawn().unwrap();
    let mut lines = import.stdin.take().unwrap();
    let (batches, _) = exported.split_once("{\"end\"").unwrap();
    lines.write_all(batches.as_bytes()).unwrap();
    let value = "v".repeat(1 << 20);
    for index in 9..29 {
        let set = format!(r#"{{"set":{{"key":"/v","value":"{value}"}}}}"#);
        let time = "2100-01-01T00:00:00Z";
        writeln!(lines, r#"{{"index":{index},"time":"{time}","commands":[{set}]}}"#).unwrap();
    }
    let written = || fs::metadata(into.join("wal/wal-1")).map_or(0, |file| file.len());
    eventually("it is written before it ends", || written() > 4 << 20);
    drop(lines);
    let output = import.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("etcd: -: breaks off after command #28, "), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn nothing_is_not_good() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("archive")).unwrap();
    for args in [["log", "verify"], ["log", "export"]] {
        let text = refused(&args, dir.path());
        assert!(text.contains("holds no command"), "{text}");
    }
}

/// Whatever a client writes, the log's lines are ours.
#[test]
fn what_clients_write_forges_no_line() {
    const NASTY: &str = "x\n       9  2026-01-01T00:00:00Z  set /forged = \"1\"\r\u{1b}[2J\u{7f}\u{85}\u{9b}1A\u{2028}\u{202e}";
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path());
    let encoded = utf8_percent_encode(NASTY, NON_ALPHANUMERIC);
    for path in [format!("/v1/keys/{encoded}"), format!("/v1/keys/d/{encoded}/k")] {
        assert_eq!(server.post(&path, &[("value", NASTY), ("ttl", "1000")]).status, 200);
    }
    let tested = server.post(
        &format!("/v1/testAndSet/{encoded}"),
        &[("prevValue", &format!("{NASTY}!")), ("value", NASTY)],
    );
    assert_eq!(tested.status, 400);
    assert_eq!(server.delete(&format!("/v1/keys/d/{encoded}/k")).status, 200);
    assert!(server.stop("-TERM").0.success());
    for args in [&["show"][..], &["show", "--json"], &["replay"], &["verify"]] {
        let text = tool(args, dir.path());
        let acted_on = |c: char| c != '\n' && c != ' ' && c.escape_debug().len() > 1;
        let found = text.chars().find(|c| acted_on(*c) && !"\"'\\".contains(*c));
        assert_eq!(found, None, "{args:?}: {text}");
        assert!(!text.lines().any(|line| line.trim_start().starts_with("9  2026-01-01")), "{text}");
    }
    let shown = tool(&["show", "--from", "3", "--json"], dir.path());
    let line: serde_json::Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    assert_eq!(line["command"]["set"]["value"], NASTY);
}

#[test]
fn verify_finds_a_log_good() {
    let dir = stopped();
    let verified = tool(&["verify"], dir.path());
    assert!(
        verified.starts_with("good: ") && verified.contains(" 8 commands, 8 events; "),
        "{verified}"
    );
    assert!(verified.contains("; the last command is #8 at 20"), "{verified}");
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
