//! Twins: two processes on copies of one directory would share one vote.
//!
//! ```text
//! start: the log says that I am elsewhere ─▶ ask there ─▶ I answer, in another process: stop
//!                                               │ nobody: I have moved
//!                                               └─▶ announce it ─▶ serve ─▶ announced elsewhere: stop
//! ```
//!
//! The log says where a machine is. So whoever was announced first learns from it that
//! there is another one, and stops: the last to be announced stays. A frame says nothing
//! of the kind that would be believed, for anybody could stop a machine with it.

use std::sync::Arc;

use super::Node;
use super::members::address_of;
use crate::published::Published;

impl Node {
    /// Waits until this machine turns out to run somewhere else as well; returns where.
    pub async fn until_elsewhere(&self) -> Arc<str> {
        let mut elsewhere = self.inner.elsewhere.subscribe();
        // The sending end lives as long as this node.
        let found = elsewhere.wait_for(Option::is_some).await;
        match found.ok().and_then(|found| found.clone()) {
            Some(address) => address,
            None => std::future::pending().await,
        }
    }

    /// Makes sure that no other process of this machine runs where the log says that it is.
    pub(super) async fn is_elsewhere(&self, address: &str) -> bool {
        let is_twin = self.inner.peers.has_twin_at(address).await;
        if is_twin {
            self.inner.elsewhere.send_replace(Some(Arc::from(address)));
        }
        is_twin
    }

    /// Looks out for an announcement of this machine that it has not made.
    pub(super) async fn look_out(self) {
        let found = self.inner.published.wait_for(|now| self.announced_elsewhere(now).is_some());
        if let Some(now) = found.await {
            self.inner.elsewhere.send_replace(self.announced_elsewhere(&now));
        }
    }

    fn announced_elsewhere(&self, now: &Published) -> Option<Arc<str>> {
        let machine = &self.inner.machine;
        let mut same = now.state.machines().iter().filter(|known| known.node == machine.node);
        let other = same.find(|known| known.peer_url != machine.peer_url)?;
        Some(Arc::from(address_of(&other.peer_url)))
    }
}
