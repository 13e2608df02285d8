//! Moves: whether a machine is where it says that it is by now.
//!
//! ```text
//! "I am machine 7, and at B by now" ─▶ who is at B?              who is at A, where it was?
//!                                       ├─ machine 7 ──────────────┬─ nobody ─────────▶ it has moved
//!                                       │                          ├─ the same process ▶ it has
//!                                       │                          └─ another process ─▶ it has not
//!                                       └─ nobody, or another one ────────────────────▶ it has not
//! ```
//!
//! Anybody can say it. So whoever speaks for a machine that runs leads nobody away from it,
//! and the log does not say that it is elsewhere, over which it would stop (`twin`).
//!
//! *Limit*: who a machine is, it says itself. For one that does not run, whoever answers in
//! its name is taken; it comes back by saying where it is.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::NodeId;

use super::handle::{Inner, Node};
use crate::peers::{Request, Response};

/// How long whoever stands at an address may take to say who that is.
const LIMIT: Duration = Duration::from_secs(1);

/// Where a machine is found that says that it has moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Where it says.
    There,
    /// Not there.
    NotThere,
    /// There, and in another process where it was.
    TwiceAt(Arc<str>),
}

impl Node {
    /// Looks for a machine where it says that it is by now, and notes that if it is so.
    /// Nobody waits for it: the machine says it again.
    pub(super) fn look_for(&self, node: NodeId, address: &str) {
        let Inner { peers, machine, looked_for, .. } = &*self.inner;
        let known = peers.address(node);
        if node == machine.node || known.as_deref() == Some(address) {
            return;
        }
        if !looked_for.begin(node) {
            return;
        }
        let (this, address) = (self.clone(), Arc::<str>::from(address));
        tokio::spawn(async move {
            let Inner { peers, looked_for, .. } = &*this.inner;
            match this.find(node, &address).await {
                // The log may have told meanwhile where it is.
                Found::There if peers.address(node) == known => peers.learn(node, &address),
                Found::TwiceAt(known) => looked_for.found_twice(node, &address, known),
                Found::There | Found::NotThere => {}
            }
            looked_for.end(node);
        });
    }

    /// Finds out whether a machine is where it says that it is by now.
    pub(super) async fn find(&self, node: NodeId, address: &str) -> Found {
        let Some(known) = self.inner.peers.address(node) else {
            let now = self.process_at(node, address).await;
            return if now.is_some() { Found::There } else { Found::NotThere };
        };
        if *known == *address {
            return Found::There;
        }
        let (before, now) =
            tokio::join!(self.process_at(node, &known), self.process_at(node, address));
        match (before, now) {
            (_, None) => Found::NotThere,
            (Some(before), Some(now)) if before != now => Found::TwiceAt(known),
            (_, Some(_)) => Found::There,
        }
    }

    /// Returns whether a machine runs, and is known to be somewhere else than at an address.
    pub(super) async fn runs_elsewhere(&self, node: NodeId, address: &str) -> bool {
        if node == self.inner.machine.node {
            return true;
        }
        let known = self.inner.peers.address(node).filter(|known| **known != *address);
        match known {
            Some(known) => self.process_at(node, &known).await.is_some(),
            None => false,
        }
    }

    /// Asks whoever stands at an address which process of a machine it is; nothing, if it is
    /// none.
    async fn process_at(&self, node: NodeId, address: &str) -> Option<u64> {
        match self.inner.peers.ask_at(address, &Request::Process, LIMIT).await {
            Ok((found, Response::Process { number })) if found == node => Some(number),
            Ok(_) | Err(_) => None,
        }
    }
}
