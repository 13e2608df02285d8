//! The pace at which the past is told while much is written: writes come first.
//!
//! ```text
//! nothing is written     as fast as it is read
//! much is                all who read together work for a third of the time, on one core
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_log::Index;
use tokio::time::Instant;

/// How many commands a second are much.
const MANY: u64 = 2000;

/// How often to look how many there are.
const INTERVAL: Duration = Duration::from_millis(100);

/// What it takes to hand an event to a client, about.
const TELLING: Duration = Duration::from_micros(2);

/// Which part of the time may be spent.
const PART: u32 = 3;

/// The pace of all who read. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    /// When it was looked how far the log had come, and how far that was.
    looked: (Instant, Index),
    is_much: bool,
    /// When what has been read is paid for.
    free: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        let now = Instant::now();
        let shared = Shared { looked: (now, Index(u64::MAX)), is_much: false, free: now };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }
}

impl Pace {
    /// Returns how long to rest after a read that took so long and found so many events,
    /// where the log has come to a command.
    pub(super) fn rest_after(&self, read: Duration, events: usize, newest: Index) -> Duration {
        let now = Instant::now();
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.look(now, newest);
        if !shared.is_much {
            return Duration::ZERO;
        }
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        let work = read + TELLING * events;
        shared.free = shared.free.max(now) + work * PART;
        shared.free - now
    }
}

impl Shared {
    fn look(&mut self, now: Instant, newest: Index) {
        let (then, index) = self.looked;
        let passed = now - then;
        if passed < INTERVAL {
            return;
        }
        let written = u128::from(newest.0.saturating_sub(index.0));
        self.is_much = written * 1000 > u128::from(MANY) * passed.as_millis();
        self.looked = (now, newest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::limit;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn rests_only_while_much_is_written() {
        limit::begin();
        let pace = Pace::default();
        let mut newest = Index(10);
        let mut rest = async |commands: u64| {
            tokio::time::advance(INTERVAL).await;
            newest.0 += commands;
            pace.rest_after(MS, 1000, newest)
        };
        assert_eq!(rest(0).await, Duration::ZERO, "nobody knows yet");
        assert_eq!(rest(100).await, Duration::ZERO);
        assert_eq!(rest(1000).await, MS * 9);
        assert_eq!(rest(1000).await, MS * 9, "the last one has been paid for");
        assert_eq!(rest(0).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_read_rest_together() {
        limit::begin();
        let pace = Pace::default();
        pace.rest_after(MS, 0, Index(0));
        for commands in [0, 10_000] {
            tokio::time::advance(INTERVAL).await;
            pace.rest_after(Duration::ZERO, 0, Index(commands));
        }
        let rests: Vec<_> = (0..3).map(|_| pace.rest_after(MS, 0, Index(10_000))).collect();
        assert_eq!(rests, [MS * 3, MS * 6, MS * 9]);
    }
}
