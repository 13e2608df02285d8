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
