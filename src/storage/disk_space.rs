//! The room on the disk: when it runs out, writes are refused before the log
//! fails.
//!
//! ```text
//! free ──────────────────────┬───────────── reserve ────────┬ 0
//!        writes are accepted │ refused; reads and watches   │ the log would fail,
//!                            │ go on; the ballast is let go │ and end the process
//! ```
//!
//! The *ballast* is a file that takes up room for nothing. When the reserve is
//! reached it goes, and there is room for what brings room: a checkpoint, sealing,
//! dropping old history. Writes are accepted again by themselves once the ballast
//! could be put back and the reserve is still free.
//!
//! *Limits*: the reserve is looked after by this process alone; another one can
//! use it up.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};

use crate::util::blocking::blocking;
use crate::util::error_chain::ErrorChain;
use crate::util::rate_limit::RateLimit;

/// How often to look. Even the fastest writers need seconds for the reserve.
const INTERVAL: Duration = Duration::from_millis(200);

/// How the room on a disk is looked after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserve {
    /// Below how many free bytes writes are refused.
    pub free: u64,
    /// How many bytes the ballast has.
    pub ballast: u64,
}

/// Whether there is room on the disk. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct DiskRoom {
    shared: Arc<Watched>,
}

#[derive(Debug)]
struct Watched {
    is_short: AtomicBool,
    free: AtomicU64,
    reserve: u64,
    /// When it was told last that the room is not known.
    unknown: RateLimit,
}

impl Default for Watched {
    /// A disk without end.
    fn default() -> Self {
        Self {
            is_short: AtomicBool::default(),
            free: AtomicU64::new(u64::MAX),
            reserve: 0,
            unknown: RateLimit::default(),
        }
    }
}

impl DiskRoom {
    /// Looks after the disk that a directory lies on, and keeps a ballast in that
    /// directory.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn watch(dir: PathBuf, reserve: Reserve) -> Self {
        let ballast = Ballast::new(dir.join("ballast"), reserve.ballast);
        let free = free_bytes(&dir).unwrap_or(u64::MAX);
        let shared =
            Watched { free: AtomicU64::new(free), reserve: reserve.free, ..Watched::default() };
        let room = Self { shared: Arc::new(shared) };
        let wanted = reserve.free.saturating_add(ballast.missing());
        let has_room = free >= wanted && ballast.put_back();
        if !has_room {
            tell_short(free, wanted);
        }
        room.shared.is_short.store(!has_room, Ordering::Relaxed);
        let watched = room.clone();
        let look = Arc::new(move || watched.look(free_bytes(&dir), reserve, &ballast));
        tokio::spawn(async move {
            loop {
                let look = Arc::clone(&look);
                blocking(move || look()).await;
                tokio::time::sleep(INTERVAL).await;
            }
        });
        room
    }

    /// Returns whether writes must be refused.
    pub fn is_short(&self) -> bool {
        self.shared.is_short.load(Ordering::Relaxed)
    }

    /// Returns whether the reserve is still free when so many bytes have been written.
    pub fn has_room_besides_reserve(&self, bytes: u64) -> bool {
        let free = self.shared.free.load(Ordering::Relaxed);
        !self.is_short() && free.saturating_sub(self.shared.reserve) >= bytes
    }

    /// Returns whether so many bytes can be written that bring room, or need not be
    /// there for long: the reserve is for them as well, but no more than there is.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        self.shared.free.load(Ordering::Relaxed) > bytes
    }

    fn look(&self, free: io::Result<u64>, reserve: Reserve, ballast: &Ballast) {
        let free = free.unwrap_or_else(|error| {
            // Not to know is no reason to refuse: the log itself is checked.
            if self.shared.unknown.is_due() {
                tracing::warn!("the room on the disk is not known: {}", ErrorChain(&error));
            }
            u64::MAX
        });
        self.shared.free.store(free, Ordering::Relaxed);
        let was_short = self.is_short();
        let is_short = if was_short {
            free < reserve.free.saturating_add(ballast.missing()) || !ballast.put_back()
        } else {
            free < reserve.free
        };
        if is_short {
            ballast.let_go();
        }
        match (self.shared.is_short.swap(is_short, Ordering::Relaxed), is_short) {
            (false, true) => tell_short(free, reserve.free),
            (true, false) => tracing::info!("there is room again: writes are accepted"),
            (false, false) | (true, true) => {}
        }
    }
}

fn tell_short(free: u64, wanted: u64) {
    tracing::warn!("{free} bytes are free on the disk, {wanted} are wanted: writes are refused");
}

/// A file that takes up room for nothing, so that it can be let go.
#[derive(Debug)]
struct Ballast {
    path: PathBuf,
    bytes: u64,
    /// When it was told last that it cannot be put back.
    missed: RateLimit,
}

impl Ballast {
    fn new(path: PathBuf, bytes: u64) -> Self {
        Self { path, bytes, missed: RateLimit::default() }
    }

    fn is_there(&self) -> bool {
        self.missing() == 0
    }

    /// Returns how many bytes have to be found to put it back.
    fn missing(&self) -> u64 {
        let length = fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        self.bytes.saturating_sub(length)
    }

    /// Puts it back, and returns whether it is there.
    fn put_back(&self) -> bool {
        if self.is_there() {
            return true;
        }
        let put = File::create(&self.path).and_then(|file| {
            fallocate(&file, FallocateFlags::empty(), 0, self.bytes)?;
            file.sync_all()
        });
        match put {
            Ok(()) => true,
            // A file system that cannot do this has to go without.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => true,
            Err(error) => {
                if self.missed.is_due() {
                    let (path, error) = (self.path.display(), ErrorChain(&error));
                    tracing::warn!(
                        "the ballast of {} bytes cannot be put back at {path}, and until it is, \
                         writes are refused: {error}",
                        self.bytes
                    );
                }
                false
            }
        }
    }

    fn let_go(&self) {
        match fs::remove_file(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("the ballast cannot be let go: {}", ErrorChain(&error)),
        }
    }
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(dir)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn writes_are_refused_below_the_reserve_until_the_ballast_is_back() {
        let dir = TempDir::new().unwrap();
        let ballast = Ballast::new(dir.path().join("ballast"), 5000);
        let reserve = Reserve { free: 100, ballast: 5000 };
        let room = DiskRoom::default();
        assert!(ballast.put_back());
        for (free, is_short) in
            [(100, false), (99, true), (98, true), (100, true), (5099, true), (5100, false)]
        {
            room.look(Ok(free), reserve, &ballast);
            assert_eq!((room.is_short(), ballast.is_there()), (is_short, !is_short), "{free}");
        }
    }

    #[test]
    fn without_a_ballast_the_reserve_alone_counts() {
        let dir = TempDir::new().unwrap();
        let ballast = Ballast::new(dir.path().join("ballast"), 0);
        let room = DiskRoom::default();
        for (free, is_short) in [(100, false), (99, true), (100, false)] {
            room.look(Ok(free), Reserve { free: 100, ballast: 0 }, &ballast);
            assert_eq!(room.is_short(), is_short, "{free}");
        }
    }

    #[test]
    fn what_brings_room_may_use_the_reserve() {
        let dir = TempDir::new().unwrap();
        let ballast = Ballast::new(dir.path().join("ballast"), 0);
        let room = DiskRoom::default();
        room.look(Ok(99), Reserve { free: 100, ballast: 0 }, &ballast);
        assert!(room.has_room_for(98) && !room.has_room_for(99));
    }

    #[test]
    fn nothing_may_use_more_than_there_is() {
        let dir = TempDir::new().unwrap();
        let ballast = Ballast::new(dir.path().join("ballast"), 0);
        let room = DiskRoom::default();
        room.look(Ok(101), Reserve { free: 100, ballast: 0 }, &ballast);
        assert!(!room.is_short() && room.has_room_for(100) && !room.has_room_for(101));
    }

    #[test]
    fn unknown_room_is_told_now_and_then() {
        let dir = TempDir::new().unwrap();
        let ballast = Ballast::new(dir.path().join("ballast"), 0);
        let room = DiskRoom::default();
        room.look(Err(io::Error::other("no answer")), Reserve::default(), &ballast);
        assert!(!room.shared.unknown.is_due(), "it was told just now");
    }

    #[test]
    fn ballast_that_cannot_be_put_back_is_told_now_and_then() {
        let dir = TempDir::new().unwrap();
        let ballast = Ballast::new(dir.path().join("nowhere/ballast"), 10);
        assert!(!ballast.put_back());
        assert!(!ballast.missed.is_due(), "it was told just now");
    }

    #[test]
    fn disk_that_does_not_tell_refuses_nothing() {
        let dir = TempDir::new().unwrap();
        let ballast = Ballast::new(dir.path().join("ballast"), 10);
        let reserve = Reserve { free: 100, ballast: 10 };
        let room = DiskRoom::default();
        room.look(Ok(0), reserve, &ballast);
        room.look(Err(io::Error::other("no answer")), reserve, &ballast);
        assert!(!room.is_short());
    }

    #[test]
    fn room_of_a_real_disk_is_known() {
        assert!(free_bytes(&std::env::temp_dir()).unwrap() > 0);
    }
}
