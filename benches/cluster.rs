//! How fast three machines are that agree on everything, measured with `wrk`; and how
//! long an empty one takes to catch up.
//!
//! ```text
//! cargo bench --bench cluster            medians of 5 runs of 5 s each
//! cargo bench --bench cluster -- 3 2     medians of 3 runs of 2 s each
//! ```
//!
//! The load goes to the leader; all machines and the load generator share this
//! computer. Needs `wrk` on the path.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Load, Machine, wrk};
use tempfile::TempDir;

/// How many keys there are for a machine to catch up with.
const KEYS: usize = 1_000_000;

/// How many writes a machine misses that is stopped for a while.
const MISSED: usize = 200_000;

/// New keys with values of 100 bytes, in the order of their names.
const FILL: &str = r#"
local n, value = 0, string.rep("v", 100)
local headers = {["Content-Type"] = "application/x-www-form-urlencoded"}
request = function()
  n = n + 1
  return wrk.format("PUT", "/v1/keys/fill/" .. n % 1000 .. "/" .. n, headers, "value=" .. value)
end
"#;

fn main() {
    let dir = TempDir::new().unwrap();
    let load = Load::of_command_line(dir.path());
    let leader = Machine::start(&dir.path().join("node1"));
    let join = ["-C", &leader.peer];
    let others = ["node2", "node3"].map(|name| Machine::start_with(&dir.path().join(name), &join));
    load.row("durable PUT, 1 connection", "PUT", 1, &leader.url);
    load.row("durable PUT, 64 connections", "PUT", 64, &leader.url);
    load.row("durable PUT, 256 connections", "PUT", 256, &leader.url);
    load.row("linearizable GET, 64 connections", "GET", 64, &leader.url);
    leader.assert_leads();
    let [second, third] = others;
    third.stop();
    let missed = fill(dir.path(), &leader, MISSED);
    let back = || Machine::start_with(&dir.path().join("node3"), &join);
    let (third, worst) = while_writing(&leader, back);
    let took = third.healthy_after.as_secs_f64();
    println!("a machine that was away for {missed} writes is back in {took:.1} s; {worst}");
    let filled = fill(dir.path(), &leader, KEYS);
    let join = || Machine::start_with(&dir.path().join("node4"), &join);
    let (fourth, worst) = while_writing(&leader, join);
    let took = fourth.healthy_after.as_secs_f64();
    println!("an empty machine catches up with {filled} more keys in {took:.1} s; {worst}");
    drop((second, third));
}

/// Writes so many new keys, or a few more. Returns how many.
fn fill(dir: &Path, leader: &Machine, keys: usize) -> usize {
    let script = script(dir, FILL);
    let mut filled = 0;
    while filled < keys {
        let text = wrk(&script, 256, 5, &leader.url);
        let requests = text.split(" requests in").next().unwrap();
        filled += requests.split_whitespace().next_back().unwrap().parse::<usize>().unwrap();
    }
    filled
}

/// Starts a machine while one client writes to the leader. Returns what is to be said
/// of its worst write.
fn while_writing(leader: &Machine, start: impl FnOnce() -> Machine) -> (Machine, String) {
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, url) = (Arc::clone(&is_over), leader.url.clone());
    let writing = std::thread::spawn(move || {
        let (mut worst, mut count) = (Duration::ZERO, 0);
        while !over.load(Ordering::SeqCst) {
            let begun = Instant::now();
            ureq::post(format!("{url}/v1/keys/probe")).send_form([("value", "x")]).unwrap();
            (worst, count) = (worst.max(begun.elapsed()), count + 1);
        }
        format!("worst of {count} PUTs meanwhile: {} ms", worst.as_millis())
    });
    let machine = start();
    is_over.store(true, Ordering::SeqCst);
    (machine, writing.join().unwrap())
}

fn script(dir: &Path, text: &str) -> std::path::PathBuf {
    let path = dir.join("script.lua");
    std::fs::write(&path, text).unwrap();
    path
}
