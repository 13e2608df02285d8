//! Events: what happened. An event cannot fail, and is the same on every machine.

use std::sync::Arc;

use etcd_log::{EventNumber, Index, KeyPath, LogTime};
use serde::{Deserialize, Serialize};

/// Something that happened to a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Its number: dense, from 1.
    pub number: EventNumber,
    /// The index of the command that caused it; for an expiry, of the last
    /// command before it.
    pub index: Index,
    /// The logged time at which it happened.
    pub time: LogTime,
    /// The key.
    pub key: KeyPath,
    /// What happened to it.
    pub change: Change,
}

impl Event {
    /// Returns about how many bytes of memory the event takes.
    pub fn size(&self) -> usize {
        128 + self.key.as_str().len() + self.change.values()
    }
}

/// What can happen to a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Change {
    /// It got a value.
    Set {
        /// The value.
        value: Arc<str>,
        /// The value before; absent if the key is new.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prev: Option<Arc<str>>,
        /// When it will expire; absent for never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<LogTime>,
    },
    /// Somebody deleted it.
    Delete {
        /// The value before.
        prev: Arc<str>,
        /// When it would have expired; absent for never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<LogTime>,
    },
    /// Somebody deleted it, and it was a directory.
    DeleteDir,
    /// Its time was over.
    Expire {
        /// The value before.
        prev: Arc<str>,
        /// When it was due.
        deadline: LogTime,
    },
}

impl Change {
    /// Returns how many bytes the values have, now and before.
    pub(crate) fn values(&self) -> usize {
        match self {
            Self::Set { value, prev, .. } => {
                value.len() + prev.as_ref().map_or(0, |prev| prev.len())
            }
            Self::Delete { prev, .. } | Self::Expire { prev, .. } => prev.len(),
            Self::DeleteDir => 0,
        }
    }

    /// Returns when the key expires, would have expired, or was due to.
    pub fn deadline(&self) -> Option<LogTime> {
        match self {
            Self::Set { deadline, .. } | Self::Delete { deadline, .. } => *deadline,
            Self::Expire { deadline, .. } => Some(*deadline),
            Self::DeleteDir => None,
        }
    }
}
