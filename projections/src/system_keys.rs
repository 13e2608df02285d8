//! The keys of the system's own: readable by all, written by no client.
//!
//! ```text
//! /_etcd
//! ├─ cluster             who the cluster is
//! └─ machines
//!    ├─ node1            a machine of that name
//!    └─ node2
//! ```
//!
//! Deliberately not here: what a machine's value says (`machines`).

use etcd_log::KeyPath;

/// Where the system keeps its own keys: readable by all, written by no client.
const SYSTEM_KEY: &str = "/_etcd";

/// The key that holds the identity of the cluster.
pub const CLUSTER_KEY: &str = "/_etcd/cluster";

/// The directory with a key for each machine.
const MACHINES_KEY: &str = "/_etcd/machines";

// A machine's key is made from its name, and the cluster's key always.
const _: () = assert!(CLUSTER_KEY.len() <= KeyPath::MAX_BYTES);
const _: () = assert!(MACHINES_KEY.len() < KeyPath::MAX_BYTES);

/// Returns whether only the system may write a key.
pub fn is_reserved(key: &KeyPath) -> bool {
    key.as_str()
        .strip_prefix(SYSTEM_KEY)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns the key that describes a machine; none, if the name is not one part of
/// a key.
pub fn machine_key(name: &str) -> Option<KeyPath> {
    let key = KeyPath::clean(&format!("{MACHINES_KEY}/{name}")).ok()?;
    let length = MACHINES_KEY.len() + 1 + name.len();
    (key.name() == name && key.as_str().len() == length).then_some(key)
}

/// Returns the key that holds the identity of the cluster.
pub(crate) fn cluster_key() -> KeyPath {
    KeyPath::clean(CLUSTER_KEY).expect("the system's keys are short")
}

/// Returns whether a key describes a machine.
pub(crate) fn is_machine(key: &KeyPath) -> bool {
    key.as_str().strip_prefix(MACHINES_KEY).is_some_and(|rest| rest.starts_with('/'))
}
