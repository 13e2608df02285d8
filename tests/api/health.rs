//! What `/health` says of a machine whose vote does not count yet: whoever goes by it may
//! stop another one.
//!
//! With three processes that lasts for a moment only. So this is one machine in the middle
//! of a change of its group: its log says that it goes from itself to itself. It leads and
//! takes reads; and it leaves the change behind once it is in the list of machines.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use etcd::api::{self, ClientPort};
use etcd::consensus::{Oneself, Surroundings, Timing};
use etcd::node::Node;
use etcd::node::assemble::{self, Parts, StartPoint};
use etcd::peers::Sockets;
use etcd::storage::backfill::BackfillSource;
use etcd::storage::checkpoint::{Checkpoint, CheckpointStore};
use etcd::storage::disk_space::DiskRoom;
use etcd::storage::stored::Stored;
use etcd::util::clock::Clock;
use etcd_log::{
    ClusterId, Entry, LogFormat, LogId, LogStorage as _, Machine, Membership, MemoryLog, NodeId,
    Payload, Write,
};
use etcd_projections::State;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::support::{PATIENCE, agent};

const ME: NodeId = NodeId(1);

/// How many events the ring holds.
const RING: usize = 10;

/// A log that begins in the middle of a change of the group.
fn log_amid_a_change() -> MemoryLog {
    let voters = vec![BTreeSet::from([ME]); 2];
    let nodes = BTreeMap::from([(ME, Arc::from("127.0.0.1:1"))]);
    let payload = Payload::Membership(Membership { voters, nodes });
    let log = MemoryLog::new();
    let first = Entry { id: LogId::default(), payload };
    log.write(Write::Append(vec![Arc::new(first)]), Box::new(drop));
    log
}

async fn start(dir: &Path, log: MemoryLog, founds: bool) -> Node {
    let machine = Machine {
        name: Arc::from("one"),
        node: ME,
        peer_url: Arc::from("http://127.0.0.1:1"),
        client_url: Arc::from("http://127.0.0.1:1"),
    };
    let parts = Parts {
        oneself: Oneself { cluster: ClusterId(1), machine, reads: LogFormat::NEWEST, founds },
        surroundings: Surroundings {
            network: Arc::new(Sockets::Plain),
            hints: Vec::new(),
            timing: Timing::default(),
            clock: Clock::default(),
        },
        stored: Stored {
            log,
            checkpoints: CheckpointStore::new(dir.to_owned(), RING),
            disk: DiskRoom::default(),
        },
        start: StartPoint {
            checkpoint: Checkpoint::empty(State::new(RING)),
            file: None,
            behind: None,
        },
        backfill: BackfillSource(Arc::new(|| None)),
        checkpoint_bytes: 1 << 20,
        events: None,
        ring_capacity: RING,
    };
    assemble::start(parts).await.unwrap().0
}

#[test]
fn machine_without_a_vote_is_not_healthy() {
    let (dir, runtime) = (TempDir::new().unwrap(), Runtime::new().unwrap());
    let (node, address) = runtime.block_on(async {
        let node = start(dir.path(), log_amid_a_change(), true).await;
        let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = clients.local_addr().unwrap();
        tokio::spawn(api::serve_clients(clients, node.clone(), ClientPort::default()));
        (node, address)
    });
    let ask = |path| {
        let mut reply = agent(PATIENCE).get(format!("http://{address}{path}")).call().unwrap();
        (reply.status().as_u16(), reply.body_mut().read_to_string().unwrap())
    };
    // It leads, and says so.
    assert_eq!(ask("/v1/keys/a?timeout=60").0, 404);
    let without = (503, "This Machine Has No Vote Yet\n".to_owned());
    assert_eq!(ask("/health?timeout=60"), without);
    runtime.block_on(async {
        node.introduce().await;
        node.until_it_votes().await;
    });
    assert_eq!(ask("/health?timeout=60"), (200, "{\"health\":\"true\"}\n".to_owned()));
    node.close();
}

/// Whoever asks may have one of the few places that are kept for it.
#[test]
fn health_is_not_waited_for_longer_than_for_anything_else() {
    let (dir, runtime) = (TempDir::new().unwrap(), Runtime::new().unwrap());
    let address = runtime.block_on(async {
        // It waits to be let into a cluster, and nobody leads.
        let node = start(dir.path(), MemoryLog::new(), false).await;
        let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = clients.local_addr().unwrap();
        tokio::spawn(api::serve_clients(clients, node, ClientPort::default()));
        address
    });
    let a_year = format!("http://{address}/health?timeout=31536000");
    // Sooner than the client gives up.
    assert_eq!(agent(PATIENCE).get(a_year).call().unwrap().status().as_u16(), 503);
}
