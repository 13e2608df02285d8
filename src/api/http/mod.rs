//! HTTP, as every face of the store speaks it.

pub mod answer;
pub(super) mod answering;
pub mod bad;
pub(super) mod connection;
pub(super) mod door;
pub(super) mod escapes;
pub(super) mod files;
pub(super) mod head;
mod linger;
pub mod problem;
pub(super) mod request;
pub mod same_origin;
pub(super) mod socket;
pub(super) mod wrong_door;
