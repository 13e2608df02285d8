//! The machines of the cluster, by name.
//!
//! A `join` sets a key below `/_etcd/machines`, a `leave` deletes it; this is the
//! fold over those keys.
//!
//! ```text
//! /_etcd/machines/node1 = node=00000000000000a1&raft=http://127.0.0.1:7001&etcd=http://127.0.0.1:4001
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_log::{KeyPath, Machine};

use crate::event::Change;
use crate::outcome::{Outcome, Position, Projection, What};
use crate::system_keys::is_machine;

/// The machines of the cluster, by name.
#[derive(Clone, Debug, Default)]
pub struct Machines {
    position: Position,
    by_name: Arc<BTreeMap<Arc<str>, Machine>>,
}

impl Machines {
    /// Returns a machine.
    pub fn get(&self, name: &str) -> Option<&Machine> {
        self.by_name.get(name)
    }

    /// Returns all machines, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &Machine> {
        self.by_name.values()
    }

    /// Restores the machines from the keys that describe them.
    pub(crate) fn restore<'a>(
        position: Position,
        nodes: impl IntoIterator<Item = (&'a KeyPath, &'a str)>,
    ) -> Self {
        let machines = nodes.into_iter().map(|(key, value)| {
            let machine = decode(key.name(), value);
            (Arc::clone(&machine.name), machine)
        });
        Self { position, by_name: Arc::new(machines.collect()) }
    }
}

impl Projection for Machines {
    fn position(&self) -> Position {
        self.position
    }

    fn fold(&mut self, outcome: &Outcome) {
        self.position.follow(outcome);
        let What::Event(event) = &outcome.what else { return };
        if !is_machine(&event.key) {
            return;
        }
        let by_name = Arc::make_mut(&mut self.by_name);
        match &event.change {
            Change::Set { value, .. } => {
                let machine = decode(event.key.name(), value);
                by_name.insert(Arc::clone(&machine.name), machine);
            }
            Change::Delete { .. } | Change::Expire { .. } => {
                by_name.remove(event.key.name());
            }
            Change::DeleteDir => unreachable!("{} is a machine's", event.key),
        }
    }
}

/// Returns whether [`encode`] can write a machine so that it can be read back.
pub(crate) fn can_encode(machine: &Machine) -> bool {
    !machine.peer_url.contains('&') && !machine.client_url.contains('&')
}

/// Writes a machine as the value of its key.
pub(crate) fn encode(machine: &Machine) -> String {
    let Machine { name: _, node, peer_url, client_url } = machine;
    format!("node={node}&raft={peer_url}&etcd={client_url}")
}

/// Reads a machine from its key's name and value.
///
/// # Panics
///
/// If the value is not what [`encode`] writes: nobody else can write there.
fn decode(name: &str, value: &str) -> Machine {
    let fields: BTreeMap<_, _> =
        value.split('&').filter_map(|field| field.split_once('=')).collect();
    let field = |field: &str| *fields.get(field).unwrap_or_else(|| panic!("no {field} in {value}"));
    Machine {
        name: Arc::from(name),
        node: field("node").parse().expect("a node id stands there"),
        peer_url: Arc::from(field("raft")),
        client_url: Arc::from(field("etcd")),
    }
}
