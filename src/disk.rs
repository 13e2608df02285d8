//! The room on the disk: when it runs out, writes are refused before the log
//! fails.
//!
//! ```text
//! free ──────────────────────┬───────────── reserve ────────┬ 0
//!        writes are accepted │ refused; reads and watches   │ the log would fail,
//!                            │ go on                        │ and end the process
//! ```
//!
//! Writes are accepted again by themselves once there is room.
//!
//! *Limits*: the reserve is looked after by this process alone; another one can
//! use it up.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::one_line::OneLine;

/// How often to look. Even the fastest writers need seconds for the reserve.
const INTERVAL: Duration = Duration::from_millis(200);

/// Whether there is room on the disk. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct DiskRoom {
    is_short: Arc<AtomicBool>,
}

impl DiskRoom {
    /// Looks after the disk that a directory lies on: it is short of room while
    /// fewer than `reserve` bytes are free.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn watch(dir: PathBuf, reserve: u64) -> Self {
        let room = Self::default();
        room.look(free_bytes(&dir), reserve);
        let watched = room.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                watched.look(free_bytes(&dir), reserve);
            }
        });
        room
    }

    /// Returns whether writes must be refused.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    fn look(&self, free: io::Result<u64>, reserve: u64) {
        let is_short = match free {
            Ok(free) => free < reserve,
            // Not to know is no reason to refuse: the log itself is checked.
            Err(error) => {
                tracing::warn!("the room on the disk is not known: {}", OneLine(&error));
                false
            }
        };
        match (self.is_short.swap(is_short, Ordering::Relaxed), is_short) {
            (false, true) => {
                tracing::warn!("fewer than {reserve} bytes are free: writes are refused");
            }
            (true, false) => tracing::info!("there is room again: writes are accepted"),
            (false, false) | (true, true) => {}
        }
    }
}

fn free_bytes(dir: &std::path::Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(dir)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_refused_below_the_reserve_and_accepted_above_it() {
        let room = DiskRoom::default();
        for (free, is_short) in [(100, false), (99, true), (98, true), (100, false)] {
            room.look(Ok(free), 100);
            assert_eq!(room.is_short(), is_short, "{free}");
        }
    }

    #[test]
    fn disk_that_does_not_tell_refuses_nothing() {
        let room = DiskRoom::default();
        room.look(Ok(0), 100);
        room.look(Err(io::Error::other("no answer")), 100);
        assert!(!room.is_short());
    }

    #[test]
    fn room_of_a_real_disk_is_known() {
        assert!(free_bytes(&std::env::temp_dir()).unwrap() > 0);
    }
}
