//! The watchdog: notices a write that takes long, or does not come to an end.
//!
//! okaywal waits for ever if an fsync failed on a thread of its own, and a disk
//! may hang. Either way nothing can be acknowledged any more, and the process had
//! better end than pretend.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::LogError;
use crate::files::IoError;
use crate::notice::{Notice, OnFatal, OnNotice};

/// How long a write may take: longer than any disk that still works needs.
const LIMIT: Duration = Duration::from_mins(1);

/// How long a write may take without anybody being told.
const STALL: Duration = Duration::from_secs(1);

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(250);

// Whoever is told that it is over has been told before that it takes long.
const _: () = assert!(INTERVAL.as_millis() < STALL.as_millis());
const _: () = assert!(STALL.as_millis() + 2 * INTERVAL.as_millis() < LIMIT.as_millis());

/// Watches the writer. Its thread ends with it.
pub(crate) struct Watchdog {
    /// When the write under way began.
    begun: Arc<Mutex<Option<Instant>>>,
}

impl Watchdog {
    /// Starts to watch; calls `on_notice` when a write takes long, and `on_fatal`
    /// when it takes too long.
    pub(crate) fn start(
        dir: PathBuf,
        on_fatal: OnFatal,
        on_notice: OnNotice,
    ) -> Result<Self, IoError> {
        let begun = Arc::default();
        let watched = Arc::downgrade(&begun);
        let failed = IoError::at("start a watchdog for", &dir);
        let thread = thread::Builder::new().name("log-watchdog".to_owned());
        thread.spawn(move || watch(&watched, &dir, &on_fatal, &on_notice)).map_err(failed)?;
        Ok(Self { begun })
    }

    /// Notes that a write begins.
    pub(crate) fn begin(&self) {
        self.set(Some(Instant::now()));
    }

    /// Notes that the write came to an end.
    pub(crate) fn end(&self) {
        self.set(None);
    }

    fn set(&self, begun: Option<Instant>) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = begun;
    }
}

fn watch(
    watched: &Weak<Mutex<Option<Instant>>>,
    dir: &Path,
    on_fatal: &OnFatal,
    on_notice: &OnNotice,
) {
    let (mut told, mut count) = (None, 0);
    while let Some(begun) = watched.upgrade() {
        let begun = *begun.lock().unwrap_or_else(PoisonError::into_inner);
        let took = begun.map_or(Duration::ZERO, |begun| begun.elapsed());
        if took > LIMIT {
            let (dir, seconds) = (dir.to_owned(), LIMIT.as_secs());
            return on_fatal(LogError::Stalled { dir, seconds });
        }
        if took > STALL && told != begun {
            count += 1;
            told = begun;
            on_notice(Notice::Stalled { took, count });
        }
        thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn slow_writes_are_told_once_each_and_counted() {
        let (sender, told) = mpsc::channel();
        let on_notice: OnNotice = Arc::new(move |notice| sender.send(notice).unwrap());
        let on_fatal: OnFatal = Arc::new(|error| panic!("{error}"));
        let watchdog = Watchdog::start(PathBuf::from("wal"), on_fatal, on_notice).unwrap();
        for expected in 1..=2 {
            watchdog.begin();
            let notice = told.recv_timeout(Duration::from_mins(1)).unwrap();
            let Notice::Stalled { took, count } = notice else { panic!("{notice:?}") };
            assert_eq!(count, expected);
            assert!(took > STALL, "{took:?}");
            // It goes on for a while, and is not told of again.
            assert!(told.recv_timeout(2 * INTERVAL).is_err());
            watchdog.end();
        }
    }
}
