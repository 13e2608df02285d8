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
//!
//! The other way round, a clock that jumps ahead would let all expire that has a time
//! to live. How much time has passed says the clock that only goes on, which nobody
//! sets. So a jump of more than `JUMP` is not followed: time goes on from where it
//! was, a tenth faster than it does, until the clock is met again.
//!
//! *Limits*: the clock that only goes on stands still while a machine is suspended. A
//! jump that comes slower than a tenth, or in steps of less than `JUMP`, is followed.
//! When it starts, a machine has nothing to judge its clock by.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_log::LogTime;
use tokio::time::Instant;

use crate::util::clock::Clock;

/// How far ahead a clock may be of where it should be by now: further than it is set
/// when it is right, and less than most keys live that have a time to live at all.
pub(crate) const JUMP: Duration = Duration::from_mins(1);

/// Tells what time it is for the log. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct LogClock {
    clock: Clock,
    seen: Arc<Mutex<Seen>>,
}

/// What the clock has seen so far.
#[derive(Debug, Default)]
struct Seen {
    /// The last logged time that was ahead of the clock, and when that was.
    ahead: Option<(LogTime, Instant)>,
    /// The time that was told last, and when that was.
    told: Option<(LogTime, Instant)>,
    /// Whether the clock has jumped ahead, and is not met again yet.
    has_jumped: bool,
}

impl LogClock {
    /// Makes the log's clock of a machine's.
    pub fn new(clock: Clock) -> Self {
        Self { clock, seen: Arc::default() }
    }

    /// Returns the time, for a log that has come to this time.
    pub(crate) fn now(&self, logged: LogTime) -> LogTime {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        go_on(&mut seen, self.clock.now(), logged, Instant::now())
    }

    /// Returns how long it is until a time; nothing, if it has come.
    pub fn until(&self, time: LogTime, logged: LogTime) -> Duration {
        Duration::from_nanos(time.0.saturating_sub(self.now(logged).0))
    }
}

fn go_on(seen: &mut Seen, clock: LogTime, logged: LogTime, now: Instant) -> LogTime {
    let clock = without_jump(seen, clock, now);
    let time = not_behind(&mut seen.ahead, clock, logged, now);
    seen.told = Some((time, now));
    time
}

/// Returns the clock's time; if it has jumped, how far it can have come at most.
fn without_jump(seen: &mut Seen, clock: LogTime, now: Instant) -> LogTime {
    let Some((told, at)) = seen.told else { return clock };
    let gone = nanos(now - at);
    let fastest = told.0.saturating_add(gone).saturating_add(gone / 10);
    let ahead = Duration::from_nanos(clock.0.saturating_sub(fastest));
    let has_jumped = ahead > JUMP;
    if has_jumped && !seen.has_jumped {
        tracing::warn!(
            "the clock has jumped ahead by {} s: keys expire as if it went a tenth faster, until it is met again",
            ahead.as_secs()
        );
    }
    seen.has_jumped = has_jumped;
    if has_jumped { LogTime(fastest) } else { clock }
}

/// Returns the clock's time, or one that goes on from the logged time if that is ahead.
fn not_behind(
    ahead: &mut Option<(LogTime, Instant)>,
    clock: LogTime,
    logged: LogTime,
    now: Instant,
) -> LogTime {
    let reached = ahead.map_or(LogTime(0), |(since, at)| {
        LogTime(since.0.saturating_add(nanos(now - at) / 10 * 9))
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

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
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
        let mut seen = Seen::default();
        assert_eq!(go_on(&mut seen, seconds(100), seconds(99), Instant::now()), seconds(100));
    }

    #[test]
    fn log_that_is_ahead_goes_on_and_is_caught_up_with() {
        let (mut seen, begun) = (Seen::default(), Instant::now());
        let mut logged = seconds(1000);
        for passed in 0..200 {
            let now = begun + Duration::from_secs(passed);
            let time = go_on(&mut seen, seconds(990 + passed), logged, now);
            let expected = if passed < 100 { 10_000 + passed * 9 } else { 9_900 + passed * 10 };
            assert_eq!(time, LogTime(expected * SECOND / 10), "after {passed} s");
            logged = time;
        }
    }

    #[test]
    fn whoever_begins_to_lead_goes_on_from_the_log() {
        let (mut seen, begun) = (Seen::default(), Instant::now());
        // As a follower it has looked once, long ago.
        assert_eq!(go_on(&mut seen, seconds(0), seconds(1000), begun), seconds(1000));
        let now = begun + Duration::from_secs(500);
        assert_eq!(go_on(&mut seen, seconds(500), seconds(1500), now), seconds(1500));
        let now = now + Duration::from_secs(10);
        assert_eq!(go_on(&mut seen, seconds(510), seconds(1500), now), seconds(1509));
    }

    #[test]
    fn clock_that_jumps_ahead_is_not_followed_at_once() {
        let (mut seen, begun) = (Seen::default(), Instant::now());
        let (before, jump) = (seconds(1000), 1000);
        assert_eq!(go_on(&mut seen, before, before, begun), before);
        let mut logged = before;
        for passed in 1..=jump * 10 {
            let now = begun + Duration::from_secs(passed);
            let clock = before.0 + (passed + jump) * SECOND;
            let time = go_on(&mut seen, LogTime(clock), logged, now);
            let fastest = before.0 + passed * 11 * SECOND / 10;
            let is_met = clock <= fastest + nanos(JUMP);
            assert_eq!(time, LogTime(if is_met { clock } else { fastest }), "after {passed} s");
            assert_eq!(seen.has_jumped, !is_met);
            logged = time;
        }
        assert!(!seen.has_jumped, "it is met again");
    }

    #[test]
    fn clock_that_is_set_a_little_is_followed() {
        let (mut seen, begun) = (Seen::default(), Instant::now());
        assert_eq!(go_on(&mut seen, seconds(100), seconds(0), begun), seconds(100));
        assert_eq!(go_on(&mut seen, seconds(159), seconds(100), begun), seconds(159));
        assert!(!seen.has_jumped);
    }

    #[test]
    fn clock_that_goes_back_and_forth_again_is_no_jump() {
        let (mut seen, begun) = (Seen::default(), Instant::now());
        assert_eq!(go_on(&mut seen, seconds(9000), seconds(9000), begun), seconds(9000));
        let now = begun + Duration::from_secs(10);
        assert_eq!(go_on(&mut seen, seconds(10), seconds(9000), now), seconds(9000));
        let now = now + Duration::from_secs(10);
        assert_eq!(go_on(&mut seen, seconds(9020), seconds(9000), now), seconds(9020));
    }

    #[test]
    fn log_that_goes_on_elsewhere_says_what_time_it_is() {
        let (mut seen, begun) = (Seen::default(), Instant::now());
        assert_eq!(go_on(&mut seen, seconds(100), seconds(100), begun), seconds(100));
        // It was suspended; the others were not, and have written what time it is.
        assert_eq!(go_on(&mut seen, seconds(9000), seconds(8990), begun), seconds(8990));
        assert_eq!(go_on(&mut seen, seconds(9000), seconds(8990), begun), seconds(9000));
    }
}
