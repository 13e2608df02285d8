//! What a machine keeps on its disk besides the log itself, and the log as a stream.

pub mod backfill;
pub mod checkpoint;
pub mod data_dir;
pub mod disk_space;
pub mod events;
pub mod log_stream;
pub(crate) mod recovery;
pub mod stored;
