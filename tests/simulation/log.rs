//! A log on a disk that loses what was not synced: the one in memory, or the real one.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use etcd::storage::backfill::FillHistory;
use etcd_log::{
    BackfillError, Done, Entry, Index, LogError, LogId, LogState, LogStorage, MemoryLog, NodeId,
    RaftIndex, Wal, Write,
};
use tokio::sync::Notify;

use super::dice::Dice;
use super::real_log::RealDisk;

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
    /// What lies under the log, if that is the real one. The rest is empty then.
    pub(crate) real: Option<RealDisk>,
}

impl Default for Disk {
    fn default() -> Self {
        let (written, archive) = (Vec::new(), BTreeMap::new());
        Self { written, synced: 0, archive, slowest: FAST, stands_still: false, real: None }
    }
}

impl Disk {
    /// What a power failure leaves: all that was synced, and maybe some of what was
    /// not.
    pub(crate) fn lose_tail(&mut self, dice: &Dice) {
        if let Some(real) = &mut self.real {
            return real.crash(dice);
        }
        let unsynced = self.written.len() - self.synced;
        let kept = self.synced + dice.below(unsynced + 1);
        self.written.truncate(kept);
        self.synced = kept;
    }
}

/// The log of a machine, as long as its process runs.
#[derive(Clone)]
pub(crate) struct SimLog {
    store: Store,
    disk: Arc<Mutex<Disk>>,
    waiting: Arc<(Mutex<VecDeque<Done>>, Notify)>,
}

/// What has the entries.
#[derive(Clone)]
enum Store {
    Memory(MemoryLog),
    Real(Wal),
}

impl SimLog {
    /// Opens what the disk holds, and starts the task that syncs.
    pub(crate) fn open(disk: &Arc<Mutex<Disk>>, node: NodeId, dice: &Dice) -> Self {
        let store = disk.lock().unwrap().open(node);
        let log = Self { store, disk: Arc::clone(disk), waiting: Arc::default() };
        tokio::spawn(log.clone().sync(dice.clone()));
        log
    }

    /// Up to where Raft need not look at the log, if it starts from a state.
    pub(crate) fn starts_behind(&self, applied: Option<LogId>) -> Option<LogId> {
        match &self.store {
            Store::Memory(_) => applied,
            Store::Real(wal) => {
                let reader = wal.reader();
                applied.min(reader.last_archived().max(reader.state().purged))
            }
        }
    }

    /// Returns what fills in history from before an installed checkpoint, if some is
    /// missing.
    pub(crate) fn filler(&self) -> Option<Box<dyn FillHistory>> {
        match &self.store {
            Store::Memory(memory) => Some(Box::new(SimFiller::new(self, memory)?)),
            Store::Real(wal) => Some(Box::new(wal.backfill()?)),
        }
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
            if let Some(real) = &self.disk.lock().unwrap().real {
                real.told();
            }
        }
    }
}

impl Disk {
    /// Opens what is there.
    fn open(&mut self, node: NodeId) -> Store {
        if let Some(real) = &mut self.real {
            return Store::Real(real.open(node));
        }
        let memory = MemoryLog::new();
        for write in &self.written {
            memory.write(write.clone(), Box::new(drop));
        }
        Store::Memory(memory)
    }

    /// Copies what is there; nothing, if that is the real log.
    pub(crate) fn copy(&self) -> Option<Self> {
        let (written, archive) = (self.written.clone(), self.archive.clone());
        let synced = written.len();
        self.real.is_none().then(|| Self { written, synced, archive, ..Self::default() })
    }

    /// Returns the entries that are committed, as far as they are here from the first
    /// one on; nothing, while history from before a checkpoint is missing.
    pub(crate) fn history(&self) -> Option<Vec<Arc<Entry>>> {
        if let Some(real) = &self.real {
            return real.history();
        }
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
        let state = match &self.store {
            Store::Memory(memory) => memory.state(),
            Store::Real(wal) => return wal.state(),
        };
        let oldest = if self.first() == RaftIndex(0) { Default::default() } else { state.oldest };
        LogState { oldest, ..state }
    }

    fn entries(
        &self,
        range: Range<RaftIndex>,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, LogError> {
        let memory = match &self.store {
            Store::Memory(memory) => memory,
            Store::Real(wal) => return wal.entries(range, max_bytes),
        };
        let first = LogStorage::first(memory);
        if range.start >= first || memory.state().missing.is_some() {
            return memory.entries(range, max_bytes);
        }
        let archive = &self.disk.lock().unwrap().archive;
        Ok(archive.range(range).map(|(_, entry)| Arc::clone(entry)).take(64).collect())
    }

    fn write(&self, write: Write, done: Done) {
        let done = match &self.store {
            Store::Memory(memory) => {
                memory.write(write.clone(), Box::new(drop));
                let mut disk = self.disk.lock().unwrap();
                if let Write::Install { .. } = write {
                    disk.archive.clear();
                }
                disk.written.push(write);
                done
            }
            Store::Real(wal) => {
                let (sender, written) = mpsc::channel();
                wal.write(write, Box::new(move |result| drop(sender.send(result))));
                Box::new(move |_| done(written.recv().unwrap_or(Err(LogError::Closed))))
            }
        };
        self.waiting.0.lock().unwrap().push_back(done);
        self.waiting.1.notify_one();
    }

    fn first(&self) -> RaftIndex {
        match &self.store {
            Store::Memory(memory) if memory.state().missing.is_some() => LogStorage::first(memory),
            Store::Memory(_) => RaftIndex(0),
            Store::Real(wal) => wal.first(),
        }
    }

    fn note_checkpoints(&self, newest: Option<RaftIndex>, all: Option<RaftIndex>) {
        match &self.store {
            // It keeps all there is.
            Store::Memory(_) => {}
            Store::Real(wal) => wal.note_checkpoints(newest, all),
        }
    }

    fn note_committed(&self, upto: LogId) {
        match &self.store {
            Store::Memory(memory) => memory.note_committed(upto),
            Store::Real(wal) => wal.note_committed(upto),
        }
    }
}

/// Fills in history from before an installed checkpoint.
struct SimFiller {
    log: SimLog,
    memory: MemoryLog,
    next: RaftIndex,
    upto: LogId,
}

impl SimFiller {
    /// Begins, if something is missing.
    fn new(log: &SimLog, memory: &MemoryLog) -> Option<Self> {
        let upto = memory.state().missing?;
        let next = log.disk.lock().unwrap().archive.keys().next_back().map(|last| last.next());
        let next = next.unwrap_or_default();
        if next > upto.index {
            log.write(Write::Backfill { upto }, Box::new(drop));
            return None;
        }
        Some(Self { log: log.clone(), memory: memory.clone(), next, upto })
    }
}

impl FillHistory for SimFiller {
    fn wanted(&self) -> (RaftIndex, RaftIndex) {
        (self.next, self.upto.index)
    }

    fn skip_to(&mut self, next: RaftIndex, _before: Index) -> Result<(), BackfillError> {
        assert!(next <= self.next, "nothing is ever dropped here");
        Ok(())
    }

    fn push(&mut self, entry: Vec<u8>) -> Result<bool, BackfillError> {
        let entry = Entry::decode(&entry).map_err(BackfillError::Foreign)?;
        assert_eq!(entry.id.index, self.next, "entries come in order");
        if self.memory.state().missing != Some(self.upto) {
            return Err(BackfillError::Overtaken);
        }
        self.log.disk.lock().unwrap().archive.insert(self.next, Arc::new(entry));
        self.next = self.next.next();
        let is_last = self.next > self.upto.index;
        if is_last {
            self.log.write(Write::Backfill { upto: self.upto }, Box::new(drop));
        }
        Ok(is_last)
    }

    fn give_up(&mut self) -> Result<(), BackfillError> {
        panic!("nothing is ever dropped here")
    }
}
