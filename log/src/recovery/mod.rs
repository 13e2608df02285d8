//! Recovery: what a directory of segments is found to hold, judged before any of it
//! is used, and what is cut off of it.

pub(crate) mod high_water;
pub(crate) mod repair;
pub(crate) mod scan;
pub(crate) mod scanned;
mod segment_scan;
