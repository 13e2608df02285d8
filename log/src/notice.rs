//! Notices: what happens in the log, for people to know, and whom to tell.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::LogError;
use crate::types::Index;

/// Called with the error that ended the log, on a thread of the log's. Whoever
/// opens a log for good ends the process here.
pub type OnFatal = Arc<dyn Fn(LogError) + Send + Sync>;

/// Called with what happens in the log, on a thread of the log's.
pub type OnNotice = Arc<dyn Fn(Notice) + Send + Sync>;

/// Something that happened in the log, and that people may want to know.
#[derive(Debug)]
pub enum Notice {
    /// A commit took long.
    Stalled {
        /// How long so far.
        took: Duration,
        /// How many did, since the log was opened.
        count: u64,
    },
    /// Settled entries have been sealed.
    Sealed {
        /// The file.
        path: PathBuf,
        /// How long it is.
        bytes: u64,
        /// The last command in it.
        last: Index,
    },
    /// Files that were more than is to be kept are gone.
    Dropped {
        /// How many.
        files: usize,
        /// The last command that is no longer kept.
        last: Index,
    },
    /// A sealed file cannot be read back as it was written.
    Damaged(LogError),
    /// There is no room to seal anything: what is settled stays where it is.
    NoRoomToSeal(LogError),
}
