//! Reads that need not be fresh: of what a machine has by now, or once it has a certain
//! command. They begin when clients would be let in, long before a machine is ready.
//!
//! A machine that was started again, and hears nobody, shows after a while what it has,
//! which may be less than it had shown before. Until it is ready it counts as another.

use std::sync::Arc;
use std::time::Duration;

use etcd::node::{Freshness, Node};
use etcd_log::{Index, KeyPath};
use etcd_projections::TreeNode;

use super::client::KEYS;
use super::linearizability::order::{self, Shown, What};
use super::world::World;

/// How long a read may take.
const LIMIT: Duration = Duration::from_secs(2);

/// How long it is between reads, in milliseconds.
const PAUSE: (u64, u64) = (20, 300);

/// How long a machine that hears nobody waits at least before it shows what it has: a
/// little less than it does, for it begins to wait before it is up.
const HOLD: Duration = Duration::from_millis(2900);

/// Reads until the machine crashes.
pub(crate) async fn run(world: World, name: Arc<str>, node: Node) {
    let (dice, started) = (world.dice(), world.elapsed());
    let cut_off = format!("{name}, started at {started:?}");
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
            let is_held = world.elapsed() < started + HOLD;
            let is_whole = is_held || world.is_ready(&name);
            let machine = if is_whole { name.to_string() } else { cut_off.clone() };
            let index = published.state.position().index.0;
            world.show(Shown { machine, called, answered: world.tick(), index, what });
        }
        let (least, most) = PAUSE;
        tokio::time::sleep(dice.millis(least, most)).await;
    }
}
