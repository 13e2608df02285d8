//! The leader's clock: the one place where time is read for the log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_log::LogTime;

/// Returns the time by this machine's clock.
pub(super) fn now() -> LogTime {
    // A clock before 1970 counts as 1970: logged time never goes back anyway.
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).map_or(LogTime::MAX, LogTime).min(LogTime::MAX)
}

/// Returns how long it is until a time; nothing, if it has come.
pub(super) fn until(time: LogTime) -> Duration {
    Duration::from_nanos(time.0.saturating_sub(now().0))
}
