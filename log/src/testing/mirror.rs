//! Three logs side by side: the real one, the in-memory one, and the model. All that can
//! be written is written to each, in any order that Raft may come to, and all that can be
//! read is compared after each step.
//!
//! ```text
//! append, truncate, vote, …  ─┬─▶ Wal, its disk and its threads ─┐
//! checkpoint, install, fill  ─┼─▶ MemoryLog                      ├─▶ equal?
//! close, kill, power failure ─┴─▶ Model                          ┘
//! ```
//!
//! The in-memory log lawfully differs in three things: it keeps what is forgotten, it
//! never had what a checkpoint contained, and it forgets nothing of what is committed when
//! a process ends. What is dropped is settled by the size of compressed files: that it may
//! be is checked, and then the others drop it as well.

mod missing;
mod restart;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;

use crate::archive::retention::Retain;
use crate::error::LogError;
use crate::memory::MemoryLog;
use crate::storage::{LogStorage as _, Write};
use crate::testing::compare;
use crate::testing::crash_image::Image;
use crate::testing::fixtures::{self, NODE};
use crate::testing::model::Model;
use crate::testing::simulated_disk::RecordingDisk;
use crate::testing::steps::{LogOp, cache, steps};
use crate::types::{
    Batch, Command, Entry, KeyPath, LogId, LogTime, Payload, RaftIndex, Term, Vote,
};
use crate::wal::Wal;
use crate::wal::options::WalOptions;

/// So small that few entries fill a segment.
const SEGMENT_BYTES: u32 = 1024;

/// How many logs are tried.
const CASES: u32 = 64;

/// How often something has come to pass, over all logs that were tried.
type Seen = BTreeMap<&'static str, u64>;

/// The three logs.
struct Mirror {
    /// How often the log was opened; each time it lies in another directory.
    opened: u32,
    retain: Retain,
    disk: Arc<RecordingDisk>,
    /// What the disk held when the log was opened.
    image: Image,
    wal: Wal,
    memory: MemoryLog,
    model: Model,
    /// What was written, and is not known to be safe.
    unsafe_yet: Vec<Receiver<Result<(), LogError>>>,
    term: u64,
    /// What the newest checkpoint contains, and all of them.
    checkpoints: (Option<RaftIndex>, Option<RaftIndex>),
    /// Up to where history came in a checkpoint and was fetched afterwards.
    backfilled: Option<RaftIndex>,
    seen: Seen,
    /// Dropped last: until then the log is at work in it.
    home: TempDir,
}

impl Mirror {
    fn new(retain: Retain, cache_bytes: usize) -> Self {
        let home = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let disk = Arc::new(RecordingDisk::default());
        let options = fixtures::options(&home.path().join("0"), SEGMENT_BYTES);
        let options = WalOptions { cache_bytes, retain, ..options };
        let (wal, _) = Wal::open_on(&disk, &options).unwrap();
        Self {
            home,
            opened: 0,
            retain,
            disk,
            image: Image::default(),
            wal,
            memory: MemoryLog::new(),
            model: Model::default(),
            unsafe_yet: Vec::new(),
            term: 1,
            checkpoints: (None, None),
            backfilled: None,
            seen: Seen::new(),
        }
    }

    fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn take(&mut self, step: &LogOp, waits: bool) {
        match step {
            LogOp::Append(commands, bytes) => self.append(commands, *bytes),
            LogOp::Vote => self.vote(),
            LogOp::Overrule(back, count) => self.overrule(*back, *count),
            LogOp::Commit(back) => self.commit(*back),
            LogOp::CommitAhead(by) => self.commit_ahead(*by),
            LogOp::Purge(back) => self.purge(*back),
            LogOp::Checkpoint(newest, all) => self.checkpoint(*newest, *all),
            LogOp::Install(ahead) => self.install(*ahead),
            LogOp::InstallHeld(back) => self.install_held(*back),
            LogOp::Backfill(skip, rest) => self.backfill(*skip, rest),
            LogOp::Close(cache) => self.close(*cache),
            LogOp::Crash(crash, cache) => self.crash(*crash, *cache),
        }
        if waits {
            self.settle();
            self.compare();
        } else if self.retain == Retain::Forever {
            // What was written can be read at once, and nothing is dropped meanwhile.
            self.compare();
        }
    }

    /// Writes to the real log, and to the others.
    fn write(&mut self, write: Write) {
        let (sender, written) = mpsc::channel();
        self.wal.write(write.clone(), Box::new(move |result| drop(sender.send(result))));
        self.unsafe_yet.push(written);
        self.write_to_others(write);
    }

    /// Waits until all is safe that was written.
    fn wait(&mut self) {
        for written in self.unsafe_yet.drain(..) {
            written.recv_timeout(fixtures::PATIENCE).unwrap().unwrap();
        }
        self.model.sync();
    }

    fn write_to_others(&mut self, write: Write) {
        self.model.apply(&write);
        self.memory.write(write, Box::new(|written| written.unwrap()));
    }

    fn entry(&self, index: RaftIndex, commands: Option<usize>, bytes: usize) -> Arc<Entry> {
        let id = LogId { term: Term(self.term), node: NODE, index };
        let set = |number| {
            let key = KeyPath::clean(&format!("/{number}")).unwrap();
            Command::Set { key, value: Arc::from("v".repeat(bytes)), ttl: None }
        };
        let batch = |commands| Batch::new(LogTime(index.0 + 1), (0..commands).map(set).collect());
        let payload =
            commands.map_or(Payload::Blank, |count| Payload::Batch(Arc::new(batch(count))));
        Arc::new(Entry { id, payload })
    }

    fn append(&mut self, commands: &[usize], bytes: usize) {
        let entries = (self.model.next().0..).zip(commands).map(|(index, count)| {
            // A new leader's first entry is blank.
            self.entry(RaftIndex(index), (*count > 0).then_some(*count), bytes)
        });
        self.write(Write::Append(entries.collect()));
    }

    /// Another leader would not have what only this one has committed.
    fn is_committed_ahead(&self) -> bool {
        self.model.committed.is_some_and(|id| id.index >= self.model.next())
    }

    fn vote(&mut self) {
        if self.is_committed_ahead() {
            return;
        }
        self.term += 1;
        self.write(Write::Vote(Vote { term: Term(self.term), node: NODE, committed: false }));
    }

    fn overrule(&mut self, back: u64, count: usize) {
        if self.is_committed_ahead() {
            return;
        }
        self.term += 1;
        let kept = self.model.settled().map_or(RaftIndex(0), |id| id.index.next());
        let since = kept.max(RaftIndex(self.model.next().0.saturating_sub(back)));
        if since < self.model.next() {
            self.see("truncated");
        }
        self.write(Write::Truncate { since });
        self.append(&[0, 1, 2, 1][..count], 30);
    }

    fn note_committed(&mut self, upto: LogId) {
        self.wal.note_committed(upto);
        self.memory.note_committed(upto);
        self.model.commit(upto);
    }

    fn commit(&mut self, back: u64) {
        let Some(last) = self.model.last() else { return };
        let index = RaftIndex(last.index.0.saturating_sub(back));
        self.note_committed(self.model.id(index).unwrap());
    }

    fn commit_ahead(&mut self, by: u64) {
        if self.is_committed_ahead() {
            return;
        }
        // A commit that it came before would not note what is committed and here.
        self.wait();
        let index = RaftIndex(self.model.next().0 + by - 1);
        self.note_committed(LogId { term: Term(self.term), node: NODE, index });
        self.see("committed ahead");
    }

    /// An entry that nobody overrules any more.
    fn settled(&self, back: u64) -> Option<LogId> {
        let settled = self.model.settled()?;
        self.model.id(RaftIndex(settled.index.0.saturating_sub(back)))
    }

    fn purge(&mut self, back: u64) {
        if let Some(upto) = self.settled(back) {
            self.write(Write::Purge { upto });
        }
    }

    fn checkpoint(&mut self, newest: u64, all: u64) {
        let Some(newest) = self.settled(newest).map(|id| id.index) else { return };
        let newest = self.checkpoints.0.max(Some(newest));
        let all = newest.map(|newest| RaftIndex(newest.0.saturating_sub(all)));
        self.checkpoints = (newest, self.checkpoints.1.max(all));
    }

    /// Waits until all is safe, and all sealed and dropped that can be.
    fn settle(&mut self) {
        self.wait();
        let sealed = self.wal.reader().last_archived();
        // The round that is under way may have begun before.
        let rounds = self.wal.archiver_rounds() + 2;
        fixtures::eventually("the archiver has looked", || {
            self.wal.note_checkpoints(self.checkpoints.0, self.checkpoints.1);
            self.wal.archiver_rounds() >= rounds
        });
        if self.wal.reader().last_archived() > sealed {
            self.see("sealed");
        }
        let forgotten = self.wal.state().forgotten;
        let Some(upto) = forgotten.filter(|_| forgotten != self.model.forgotten) else { return };
        let covered = self.checkpoints.1.min(self.model.purged.map(|id| id.index));
        assert_ne!(self.retain, Retain::Forever);
        assert_eq!(self.model.id(upto.index), Some(upto));
        assert!(Some(upto.index) <= covered.max(self.backfilled), "{upto} was still needed");
        self.write_to_others(Write::Forget { upto });
        self.see("dropped");
    }

    fn compare(&self) {
        compare::wal_is(&self.wal, &self.model);
        compare::memory_is(&self.memory, &self.model);
    }
}

#[test]
fn three_logs_agree_whatever_is_written() {
    let config = ProptestConfig {
        cases: CASES,
        max_shrink_iters: 2000,
        ..ProptestConfig::with_source_file(file!())
    };
    let seen = RefCell::new(Seen::new());
    let retain = prop_oneof![Just(Retain::Forever), Just(Retain::Bytes(800))];
    let tried =
        TestRunner::new(config).run(&(retain, cache(), steps()), |(retain, cache, steps)| {
            let mut mirror = Mirror::new(retain, cache);
            for (step, waits) in &steps {
                mirror.take(step, *waits);
            }
            mirror.settle();
            mirror.compare();
            for (what, count) in mirror.seen {
                *seen.borrow_mut().entry(what).or_default() += count;
            }
            Ok(())
        });
    if let Err(failed) = tried {
        panic!("{failed}");
    }
    // Without these it would prove less than it says.
    let seen = seen.into_inner();
    let wanted = ["truncated", "committed ahead", "installed", "backfilled", "sealed", "dropped"];
    for what in wanted.into_iter().chain(["closed", "crashed"]) {
        assert!(seen.contains_key(what), "never {what}: {seen:?}");
    }
}
