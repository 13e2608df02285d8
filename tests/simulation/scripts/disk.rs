//! A disk of a script: a sync takes a millisecond, or does not come to its end; and what
//! was not synced is gone with the process.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use etcd_log::{Done, Entry, LogError, LogId, LogState, LogStorage, MemoryLog, RaftIndex, Write};
use tokio::sync::Notify;
use tokio::time::sleep;

/// How long a sync takes, and how often a disk that hangs is looked at.
const SYNC: Duration = Duration::from_millis(1);

/// What a machine's disk holds. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// What was written, and which entries were known to be committed by then.
    written: Vec<(Write, Option<LogId>)>,
    committed: Option<LogId>,
    synced: usize,
    hangs: bool,
    /// How many times the machine was killed: who was started before writes no more.
    kills: u32,
}

impl Disk {
    pub(super) fn hang(&self, hangs: bool) {
        self.lock().hangs = hangs;
    }

    /// Loses what was not synced.
    pub(super) fn kill(&self) {
        let mut inner = self.lock();
        inner.kills += 1;
        let synced = inner.synced;
        inner.written.truncate(synced);
        inner.committed = inner.written.last().and_then(|(_, committed)| *committed);
    }

    /// Opens what is there.
    pub(super) fn open(&self) -> ScriptLog {
        let memory = MemoryLog::new();
        for (write, committed) in &self.lock().written {
            memory.write(write.clone(), Box::new(drop));
            if let Some(upto) = committed {
                memory.note_committed(*upto);
            }
        }
        let kills = self.lock().kills;
        let log = ScriptLog { memory, disk: self.clone(), kills, waiting: Arc::default() };
        tokio::spawn(log.clone().sync());
        log
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

/// The log of a machine, as long as its process runs.
#[derive(Clone)]
pub(super) struct ScriptLog {
    memory: MemoryLog,
    disk: Disk,
    kills: u32,
    waiting: Arc<(Mutex<Vec<Done>>, Notify)>,
}

impl ScriptLog {
    /// Syncs all that was written when a sync begins, and then calls it done.
    async fn sync(self) {
        loop {
            let (waiting, bell) = &*self.waiting;
            let dones = std::mem::take(&mut *waiting.lock().unwrap());
            let written = self.disk.lock().written.len();
            if dones.is_empty() {
                bell.notified().await;
                continue;
            }
            sleep(SYNC).await;
            while self.disk.lock().hangs {
                sleep(SYNC).await;
            }
            if self.disk.lock().kills != self.kills {
                return;
            }
            self.disk.lock().synced = written;
            for done in dones {
                done(Ok(()));
            }
        }
    }
}

impl LogStorage for ScriptLog {
    fn state(&self) -> LogState {
        self.memory.state()
    }

    fn entries(
        &self,
        range: Range<RaftIndex>,
        max_bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, LogError> {
        self.memory.entries(range, max_bytes)
    }

    fn write(&self, write: Write, done: Done) {
        let mut disk = self.disk.lock();
        self.memory.write(write.clone(), Box::new(drop));
        if disk.kills == self.kills {
            let committed = disk.committed;
            disk.written.push((write, committed));
        }
        drop(disk);
        self.waiting.0.lock().unwrap().push(done);
        self.waiting.1.notify_one();
    }

    fn first(&self) -> RaftIndex {
        LogStorage::first(&self.memory)
    }

    fn note_checkpoints(&self, _newest: Option<RaftIndex>, _all: Option<RaftIndex>) {
        // There are none: no script is so long.
    }

    fn note_committed(&self, upto: LogId) {
        self.memory.note_committed(upto);
        let mut disk = self.disk.lock();
        if disk.kills == self.kills {
            disk.committed = Some(upto);
        }
    }
}
