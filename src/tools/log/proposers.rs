//! Who proposed an entry: the machine that led, by its name.

use std::collections::HashMap;
use std::sync::Arc;

use etcd_log::{Command, NodeId, Payload};
use etcd_projections::State;

use super::ToolError;
use super::source::Source;
use super::walk::Read;

/// The machines that a log knows, those that came later or left among them: a founder leads
/// before it has joined.
pub(super) struct Proposers {
    names: HashMap<NodeId, Arc<str>>,
}

impl Proposers {
    /// Reads who has joined, given the state that the log begins with.
    pub(super) fn of(source: &Source, start: &State) -> Result<Self, ToolError> {
        let machines = start.machines().iter();
        let mut names: HashMap<_, _> =
            machines.map(|machine| (machine.node, Arc::clone(&machine.name))).collect();
        for read in source.unfolded()?.1 {
            let Read::Entry { payload: Payload::Batch(batch), .. } = read? else { continue };
            for command in &batch.commands {
                if let Command::Join(machine) = command {
                    names.insert(machine.node, Arc::clone(&machine.name));
                }
            }
        }
        Ok(Self { names })
    }

    /// Returns whether a machine is called so, or has this id.
    pub(super) fn is(&self, node: Option<NodeId>, machine: &str) -> bool {
        node.is_some_and(|node| {
            let name = self.names.get(&node);
            name.is_some_and(|name| &**name == machine) || node.to_string() == machine
        })
    }
}
