//! How a machine becomes known to its cluster, and gets its vote.

use std::time::Duration;

use etcd_log::{Command, Index};
use tokio::time::Instant;

use super::announcement::Announcement;
use super::handle::{Freshness, Inner, Node};
use super::members::JoinError;
use super::proposer;
use crate::util::error_chain::ErrorChain;

/// How long one try of a machine to introduce itself may take.
const INTRODUCTION_LIMIT: Duration = Duration::from_secs(3);

/// How often a machine looks whether it has got its vote.
const VOTE_INTERVAL: Duration = Duration::from_millis(10);

/// How often a machine says that it waits for others.
const WAITING_WORD: Duration = Duration::from_secs(3);

/// How long a machine waits before it says again what the log has refused: each time is a
/// command there.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

impl Node {
    /// Makes this machine known to the cluster, unless it is already: the first
    /// commands of a fresh cluster are its `sync` and the `join` of its founder, and a
    /// machine that has moved says where it is. One that others do not know any longer
    /// was removed. Tries until it has succeeded.
    ///
    /// The few bytes that this takes may come from the disk's reserve: a machine
    /// that cannot be found could not even be read from.
    pub async fn introduce(&self) {
        tokio::spawn(self.clone().look_out());
        let mut told = Instant::now();
        while let Err(error) = self.try_to_introduce().await {
            if told.elapsed() > WAITING_WORD {
                told = Instant::now();
                tracing::info!("waiting for the other machines: {}", ErrorChain(&error));
            }
            let is_refused = matches!(error, JoinError::Rejected(_) | JoinError::Refused(_));
            tokio::time::sleep(if is_refused { REFUSED_PAUSE } else { proposer::RETRY }).await;
        }
        // Unless it did not have to be said.
        self.goes_on(&Announcement::Unannounced, &Announcement::Announced);
        self.goes_on(&Announcement::Announcing, &Announcement::Announced);
    }

    async fn try_to_introduce(&self) -> Result<(), JoinError> {
        let published = self.read(Freshness::Linearizable, INTRODUCTION_LIMIT).await?;
        if published.state.position().index == Index(0) {
            let Inner { cluster, reads, .. } = *self.inner;
            let sync = Command::Sync { cluster, format: reads };
            self.inner.proposer.propose(sync, INTRODUCTION_LIMIT).await?;
        }
        let machine = &self.inner.machine;
        let machines = published.state.machines().clone();
        drop(published);
        let known = machines.iter().find(|known| known.node == machine.node);
        let consensus = &self.inner.consensus;
        let is_alone = consensus.membership().nodes.keys().all(|node| *node == machine.node);
        match known {
            Some(known) if known == machine => return Ok(()),
            None if machines.iter().next().is_some() && !is_alone => {
                consensus.removed();
                return Ok(());
            }
            Some(known) if known.peer_url != machine.peer_url => {
                self.look_for_twin_at(known.peer_address()).await;
            }
            Some(_) | None => {}
        }
        self.goes_on(&Announcement::Unannounced, &Announcement::Announcing);
        if *self.inner.announcement.borrow() != Announcement::Announcing {
            // It stops.
            return std::future::pending().await;
        }
        self.announce().await?;
        // From here on this machine knows it, too.
        self.read(Freshness::Linearizable, INTRODUCTION_LIMIT).await?;
        Ok(())
    }

    /// Waits until this machine has its vote: whoever counts on it may lose another one.
    pub async fn until_it_votes(&self) {
        while !self.has_vote() {
            tokio::time::sleep(VOTE_INTERVAL).await;
        }
    }

    /// Returns whether this machine has its vote, for good.
    pub fn has_vote(&self) -> bool {
        self.inner.consensus.has_vote_for_good()
    }
}
