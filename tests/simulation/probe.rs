//! What shows that a cluster takes writes: a small one every now and then, on every
//! machine, and, where links are narrow, large ones beside them.

use std::sync::Arc;
use std::time::Duration;

use etcd::node::Node;
use etcd_log::{Command, KeyPath};

use super::dice::Dice;
use super::links::time_for;
use super::world::World;

/// How often a machine is asked to write something small: whether it has answered yet
/// or not, for a client would ask elsewhere by then.
const INTERVAL: Duration = Duration::from_millis(250);

/// How long a small write may take: as a client's.
const LIMIT: Duration = Duration::from_secs(5);

/// How often somebody wants to write something large, in milliseconds.
const LARGE_INTERVAL: (u64, u64) = (300, 3000);

/// How many large values are written in a run: to write them as JSON takes its time.
const MOST_LARGE: usize = 4;

/// How long a large write may take.
const LARGE_LIMIT: Duration = Duration::from_secs(40);

/// How large a value may be.
const MOST_BYTES: usize = 1 << 20;

/// A control character, and how long it is in JSON.
const CONTROL: &str = "\u{1}";
const ESCAPED: usize = 6;

/// Over how many links a value goes, one after the other: to the leader, and from there.
const LINKS: u32 = 2;

/// Writes small values all the time.
pub(crate) async fn small(world: World, name: Arc<str>, node: Node) {
    while !world.is_quiet() {
        tokio::time::sleep(INTERVAL).await;
        let (world, name, node) = (world.clone(), Arc::clone(&name), node.clone());
        tokio::spawn(async move {
            if node.propose(set("/probe", &world.unique()), LIMIT).await.is_ok() {
                world.probes().acknowledged(&name);
            }
        });
    }
}

/// Writes large values while links are narrow, each until it is written.
pub(crate) async fn large(world: World, name: Arc<str>, node: Node) {
    let dice = world.dice();
    while !world.is_quiet() {
        let (least, most) = LARGE_INTERVAL;
        tokio::time::sleep(dice.millis(least, most)).await;
        let Some(bandwidth) = world.links().bandwidth() else { continue };
        if world.probes().large() >= MOST_LARGE {
            continue;
        }
        let value = text(&dice);
        let bytes = bytes_as_json(&value);
        let takes = LINKS * time_for(bytes, bandwidth);
        let Some(number) = world.probes().begin_large(&name, takes) else { continue };
        let size = value.len();
        world.note(format_args!("{name} has {size} bytes to write, {bytes} as JSON"));
        while let Err(error) = node.propose(set("/large", &value), LARGE_LIMIT).await {
            world.note(format_args!("{size} bytes were not written: {error}"));
            tokio::time::sleep(INTERVAL).await;
        }
        world.note(format_args!("{size} bytes are written"));
        world.probes().end_large(number);
    }
}

fn set(key: &str, value: &str) -> Command {
    Command::Set { key: KeyPath::clean(key).unwrap(), value: Arc::from(value), ttl: None }
}

/// A long value, often as long as can be, plain or all of control characters.
fn text(dice: &Dice) -> String {
    let size = if dice.one_in(2) { MOST_BYTES } else { 1 + dice.below(MOST_BYTES) };
    dice.pick(&["x", CONTROL]).repeat(size)
}

/// How long a value is once it is written as JSON.
fn bytes_as_json(value: &str) -> usize {
    if value.starts_with(CONTROL) { ESCAPED * value.len() } else { value.len() }
}
