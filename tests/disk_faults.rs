//! A disk that fails: the process ends with the cause as its last words, and what
//! it has acknowledged is there when it starts again.
//!
//! The faults are injected by strace; where it is missing, or may not trace, the
//! test says so and does nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a test that does nothing says so")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use support::Server;
use tempfile::TempDir;

fn can_inject() -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", "true"]);
    let works = strace.stdout(Stdio::null()).stderr(Stdio::null()).status();
    works.is_ok_and(|status| status.success())
}

/// Starts under strace, which makes a system call on the first segment fail from
/// its n-th time in a thread on.
fn start_with_fault(dir: &Path, call: &str, error: &str, from: u32) -> Server {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-o", "/dev/null", "-e"])
        .arg(format!("inject={call}:error={error}:when={from}+"))
        .arg("-P")
        .arg(dir.join("wal/wal-1"))
        .arg(env!("CARGO_BIN_EXE_etcd"))
        .args(["-c", "0", "-s", "0", "-d"])
        .arg(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    Server::hear_out(&mut command)
}

/// Writes until the process ends. Returns the last value that was acknowledged.
fn write_until_the_end(server: &Server) -> usize {
    let url = format!("{}/v1/keys/a", server.url);
    let mut acknowledged = 0;
    for value in 1..10_000 {
        match ureq::post(&url).send_form([("value", &*value.to_string())]) {
            Ok(_) => acknowledged = value,
            Err(_) => return acknowledged,
        }
    }
    panic!("the process goes on with a disk that fails");
}

/// Lets a system call fail while the process serves, and checks its last words and
/// what is there when it starts again.
fn fault_ends_the_process_and_loses_nothing(call: &str, error: &str, from: u32, words: &str) {
    if !can_inject() {
        eprintln!("skipped: strace is missing, or may not trace");
        return;
    }
    let dir = TempDir::new().unwrap();
    let mut server = start_with_fault(dir.path(), call, error, from);
    let acknowledged = write_until_the_end(&server);
    assert!(acknowledged > 3, "{acknowledged}");
    assert_eq!(server.wait().code(), Some(1));
    let lines = server.last_words();
    let expected = format!("wal/wal-1: {words}");
    assert!(lines.last().unwrap().contains(&expected), "{lines:#?}");

    let server = Server::start(dir.path());
    let line: serde_json::Value = serde_json::from_str(&server.get("/v1/keys/a").body).unwrap();
    let value: usize = line["value"].as_str().unwrap().parse().unwrap();
    // The write that failed may have reached the disk all the same.
    assert!((acknowledged..=acknowledged + 1).contains(&value), "{value} after {acknowledged}");
}

#[test]
fn failed_fsync() {
    let words = "Input/output error (os error 5)";
    fault_ends_the_process_and_loses_nothing("fdatasync", "EIO", 30, words);
}

#[test]
fn disk_full_in_the_middle_of_a_write() {
    // strace counts for each thread; the one that makes a segment fills it with
    // zeros, in some two thousand writes.
    let words = "No space left on device (os error 28)";
    fault_ends_the_process_and_loses_nothing("write", "ENOSPC", 2100, words);
}
