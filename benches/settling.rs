//! What checkpoints and sealing cost: a large tree under full write load, while
//! both go on all the time.
//!
//! ```text
//! cargo bench --bench settling           a million keys, 30 s of load
//! cargo bench --bench settling -- 10     10 s of load
//! ```
//!
//! The keys have values of 100 random hexadecimal digits, and are set anew in an
//! order that is not that of their names, by 256 connections. Needs `wrk` on the path.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]

mod support;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use etcd_log::{Batch, Index, KeyPath, LogTime, RecordedBatch};
use support::{Machine, after, wrk};
use tempfile::TempDir;

const KEYS: u64 = 1_000_000;

/// How many commands a batch of the recorded log has.
const BATCH: usize = 1000;

const SCRIPT: &str = r#"
math.randomseed(7)
local n, values = 0, {}
for v = 1, 1000 do
  local digits = {}
  for d = 1, 100 do digits[d] = string.format("%x", math.random(0, 15)) end
  values[v] = table.concat(digits)
end
local headers = {["Content-Type"] = "application/x-www-form-urlencoded"}
request = function()
  n = n + 1
  return wrk.format("PUT", "/v1/keys/tree/key-" .. (n * 7919 % 1000000), headers, "value=" .. values[n % 1000 + 1])
end
done = function(summary, latency)
  print(string.format("P99.9: %.1f", latency:percentile(99.9) / 1000))
  print(string.format("Worst: %.1f", latency.max / 1000))
end
"#;

fn main() {
    let mut numbers =
        std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let seconds = numbers.next().unwrap_or(30);
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");

    let empty = Machine::start(&dir.path().join("empty"));
    let idle = empty.resident_kib();
    drop(empty);
    import(dir.path(), &data);
    // The first start replays the log and writes a checkpoint; the second one holds
    // what the checkpoint does, and nothing else.
    let first = Machine::start(&data);
    while count(&data.join("checkpoints"), "checkpoint") == 0 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    first.stop();
    let machine = Machine::start(&data);
    println!("{:<46} {:>8} ms", "start from a checkpoint", machine.healthy_after.as_millis());
    let tree = machine.resident_kib() - idle;
    println!("{:<46} {:>8} MiB", "memory of the tree", tree >> 10);

    let before =
        (count(&data.join("checkpoints"), "checkpoint"), count(&data.join("archive"), "sealed"));
    let script = dir.path().join("put.lua");
    std::fs::write(&script, SCRIPT).unwrap();
    machine.forget_peak();
    let text = wrk(&script, 256, seconds, &machine.url);
    println!("{:<46} {:>8}", "PUT/s", after(&text, "Requests/sec:"));
    println!("{:<46} {:>8} ms", "99.9th percentile of a PUT", after(&text, "P99.9:"));
    println!("{:<46} {:>8} ms", "worst PUT", after(&text, "Worst:"));
    let peak = machine.peak_kib() - idle;
    let times = peak as f64 / tree as f64;
    println!("{:<46} {:>8} MiB, {times:.2} times the tree's", "peak of memory", peak >> 10);
    println!(
        "{:<46} {:>8} of {} MiB",
        "checkpoints kept, before and after",
        format!("{} {}", before.0, count(&data.join("checkpoints"), "checkpoint")),
        size(&data.join("checkpoints")) >> 20
    );
    println!(
        "{:<46} {:>8} of {} MiB",
        "sealed files, before and after",
        format!("{} {}", before.1, count(&data.join("archive"), "sealed")),
        size(&data.join("archive")) >> 20
    );
}

/// Makes a data directory in which every key has been set once.
fn import(dir: &Path, data: &Path) {
    let recorded = dir.join("recorded.jsonl");
    let mut out = BufWriter::new(File::create(&recorded).unwrap());
    for first in (0..KEYS).step_by(BATCH) {
        let commands = (first..).take(BATCH).map(|number| etcd_log::Command::Set {
            key: KeyPath::clean(&format!("/tree/key-{number}")).unwrap(),
            value: Arc::from(value(number)),
            ttl: None,
        });
        let batch = Batch::new(LogTime(first + 1), commands.collect());
        serde_json::to_writer(&mut out, &RecordedBatch::new(Index(first + 1), &batch)).unwrap();
        out.write_all(b"\n").unwrap();
    }
    out.into_inner().unwrap();
    let mut import = Command::new(env!("CARGO_BIN_EXE_etcd"));
    import.args(["log", "import", "--without-end"]).arg(&recorded).arg("-d").arg(data);
    assert!(import.status().unwrap().success());
}

/// A hundred digits that nobody can guess from those before.
fn value(number: u64) -> String {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2013;
    let digits = (0..100).map(|_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from_digit((state >> 60) as u32, 16).unwrap()
    });
    digits.collect()
}

fn count(dir: &Path, extension: &str) -> usize {
    let files = std::fs::read_dir(dir).into_iter().flatten().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|found| found == extension)).count()
}

fn size(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}
