//! The tools for a log whose beginning is no longer kept: what they cannot know, they say.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::{Server, etcd, eventually, refusal};

/// A machine that seals and checkpoints often, and has few events at hand.
const OFTEN: [&str; 10] =
    ["-c", "0", "-s", "0", "-m", "10", "--segment-bytes", "4KiB", "--checkpoint-bytes", "2KiB"];

/// How many keys are set before anything is dropped.
const KEYS: usize = 150;

/// A log without its beginning, and a copy from when it had one.
struct Logs {
    dir: TempDir,
}

impl Logs {
    fn make() -> Self {
        let logs = Self { dir: TempDir::new().unwrap() };
        let server = start(&logs.trimmed(), "forever");
        (0..KEYS).for_each(|key| set(&server, key));
        assert!(server.stop("-TERM").0.success());
        copy(&logs.trimmed(), &logs.whole());
        let server = start(&logs.trimmed(), "2000B");
        let mut key = KEYS;
        eventually("the beginning is dropped", || {
            set(&server, key);
            key += 1;
            server.get("/v1/watch/k?index=3").status == 410
        });
        assert!(server.stop("-TERM").0.success());
        logs
    }

    fn trimmed(&self) -> PathBuf {
        self.dir.path().join("trimmed")
    }

    fn whole(&self) -> PathBuf {
        self.dir.path().join("whole")
    }

    /// A cluster of its own that has the history of the whole up to a command.
    fn fork(&self, at: &str) -> PathBuf {
        let into = self.dir.path().join(format!("fork-{at}"));
        log(&["fork", text(&self.whole()), "--at", at, "-d", text(&into)]);
        into
    }

    /// The command behind which the trimmed log begins, for whoever folds it.
    fn start(&self) -> u64 {
        let refused = refusal(&["log", "show", "--from", "1", "-d", text(&self.trimmed())]);
        let (_, oldest) = refused.trim_end().rsplit_once('#').unwrap();
        oldest.parse::<u64>().unwrap() - 1
    }
}

fn start(dir: &Path, retain: &str) -> Server {
    Server::start_with(dir, &[&OFTEN[..], &["--retain", retain]].concat())
}

fn set(server: &Server, key: usize) {
    server.post(&format!("/v1/keys/k/{key}"), &[("value", &"v".repeat(100))]);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a verb says.
fn log(args: &[&str]) -> String {
    let output = etcd(&[&["log"], args].concat()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let into = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &into);
        } else {
            fs::copy(&path, into).unwrap();
        }
    }
}

/// The checkpoint with which the log begins, and those before it, can be compared with nothing;
/// they are read all the same, and a good one does not stand in for them.
#[test]
fn checkpoint_with_which_a_log_begins_is_verified() {
    let logs = Logs::make();
    let (trimmed, checkpoints) = (logs.trimmed(), logs.trimmed().join("checkpoints"));
    let mut paths: Vec<_> =
        fs::read_dir(&checkpoints).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let good = log(&["verify", "-d", text(&trimmed)]);
    let json = log(&["verify", "--json", "-d", text(&trimmed)]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let [compared, before] =
        ["checkpoints", "checkpointsBefore"].map(|name| json[name].as_u64().unwrap());
    assert!(compared > 0 && before > 0 && compared + before == paths.len() as u64, "{json}");
    let told = format!("\nwhole, but where the log begins, or before: {before} checkpoints\n");
    assert!(good.contains(&format!("; {compared} checkpoints\n")), "{good}");
    assert!(good.contains(&told), "{good}");
    for path in &paths {
        let bytes = fs::read(path).unwrap();
        let mut spoilt = bytes.clone();
        spoilt[bytes.len() / 2] ^= 4;
        fs::write(path, spoilt).unwrap();
        let damaged = refusal(&["log", "verify", "-d", text(&trimmed)]);
        assert!(damaged.lines().last().unwrap().contains(text(path)), "{damaged}");
        fs::write(path, bytes).unwrap();
    }
}

/// Two logs are compared where both are known, and nowhere else.
#[test]
fn what_no_log_keeps_is_not_compared() {
    let logs = Logs::make();
    let (whole, trimmed) = (logs.whole(), logs.trimmed());
    let bisect = |left: &Path, right: &Path| log(&["bisect", text(left), text(right)]);
    let again = logs.dir.path().join("again");
    copy(&trimmed, &again);
    let same = bisect(&trimmed, &again);
    assert!(same.starts_with("the same up to command #"), "{same}");
    let last = format!("the same up to command #{}\n", KEYS + 2);
    for same in [bisect(&whole, &trimmed), bisect(&trimmed, &whole)] {
        assert!(same.starts_with(&last), "{same}");
        assert!(same.contains(&format!("\n{} goes on to command #", trimmed.display())), "{same}");
    }
    let start = logs.start();
    assert!(start > 20, "{start}");
    // It ends before the other begins.
    let short = logs.fork("10");
    for args in [[&short, &trimmed], [&trimmed, &short]] {
        let apart = refusal(&["log", "bisect", text(args[0]), text(args[1])]);
        let expected = format!(
            "etcd: {}: ends with command #12, which {} no longer keeps: the oldest there is #{}\n",
            short.display(),
            trimmed.display(),
            start + 1
        );
        assert!(apart.ends_with(&expected), "{apart}");
    }
    // It has gone another way long before the other begins.
    let server = start_fork(&short, start);
    assert!(server.stop("-TERM").0.success());
    let parting = bisect(&short, &trimmed);
    let expected =
        format!("they part at command #{}, the first that both keep, or before\n", start + 1);
    assert!(parting.starts_with(&expected), "{parting}");
    let parting = log(&["bisect", "--json", text(&short), text(&trimmed)]);
    let parting: serde_json::Value = serde_json::from_str(&parting).unwrap();
    assert_eq!((&parting["index"], &parting["orBefore"]), (&(start + 1).into(), &true.into()));
}

/// A fork that goes on to well behind a command.
fn start_fork(dir: &Path, command: u64) -> Server {
    let server = start(dir, "forever");
    (0..=usize::try_from(command).unwrap()).for_each(|key| set(&server, key));
    server
}

/// A part of a log begins where it is wanted, or is refused: as what is shown.
#[test]
fn part_that_is_no_longer_kept_is_not_exported() {
    let logs = Logs::make();
    let trimmed = logs.trimmed();
    for verb in ["show", "export"] {
        let refused =
            |args: &[&str]| refusal(&[&["log", verb], args, &["-d", text(&trimmed)]].concat());
        for (args, moment) in [
            (&["--from", "1"][..], "1"),
            (&["--from", "3"], "3"),
            (&["--from", "3", "--to", "9"], "3"),
            (&["--to", "9"], "9"),
            (&["--from", "2013-01-01T00:00:00Z"], "2013-01-01T00:00:00.000000000Z"),
        ] {
            let said = refused(args);
            let expected = format!("etcd: {moment} is no longer kept, the oldest is #");
            assert!(said.lines().last().unwrap().starts_with(&expected), "{verb} {args:?}: {said}");
        }
        let said = refused(&["--to", "2099-01-01T00:00:00Z"]);
        assert!(said.contains(" is not reached, the newest is #"), "{verb}: {said}");
    }
    let kept = log(&["export", "-d", text(&trimmed)]);
    assert!(kept.starts_with(r#"{"part":{"from":"#), "{kept}");
    let from = (logs.start() + 1).to_string();
    let part = log(&["export", "--from", &from, "-d", text(&trimmed)]);
    assert!(part.starts_with(&format!(r#"{{"part":{{"from":{from}}}}}"#)), "{part}");
}
