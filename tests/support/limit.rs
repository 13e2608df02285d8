//! A time limit for each test: one that hangs is named.
//!
//! Nothing ends a test from outside but the end of its process, with the other tests that
//! run there, and all that they have started. So the limit is far away from what any test
//! takes.
//!
//! A test has its time where something begins it: those with the runtime of tokio and those
//! of a script do so in their first line (`tests/tidy.rs` names one that does not), the rest
//! by what they share, where they start a process or open a log.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "no state depends on how long a test may take")]
#![allow(unreachable_pub, reason = "these are the words of a library of its own")]

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::process::{Command, abort};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;
use std::{env, fs, thread};

/// How long a test may take, unless somebody sets another limit.
const LIMIT: Duration = Duration::from_mins(10);

/// Sets another limit, in seconds.
pub const OTHER_LIMIT: &str = "TEST_LIMIT";

thread_local! {
    /// Hangs up when the thread ends.
    static RUNNING: RefCell<Option<Sender<()>>> = const { RefCell::new(None) };
}

/// Gives the test that runs in this thread its time, and begins it anew if it runs already:
/// where one thread runs all tests, each has its own.
pub fn begin() {
    let test = thread::current().name().unwrap_or("a thread of a test").to_owned();
    let seconds = env::var(OTHER_LIMIT).map(|seconds| seconds.parse().unwrap());
    let limit = seconds.map_or(LIMIT, Duration::from_secs);
    let (running, ended) = mpsc::channel();
    RUNNING.set(Some(running));
    thread::spawn(move || {
        if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            end(&test, limit);
        }
    });
}

fn end(test: &str, limit: Duration) {
    // Not by a macro: what that prints is shown with a test that has failed, and none has.
    let _told = writeln!(io::stderr(), "\n{test} hangs: it has run for more than {limit:?}");
    for process in started() {
        let group = format!("-{process}");
        let _ended = Command::new("kill").args(["-KILL", "--", &process, &group]).output();
    }
    abort();
}

/// The processes that this one has started. Most have a group, with those that they start.
fn started() -> Vec<String> {
    let parent = std::process::id().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|process| process.file_name().into_string().ok());
    let is_ours = |number: &String| {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        // The name is in brackets and may hold any; behind it come the state and the parent.
        let behind = stat.rsplit(')').next().unwrap_or_default();
        behind.split_whitespace().nth(1) == Some(&parent)
    };
    numbers.filter(is_ours).collect()
}
