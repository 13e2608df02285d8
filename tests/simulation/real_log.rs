//! The real log, with its segments, its archive and its threads, on a disk that crashes.
//!
//! What is written goes to the log's threads at once, and they are waited for when the
//! simulated sync is over: so nobody is told before it is time, and a crash may leave
//! some of what was under way. Each time that the machine starts, the log lies in another
//! directory: what the last crash has left of the one before.

use std::path::PathBuf;
use std::sync::Arc;

use etcd_log::crashing::CrashingDisk;
use etcd_log::{Entry, LogReader, NodeId, RaftIndex, Retain, Wal, WalOptions};
use tempfile::TempDir;

use super::dice::Dice;

/// How long a segment is: so short that many are filled, sealed, and used again.
const SEGMENT_BYTES: u32 = 32 << 10;

/// How many bytes of entries are read at once, and kept in memory: so few that most are
/// read from the disk.
const READ_BYTES: usize = 16 << 10;

/// The disk of a machine, over crashes.
#[derive(Debug)]
pub(crate) struct RealDisk {
    home: TempDir,
    starts: u32,
    /// What lies under the log of the process that runs, and a reader of that log.
    now: Option<(CrashingDisk, LogReader)>,
}

impl RealDisk {
    pub(crate) fn new() -> Self {
        // It need not outlive the test, so one in memory will do.
        let home = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        Self { home, starts: 0, now: None }
    }

    /// Opens what the last crash has left.
    pub(crate) fn open(&mut self, node: NodeId) -> Wal {
        let disk = CrashingDisk::new(&self.dir());
        let options = WalOptions {
            segment_bytes: SEGMENT_BYTES,
            cache_bytes: READ_BYTES,
            retain: Retain::Forever,
            must_exist: self.starts > 0,
            ..WalOptions::new(PathBuf::new(), PathBuf::new(), node, Arc::new(|error| fail(&error)))
        };
        let (wal, _) = disk.open(options).unwrap();
        // It is there for good from here on.
        disk.told();
        self.now = Some((disk, wal.reader()));
        wal
    }

    /// Notes that somebody was told of all that was written before.
    pub(crate) fn told(&self) {
        let (disk, _) = self.now.as_ref().unwrap();
        disk.told();
    }

    /// What a power failure leaves.
    pub(crate) fn crash(&mut self, dice: &Dice) {
        // It may not have come so far as to have a log.
        let Some((disk, _)) = self.now.take() else { return };
        self.starts += 1;
        disk.crash(dice.number(), &self.dir()).unwrap();
    }

    /// Returns the entries that there are; nothing, while history from before a checkpoint
    /// is missing.
    pub(crate) fn history(&self) -> Option<Vec<Arc<Entry>>> {
        let (_, reader) = self.now.as_ref()?;
        if reader.state().missing.is_some() {
            return None;
        }
        let all = reader.iter(RaftIndex(0)..RaftIndex(u64::MAX));
        Some(all.collect::<Result<_, _>>().unwrap())
    }

    /// How many files are sealed.
    pub(crate) fn sealed(&self) -> usize {
        self.now.as_ref().map_or(0, |(_, reader)| reader.archived().0)
    }

    fn dir(&self) -> PathBuf {
        let dir = self.home.path().join(self.starts.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}

/// A failure on a thread of the log's would go unnoticed.
fn fail(error: &etcd_log::LogError) -> ! {
    eprintln!("the log failed: {error:?}");
    std::process::abort();
}
