//! The log's clock: what time a leader writes into the log.
//!
//! It is that of the machine, unless the logged time is ahead of it, because the clock
//! of an earlier leader was. Logged time never goes back; but it must not stand still
//! until this clock has come so far, either, for no key would expire so long. So it
//! goes on from where it is, a tenth slower than time does.
//!
//! ```text
//! logged  ──────────╮ an hour ahead
//!                    ╲ nine minutes in ten
//! clock   ────────────────────────────── met again ten hours later
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_log::LogTime;
use tokio::time::Instant;

use crate::clock::Clock;

/// Tells what time it is for the log. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct LogClock {
    clock: Clock,
    /// The last logged time that was ahead of the clock, and when that was.
    ahead: Arc<Mutex<Option<(LogTime, Instant)>>>,
}

impl LogClock {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, ahead: Arc::default() }
    }

    /// Returns the time, for a log that has come to this time.
    pub(super) fn now(&self, logged: LogTime) -> LogTime {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        go_on(&mut ahead, self.clock.now(), logged, Instant::now())
    }

    /// Returns how long it is until a time; nothing, if it has come.
    pub(super) fn until(&self, time: LogTime, logged: LogTime) -> Duration {
        Duration::from_nanos(time.0.saturating_sub(self.now(logged).0))
    }
}

fn go_on(
    ahead: &mut Option<(LogTime, Instant)>,
    clock: LogTime,
    logged: LogTime,
    now: Instant,
) -> LogTime {
    let reached = ahead.map_or(LogTime(0), |(since, at)| {
        let gone = u64::try_from((now - at).as_nanos()).unwrap_or(u64::MAX);
        LogTime(since.0.saturating_add(gone / 10 * 9))
    });
    if clock >= logged.max(reached) {
        *ahead = None;
        return clock;
    }
    if logged > reached {
        *ahead = Some((logged, now));
    }
    logged.max(reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn seconds(seconds: u64) -> LogTime {
        LogTime(seconds * SECOND)
    }

    #[test]
    fn log_follows_the_clock() {
        let mut ahead = None;
        assert_eq!(go_on(&mut ahead, seconds(100), seconds(99), Instant::now()), seconds(100));
    }

    #[test]
    fn log_that_is_ahead_goes_on_and_is_caught_up_with() {
        let (mut ahead, begun) = (None, Instant::now());
        let mut logged = seconds(1000);
        for passed in 0..200 {
            let now = begun + Duration::from_secs(passed);
            let time = go_on(&mut ahead, seconds(990 + passed), logged, now);
            let expected = if passed < 100 { 10_000 + passed * 9 } else { 9_900 + passed * 10 };
            assert_eq!(time, LogTime(expected * SECOND / 10), "after {passed} s");
            logged = time;
        }
    }

    #[test]
    fn whoever_begins_to_lead_goes_on_from_the_log() {
        let (mut ahead, begun) = (None, Instant::now());
        // As a follower it has looked once, long ago.
        assert_eq!(go_on(&mut ahead, seconds(0), seconds(1000), begun), seconds(1000));
        let now = begun + Duration::from_secs(500);
        assert_eq!(go_on(&mut ahead, seconds(500), seconds(1500), now), seconds(1500));
        let now = now + Duration::from_secs(10);
        assert_eq!(go_on(&mut ahead, seconds(510), seconds(1500), now), seconds(1509));
    }
}
