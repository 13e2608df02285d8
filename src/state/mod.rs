//! What the log says, as this machine has applied it, and who waits for it.

pub mod filter;
pub mod log_clock;
pub mod published;
pub mod recent_outcomes;
pub mod replay;
#[cfg(test)]
mod scripts;
pub(crate) mod watch_hub;
