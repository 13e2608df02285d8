//! The network of scripted machines: pipes in memory, that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use tokio::sync::watch;

use super::hints::Hinting;
use crate::node::Node;
use crate::peers::{self, Connect, Connecting};

/// How many bytes are on their way at a time.
const PIPE: usize = 1 << 20;

/// Whom everybody reaches. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct Network {
    links: watch::Sender<Links>,
}

#[derive(Debug, Default)]
struct Links {
    /// The machines that run, by their addresses.
    running: BTreeMap<String, Node>,
    /// Members that tell of some leader, by their addresses.
    hinting: BTreeMap<String, Hinting>,
    /// Addresses where nobody was found.
    looked_for: BTreeSet<String>,
    /// Pairs of machines that do not reach each other.
    cut: BTreeSet<[String; 2]>,
}

impl Links {
    fn reaches(&self, from: &str, to: &str) -> Option<&Node> {
        let is_cut = self.cut.contains(&pair(from, to));
        self.running.get(to).filter(|_| !is_cut && self.running.contains_key(from))
    }
}

impl Network {
    pub(super) fn new() -> Self {
        Self { links: watch::Sender::default() }
    }

    /// Returns how one machine reaches the others.
    pub(super) fn of(&self, machine: &str) -> End {
        End { network: self.clone(), machine: machine.to_owned() }
    }

    pub(super) fn runs(&self, machine: &str, node: Node) {
        self.links.send_modify(|links| drop(links.running.insert(machine.to_owned(), node)));
    }

    pub(super) fn stops(&self, machine: &str) {
        self.links.send_modify(|links| drop(links.running.remove(machine)));
    }

    /// Lets a machine that does not run tell whoever asks of some leader.
    pub(super) fn hints(&self, machine: &str, hinting: Hinting) {
        self.links.send_modify(|links| drop(links.hinting.insert(machine.to_owned(), hinting)));
    }

    /// Returns whether somebody was looked for at an address, and not found.
    pub(super) fn was_looked_for(&self, address: &str) -> bool {
        self.links.borrow().looked_for.contains(address)
    }

    /// Breaks the connections of two machines, and lets no others come about.
    pub(super) fn cut(&self, one: &str, other: &str) {
        self.links.send_modify(|links| {
            links.cut.insert(pair(one, other));
        });
    }

    pub(super) fn heal(&self) {
        self.links.send_modify(|links| links.cut.clear());
    }
}

/// One machine's way to the others.
#[derive(Debug)]
pub(super) struct End {
    network: Network,
    machine: String,
}

impl Connect for End {
    fn connect<'a>(&'a self, address: &'a str, _name: Option<&'a str>) -> Connecting<'a> {
        Box::pin(async move {
            let (from, to) = (self.machine.clone(), address.to_owned());
            let mut links = self.network.links.subscribe();
            if let Some(hinting) = links.borrow().hinting.get(&to).cloned() {
                let (here, there) = tokio::io::duplex(PIPE);
                tokio::spawn(peers::serve(Box::new(there), hinting, std::future::pending()));
                return Ok(Box::new(here) as _);
            }
            let Some(node) = links.borrow().reaches(&from, &to).cloned() else {
                self.network.links.send_if_modified(|links| {
                    links.looked_for.insert(to);
                    false
                });
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let (here, there) = tokio::io::duplex(PIPE);
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    _ = links.wait_for(|links| links.reaches(&from, &to).is_none()) => {}
                    _ = peers::serve(Box::new(there), node, std::future::pending()) => {}
                }
            });
            Ok(Box::new(here) as _)
        })
    }
}

fn pair(one: &str, other: &str) -> [String; 2] {
    let mut pair = [one.to_owned(), other.to_owned()];
    pair.sort();
    pair
}
