//! Who proposed an entry: the machine that led, by its name.

use std::collections::HashMap;
use std::sync::Arc;

use etcd_log::{Command, NodeId, Payload};
use etcd_projections::State;

use super::walk::Step;

/// The machines that have been known so far, those that left among them.
pub(super) struct Proposers {
    names: HashMap<NodeId, Arc<str>>,
}

impl Proposers {
    /// Knows the machines of a state.
    pub(super) fn of(state: &State) -> Self {
        let machines = state.machines().iter();
        Self { names: machines.map(|it| (it.node, Arc::clone(&it.name))).collect() }
    }

    /// Takes in who joins.
    pub(super) fn note(&mut self, step: &Step) {
        let Payload::Batch(batch) = &step.payload else { return };
        for command in &batch.commands {
            if let Command::Join(machine) = command {
                self.names.insert(machine.node, Arc::clone(&machine.name));
            }
        }
    }

    /// Returns whether a machine is called so, or has this id.
    pub(super) fn is(&self, node: Option<NodeId>, machine: &str) -> bool {
        node.is_some_and(|node| {
            let name = self.names.get(&node);
            name.is_some_and(|name| &**name == machine) || node.to_string() == machine
        })
    }
}
