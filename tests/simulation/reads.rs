//! Reads that need not be fresh: of what a machine has by now, or once it has a certain
//! command. They begin when clients would be let in, long before a machine is ready.

use std::sync::Arc;
use std::time::Duration;

use etcd::node::{Freshness, Node};
use etcd_log::{Index, KeyPath};
use etcd_projections::Node as TreeNode;

use super::client::KEYS;
use super::linearizability::order::{self, Shown, What};
use super::world::World;

/// How long a read may take.
const LIMIT: Duration = Duration::from_secs(2);

/// How long it is between reads, in milliseconds.
const PAUSE: (u64, u64) = (20, 300);

/// Reads until the machine crashes.
pub(crate) async fn run(world: World, name: Arc<str>, node: Node) {
    let dice = world.dice();
    while !world.is_quiet() {
        let key = *dice.pick(&KEYS);
        let called = world.tick();
        let freshness = if dice.one_in(3) {
            order::Freshness::AtLeast(world.newest_shown())
        } else {
            order::Freshness::Stale
        };
        let asked = match freshness {
            order::Freshness::AtLeast(index) => Freshness::AtLeast(Index(index)),
            order::Freshness::Stale | order::Freshness::Linearizable => Freshness::Stale,
        };
        if let Ok(published) = node.read(asked, LIMIT).await {
            let value = match published.state.tree().get(&KeyPath::clean(key).unwrap()) {
                Some(TreeNode::File { value, .. }) => Some(value.to_string()),
                Some(TreeNode::Directory) | None => None,
            };
            let what = What::Read { key: key.to_owned(), value, freshness };
            let (machine, index) = (name.to_string(), published.state.position().index.0);
            world.show(Shown { machine, called, answered: world.tick(), index, what });
        }
        let (least, most) = PAUSE;
        tokio::time::sleep(dice.millis(least, most)).await;
    }
}
