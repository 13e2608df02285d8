//! Whom this machine knows, for how long, and about whom it has asked.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_log::NodeId;
use tokio::time::Instant;

/// For how long it need not be looked up again that a machine is a member.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// How long a machine is heard after it was known as a member last.
pub(super) const HEARD: Duration = Duration::from_secs(10);

/// How long after a request another one follows about the same machine.
const PAUSE: Duration = Duration::from_millis(500);

/// How many strangers are asked about at a time. An answer takes no longer than a round
/// trip, so that many with ids that they make up do not keep out one that is real.
const MOST: usize = 8;

/// Of how many strangers it is remembered that they were asked about.
const REMEMBERED: usize = 1000;

/// Whom this machine knows.
#[derive(Debug, Default)]
pub(super) struct Acquaintance {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When each machine was known as a member last.
    members: BTreeMap<NodeId, Instant>,
    /// When the others were asked last about each stranger.
    strangers: BTreeMap<NodeId, Instant>,
    /// How many they are being asked about.
    asked_about: usize,
}

impl Acquaintance {
    /// Notes that a machine is a member, or may be the one that leads.
    pub(super) fn note(&self, node: NodeId) {
        let mut known = self.lock();
        known.members.retain(|_, at| at.elapsed() < HEARD);
        known.members.insert(node, Instant::now());
    }

    pub(super) fn knew(&self, node: NodeId, within: Duration) -> bool {
        self.lock().members.get(&node).is_some_and(|at| at.elapsed() < within)
    }

    /// Returns whether it is time to ask about a machine, and notes that it is asked.
    pub(super) fn is_to_be_asked_about(&self, node: NodeId) -> bool {
        let Known { strangers, asked_about, .. } = &mut *self.lock();
        strangers.retain(|_, at| at.elapsed() < PAUSE);
        let is_due = *asked_about < MOST && !strangers.contains_key(&node);
        if is_due {
            *asked_about += 1;
            if strangers.len() < REMEMBERED {
                strangers.insert(node, Instant::now());
            }
        }
        is_due
    }

    /// Notes that the members have said what they know of one.
    pub(super) fn was_asked_about(&self) {
        self.lock().asked_about -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
