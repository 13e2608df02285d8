//! How far a process has come with saying where its machine is.

use std::sync::Arc;

/// How far this process has come with saying where the machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Announcement {
    /// It has not: another one that runs goes before.
    Unannounced,
    /// It is in the log, or may be: another one that runs learns of it, and stops.
    Announcing,
    /// It is in the log.
    Announced,
    /// Another one runs there, and goes before.
    Elsewhere(Arc<str>),
}
