//! News: what somebody who reads the log of a machine learns of the cluster, in one line
//! each: who leads, who is lost, who is back.
//!
//! Only the leader hears all members, and so only it says who is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_log::NodeId;
use tokio::time::Instant;

use super::Node;

/// What has been told so far.
#[derive(Default)]
struct Told {
    leader: Option<NodeId>,
    /// Since when no leader is heard.
    leaderless: Option<Instant>,
    /// Since when each member that does not answer has not, and whether that was told.
    silent: BTreeMap<NodeId, (Instant, bool)>,
}

impl Node {
    /// Tells the news until the machine closes.
    pub(super) async fn tell_news(self) {
        let (mut told, mut closing) = (Told::default(), self.closing());
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.inner.consensus.timing().heartbeat) => {}
                () = closing.begun() => return,
            }
            self.tell_leader(&mut told);
            if self.inner.consensus.leads() {
                self.tell_members(&mut told);
            } else {
                told.silent.clear();
            }
        }
    }

    fn tell_leader(&self, told: &mut Told) {
        let consensus = &self.inner.consensus;
        let Some(leader) = consensus.leader() else {
            let since = *told.leaderless.get_or_insert_with(Instant::now);
            // Most of the time another one is elected before that.
            if told.leader.is_some() && since.elapsed() >= 2 * consensus.timing().election.1 {
                told.leader = None;
                tracing::warn!("no machine leads{}", Missing(&self.missing()));
            }
            return;
        };
        told.leaderless = None;
        if told.leader.replace(leader) == Some(leader) {
            return;
        }
        let term = consensus.term().0;
        if leader == consensus.me() {
            tracing::info!("this machine leads, in term {term}");
        } else {
            tracing::info!("machine {} leads, in term {term}", self.name_of(leader));
        }
    }

    fn tell_members(&self, told: &mut Told) {
        let consensus = &self.inner.consensus;
        let members = consensus.membership().nodes;
        told.silent.retain(|node, _| members.contains_key(node));
        for node in members.into_keys().filter(|node| *node != consensus.me()) {
            if !consensus.hears(node) {
                let (since, is_told) = told.silent.entry(node).or_insert((Instant::now(), false));
                if !*is_told && since.elapsed() >= consensus.timing().election.1 {
                    *is_told = true;
                    tracing::warn!("machine {} does not answer", self.name_of(node));
                }
            } else if let Some((since, true)) = told.silent.remove(&node) {
                let seconds = since.elapsed().as_secs();
                tracing::info!("machine {} is back, after {seconds} s", self.name_of(node));
            }
        }
    }

    /// Returns the names of the machines that have a vote and have said nothing lately.
    pub fn missing(&self) -> Vec<Arc<str>> {
        let missing = self.inner.consensus.missing();
        missing.into_iter().map(|node| self.name_of(node)).collect()
    }

    /// Returns a machine's name; its id, as long as it is not known here.
    fn name_of(&self, node: NodeId) -> Arc<str> {
        self.known_name(node).unwrap_or_else(|| node.to_string().into())
    }

    /// Returns whether a machine of this name is known here.
    pub fn knows_name(&self, name: &str) -> bool {
        self.inner.published.machines().get(name).is_some()
    }

    /// Returns a machine's name, as far as the log has told it here.
    pub fn known_name(&self, node: NodeId) -> Option<Arc<str>> {
        let machines = self.inner.published.machines();
        let found = machines.iter().find(|machine| machine.node == node);
        found.map(|machine| Arc::clone(&machine.name))
    }
}

/// Says which machines are missing, behind something else; nothing, if none is.
struct Missing<'n>(&'n [Arc<str>]);

impl std::fmt::Display for Missing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [] => Ok(()),
            [one] => write!(f, ": {one} does not answer"),
            many => write!(f, ": {} do not answer", many.join(", ")),
        }
    }
}
