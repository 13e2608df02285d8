//! A machine of a test: what it answers is the test's, how it is reached is real.

use std::fmt;
use std::sync::{Arc, Mutex};

use etcd_log::{ClusterId, NodeId};

use super::{Connect, Connecting, Handler, Incoming, Peers, Refusal, Request, Response, serve};

/// What such a machine answers.
pub trait Respond: Clone + fmt::Debug + Send + Sync + 'static {
    /// Answers a request.
    fn respond(
        &self,
        request: Request,
        incoming: Incoming<'_>,
    ) -> impl Future<Output = Result<Response, Refusal>> + Send;
}

/// The names under which a machine was dialled, one a connection.
pub type Dialled = Arc<Mutex<Vec<Option<String>>>>;

/// Returns the connections of machine 1 to such a machine, which is machine 2.
pub fn peers_with(responds: impl Respond) -> Peers {
    peers_and_dialled(responds).0
}

/// Returns those, and under which names they were dialled.
pub fn peers_and_dialled(responds: impl Respond) -> (Peers, Dialled) {
    let dialled = Dialled::default();
    let network = Responding { responds, dialled: Arc::clone(&dialled) };
    let peers = Peers::new(NodeId(1), ClusterId(1), Arc::new(network));
    peers.learn(NodeId(2), "machine2:1");
    (peers, dialled)
}

/// Such a machine, which listens to everybody, at any address.
#[derive(Clone, Debug)]
struct Responding<R> {
    responds: R,
    dialled: Dialled,
}

impl<R: Respond> Handler for Responding<R> {
    fn identity(&self) -> (NodeId, ClusterId) {
        (NodeId(2), ClusterId(1))
    }

    fn listens_to(&self, _node: NodeId) -> bool {
        true
    }

    async fn answer(&self, request: Request, incoming: Incoming<'_>) -> Result<Response, Refusal> {
        self.responds.respond(request, incoming).await
    }
}

impl<R: Respond> Connect for Responding<R> {
    fn connect<'a>(&'a self, _address: &'a str, name: Option<&'a str>) -> Connecting<'a> {
        self.dialled.lock().unwrap().push(name.map(str::to_owned));
        Box::pin(async {
            let (here, there) = tokio::io::duplex(1 << 20);
            tokio::spawn(serve(Box::new(there), self.clone(), std::future::pending()));
            Ok(Box::new(here) as _)
        })
    }
}
