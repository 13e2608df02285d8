//! Notices: what happens in the log, for people to know.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::LogError;
use crate::types::Index;

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
