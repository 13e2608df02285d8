//! What a member says of where another one is: it is a hint, and no more.

use std::sync::Arc;
use std::time::Duration;

use etcd_log::{ClusterId, NodeId};

use super::RING;
use super::world::{World, id};
use crate::peers::{Handler, Incoming, LeaderHint, Refusal, Request, Response};
use crate::util::limit;

/// A member that tells whoever asks of this leader.
#[derive(Clone, Debug)]
pub(super) struct Hinting {
    pub(super) me: NodeId,
    pub(super) cluster: ClusterId,
    pub(super) leader: LeaderHint,
}

impl Handler for Hinting {
    fn identity(&self) -> (NodeId, ClusterId) {
        (self.me, self.cluster)
    }

    fn listens_to(&self, _node: NodeId) -> bool {
        true
    }

    async fn answer(&self, request: Request, _: Incoming<'_>) -> Result<Response, Refusal> {
        match request {
            Request::PreVote { .. } => {
                Ok(Response::PreVote { granted: false, following: Some(self.leader.clone()) })
            }
            _ => Err(Refusal::NotReady),
        }
    }
}

#[test]
fn hint_does_not_change_what_the_log_says_of_a_member() {
    limit::begin();
    let mut world = World::new();
    world.found(3, RING, usize::MAX);
    let node = world.machines["n2"].node().clone();
    world.stop("n1");
    world.stop("n3");
    let leader = LeaderHint { node: id("n1"), address: Arc::from("elsewhere") };
    let hinting = Hinting { me: id("n3"), cluster: node.cluster(), leader };
    world.network.hints("n3", hinting);
    // It stands for election again and again, and asks.
    world.pass(Duration::from_secs(10));
    assert_eq!(node.inner.peers.address(id("n1")).as_deref(), Some("n1"));
    // And somebody says that it has been removed.
    let told = node.clone();
    world.run(async move { told.hear_farewell().await }).expect_err("nobody confirms it");
    assert_eq!(node.inner.peers.address(id("n1")).as_deref(), Some("n1"));
    assert!(world.network.was_looked_for("elsewhere"), "hints are followed all the same");
}
