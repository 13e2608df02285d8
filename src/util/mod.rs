//! What everything else may use, and what uses nothing of this program itself.

pub(crate) mod accept;
pub(crate) mod blocking;
pub mod clock;
pub mod error_chain;
#[cfg(test)]
pub(crate) mod fuzz;
pub(crate) mod in_path;
#[cfg(test)]
#[path = "../../tests/support/limit.rs"]
pub(crate) mod limit;
pub mod moment;
pub mod printable;
pub(crate) mod rate_limit;
#[cfg(test)]
#[path = "../../tests/support/scripts_are_tests.rs"]
pub(crate) mod scripts_are_tests;
