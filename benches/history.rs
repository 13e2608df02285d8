//! How fast the log opens, is sealed and is replayed, beside its ceilings.
//!
//! ```text
//! cargo bench --bench history                    medians of 5 runs, 1024 MiB of log
//! cargo bench --bench history -- 3 256 1000000   medians of 3 runs, 256 MiB, a million keys
//! ```
//!
//! The log is written once, by batches of 512 commands that set 10,000 keys to
//! JSON values of about 256 bytes. All is measured from the page cache.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run stops")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use etcd::state::replay::Replay;
use etcd_log::{
    Batch, Command, Entry, KeyPath, LogId, LogReader, LogStorage as _, LogTime, NodeId, Payload,
    RaftIndex, Retain, Term, Wal, WalOptions, Write,
};
use etcd_projections::State;
use tempfile::TempDir;

/// How many commands a batch carries.
const BATCH: u64 = 512;

fn main() {
    let mut numbers =
        std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let runs = numbers.next().unwrap_or(5);
    let megabytes = numbers.next().unwrap_or(1024);
    let keys = numbers.next().unwrap_or(10_000) as u64;
    let dir = TempDir::new().unwrap();
    let log = Bench { dir: dir.path().to_owned(), runs, keys };

    let entries = log.fill((megabytes as u64) << 20);
    let bytes = size_of(&dir.path().join("wal"));
    let name = format!("open {} MiB of segments, scan included", bytes >> 20);
    log.row(&name, || drop(log.open()));
    log.row("ceiling: to read these files", || read_all(&dir.path().join("wal")));

    let started = Instant::now();
    let (raw, sealed) = log.seal(entries);
    let took = started.elapsed().as_secs_f64();
    println!("{:<52} {:>9.0} MiB/s", "sealing", raw as f64 / took / f64::from(1 << 20));
    let share = 100.0 * sealed as f64 / raw as f64;
    println!("{:<52} {share:>9.1} %", "sealed files, of the entries in segments");

    let reader = log.open_to_read();
    let commands = (entries * BATCH) as f64;
    log.row("open the archive alone", || drop(log.open_to_read()));
    let took = log.row("replay of the archive", || replay(&reader, entries));
    println!("{:<52} {:>9.0} commands/s", "", commands / took.as_secs_f64());
    let took = log.row("ceiling: to read its entries and apply nothing", || read(&reader, entries));
    println!("{:<52} {:>9.0} commands/s", "", commands / took.as_secs_f64());
    let random = log.row("1000 entries anywhere in the archive", || seek(&reader, entries));
    println!("{:<52} {:>9.2} ms each", "", random.as_secs_f64());
}

struct Bench {
    dir: PathBuf,
    runs: usize,
    keys: u64,
}

impl Bench {
    /// Measures, and prints the median.
    fn row(&self, name: &str, work: impl Fn()) -> Duration {
        let mut took: Vec<_> = (0..self.runs)
            .map(|_| {
                let started = Instant::now();
                work();
                started.elapsed()
            })
            .collect();
        took.sort();
        let median = took[took.len() / 2];
        println!("{name:<52} {:>9.0} ms", median.as_secs_f64() * 1000.0);
        median
    }

    fn open(&self) -> Wal {
        let on_fatal = Arc::new(|error| panic!("the log failed: {error}"));
        let (wal, archive) = (self.dir.join("wal"), self.dir.join("archive"));
        let options = WalOptions {
            retain: Retain::Forever,
            ..WalOptions::new(wal, archive, NodeId(1), on_fatal)
        };
        Wal::open(&options).unwrap().0
    }

    fn open_to_read(&self) -> LogReader {
        let (wal, archive) = (self.dir.join("wal"), self.dir.join("archive"));
        LogReader::open(&wal, &archive, &mut |_| {}).unwrap().0
    }

    /// Writes a log of so many bytes, and returns how many entries it has.
    fn fill(&self, bytes: u64) -> u64 {
        let wal = self.open();
        let (sender, written) = mpsc::channel();
        let mut entries = 0;
        for index in 0.. {
            if size_of(&self.dir.join("wal")) > bytes {
                break;
            }
            let sender = sender.clone();
            let append = Write::Append(vec![self.entry(index)]);
            wal.write(append, Box::new(move |result| sender.send(result).unwrap()));
            written.recv().unwrap().unwrap();
            entries = index + 1;
        }
        wal.note_committed(self.entry(entries - 1).id);
        wal.close().unwrap();
        entries
    }

    /// Seals all that can be, and returns how many bytes it had, and has.
    fn seal(&self, entries: u64) -> (u64, u64) {
        let wal = self.open();
        let last = RaftIndex(entries - 1);
        wal.note_checkpoints(Some(last), None);
        let reader = wal.reader();
        let full = size_of(&self.dir.join("wal")) / u64::from(WalOptions::SEGMENT_BYTES) - 1;
        while (reader.archived().0 as u64) < full {
            std::thread::sleep(Duration::from_millis(1));
        }
        wal.close().unwrap();
        let raw = full * u64::from(WalOptions::SEGMENT_BYTES / 16 * 15);
        (raw, reader.archived().1)
    }

    fn entry(&self, index: u64) -> Arc<Entry> {
        let commands = (0..BATCH).map(|at| command(index * BATCH + at, self.keys)).collect();
        let time = LogTime(1_800_000_000_000_000_000 + index * 1_000_000);
        let id = LogId { term: Term(1), node: NodeId(1), index: RaftIndex(index) };
        Arc::new(Entry { id, payload: Payload::Batch(Arc::new(Batch::new(time, commands))) })
    }
}

/// An ordinary command: a key out of many, and a small document.
fn command(number: u64, keys: u64) -> Command {
    let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let key = KeyPath::clean(&format!("/service/web-{}", random % keys)).unwrap();
    let value = format!(
        r#"{{"host":"10.{}.{}.{}","port":{},"version":"1.{}.{}","state":"{}","weight":{},"updated":"2026-11-22T10:{:02}:{:02}Z","token":"{:016x}{:016x}","tags":["web","eu-{}","canary"],"checks":{{"http":"passing","tcp":"passing"}},"revision":{number}}}"#,
        random >> 56,
        random >> 48 & 255,
        random >> 40 & 255,
        8000 + (random >> 32 & 1023),
        random >> 28 & 15,
        random >> 24 & 15,
        if random.is_multiple_of(8) { "draining" } else { "healthy" },
        random >> 16 & 127,
        random >> 8 & 31,
        random & 31,
        random,
        random.wrapping_mul(0xd134_2543_de82_ef95),
        random & 3,
    );
    Command::Set { key, value: Arc::from(value), ttl: None }
}

fn size_of(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

fn read_all(dir: &Path) {
    for file in fs::read_dir(dir).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.is_empty());
    }
}

fn replay(reader: &LogReader, entries: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let entries = reader.read(reader.first()..RaftIndex(entries));
        let mut replay = Replay::new(State::new(1000), entries);
        while replay.next().await.unwrap().is_some() {}
    });
}

fn read(reader: &LogReader, entries: u64) {
    let read = reader.iter(reader.first()..RaftIndex(entries)).map(|entry| entry.unwrap());
    assert_eq!(read.count() as u64, entries);
}

fn seek(reader: &LogReader, entries: u64) {
    for number in 0..1000_u64 {
        let at = RaftIndex(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % entries);
        let found = reader.iter(at..at.next()).next().unwrap().unwrap();
        assert_eq!(found.id.index, at);
    }
}
