//! The clock: where time comes from for the log. A simulation brings its own.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_log::LogTime;

/// Tells the time. Cloning gives another handle.
#[derive(Clone)]
pub struct Clock {
    read: Arc<dyn Fn() -> LogTime + Send + Sync>,
}

impl Clock {
    /// Makes a clock that is read so.
    pub fn new(read: impl Fn() -> LogTime + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read) }
    }

    /// Returns the time by this clock.
    pub fn now(&self) -> LogTime {
        (self.read)()
    }

    /// Returns how long it is until a time; nothing, if it has come.
    pub fn until(&self, time: LogTime) -> Duration {
        Duration::from_nanos(time.0.saturating_sub(self.now().0))
    }
}

impl Default for Clock {
    /// The operating system's clock.
    fn default() -> Self {
        Self::new(|| {
            // A clock before 1970 counts as 1970: logged time never goes back anyway.
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since_epoch.as_nanos()).map_or(LogTime::MAX, LogTime).min(LogTime::MAX)
        })
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
