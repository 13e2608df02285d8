//! The limit of time that tests have.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::eventually;
use crate::support::limit::{OTHER_LIMIT, begin};

/// Tells a process that it is there to hang, and where to note what it has started.
const HANGS: &str = "TEST_HANGS";

#[test]
fn hanging_test_is_named_and_leaves_nobody_behind() {
    if let Some(note) = std::env::var_os(HANGS) {
        let mut started = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap();
        fs::write(note, started.id().to_string()).unwrap();
        begin();
        started.wait().unwrap();
        // That was killed just now, and this process is about to end.
        loop {
            std::thread::park();
        }
    }
    let name = "limit::hanging_test_is_named_and_leaves_nobody_behind";
    let dir = tempfile::TempDir::new().unwrap();
    let note = dir.path().join("started");
    let mut hanging = Command::new(std::env::current_exe().unwrap());
    hanging.args([name, "--exact", "--test-threads=2"]).stdin(Stdio::null());
    let output = hanging.env(HANGS, &note).env(OTHER_LIMIT, "0").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("{name} hangs: it has run for more than 0ns")), "{said}");
    assert!(!output.status.success());
    let started = fs::read_to_string(note).unwrap();
    // Whoever has ended, but has not been asked for how, has a directory and no command.
    let command = format!("/proc/{started}/cmdline");
    eventually("what it started ends", || fs::read(&command).unwrap_or_default().is_empty());
}
