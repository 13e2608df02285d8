//! How a log is opened.

use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::retention::Retain;
use crate::disk::SegmentSize;
use crate::notice::{OnFatal, OnNotice};
use crate::recovery::scan::MOST_SEGMENT_BYTES;
use crate::segments::frame::MAX_PAYLOAD;
use crate::types::NodeId;

/// The shortest segment: a base frame fits in it.
const LEAST_BYTES: u32 = 1 << 10;

/// The longest segment: a scan has it in memory.
const MOST_BYTES: u32 = 256 << 20;

/// How to open a log.
#[derive(Clone)]
pub struct WalOptions {
    /// Where the segments lie; created if it is not there.
    pub dir: PathBuf,
    /// Where the sealed files lie; created if it is not there.
    pub archive: PathBuf,
    /// Whose log it is.
    pub node: NodeId,
    /// Whether the log must hold something already. A log that was ever opened
    /// does; an empty one has been lost.
    pub must_exist: bool,
    /// How many bytes of recent entries to keep in memory.
    pub cache_bytes: usize,
    /// How many bytes to allocate for a segment: from 1 KiB to 256 MiB.
    pub segment_bytes: u32,
    /// How much of history to keep.
    pub retain: Retain,
    /// What to do when the disk fails.
    pub on_fatal: OnFatal,
    /// Whom to tell of what happens.
    pub on_notice: OnNotice,
}

impl WalOptions {
    /// How many bytes of recent entries are kept in memory unless somebody wants
    /// it otherwise.
    pub const CACHE_BYTES: usize = 4 << 20;

    /// How long a segment is unless somebody wants it otherwise. To make one stalls
    /// the commit that needs it, for longer the longer it is: 64 MiB take 50 ms, 16
    /// MiB 12 ms, and twice that while a checkpoint is written.
    pub const SEGMENT_BYTES: u32 = 8 << 20;

    /// The ordinary way to open a node's log, in these two directories.
    pub fn new(dir: PathBuf, archive: PathBuf, node: NodeId, on_fatal: OnFatal) -> Self {
        Self {
            dir,
            archive,
            node,
            must_exist: false,
            cache_bytes: Self::CACHE_BYTES,
            segment_bytes: Self::SEGMENT_BYTES,
            retain: Retain::DEFAULT,
            on_fatal,
            on_notice: Arc::new(drop),
        }
    }

    pub(super) fn segment_size(&self) -> SegmentSize {
        // The commit that fills a segment goes over its end, and is scanned with it.
        const {
            assert!(MOST_BYTES as u64 + (4 * MAX_PAYLOAD) as u64 <= MOST_SEGMENT_BYTES);
            assert!(Self::SEGMENT_BYTES >= LEAST_BYTES && Self::SEGMENT_BYTES <= MOST_BYTES);
        }
        SegmentSize { allocated: self.segment_bytes.clamp(LEAST_BYTES, MOST_BYTES) }
    }
}
