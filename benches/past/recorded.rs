//! A data directory with a long log, written without a machine: a small one is imported,
//! and the rest is appended to its log.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};

use etcd::storage::data_dir::DataDir;
use etcd_log::{
    Batch, Command as LogCommand, Entry, Index, KeyPath, LogId, LogStorage as _, LogTime, Payload,
    RaftIndex, RecordedBatch, Term, Wal, WalOptions, Write,
};

/// How many commands a batch has.
const BATCH: u64 = 256;

/// How many batches are written with one fsync.
const BATCHES: u64 = 64;

/// Which log a directory is to have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recorded {
    /// How many commands it has, about: whole batches.
    pub(crate) commands: u64,
    /// How many keys they set: one after the other, and then any of them.
    pub(crate) keys: u64,
}

impl Recorded {
    /// The key that is set ten times.
    pub(crate) const RARE: &'static str = "/rare/key";

    /// Makes the directory.
    pub(crate) fn make(self, dir: &Path) {
        import_one(dir);
        let (wal, archive, node) = {
            let data = DataDir::take_to_read(dir).unwrap();
            (data.wal(), data.archive(), data.identity().unwrap().unwrap().node)
        };
        let on_fatal = Arc::new(|error| panic!("the log failed: {error}"));
        let options =
            WalOptions { cache_bytes: 0, ..WalOptions::new(wal, archive, node, on_fatal) };
        let (wal, _) = Wal::open(&options).unwrap();
        let first = wal.reader().state().last.unwrap().index.0 + 1;
        let (sender, written) = mpsc::channel();
        let batches = self.commands / BATCH;
        for many in (0..batches.div_ceil(BATCHES)).map(|part| part * BATCHES) {
            let entries = (many..batches.min(many + BATCHES)).map(|number| {
                let commands = number * BATCH..(number + 1) * BATCH;
                let commands = commands.map(|number| self.command(number)).collect();
                let payload = Payload::Batch(Arc::new(Batch::new(LogTime(number + 2), commands)));
                let index = RaftIndex(first + number);
                Arc::new(Entry { id: LogId { term: Term(1), node, index }, payload })
            });
            let sender = sender.clone();
            let append = Write::Append(entries.collect());
            wal.write(append, Box::new(move |result| sender.send(result).unwrap()));
            written.recv().unwrap().unwrap();
        }
        wal.note_committed(wal.reader().state().last.unwrap());
        wal.close().unwrap();
    }

    /// The key that a command sets.
    fn key(self, number: u64) -> String {
        if number % (self.commands / 10) == self.commands / 20 {
            return Self::RARE.to_owned();
        }
        let number = if number < self.keys { number } else { random(number) % self.keys };
        format!("/tree/key-{number}")
    }

    fn command(self, number: u64) -> LogCommand {
        let key = KeyPath::clean(&self.key(number)).unwrap();
        let (one, two) = (random(number ^ 1 << 40), random(number ^ 2 << 40));
        let value = format!("{one:016x}-{two:016x}-{number:030}");
        LogCommand::Set { key, value: Arc::from(value), ttl: None }
    }
}

/// A number that nobody can guess from those before.
pub(crate) fn random(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 29
}

/// Makes a directory of a machine whose log has hardly anything in it.
fn import_one(dir: &Path) {
    let recorded = dir.with_extension("jsonl");
    let set =
        LogCommand::Set { key: KeyPath::clean("/first").unwrap(), value: "".into(), ttl: None };
    let batch = RecordedBatch::new(Index(1), &Batch::new(LogTime(1), vec![set]));
    let mut out = std::fs::File::create(&recorded).unwrap();
    serde_json::to_writer(&mut out, &batch).unwrap();
    out.write_all(b"\n").unwrap();
    let mut import = Command::new(env!("CARGO_BIN_EXE_etcd"));
    import.args(["log", "import", "--without-end"]).arg(&recorded).arg("-d").arg(dir);
    assert!(import.stdout(Stdio::null()).status().unwrap().success());
}
