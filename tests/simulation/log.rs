//! A log on a disk that loses what was not synced.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd::node::FillHistory;
use etcd_log::{
    Done, Entry, FillError, Index, LogError, LogId, LogState, LogStorage, MemoryLog, RaftIndex,
    Write,
};
use tokio::sync::Notify;

use super::dice::Dice;

/// How long a sync takes at most on a disk that is well.
pub(crate) const FAST: Duration = Duration::from_millis(4);

/// What a machine's disk holds, over crashes: everything written, in order, and how
/// much of it was synced.
#[derive(Debug)]
pub(crate) struct Disk {
    written: Vec<Write>,
    synced: usize,
    /// History from before an installed checkpoint, fetched from another machine.
    archive: BTreeMap<RaftIndex, Arc<Entry>>,
    /// How long a sync takes at most.
    pub(crate) slowest: Duration,
    /// Whether no sync comes to its end.
    pub(crate) stands_still: bool,
}

impl Default for Disk {
    fn default() -> Self {
        let (written, archive) = (Vec::new(), BTreeMap::new());
        Self { written, synced: 0, archive, slowest: FAST, stands_still: false }
    }
}

impl Disk {
    /// What a power failure leaves: all that was synced, and maybe some of what was
    /// not.
    pub(crate) fn lose_tail(&mut self, dice: &Dice) {
        let unsynced = self.written.len() - self.synced;
        let kept = self.synced + dice.below(unsynced + 1);
        self.written.truncate(kept);
        self.synced = kept;
    }
}

/// The log of a machine, as long as its process runs.
#[derive(Clone)]
pub(crate) struct SimLog {
    memory: MemoryLog,
    disk: Arc<Mutex<Disk>>,
    waiting: Arc<(Mutex<VecDeque<Done>>, Notify)>,
}

impl SimLog {
    /// Opens what the disk holds, and starts the task that syncs.
    pub(crate) fn open(disk: &Arc<Mutex<Disk>>, dice: &Dice) -> Self {
        let memory = MemoryLog::new();
        for write in &disk.lock().unwrap().written {
            memory.write(write.clone(), Box::new(drop));
        }
        let log = Self { memory, disk: Arc::clone(disk), waiting: Arc::default() };
        tokio::spawn(log.clone().sync(dice.clone()));
        log
    }

    /// Syncs all that was written when a sync begins, and then calls it done.
    async fn sync(self, dice: Dice) {
        loop {
            let (waiting, bell) = &*self.waiting;
            let (dones, written) = {
                let disk = self.disk.lock().unwrap();
                (std::mem::take(&mut *waiting.lock().unwrap()), disk.written.len())
            };
            if dones.is_empty() {
                bell.notified().await;
                continue;
            }
            let slowest = self.disk.lock().unwrap().slowest;
            let most = u64::try_from(slowest.as_millis()).unwrap();
            tokio::time::sleep(dice.millis(0, most) + Duration::from_micros(100)).await;
            while self.disk.lock().unwrap().stands_still {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.disk.lock().unwrap().synced = written;
            for done in dones {
                done(Ok(()));
            }
        }
    }
}

impl Disk {
    /// Returns the entries that are committed, as far as they are here from the first
    /// one on; nothing, while history from before a checkpoint is missing.
    pub(crate) fn history(&self) -> Option<Vec<Arc<Entry>>> {
        let memory = MemoryLog::new();
        for write in &self.written {
            memory.write(write.clone(), Box::new(drop));
        }
        let first = LogStorage::first(&memory);
        let behind = memory.entries(first..RaftIndex(u64::MAX), usize::MAX).ok()?;
        let entries = self.archive.values().cloned().chain(behind);
        memory.state().missing.is_none().then(|| entries.collect())
    }
}

impl LogStorage for SimLog {
    fn state(&self) -> LogState {
        let state = self.memory.state();
        let oldest = if self.first() == RaftIndex(0) { Default::default() } else { state.oldest };
        LogState { oldest, ..state }
    }

    fn entries(
        &self,
        range: Range<RaftIndex>,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, LogError> {
        let first = LogStorage::first(&self.memory);
        if range.start >= first || self.memory.state().missing.is_some() {
            return self.memory.entries(range, max_bytes);
        }
        let archive = &self.disk.lock().unwrap().archive;
        Ok(archive.range(range).map(|(_, entry)| Arc::clone(entry)).take(64).collect())
    }

    fn write(&self, write: Write, done: Done) {
        self.memory.write(write.clone(), Box::new(drop));
        if let Write::Install { .. } = write {
            self.disk.lock().unwrap().archive.clear();
        }
        self.disk.lock().unwrap().written.push(write);
        self.waiting.0.lock().unwrap().push_back(done);
        self.waiting.1.notify_one();
    }

    fn first(&self) -> RaftIndex {
        let first = LogStorage::first(&self.memory);
        if self.memory.state().missing.is_some() { first } else { RaftIndex(0) }
    }

    fn note_checkpoints(&self, _newest: Option<RaftIndex>, _all: Option<RaftIndex>) {}

    fn note_committed(&self, upto: LogId) {
        self.memory.note_committed(upto);
    }
}

/// Fills in history from before an installed checkpoint.
pub(crate) struct SimFiller {
    log: SimLog,
    next: RaftIndex,
    upto: LogId,
}

impl SimFiller {
    /// Begins, if something is missing.
    pub(crate) fn new(log: &SimLog) -> Option<Self> {
        let upto = log.memory.state().missing?;
        let next = log.disk.lock().unwrap().archive.keys().next_back().map(|last| last.next());
        let next = next.unwrap_or_default();
        if next > upto.index {
            log.write(Write::Fill { upto }, Box::new(drop));
            return None;
        }
        Some(Self { log: log.clone(), next, upto })
    }
}

impl FillHistory for SimFiller {
    fn wanted(&self) -> (RaftIndex, RaftIndex) {
        (self.next, self.upto.index)
    }

    fn skip_to(&mut self, next: RaftIndex, _before: Index) -> Result<(), FillError> {
        assert!(next <= self.next, "nothing is ever dropped here");
        Ok(())
    }

    fn push(&mut self, entry: Vec<u8>) -> Result<bool, FillError> {
        let entry = Entry::decode(&entry).map_err(FillError::Foreign)?;
        assert_eq!(entry.id.index, self.next, "entries come in order");
        if self.log.memory.state().missing != Some(self.upto) {
            return Err(FillError::Overtaken);
        }
        self.log.disk.lock().unwrap().archive.insert(self.next, Arc::new(entry));
        self.next = self.next.next();
        let is_last = self.next > self.upto.index;
        if is_last {
            self.log.write(Write::Fill { upto: self.upto }, Box::new(drop));
        }
        Ok(is_last)
    }

    fn give_up(&mut self) -> Result<(), FillError> {
        panic!("nothing is ever dropped here")
    }
}
