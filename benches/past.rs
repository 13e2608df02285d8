//! What the past costs: watches from long ago, keys as they were, histories, differences,
//! and the tools that read a log, beside what is wanted of them.
//!
//! ```text
//! cargo bench --bench past                       10,000,000 commands, 1,000,000 keys
//! cargo bench --bench past -- 400000 20000       a small run, of some seconds
//! ```
//!
//! The log is written without a machine, and the machine's store of events is filled in
//! from it when it starts: the figures count from then on, from the page cache. All clients
//! share the machine's cores.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]

#[path = "past/client.rs"]
mod client;
#[path = "past/recorded.rs"]
mod recorded;
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::{Asked, Writers, time_of_get};
use etcd::storage::events::{EventStore, Interest, StoredWhat};
use etcd_log::{ClusterId, Index};
use etcd_projections::Position;
use recorded::{Recorded, random};
use support::Machine;
use tempfile::TempDir;

/// How many watch at once.
const MANY: usize = 50;

/// How many connections write.
const WRITERS: usize = 64;

/// How long the store of events may take until it is whole: reaching it is a failure.
const PATIENCE: Duration = Duration::from_mins(5);

/// How long a rate is measured.
const WHILE: Duration = Duration::from_secs(3);

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let commands = numbers.next().unwrap_or(10_000_000);
    let keys = numbers.next().unwrap_or(1_000_000);
    let dir = TempDir::new().unwrap();
    let log = Recorded { commands, keys };
    println!("{commands} commands, {keys} keys");
    println!("{:<64} {:>12}   wanted", "", "");

    let data = dir.path().join("data");
    let past = Past::start(log, &data);
    past.watches_from_near();
    past.loop_on_a_quiet_key();
    past.watches_from_far();
    past.keys_as_they_were();
    past.history();
    past.difference();
    past.stop(&data);

    let small = Recorded { commands: 1_000_000.min(commands), keys: keys / 100 };
    let data = dir.path().join("small");
    let past = Past::start(small, &data);
    past.difference();
    past.machine.stop();
    replay_and_verify(&data, small.commands);
}

/// Prints a row.
fn row(name: &str, figure: &str, wanted: &str) {
    println!("{name:<64} {figure:>12}   {wanted}");
}

fn row_of_time(name: &str, took: Duration, wanted: &str) {
    row(name, &format!("{:.1} ms", took.as_secs_f64() * 1000.0), wanted);
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() / 2]
}

/// A machine with a past.
struct Past {
    machine: Machine,
    address: SocketAddr,
    log: Recorded,
}

impl Past {
    /// Makes one, and waits until all that was is in its store of events.
    fn start(log: Recorded, data: &Path) -> Self {
        let begun = Instant::now();
        log.make(data);
        row_of_time("the log is written", begun.elapsed(), "");
        let machine = Machine::start(data);
        row_of_time("start without a checkpoint", machine.healthy_after, "");
        let filling = (Instant::now(), machine.cpu());
        let whole = format!("{}/v1/history/none?from=1", machine.url);
        while ureq::get(&whole).call().is_err() {
            assert!(filling.0.elapsed() < PATIENCE, "the store of events stays with a gap");
            std::thread::sleep(Duration::from_millis(100));
        }
        let millions = log.commands as f64 / 1e6;
        let took = filling.0.elapsed().div_f64(millions);
        let used = machine.cpu().saturating_sub(filling.1).div_f64(millions);
        row_of_time("gaps are filled, for 1,000,000 commands", took, "");
        row_of_time("  the time of a core", used, "");
        let address = machine.url.trim_start_matches("http://").parse().unwrap();
        Self { machine, address, log }
    }

    /// The index of the last command.
    fn last(&self) -> u64 {
        let answer = ureq::get(format!("{}/v1/keys/", self.machine.url)).call().unwrap();
        answer.headers()["x-etcd-index"].to_str().unwrap().parse().unwrap()
    }

    fn resident_mib(&self) -> i64 {
        i64::try_from(self.machine.resident_kib()).unwrap() / 1024
    }

    /// Watches from a few thousand events ago, behind the ring.
    fn watches_from_near(&self) {
        let from = self.last() - 3000;
        let stream = format!("/v1/watch/?stream=true&index={from}");
        let poll = format!("/v1/watch/?index={from}");
        let before = self.resident_mib();
        for (name, path) in [("a long poll", &poll), ("a stream", &stream)] {
            let took = (0..24).map(|_| Asked::get(self.address, path).until_lines(1));
            let name = format!("{name} from 3,000 events ago: first event");
            row_of_time(&name, median(took.collect()), "20 ms");
        }
        row("  24 of each, one after another: memory", &mib(self.resident_mib() - before), "0");
        let before = self.resident_mib();
        let (first, last) = self.many(&stream, 1);
        row_of_time("50 such streams at once: the first event of the first", first, "");
        row_of_time("  of the last", last, "500 ms");
        let (_, last) = self.many(&stream, 3000);
        row_of_time("  3,000 events of the last", last, "");
        let (_, last) = self.many(&poll, 1);
        row_of_time("50 such long polls at once: the last", last, "500 ms");
        row("  memory", &mib(self.resident_mib() - before), "50 MiB");
    }

    /// Asks for the same often at once. Returns when the first had so many lines, and the
    /// last.
    fn many(&self, path: &str, lines: u64) -> (Duration, Duration) {
        let took = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..MANY)
                .map(|_| scope.spawn(|| Asked::get(self.address, path).until_lines(lines)))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        (*took.iter().min().unwrap(), *took.iter().max().unwrap())
    }

    /// Goes from change to change of a key that seldom changes, while others write all they
    /// can: by the next one, the ring is far ahead.
    fn loop_on_a_quiet_key(&self) {
        let writers = Writers::start(self.address, WRITERS);
        let set = |value: &str| -> u64 {
            let url = format!("{}/v1/keys/quiet", self.machine.url);
            let answer = ureq::post(url).send_form([("value", value)]).unwrap();
            let line = answer.into_body().read_to_string().unwrap();
            let (_, index) = line.trim_end().trim_end_matches('}').rsplit_once(':').unwrap();
            index.parse().unwrap()
        };
        let mut index = set("first");
        let (mut known, mut waited) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            // What has happened already, some ten thousand commands ago.
            let next = set("next");
            std::thread::sleep(Duration::from_millis(500));
            let path = format!("/v1/watch/quiet?index={}", index + 1);
            known.push(Asked::get(self.address, &path).until_lines(1));
            // What has not happened yet.
            std::thread::sleep(Duration::from_millis(500));
            let path = format!("/v1/watch/quiet?index={}", next + 1);
            let mut asked = Asked::get(self.address, &path);
            std::thread::sleep(Duration::from_millis(100));
            let begun = Instant::now();
            index = set("last");
            asked.until_lines(1);
            waited.push(begun.elapsed());
        }
        writers.stop();
        row_of_time(
            "index=last+1 of a quiet key, under load: there already",
            median(known),
            "at once",
        );
        row_of_time("  not there yet: from its write on", median(waited), "at once");
    }

    /// Watches from long ago.
    fn watches_from_far(&self) {
        let ago = 1_000_000.min(self.log.commands / 2);
        let path = |from: u64| format!("/v1/watch/?stream=true&index={from}");
        // Until it counts no more that much was written.
        std::thread::sleep(Duration::from_secs(6));
        let (mut first, mut rates) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let mut asked = Asked::get(self.address, &path(self.last() - ago));
            let begun = asked.until_lines(1);
            first.push(begun);
            let used = self.machine.cpu();
            let all = asked.until_lines(ago);
            rates.push((
                ago as f64 / all.saturating_sub(begun).as_secs_f64(),
                self.machine.cpu().saturating_sub(used).as_secs_f64() * 1e6 / ago as f64,
            ));
        }
        row_of_time("a stream from 1,000,000 commands ago: first event", median(first), "500 ms");
        rates.sort_by(|left, right| left.0.total_cmp(&right.0));
        let (rate, used) = rates[1];
        row("  events/s", &format!("{rate:.0}"), "200,000");
        row("  the time of a core for an event", &format!("{used:.2} µs"), "");

        let writers = Writers::start(self.address, WRITERS);
        std::thread::sleep(Duration::from_millis(500));
        let alone = writers.rate(WHILE);
        let (path, is_over) = (path(self.last() - ago), AtomicBool::new(false));
        let (last, beside) = std::thread::scope(|scope| {
            let (sender, begun) = std::sync::mpsc::channel();
            for _ in 0..MANY {
                let (sender, path, is_over) = (sender.clone(), &path, &is_over);
                scope.spawn(move || {
                    let mut asked = Asked::get(self.address, path);
                    sender.send(asked.until_lines(1)).unwrap();
                    while asked.lines < ago && !is_over.load(Ordering::Relaxed) {
                        asked.until_lines(asked.lines + 1);
                    }
                });
            }
            drop(sender);
            let beside = writers.rate(WHILE);
            let last = begun.iter().take(MANY).max().unwrap();
            is_over.store(true, Ordering::Relaxed);
            (last, beside)
        });
        writers.stop();
        row_of_time("50 such at once: first event of the last", last, "5000 ms");
        row("  PUT/s alone", &format!("{alone:.0}"), "");
        row("  PUT/s beside", &format!("{beside:.0}"), "-30 %");
    }

    /// Keys as they were, each at another moment.
    fn keys_as_they_were(&self) {
        let then = self.last() - 100_000;
        let get = |number: u64, at: u64| {
            let number = random(number) % self.log.keys;
            time_of_get(&format!("{}/v1/keys/tree/key-{number}?at={at}", self.machine.url))
        };
        let mut cold: Vec<_> =
            (0..200).map(|number| get(number, then - random(number) % 1000)).collect();
        let mut again: Vec<_> = (0..200).map(|_| get(7, then)).skip(1).collect();
        cold.sort();
        again.sort();
        row_of_time("a key at= 100,000 commands ago: 99th percentile", cold[197], "150 ms");
        row_of_time("  the median", cold[100], "");
        row_of_time("  the same again: 99th percentile", again[196], "2 ms");
        row_of_time("  the median", again[100], "");
    }

    /// All that happened at a key.
    fn history(&self) {
        let url = format!("{}/v1/history{}", self.machine.url, Recorded::RARE);
        let took = (0..5).map(|_| time_of_get(&url)).collect();
        row_of_time("history of a key with 10 changes", median(took), "200 ms");
    }

    /// What changed between two moments.
    fn difference(&self) {
        let last = self.last();
        let took = (0..5).map(|turn| {
            let to = last - 1000 - turn * 1000;
            let from = to - 100_000;
            time_of_get(&format!("{}/v1/diff/?from={from}&to={to}", self.machine.url))
        });
        let name = format!("diff over 100,000 commands, {} keys", self.log.keys);
        row_of_time(&name, median(took.collect()), "500 ms");
    }

    /// Stops, and reads what was read without a machine: the ceiling.
    fn stop(self, data: &Path) {
        let last = self.last();
        self.machine.stop();
        let ago = 1_000_000.min(self.log.commands / 2);
        let far = Position { index: Index(u64::MAX), ..Position::default() };
        let cluster = cluster_of(data);
        let store = EventStore::open(&data.join("events"), cluster, far).unwrap();
        let begun = Instant::now();
        let mut reader =
            store.after(store.position_before_index(Index(last - ago)).unwrap(), Interest::All);
        let mut events = 0;
        while let Ok(Some(chunk)) = reader.next(256 << 10) {
            let is_event = |what: &&_| matches!(what, StoredWhat::Event(..));
            events += chunk.stored.iter().map(|stored| &stored.what).filter(is_event).count();
        }
        let rate = events as f64 / begun.elapsed().as_secs_f64();
        row("ceiling: events/s, read from the store alone", &format!("{rate:.0}"), "");
        row("the store of events", &mib((store.bytes() >> 20).cast_signed()), "");
        let begun = Instant::now();
        for file in std::fs::read_dir(data.join("events")).unwrap() {
            drop(std::fs::read(file.unwrap().path()).unwrap());
        }
        row_of_time("ceiling: to read all files of it", begun.elapsed(), "");
        replay_and_verify(data, last);
    }
}

fn cluster_of(data: &Path) -> ClusterId {
    let data = etcd::storage::data_dir::DataDir::take_to_read(data).unwrap();
    data.identity().unwrap().unwrap().cluster
}

/// Reads a log with the tools.
fn replay_and_verify(data: &Path, commands: u64) {
    let archive = size_of(&data.join("archive"));
    for (name, wanted) in [("replay", "2000 ms for 1,000,000"), ("verify", "10 s for 1 GiB")] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_etcd"));
        program.args(["log", name, "-d"]).arg(data).stdout(Stdio::null());
        let begun = Instant::now();
        assert!(program.status().unwrap().success());
        let took = begun.elapsed();
        let each = took.div_f64(commands as f64 / 1e6);
        row_of_time(&format!("etcd log {name}, {commands} commands"), took, wanted);
        row_of_time("  for 1,000,000", each, "");
    }
    row("  of sealed files", &mib((archive >> 20).cast_signed()), "");
}

fn size_of(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

fn mib(mib: i64) -> String {
    format!("{mib} MiB")
}
