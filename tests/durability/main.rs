//! What has been acknowledged is there for ever: after crashes, on disks that fail or run
//! full, in sealed files and checkpoints, and in logs that were recorded long ago.

mod archive;
mod checkpoint_damage;
mod checkpoints;
mod crash;
mod disk_faults;
mod divergence;
mod events;
mod full_disk;
mod imported;
mod recorded;
mod storage_suite;
#[path = "../support/mod.rs"]
mod support;
