//! Checkpoints: the state at some position of the log, on disk. A cache of the
//! log: losing one costs time, never data.

mod file;
mod name;
mod store;
mod thinning;
mod writer;

pub use file::{Checkpoint, CheckpointError};
pub use name::CheckpointFile;
pub use store::CheckpointStore;
pub use thinning::{NEWEST, leads_into};
pub use writer::CheckpointWriter;
