//! The segments: how a record lies in them, which entries they hold, and which of
//! them are full.

pub(crate) mod frame;
pub(crate) mod full_segments;
pub(crate) mod segment;
pub(crate) mod tail;
