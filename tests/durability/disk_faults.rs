//! A disk that fails: the process ends with the cause as its last words, and what
//! it has acknowledged is there when it starts again.
//!
//! The faults are injected by strace; where it is missing, or may not trace, the
//! test says so and does nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a test that does nothing says so")]

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::Server;

/// Small segments and frequent checkpoints, so that much is sealed.
const ARGS: [&str; 8] =
    ["-c", "0", "-s", "0", "--segment-bytes", "65536", "--checkpoint-bytes", "20000"];

fn can_inject() -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", "true"]);
    let works = strace.stdout(Stdio::null()).stderr(Stdio::null()).status();
    works.is_ok_and(|status| status.success())
}

/// A fault to be injected.
struct Fault {
    /// The system call that fails.
    call: &'static str,
    /// On which file or directory.
    path: &'static str,
    /// With which error.
    error: &'static str,
    /// From which time in a thread on.
    from: u32,
}

/// Starts under strace, which injects the fault.
fn start_with_fault(dir: &Path, fault: &Fault) -> Server {
    let Fault { call, path, error, from } = fault;
    let mut command = Command::new("strace");
    command
        .args(["-f", "-o", "/dev/null", "-e"])
        .arg(format!("inject={call}:error={error}:when={from}+"))
        .arg("-P")
        .arg(dir.join(path))
        .arg(env!("CARGO_BIN_EXE_etcd"))
        .args(ARGS)
        .arg("-d")
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
fn fault_ends_the_process_and_loses_nothing(fault: &Fault, expected: &str) {
    if !can_inject() {
        eprintln!("skipped: strace is missing, or may not trace");
        return;
    }
    let dir = TempDir::new().unwrap();
    let mut server = start_with_fault(dir.path(), fault);
    let acknowledged = write_until_the_end(&server);
    assert!(acknowledged > 3, "{acknowledged}");
    assert_eq!(server.wait().code(), Some(1));
    let lines = server.last_words();
    assert!(lines.last().unwrap().contains(expected), "{lines:#?}");

    let server = Server::start_with(dir.path(), &ARGS);
    let line: serde_json::Value = serde_json::from_str(&server.get("/v1/keys/a").body).unwrap();
    let value: usize = line["value"].as_str().unwrap().parse().unwrap();
    // The write that failed may have reached the disk all the same.
    assert!((acknowledged..=acknowledged + 1).contains(&value), "{value} after {acknowledged}");
}

#[test]
fn failed_fsync_of_a_commit() {
    let fault = Fault { call: "fdatasync", path: "wal/wal-1", error: "EIO", from: 30 };
    let words = "wal/wal-1: Input/output error (os error 5)";
    fault_ends_the_process_and_loses_nothing(&fault, words);
}

#[test]
fn disk_full_in_the_middle_of_a_write() {
    // strace counts for each thread; the one that makes a segment fills it with
    // zeros, in so many writes.
    let fault = Fault { call: "write", path: "wal/wal-1", error: "ENOSPC", from: 35 };
    let words = "wal/wal-1: No space left on device (os error 28)";
    fault_ends_the_process_and_loses_nothing(&fault, words);
}

#[test]
fn failed_fsync_of_a_sealed_file() {
    let fault = Fault { call: "fsync", path: "archive/draft.tmp", error: "EIO", from: 2 };
    let words = "cannot sync";
    fault_ends_the_process_and_loses_nothing(&fault, words);
}

#[test]
fn failed_rename_of_a_sealed_file() {
    let fault = Fault { call: "rename", path: "archive/draft.tmp", error: "EIO", from: 2 };
    let words = "archive/draft.tmp: Input/output error (os error 5)";
    fault_ends_the_process_and_loses_nothing(&fault, words);
}

#[test]
fn failed_fsync_of_the_archive() {
    // Once at the start, and once for each sealed file.
    let fault = Fault { call: "fsync", path: "archive", error: "EIO", from: 3 };
    let words = "archive: Input/output error (os error 5)";
    fault_ends_the_process_and_loses_nothing(&fault, words);
}
