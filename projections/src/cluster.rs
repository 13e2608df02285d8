//! The cluster: who it is, and what its log may say.
//!
//! A `sync` sets the key `/_etcd/cluster`, an `upgrade` sets it anew; this is the fold over
//! that key.
//!
//! ```text
//! /_etcd/cluster = 00000000000000c1             the first format of the log
//! /_etcd/cluster = 00000000000000c1 format=2    a later one
//! ```

use std::fmt;

use etcd_log::{ClusterId, LogFormat};

use crate::event::Change;
use crate::key_tree::{KeyTree, TreeNode};
use crate::outcome::{Outcome, Position, Projection, What};
use crate::system_keys::{CLUSTER_KEY, cluster_key};

/// What the cluster's key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterValue {
    /// Who the cluster is.
    pub cluster: ClusterId,
    /// The format of its log that is in force.
    pub format: LogFormat,
}

impl ClusterValue {
    /// Returns what the key says in a tree, if it is there.
    pub(crate) fn of(tree: &KeyTree) -> Option<Self> {
        match tree.get(&cluster_key())? {
            TreeNode::File { value, .. } => Some(Self::read(value)),
            TreeNode::Directory => None,
        }
    }

    /// Reads the value of the key; nothing, if it is not what a cluster writes there.
    pub fn parse(value: &str) -> Option<Self> {
        let (cluster, format) = value.split_once(" format=").unwrap_or((value, "1"));
        Some(Self { cluster: cluster.parse().ok()?, format: LogFormat(format.parse().ok()?) })
    }

    /// Reads the value of the key in a state.
    ///
    /// # Panics
    ///
    /// If the value is not what it is written as: nobody else can write there.
    fn read(value: &str) -> Self {
        Self::parse(value).expect("a cluster's id and a format stand there")
    }
}

impl fmt::Display for ClusterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cluster.fmt(f)?;
        if self.format == LogFormat::FIRST { Ok(()) } else { write!(f, " format={}", self.format) }
    }
}

/// What the log may say: the format in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct FormatInForce {
    position: Position,
    format: LogFormat,
}

impl FormatInForce {
    /// Returns it.
    pub(crate) fn get(&self) -> LogFormat {
        self.format
    }

    /// Restores it from what the tree says.
    pub(crate) fn restore(position: Position, tree: &KeyTree) -> Self {
        let format = ClusterValue::of(tree).map_or(LogFormat::FIRST, |value| value.format);
        Self { position, format }
    }
}

impl Projection for FormatInForce {
    fn position(&self) -> Position {
        self.position
    }

    fn fold(&mut self, outcome: &Outcome) {
        self.position.follow(outcome);
        let What::Event(event) = &outcome.what else { return };
        if let Change::Set { value, .. } = &event.change
            && event.key.as_str() == CLUSTER_KEY
        {
            self.format = ClusterValue::read(value).format;
        }
    }
}

#[cfg(test)]
mod tests {
    use etcd_log::{Batch, Command, LogTime};

    use super::*;
    use crate::state::State;

    fn apply(state: &mut State, command: Command) {
        let time = LogTime(state.position().index.0 + 1);
        state.apply(&Batch::new(time, vec![command]));
    }

    #[test]
    fn format_begins_with_a_sync_and_never_goes_back() {
        let mut state = State::new(10);
        let sync = |format| Command::Sync { cluster: ClusterId(0xc1), format: LogFormat(format) };
        let upgrade = |format| Command::Upgrade { format: LogFormat(format) };
        assert_eq!(state.format(), LogFormat(1));
        for (command, format, value) in [
            (upgrade(2), 1, None),
            (sync(1), 1, Some("00000000000000c1")),
            (upgrade(2), 2, Some("00000000000000c1 format=2")),
            (upgrade(1), 2, Some("00000000000000c1 format=2")),
            (upgrade(7), 7, Some("00000000000000c1 format=7")),
            (sync(2), 2, Some("00000000000000c1 format=2")),
        ] {
            let text = format!("{command:?}");
            apply(&mut state, command);
            assert_eq!(state.format(), LogFormat(format), "{text}");
            let found = match state.tree().get(&cluster_key()) {
                Some(TreeNode::File { value, .. }) => Some(&**value),
                Some(TreeNode::Directory) | None => None,
            };
            assert_eq!(found, value, "{text}");
            assert_eq!(state.cluster(), value.map(|_| ClusterId(0xc1)), "{text}");
        }
    }

    #[test]
    fn value_is_read_as_it_is_written() {
        for format in [1, 2, 70] {
            let value = ClusterValue { cluster: ClusterId(0xc1), format: LogFormat(format) };
            assert_eq!(ClusterValue::parse(&value.to_string()), Some(value));
        }
        for wrong in ["", "x", "c1 format=", "c1 format=x", "c1 format=1 format=2", "c1 2"] {
            assert_eq!(ClusterValue::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn format_is_the_same_from_a_checkpoint() {
        let mut state = State::new(10);
        apply(&mut state, Command::Sync { cluster: ClusterId(0xc1), format: LogFormat(2) });
        let items: Vec<_> = state.snapshot_items().collect();
        let restored = State::from_snapshot(&state.snapshot_header(), items, 10).unwrap();
        assert_eq!(restored.format(), LogFormat(2));
    }
}
