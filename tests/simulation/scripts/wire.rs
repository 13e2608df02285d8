//! The wire: all that the machines of a script say to each other, written down; and lost,
//! where the script wants it so.
//!
//! ```text
//! n1 ─▶ written down ─▶ lost? ─ a millisecond ─▶ the real machine n2 answers ─▶ the same back
//! ```
//!
//! A message takes a millisecond, whatever it carries. What is written down of the same
//! millisecond is told in the order of its letters: which of two tasks comes first then,
//! nobody has promised.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use etcd::node::Node;
use etcd::peers::{Connect, Connecting, Handler, Incoming, Refusal, Request, Response, serve};
use etcd_log::{ClusterId, NodeId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::shown;

/// How long a message is on its way.
const LATENCY: Duration = Duration::from_millis(1);

/// How much a connection holds that nobody has read yet.
const CONNECTION_BYTES: usize = 1 << 20;

/// All links. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Wire(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// From whom to whom nothing comes.
    lost: BTreeSet<(NodeId, NodeId)>,
    /// Who answers at the moment.
    up: BTreeMap<NodeId, Process>,
    /// Whether appends are written down, too.
    shows_appends: bool,
    told: Vec<(Instant, String)>,
}

/// A process that answers, until it is gone.
#[derive(Clone, Debug)]
struct Process {
    node: Node,
    gone: watch::Receiver<bool>,
}

impl Wire {
    pub(super) fn lose(&self, from: NodeId, to: NodeId) {
        self.lock().lost.insert((from, to));
    }

    pub(super) fn heal(&self) {
        self.lock().lost.clear();
    }

    pub(super) fn show_appends(&self, shows: bool) {
        self.lock().shows_appends = shows;
    }

    /// Lets the others ask a machine, until it is gone.
    pub(super) fn up(&self, node: &Node, gone: watch::Receiver<bool>) {
        let (me, _) = node.identity();
        self.lock().up.insert(me, Process { node: node.clone(), gone });
    }

    pub(super) fn down(&self, node: NodeId) {
        self.lock().up.remove(&node);
    }

    /// Writes down what happens.
    pub(super) fn note(&self, what: impl Into<String>) {
        self.lock().told.push((Instant::now(), what.into()));
    }

    /// Takes all that happened, a line each.
    pub(super) fn told(&self) -> String {
        let mut told = std::mem::take(&mut self.lock().told);
        told.sort();
        told.into_iter().map(|(_, line)| line + "\n").collect()
    }

    fn loses(&self, from: NodeId, to: NodeId) -> bool {
        self.lock().lost.contains(&(from, to))
    }

    /// Carries a message from one machine to another, or never comes to an end.
    async fn carry(&self, from: NodeId, to: NodeId, what: Option<String>) {
        let is_lost = self.loses(from, to);
        if let Some(what) = what {
            let lost = if is_lost { " (lost)" } else { "" };
            self.note(format!("n{} → n{} {what}{lost}", from.0, to.0));
        }
        if is_lost {
            std::future::pending::<()>().await;
        }
        sleep(LATENCY).await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

/// The network as a process of a machine sees it.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) wire: Wire,
    pub(super) me: NodeId,
    /// Whether this process is gone.
    pub(super) gone: watch::Receiver<bool>,
}

impl Connect for Network {
    fn connect<'a>(&'a self, address: &'a str, _name: Option<&'a str>) -> Connecting<'a> {
        Box::pin(async move {
            let to = machine_at(address).ok_or(io::ErrorKind::NotFound)?;
            if *self.gone.borrow() {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let process = self.wire.lock().up.get(&to).cloned();
            if process.is_none() && (self.wire.loses(self.me, to) || self.wire.loses(to, self.me)) {
                // Nobody says that nobody is there.
                std::future::pending::<()>().await;
            }
            let Process { node, gone } = process.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (here, there) = tokio::io::duplex(CONNECTION_BYTES);
            let line = Line { wire: self.wire.clone(), node, from: self.me, to };
            let caller = self.gone.clone();
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = until(gone) => {}
                    () = until(caller) => {}
                    _ended = serve(Box::new(there), line, std::future::pending()) => {}
                }
            });
            Ok(Box::new(here) as _)
        })
    }
}

/// Waits until a process is gone.
pub(super) async fn until(mut gone: watch::Receiver<bool>) {
    // Who has let go of it is gone as well.
    let _gone = gone.wait_for(|gone| *gone).await.is_ok();
}

/// The machine that an address names: `n3:7001`.
fn machine_at(address: &str) -> Option<NodeId> {
    let (name, _) = address.split_once(':')?;
    Some(NodeId(name.strip_prefix('n')?.parse().ok()?))
}

/// A connection of one machine to another, on the side of the one that answers.
#[derive(Clone)]
struct Line {
    wire: Wire,
    node: Node,
    from: NodeId,
    to: NodeId,
}

impl Handler for Line {
    fn identity(&self) -> (NodeId, ClusterId) {
        self.node.identity()
    }

    fn listens_to(&self, node: NodeId) -> bool {
        self.node.listens_to(node)
    }

    async fn answer(&self, request: Request, incoming: Incoming<'_>) -> Result<Response, Refusal> {
        let Self { wire, from, to, .. } = self;
        let is_append = matches!(request, Request::Append { .. } | Request::Pulse { .. });
        let shows = !is_append || wire.lock().shows_appends;
        let traced = shown::request(&request, &incoming.behind).filter(|_| shows);
        let is_shown = traced.is_some();
        wire.carry(*from, *to, traced).await;
        let answer = self.node.answer(request, incoming).await;
        wire.carry(*to, *from, is_shown.then(|| shown::answer(&answer))).await;
        answer
    }
}
