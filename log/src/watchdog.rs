//! The watchdog: notices a write that does not come to an end.
//!
//! okaywal waits for ever if an fsync failed on a thread of its own, and a disk
//! may hang. Either way nothing can be acknowledged any more, and the process had
//! better end than pretend.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::{IoError, LogError, OnFatal};

/// How long a write may take: longer than any disk that still works needs.
const LIMIT: Duration = Duration::from_mins(1);

/// How often to look.
const INTERVAL: Duration = Duration::from_secs(1);

/// Watches the writer. Its thread ends with it.
pub(crate) struct Watchdog {
    /// When the write under way began.
    begun: Arc<Mutex<Option<Instant>>>,
}

impl Watchdog {
    /// Starts to watch; calls `on_fatal` when a write takes too long.
    pub(crate) fn start(dir: PathBuf, on_fatal: OnFatal) -> Result<Self, IoError> {
        let begun = Arc::default();
        let watched = Arc::downgrade(&begun);
        let failed = IoError::at("start a watchdog for", &dir);
        let thread = thread::Builder::new().name("log-watchdog".to_owned());
        thread.spawn(move || watch(&watched, &dir, &on_fatal)).map_err(failed)?;
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

fn watch(watched: &Weak<Mutex<Option<Instant>>>, dir: &std::path::Path, on_fatal: &OnFatal) {
    while let Some(begun) = watched.upgrade() {
        let begun = *begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.is_some_and(|begun| begun.elapsed() > LIMIT) {
            let (dir, seconds) = (dir.to_owned(), LIMIT.as_secs());
            return on_fatal(LogError::Stalled { dir, seconds });
        }
        thread::sleep(INTERVAL);
    }
}
