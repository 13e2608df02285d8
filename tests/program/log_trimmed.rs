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

/// A log without its beginning.
struct Logs {
    dir: TempDir,
}

impl Logs {
    fn make() -> Self {
        let logs = Self { dir: TempDir::new().unwrap() };
        let server = start(&logs.trimmed(), "forever");
        (0..KEYS).for_each(|key| set(&server, key));
        assert!(server.stop("-TERM").0.success());
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
