//! What the log is tested with: disks that crash, a model of the log, and what its tests
//! share.

#[cfg(test)]
mod compare;
#[cfg_attr(not(test), expect(dead_code, reason = "the tests of this crate use all of it"))]
mod crash_image;
#[cfg(test)]
mod crash_matrix;
#[cfg(feature = "simulated-disk")]
pub mod crashing;
#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
#[path = "../../../tests/support/limit.rs"]
pub(crate) mod limit;
#[cfg(test)]
mod mirror;
#[cfg(test)]
mod model;
#[cfg(test)]
mod okaywal_hazards;
#[cfg_attr(not(test), expect(dead_code, reason = "the tests of this crate use all of it"))]
mod simulated_disk;
#[cfg(test)]
mod steps;
